"""Files of finds, read back by other parsers."""

import csv
import json
import socket
import struct
from xml.etree import ElementTree

import numpy as np
import pytest

import geo_parts
from cpr_deploy.files import InputError
from cpr_deploy.geo.writers import cot, geojson, gpx, kml, table
from cpr_deploy.geo.writers.report import Report, flight_lines, summary

HOSTILE = '=<img src=x onerror="1">&]]>\x01\ud800'


def find(number=1, **fields):
    return {
        "id": number, "name": f"person {number}", "class_name": "person", "score": 0.9,
        "latitude": 54.0, "longitude": 12.0, "altitude": 3.0, "altitude_reference": "msl",
        "altitude_msl": 3.0, "altitude_ellipsoid": 40.0, "semi_major": 12.0, "semi_minor": 5.0,
        "azimuth": 30.0, "sigma_altitude": 1.5, "distance": 100.0, "count": 3,
        "time": "2026-06-01T09:30:00.000Z", "last_time": "2026-06-01T09:30:01.000Z", "pts": 1.0,
        "last_pts": 2.0, "last_latitude": 54.001, "last_longitude": 12.001,
        "source": "clip.mp4", "frame": 25, "x": 1.0, "y": 2.0, "label": 0,
        **fields,
    }  # fmt: skip


LINE = np.array(
    [[54.0, 12, 100, 1780306200], [54.001, 12, 101, 1780306201], [54.002, 12.1, 99, 1780306202]]
)
FOOTPRINT = np.array([[54.0, 12], [54, 12.01], [54.01, 12.01], [54.01, 12]])


@pytest.fixture
def report():
    hostile = find(2, name=HOSTILE, class_name=HOSTILE, altitude_reference="takeoff", count=1)
    for key in ("altitude_msl", "altitude_ellipsoid", "time"):
        hostile.pop(key)
    return Report(
        f"Flight {HOSTILE}",
        [find(), hostile, find(3, longitude=179.99999, latitude=80.0)],
        [LINE],
        True,
        "msl",
        [FOOTPRINT],
        {"gap": 2},
        10,
        5,
    )


def test_geojson(tmp_path, report):
    # A lone half of a character is in no JSON of others.
    report.finds[1]["name"] = report.finds[1]["class_name"] = HOSTILE.replace("\ud800", "")
    geojson.write_geojson(tmp_path / "a.geojson", report)
    data = json.loads((tmp_path / "a.geojson").read_bytes())
    assert data["type"] == "FeatureCollection" and set(data) == {"type", "features"}
    by_kind = {}
    for feature in data["features"]:
        assert feature["type"] == "Feature" and {"geometry", "properties"} <= set(feature)
        by_kind.setdefault(feature["properties"]["kind"], []).append(feature)
    assert {kind: len(items) for kind, items in by_kind.items()} == {
        "footprint": 1, "flight": 1, "ellipse": 3, "find": 3,
    }  # fmt: skip
    first, second, _ = by_kind["find"]
    assert first["geometry"] == {"type": "Point", "coordinates": [12.0, 54.0, 40.0]}
    assert first["id"] == 1 and first["properties"]["semi_major"] == 12
    assert len(second["geometry"]["coordinates"]) == 2, "no height is known"
    assert by_kind["ellipse"][2]["geometry"]["type"] == "MultiPolygon"
    rings = [
        ring
        for feature in by_kind["ellipse"] + by_kind["footprint"]
        for polygon in (
            feature["geometry"]["coordinates"]
            if feature["geometry"]["type"] == "MultiPolygon"
            else [feature["geometry"]["coordinates"]]
        )
        for ring in polygon
    ]
    for ring in rings:
        x, y = np.array(ring).T
        assert ring[0] == ring[-1] and len(ring) >= 4
        assert ((x[:-1] - x[0]) * (y[1:] - y[0]) - (x[1:] - x[0]) * (y[:-1] - y[0])).sum() > 0
        assert np.abs(x).max() <= 180 and np.ptp(x) < 180
    flight = by_kind["flight"][0]["geometry"]
    assert flight["coordinates"][0] == [12, 54]


