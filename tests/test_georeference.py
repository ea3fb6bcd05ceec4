"""deploy/georeference.py: a flight's records to files, live, and stills."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import geo_parts
from cpr_deploy.geo.flight_path import FlightPath
from cpr_deploy.geo.poses import LivePoses
from cpr_deploy.geo.telemetry_csv import CsvTelemetry
from tool_runner import ROOT, run_script

SCRIPT = "deploy/georeference.py"


@pytest.fixture
def flight(tmp_path, monkeypatch):
    """flight.srt, camera.json and out.jsonl: a person 20 m north of the start, seen while the
    camera flies over it, 10 m a second."""
    monkeypatch.chdir(tmp_path)
    geo_parts.write_flight(tmp_path)
    records = []
    for index in range(12):
        pts = index / 2
        lon, lat, _ = geo_parts.GEOD.fwd(12, 54, 0, 20)
        place = geo_parts.GEOD.fwd(12, 54, 0, 10 * pts)
        seen = geo_parts.pixel_of(
            geo_parts.PINHOLE, geo_parts.pose(place[1], place[0], 100), (lat, lon, 0.0)
        )
        inside = (seen > 0).all() and (seen < [3840, 2160]).all()
        records.append(geo_parts.frame_record([seen.tolist()] if inside else [], pts, index))
    records.insert(3, {"type": "drop", "source": "clip.mp4", "frame": 3, "count": 1})
    write(tmp_path / "out.jsonl", records)
    return tmp_path


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def run(*args):
    return run_script(
        SCRIPT, "--camera", "camera.json", "--ground", "takeoff", "--telemetry", "flight.srt", *args
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_flight_to_all_files(flight, capsys):
    names = [f"a.{kind}" for kind in ("geojson", "kml", "gpx", "csv", "html", "cot", "jsonl")]
    assert run("--points", "out.jsonl", "--merge", 3, "--output", *names) == 0
    assert all((flight / name).stat().st_size for name in names)
    features = json.loads((flight / "a.geojson").read_text())["features"]
    (find,) = [f for f in features if f["properties"]["kind"] == "find"]
    longitude, latitude = find["geometry"]["coordinates"][:2]
    azimuth, _, metres = geo_parts.GEOD.inv(12, 54, longitude, latitude)
    assert metres == pytest.approx(20, abs=0.02) and azimuth == pytest.approx(0, abs=0.1)
    assert (
        find["properties"]["count"] == 12 and find["properties"]["altitude_reference"] == "takeoff"
    )
    records = lines(flight / "a.jsonl")
    assert {record["type"] for record in records} == {"position"}
    assert records[0]["find"] == 1 and records[-1]["pts"] == 5.5
    assert "12 frames, 12 positions, 1 finds; refused: none" in capsys.readouterr().err


def test_what_has_no_position_is_told(flight, capsys):
    far = geo_parts.frame_record([(100, 100)], pts=60.0)
    gone = geo_parts.frame_record([(100, 100)], pts=None)
    frozen = geo_parts.frame_record([(100, 100)], pts=1.0, frozen=True)
    blind = geo_parts.frame_record([(100, 100)], pts=1.0, flags=4)
    outside = geo_parts.frame_record([(100, 100), (5000, 100)], pts=1.0)
    write(flight / "out.jsonl", [far, gone, frozen, blind, outside])
    assert run("--points", "out.jsonl", "--output", "a.jsonl", "a.html") == 0
    found = [record.get("code") for record in lines(flight / "a.jsonl")]
    head = ["outside_telemetry", "no_time", "frozen", "no_result"]
    assert found == [*head, None, "outside_image"]
    assert "refused: outside_telemetry 1" in capsys.readouterr().err
    write(flight / "out.jsonl", [far])
    assert run("--points", "out.jsonl", "--output", "b.jsonl") == 1


def test_offset_shifts_the_flight(flight):
    write(flight / "out.jsonl", [geo_parts.frame_record([(1920, 1080)], pts=1.0)])
    assert run("--points", "out.jsonl", "--offset", 2.5, "--output", "a.jsonl") == 0
    (record,) = lines(flight / "a.jsonl")
    away = geo_parts.GEOD.inv(12, 54, record["longitude"], record["latitude"])[2]
    assert away == pytest.approx(35, abs=0.02)


def test_the_camera_is_scaled_to_the_frames_of_the_records(flight, capsys):
    """A camera of 3840 x 2160 px, and its video at half that size from the first frame on."""
    half = {"width": 1920, "height": 1080}
    records = [
        geo_parts.frame_record([(2210, 1300)], pts=1.0),
        geo_parts.frame_record([(1105, 650)], pts=1.0, **half),
    ]
    write(flight / "out.jsonl", records)
    assert run("--points", "out.jsonl", "--output", "a.jsonl") == 0
    first, second = lines(flight / "a.jsonl")
    for key in ("latitude", "longitude"):
        assert first[key] == pytest.approx(second[key], abs=1e-8)
    assert "size" not in capsys.readouterr().err
    write(flight / "out.jsonl", [records[1] | {"height": 1920}])
    assert run("--points", "out.jsonl", "--output", "a.jsonl") == 2
    assert "another shape" in capsys.readouterr().err
    write(flight / "out.jsonl", [records[1] | {"height": 0}])
    assert run("--points", "out.jsonl", "--output", "a.jsonl") == 2
    assert "width and height" in capsys.readouterr().err


def test_another_resolution(flight, capsys):
    """Records of an older version, and the same point after the stream changed to half its size."""
    records = [
        geo_parts.frame_record([(2210, 1080)], pts=1.0),
        {"type": "resolution", "source": "clip.mp4", "frame": 1, "width": 1920, "height": 1080},
        geo_parts.frame_record([(1105, 540)], pts=1.0),
        geo_parts.frame_record([(2210, 1080)], pts=1.0),
    ]
    for record in records:
        if record["type"] == "frame":
            del record["width"], record["height"]
    write(flight / "out.jsonl", records)
    assert run("--points", "out.jsonl", "--output", "a.jsonl") == 0
    assert "does not tell the size of its frames" in capsys.readouterr().err
    first, second, third = lines(flight / "a.jsonl")
    assert first["longitude"] == pytest.approx(second["longitude"], abs=1e-8)
    assert third["code"] == "outside_image"
    records[1] |= {"width": 1000, "height": 1000}
    write(flight / "out.jsonl", records)
    assert run("--points", "out.jsonl", "--output", "a.jsonl") == 2


def test_pts_tell_no_time_after_a_stream_was_opened_again(flight):
    again = {"type": "reconnected", "source": "clip.mp4", "frame": 1, "seconds": 9, "attempts": 1}
    frames = [geo_parts.frame_record([(1920, 1080)], pts=pts) for pts in (1.0, 0.5)]
    write(flight / "out.jsonl", [frames[0], again, frames[1], {**frames[1], "stream": 2}])
    for stream, codes in (("1", [None, "no_time"]), ("2", [None])):
        assert run("--points", "out.jsonl", "--stream", stream, "--output", "a.jsonl") == 0
        assert [record.get("code") for record in lines(flight / "a.jsonl")] == codes


UTC = 20605 * 86400 + 34200.0  # 2026-06-01T09:30:00Z


def write_table(path, seconds=4):
    rows = ["stamp;lat;lon;height;heading"]
    for index in range(seconds * 2 + 1):
        lon, lat, _ = geo_parts.GEOD.fwd(12, 54, 0, 5 * index)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(UTC + index / 2))
        rows.append(f"{stamp}.{index % 2 * 5}Z;{lat:.8f};{lon:.8f};120;0")
    path.write_text("\n".join(rows) + "\n")


TABLE = ["--columns", "time_utc=stamp", "latitude=lat", "longitude=lon", "altitude_msl=height"]
TABLE += ["platform_yaw=heading", "--gimbal-yaw", "0", "--gimbal-pitch", "-90"]


def test_a_table_in_utc_needs_the_start_of_the_video(flight, capsys):
    write_table(flight / "t.csv")
    write(flight / "out.jsonl", [geo_parts.frame_record([(1920, 1080)], pts=1.5)])
    args = ["--camera", "camera.json", "--telemetry", "t.csv", *TABLE, "--ground", "20"]
    args += ["--points", "out.jsonl", "--output", "a.jsonl"]
    assert run_script(SCRIPT, *args) == 2
    assert "Give --start" in capsys.readouterr().err
    assert run_script(SCRIPT, *args, "--start", "2026-06-01T11:30:00+02:00") == 0
    (record,) = lines(flight / "a.jsonl")
    away = geo_parts.GEOD.inv(12, 54, record["longitude"], record["latitude"])[2]
    assert away == pytest.approx(15, abs=0.01) and record["altitude"] == 20
    assert record["time"] == "2026-06-01T09:30:01.500Z"
    assert record["distance"] == pytest.approx(100, abs=0.01)
    start = ["--start", "2026-06-01T09:29:59Z", "--offset", "1.5"]
    assert run_script(SCRIPT, *args, *start) == 0
    (record,) = lines(flight / "a.jsonl")
    away = geo_parts.GEOD.inv(12, 54, record["longitude"], record["latitude"])[2]
    assert away == pytest.approx(20, abs=0.01) and record["time"] == "2026-06-01T09:30:02.000Z"


def test_an_elevation_model_and_a_geoid(flight):
    rasterio = pytest.importorskip("rasterio")

    for name, value in (("dem.tif", 30.0), ("geoid.tif", 45.0)):
        with rasterio.open(
            flight / name, "w", driver="GTiff", width=20, height=20, count=1, dtype="float32",
            crs="EPSG:4326", transform=rasterio.Affine(0.01, 0, 11.9, 0, -0.01, 54.1),
        ) as file:  # fmt: skip
            file.write(np.full((20, 20), value, np.float32), 1)
    write(flight / "out.jsonl", [geo_parts.frame_record([(1920, 1080)], pts=1.5)])
    # The telemetry's 100 m above a take-off point at 50 m: 120 m above the model's 30 m.
    assert (
        run_script(
            SCRIPT, "--camera", "camera.json", "--telemetry", "flight.srt", "--ground", "dem.tif",
            "--takeoff-altitude", 50, "--geoid", "geoid.tif", "--points", "out.jsonl",
            "--output", "a.jsonl",
        )
        == 0
    )  # fmt: skip
    (record,) = lines(flight / "a.jsonl")
    assert record["distance"] == pytest.approx(120, abs=0.01)
    assert record["altitude_msl"] == pytest.approx(30, abs=0.01)
    assert record["altitude_ellipsoid"] == pytest.approx(75, abs=0.01)


def test_live_with_a_table_that_grows_and_cot(flight):
    """Records come on a pipe, ahead of their telemetry; finds leave by UDP before the end."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    receiver.settimeout(20)
    write_table(flight / "t.csv", seconds=1)
    whole = flight / "whole.csv"
    write_table(whole, seconds=3)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, ROOT / SCRIPT, "--points", "-", "--camera", "camera.json"]
        + ["--telemetry", "t.csv", *TABLE, "--ground", "20", "--output", "a.jsonl", "a.html"]
        + ["--cot", f"udp://127.0.0.1:{receiver.getsockname()[1]}"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        for second in (0.5, 2.0):
            record = geo_parts.frame_record(
                [(1920, 1080)], pts=0.0, age_ms=50.0, captured_at=UTC + second
            )
            process.stdin.write(json.dumps(record) + "\n")
            process.stdin.flush()
            if second == 2.0:
                (flight / "t.csv").write_bytes(whole.read_bytes())
            event = ElementTree.fromstring(receiver.recv(65536))
            point = event.find("point")
            away = geo_parts.GEOD.inv(12, 54, float(point.get("lon")), float(point.get("lat")))[2]
            assert away == pytest.approx(10 * second, abs=0.01)
        assert len(lines(flight / "a.jsonl")) == 2, "line by line, while it runs"
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
    finally:
        process.kill()
        receiver.close()
    assert process.returncode == 143, told
    assert "2 events sent" in told and (flight / "a.html").exists()


def test_a_live_frame_waits_for_the_sample_after_it(tmp_path):
    """Telemetry of one sample a second at 10 m/s; the frame is taken 0.6 s after the newest one."""
    path, rows = tmp_path / "t.csv", []
    for second in range(3):
        longitude, latitude, _ = geo_parts.GEOD.fwd(12, 54, 0, 10 * second)
        rows.append(f"{UTC + second},{latitude:.8f},{longitude:.8f},120,0,-90\n")
    head = "time_utc,latitude,longitude,altitude_msl,gimbal_yaw,gimbal_pitch\n"
    path.write_text(head + "".join(rows[:2]))

    def metres(poses, seconds):
        record = geo_parts.frame_record([], age_ms=50.0, captured_at=UTC + seconds)
        pose, _ = poses.pose(record)
        return geo_parts.GEOD.inv(12, 54, pose.longitude, pose.latitude)[2]

    def make_path(telemetry):
        return FlightPath(telemetry, "msl")

    def write_late():
        time.sleep(0.2)
        with open(path, "a") as file:
            file.write(rows[2])

    writer = threading.Thread(target=write_late)
    writer.start()
    poses = LivePoses(CsvTelemetry(path), make_path, patience=20.0)
    assert metres(poses, 1.6) == pytest.approx(16, abs=0.01)
    writer.join()
    # Nothing more comes: that is waited for once, and the newest pose serves right after it.
    poses = LivePoses(CsvTelemetry(path), make_path, patience=0.2)
    begin = time.monotonic()
    assert {round(metres(poses, 2.05), 2) for _ in range(20)} == {20.0}
    assert 0.2 <= time.monotonic() - begin < 2.0


# --- stills ---


@pytest.fixture
def stills(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for index, pitch in enumerate((-90, -45)):
        fields = {"GpsLatitude": "54.0", "GpsLongitude": f"{12 + index / 1000}"}
        fields |= {"RelativeAltitude": "+100", "AbsoluteAltitude": "130", "GimbalRollDegree": "0"}
        fields |= {"GimbalYawDegree": "90", "GimbalPitchDegree": str(pitch)}
        geo_parts.write_still(
            tmp_path / f"images/{index}.jpg", geo_parts.still_xmp(fields), size=(384, 216)
        )
    geo_parts.write_still(tmp_path / "images/2.jpg", size=(384, 216))
    (tmp_path / "camera.json").write_text(json.dumps(geo_parts.PINHOLE.to_dict()))
    return tmp_path


def run_stills(predictions, *args):
    with open("det.json", "w") as file:
        json.dump(predictions, file)
    return run_script(
        SCRIPT, "--images", "images", "--predictions", "det.json", "--camera", "camera.json",
        "--ground", "takeoff", "--output", "a.jsonl", "a.html", "a.gpx", *args,
    )  # fmt: skip


def detection(number, point=(192.0, 108.0), **fields):
    return {"image_id": number + 1, "category_id": 1, "point": list(point), "score": 0.8,
            "file_name": f"{number}.jpg", **fields}  # fmt: skip


def test_stills(stills):
    """Images of a tenth of the camera's size; the third one has no position."""
    assert run_stills([detection(0), detection(1), detection(2)]) == 0
    down, oblique, without = lines(stills / "a.jsonl")
    assert (down["latitude"], down["longitude"]) == pytest.approx((54, 12), abs=1e-7)
    azimuth, _, metres = geo_parts.GEOD.inv(12.001, 54, oblique["longitude"], oblique["latitude"])
    assert (azimuth, metres) == pytest.approx((90, 100), abs=0.01)
    assert without["code"] == "no_fix" and down["class_name"] == "category 1"
    assert down["file"] == "0.jpg" and down["time"] is None


@pytest.mark.parametrize(
    ("orientation", "code"), [(None, None), (0, None), (1, None), (3, "turned"), (6, "turned")]
)
def test_stills_that_are_shown_turned(stills, orientation, code):
    with Image.open(stills / "images/1.jpg") as image:
        xmp = image.info["xmp"]
    geo_parts.write_still(stills / "images/1.jpg", xmp, size=(384, 216), orientation=orientation)
    assert run_stills([detection(0), detection(1)]) == 0
    assert [record.get("code") for record in lines(stills / "a.jsonl")] == [None, code]


def test_stills_by_records_of_a_folder(stills):
    record = geo_parts.frame_record([(192, 108)], pts=0.0, file="0.jpg", width=384, height=216)
    (stills / "out.jsonl").write_text(json.dumps(record) + "\n")
    args = ("--images", "images", "--points", "out.jsonl", "--camera", "camera.json")
    assert run_script(SCRIPT, *args, "--ground", "takeoff", "--output", "b.jsonl") == 0
    (found,) = lines(stills / "b.jsonl")
    assert (found["latitude"], found["longitude"]) == pytest.approx((54, 12), abs=1e-7)
    assert found["class_name"] == "person" and found["file"] == "0.jpg"


def test_stills_named_by_annotations(stills):
    dataset = {
        "images": [{"id": 1, "file_name": "0.jpg"}, {"id": 2, "file_name": "1.jpg"}],
        "categories": [{"id": 1, "name": "seal"}],
        "annotations": [],
    }
    (stills / "gt.json").write_text(json.dumps(dataset))
    entry = detection(0)
    entry.pop("file_name")
    assert run_stills([entry], "--annotations", "gt.json") == 0
    assert lines(stills / "a.jsonl")[0]["class_name"] == "seal"
    box = {**entry, "bbox": [182.0, 98.0, 20.0, 20.0]}
    box.pop("point")
    assert run_stills([box], "--annotations", "gt.json") == 0
    assert lines(stills / "a.jsonl")[0]["latitude"] == pytest.approx(54, abs=1e-7)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"image_id": 1, "category_id": 1, "point": [1, 1], "score": 0.5}, "names no image"),
        (detection(7), "holds no image '7.jpg'"),
        (detection(0, score="x"), "score and category_id"),
        (detection(0, point=(1.0,)), "point"),
        (5, "is no detection"),
    ],
)
def test_bad_predictions(stills, capsys, entry, words):
    assert run_stills([entry]) == 2
    assert words in capsys.readouterr().err


# --- bad input ---


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--points", "out.jsonl"], "nothing to write"),
        (["--points", "out.jsonl", "--output", "a.doc"], "must end in one of"),
        (["--output", "a.csv"], "give either --points"),
        (["--points", "no.jsonl", "--output", "a.csv"], "no such file"),
        (["--points", "out.jsonl", "--output", "out.jsonl"], "would be overwritten"),
        (
            ["--points", "out.jsonl", "--output", "a.csv", "--images", "."],
            "give either --telemetry",
        ),
        (["--points", "out.jsonl", "--output", "a.csv", "--sigma", "tilt"], "NAME=VALUE"),
        (["--points", "out.jsonl", "--output", "a.csv", "--sigma", "tilt=x"], "a number is needed"),
        (["--points", "out.jsonl", "--output", "a.csv", "--start", "9:30"], "--start 9:30"),
        (["--points", "out.jsonl", "--output", "a.csv", "--geoid", "x"], "--geoid x: a number"),
        (["--points", "out.jsonl", "--output", "a.csv", "--ground", "hill"], "--ground hill"),
        (
            ["--points", "out.jsonl", "--output", "a.csv", "--ground", "h.tif"],
            "h.tif: no such file",
        ),
        (["--points", "out.jsonl", "--cot", "tcp://h:1"], "udp://HOST:PORT"),
        (["--points", "out.jsonl", "--output", "a.csv", "--ground", "sea"], None),
        (
            ["--points", "out.jsonl", "--output", "a.csv", "--altitude", "ellipsoid"],
            "no altitude above",
        ),
    ],
)
def test_bad_options(flight, capsys, args, words):
    code = run(*args)
    error = capsys.readouterr().err
    if words is None:  # msl is in the subtitles: abs_alt
        assert code == 0
    else:
        assert code == 2 and error.startswith("error: ") and words in error
        assert not (flight / "a.csv").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense\n{}\n", "line 1 is not JSON"),
        ("[1]\n", "line 1 is no record"),
        ('{"type": "frame"}\n', "source, frame and points"),
        ('{"type": "frame", "source": "a", "frame": 0, "points": [{"x": 1}]}\n', "points[0]"),
        ('{"type": "frame", "source": "a", "frame": 0, "pts": "1", "points": []}\n', "pts '1'"),
        ('{"type": "frame", "source": "a", "frame": 0, "pts": NaN, "points": []}\n', "pts nan"),
    ],
)
def test_bad_records(flight, capsys, text, words):
    (flight / "out.jsonl").write_text(text)
    assert run("--points", "out.jsonl", "--output", "a.csv") == 2
    assert words in capsys.readouterr().err