def test_geojson_is_what_gdal_reads(tmp_path, report):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.features import bounds, is_valid_geom

    assert rasterio
    report.finds[1]["name"] = report.finds[1]["class_name"] = "x"
    geojson.write_geojson(tmp_path / "a.geojson", report)
    data = json.loads((tmp_path / "a.geojson").read_bytes())
    assert all(is_valid_geom(feature["geometry"]) for feature in data["features"])
    west, south, east, north = bounds(data)
    assert (west, east) == (-180, 180) and south < 54 < 80 < north < 80.01


def test_kml(tmp_path, report):
    kml.write_kml(tmp_path / "a.kml", report)
    root = ElementTree.parse(tmp_path / "a.kml").getroot()
    name = {"k": "http://www.opengis.net/kml/2.2"}
    assert root.tag == "{http://www.opengis.net/kml/2.2}kml"
    folders = root.findall("k:Document/k:Folder", name)
    assert [len(folder.findall("k:Placemark", name)) for folder in folders] == [3, 3, 1, 1]
    first = folders[0].find("k:Placemark", name)
    assert first.find("k:Point/k:coordinates", name).text == "12.00000000,54.00000000"
    assert first.find("k:TimeStamp/k:when", name).text == "2026-06-01T09:30:00.000Z"
    styles = {style.get("id") for style in root.iter(f"{{{name['k']}}}Style")}
    used = {url.text[1:] for url in root.iter(f"{{{name['k']}}}styleUrl")}
    assert used <= styles
    hostile = folders[0].findall("k:Placemark", name)[1].find("k:name", name).text
    assert hostile == '=<img src=x onerror="1">&]]>\ufffd\ufffd'
    for ring in root.iter(f"{{{name['k']}}}LinearRing"):
        places = ring.find("k:coordinates", name).text.split()
        assert places[0] == places[-1] and len(places) >= 4


def test_gpx(tmp_path, report):
    gpx.write_gpx(tmp_path / "a.gpx", report)
    root = ElementTree.parse(tmp_path / "a.gpx").getroot()
    name = {"g": "http://www.topografix.com/GPX/1/1"}
    points = root.findall("g:wpt", name)
    assert [float(point.get("lat")) for point in points] == [54, 54, 80]
    # The schema wants this order.
    assert [child.tag.partition("}")[2] for child in points[0]] == [
        "ele",
        "time",
        "name",
        "desc",
        "type",
    ]
    assert points[0].find("g:ele", name).text == "3.00"
    assert points[1].find("g:ele", name) is None, "not above sea level"
    track = root.findall("g:trk/g:trkseg/g:trkpt", name)
    assert [point.find("g:ele", name).text for point in track] == ["100.00", "101.00", "99.00"]
    assert track[0].find("g:time", name).text == "2026-06-01T09:30:00.000Z"


def test_csv(tmp_path, report):
    report.finds[1]["name"] = report.finds[1]["class_name"] = "=1+1"
    table.write_csv(tmp_path / "a.csv", report)
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and float(rows[0]["latitude"]) == 54 and rows[0]["count"] == "3"
    assert rows[1]["class_name"] == "'=1+1", "a spreadsheet would calculate it"
    assert rows[1]["altitude_msl"] == ""