def test_records_of_several_streams(flight, capsys):
    """One camera and one flight cannot be those of all."""
    records = [
        geo_parts.frame_record([(1920, 1080)], pts=1.0, stream=1),
        geo_parts.frame_record([(100, 100)], pts=1.0, stream=2),
        geo_parts.frame_record([(1920, 1080)], pts=1.5, stream=1),
    ]
    write(flight / "out.jsonl", records)
    assert run("--points", "out.jsonl", "--output", "a.jsonl") == 2
    assert "several streams. Give --stream N" in capsys.readouterr().err
    assert run("--points", "out.jsonl", "--stream", 1, "--output", "a.jsonl") == 0
    assert [record["pts"] for record in lines(flight / "a.jsonl")] == [1.0, 1.5]


def test_a_file_that_was_cut(flight, capsys):
    text = (flight / "out.jsonl").read_text()
    (flight / "out.jsonl").write_text(text[:-20])
    assert run("--points", "out.jsonl", "--output", "a.csv") == 0
    assert "11 frames" in capsys.readouterr().err


# --- the page about it ---

PAGE = (ROOT / "deploy/POSITIONS.md").read_text(encoding="utf-8")


def test_documented_commands_are_understood(monkeypatch):
    import importlib.util

    spec = importlib.util.spec_from_file_location("georeference", ROOT / SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = PAGE.replace("\\\n", " ")
    commands = re.findall(r"python deploy/georeference\.py (.*)", text)
    assert len(commands) >= 4
    monkeypatch.setattr(script, "check_outputs", lambda *_: None)
    for command in commands:
        script._check(script.parse_args(shlex.split(command)))


def test_the_worked_example(tmp_path, monkeypatch):
    """The page's recipe for a camera and its example give the page's numbers."""
    monkeypatch.chdir(tmp_path)
    (recipe,) = re.findall(r"^(python -c .*?camera\.json)$", PAGE, re.S | re.M)
    recipe = recipe.replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(["bash", "-c", recipe], check=True)
    camera = json.loads((tmp_path / "camera.json").read_text())
    assert camera["k"][0] == pytest.approx(1920 / np.tan(np.radians(73.7 / 2)))
    camera["k"][0] = camera["k"][4] = 2900
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    cue = geo_parts.bracket_cue(54.179, 12.081, 100, 30, -60)
    (tmp_path / "flight.srt").write_text(geo_parts.srt([(0, cue), (1, cue)]))
    write(tmp_path / "out.jsonl", [geo_parts.frame_record([(2500, 800)], pts=0.5)])
    assert run("--points", "out.jsonl", "--output", "a.jsonl") == 0
    (record,) = lines(tmp_path / "a.jsonl")
    assert f"**{record['latitude']:.6f} N {record['longitude']:.6f} E**" in PAGE
    assert f"{record['semi_major']:.1f} x {record['semi_minor']:.1f} m" in PAGE


def test_all_codes_are_documented():
    from cpr_deploy.geo.codes import GeoRefusal

    assert all(f"`{code.value}`" in PAGE for code in GeoRefusal)