def test_cot(tmp_path, report):
    cot.write_cot(tmp_path / "a.cot", report, "run")
    lines = (tmp_path / "a.cot").read_text().splitlines()
    events = [ElementTree.fromstring(line) for line in lines]
    assert [event.get("uid") for event in events] == ["run-1", "run-2", "run-3"]
    point = events[0].find("point").attrib
    assert float(point["lat"]) == 54 and float(point["hae"]) == 40 and float(point["le"]) == 1.5
    # One sigma of the longer axis: 95 % are 2.4477 sigma.
    assert float(point["ce"]) == pytest.approx(12 / 2.4477, abs=0.01)
    assert events[1].find("point").get("hae") == events[1].find("point").get("le") == "9999999.0"
    assert events[0].get("start") == "2026-06-01T09:30:00.000Z"
    assert events[0].get("time") < events[0].get("stale")
    assert events[0].find("detail/contact").get("callsign") == "person 1"
    moving = ElementTree.fromstring(cot.cot_event(find(track_id=4), "run", 0.0)).find("point")
    assert (float(moving.get("lat")), float(moving.get("lon"))) == (54.001, 12.001)


def listener(family=socket.AF_INET, address="127.0.0.1"):
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    receiver.bind((address, 0))
    receiver.settimeout(5)
    return receiver, receiver.getsockname()[1]


def test_cot_by_udp():
    receiver, port = listener()
    sink = cot.CotSink(f"udp://127.0.0.1:{port}", "run")
    for _ in range(3):
        sink.send(find())
    sink.send(find(2))
    uids = [ElementTree.fromstring(receiver.recv(65536)).get("uid") for _ in range(2)]
    assert uids == ["run-1", "run-2"] and (sink.sent, sink.failed) == (2, 0)
    sink.send(find(3, name="x" * 300, source="y" * 3000))
    assert len(receiver.recv(65536)) < cot.MAX_PACKET
    sink.close()
    receiver.close()


def test_cot_to_a_multicast_group():
    group = "239.2.3.1"
    receiver, port = listener(address="")
    try:
        here = socket.inet_aton(group) + struct.pack("=I", socket.INADDR_ANY)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, here)
    except OSError as error:
        pytest.skip(f"no network with multicast here ({error})")
    receiver.settimeout(1)
    sink = cot.CotSink(f"udp://{group}:{port}", "run")
    assert sink._socket.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 1
    sink.send(find())
    if sink.failed:
        pytest.skip(f"no way to a multicast group here ({sink.error})")
    assert ElementTree.fromstring(receiver.recv(65536)).get("uid") == "run-1"
    sink.close()
    receiver.close()


def test_a_receiver_that_is_down_stops_nothing():
    receiver, port = listener()
    receiver.close()
    sink = cot.CotSink(f"udp://127.0.0.1:{port}", "run")
    for number in range(20):
        sink.send(find(number))
    assert sink.sent + sink.failed == 20
    sink.close()


@pytest.mark.parametrize(
    "address",
    ["tcp://a:1", "udp://a", "udp://:5", "239.2.3.1:6969", "udp://h:99999", "udp://h:1/x"],
)
def test_bad_addresses(address):
    with pytest.raises(InputError, match="udp://HOST:PORT is needed"):
        cot.CotSink(address, "run")
    with pytest.raises(InputError, match="Check the name of the host"):
        cot.CotSink("udp://no-such-host.invalid:9", "run")


def test_flight_lines():
    line = np.column_stack(
        [np.linspace(54, 55, 9000), np.zeros(9000), np.zeros(9000), np.arange(9000.0)]
    )
    line[5000:, 3] += 10
    parts = flight_lines(line, 2)
    assert [len(part) for part in parts] == [1668, 1334]
    assert [part[[0, -1], 3].tolist() for part in parts] == [[0, 4999], [5010, 9009]]
    assert flight_lines(line[:1], 2) == []
    assert "seen in 3 frames" in summary(find()) and "frame 25" in summary(find())


def test_ellipses_in_the_files():
    """The corners of the outline are 5 to 12 m away: the semi-axes."""
    from cpr_deploy.geo.writers.report import ellipse_of

    ring = ellipse_of(find())
    away = geo_parts.GEOD.inv(np.full(48, 12.0), np.full(48, 54.0), ring[:, 0], ring[:, 1])[2]
    assert away.min() == pytest.approx(5, abs=1e-6) and away.max() == pytest.approx(12, abs=1e-6)
