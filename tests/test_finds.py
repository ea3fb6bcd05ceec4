import numpy as np
import pytest

import geo_parts
from cpr_deploy.files import InputError
from cpr_deploy.geo.codes import REASONS, GeoRefusal
from cpr_deploy.geo.finds import FindBook, position_record, refusal_record, utc_text
from cpr_deploy.geo.flight_path import Heights
from cpr_deploy.geo.georeferencer import GeoReferencer
from cpr_deploy.geo.ground import LevelGround

HEAD = {"source": "clip.mp4", "frame": 7, "pts": 0.5, "time": None}


def record(north=0.0, east=0.0, semi_major=5.0, **fields):
    """A position so many metres from 54 N 12 E."""
    lon, lat, _ = geo_parts.GEOD.fwd(
        12, 54, np.degrees(np.arctan2(east, north)), np.hypot(north, east)
    )
    return {
        "type": "position", **HEAD, "x": 1.0, "y": 2.0, "score": 0.5, "label": 0,
        "class_name": "person", "latitude": lat, "longitude": lon, "altitude": 0.0,
        "altitude_reference": "msl", "altitude_msl": 0.0, "distance": 100.0,
        "semi_major": semi_major, "semi_minor": 2.0, "azimuth": 10.0, "sigma_altitude": 1.0,
        **fields,
    }  # fmt: skip


def test_every_code_has_a_reason():
    assert set(REASONS) == set(GeoRefusal)


def test_records():
    heights = Heights(takeoff=30.0, undulation=40.0)
    referencer = GeoReferencer(geo_parts.PINHOLE, LevelGround(2.0, "takeoff"), heights)
    found = referencer.locate([[1920, 1080]], geo_parts.pose(54, 12, 102))
    point = {"x": 1920, "y": 1080, "score": 0.9, "label": 1, "class_name": "boat", "track_id": 4}
    made = position_record(HEAD, point, found, 0, heights)
    assert (made["latitude"], made["longitude"], made["distance"]) == (54, 12, 100)
    assert (made["altitude"], made["altitude_reference"]) == (2, "takeoff")
    assert (made["altitude_msl"], made["altitude_ellipsoid"]) == (32, 72)
    assert made["track_id"] == 4 and made["frame"] == 7
    assert "altitude_msl" not in position_record(HEAD, point, found, 0, Heights())
    refused = refusal_record(HEAD, point, GeoRefusal.GAP)
    assert refused["code"] == "gap" and refused["type"] == "refusal" and refused["x"] == 1920
    assert utc_text(20605 * 86400 + 0.25) == "2026-06-01T00:00:00.250Z" and utc_text(None) is None


def test_without_a_radius_every_position_is_a_find():
    book = FindBook()
    for _ in range(3):
        book.add(record())
    assert [find["name"] for find in book.finds] == ["person 1", "person 2", "person 3"]


def test_positions_near_each_other_are_one_find():
    book = FindBook(radius=3)
    book.add(record(0, 0, semi_major=4, score=0.5))
    # Half the semi-axis counts four times: (0 + 4 * 2.5) / 5 = 2 m.
    find = book.add(
        record(2.5, 0, semi_major=2, score=0.9, altitude=1.0, altitude_msl=1.0, pts=9.0)
    )
    away = geo_parts.GEOD.inv(12, 54, find["longitude"], find["latitude"])[2]
    assert away == pytest.approx(2, abs=1e-3)
    assert find["altitude"] == find["altitude_msl"] == pytest.approx(0.8)
    # The best position's ellipse; it does not shrink below.
    assert (find["count"], find["semi_major"], find["score"], find["last_pts"]) == (2, 2, 0.9, 9.0)
    assert book.add(record(2.5, 0, semi_major=8))["semi_major"] == 2
    book.add(record(5.5, 0))
    book.add(record(2, 0, class_name="boat"))
    assert [find["count"] for find in book.finds] == [3, 1, 1]
    assert book.add(record(4.5, 0))["id"] == 2, "the nearest of two"


def test_a_new_track_takes_over_the_points_before_it():
    book = FindBook(radius=3)
    book.add(record())
    book.add(record(20, 0))
    assert book.add(record(1, 0, track_id=4))["id"] == 1
    assert book.add(record(9, 0, track_id=4))["id"] == 1, "wherever it goes"
    moved = book.finds[0]
    last = geo_parts.GEOD.inv(12, 54, moved["last_longitude"], moved["last_latitude"])[2]
    assert last == pytest.approx(9, abs=1e-3), "the mean is at 10 / 3 m"
    assert book.add(record(1, 0, track_id=5))["id"] == 3, "a find has one track"
    assert book.add(record(19, 0, track_id=6, class_name="boat"))["id"] == 4
    assert [find["count"] for find in book.finds] == [3, 1, 1, 1]
    assert [find.get("track_id") for find in book.finds] == [4, None, 5, 6]
    apart = FindBook()
    apart.add(record())
    apart.add(record(track_id=4))
    assert len(apart.finds) == 2


def test_tracks_keep_their_positions_apart():
    book = FindBook(radius=50)
    for stream, track in ((1, 5), (1, 6), (2, 5), (1, 5)):
        book.add(record(track_id=track, stream=stream))
    assert [find["count"] for find in book.finds] == [2, 1, 1]


def test_at_the_antimeridian():
    book = FindBook(radius=30)
    for longitude in (179.9999, -179.9999):
        book.add({**record(), "latitude": 0.0, "longitude": longitude})
    (find,) = book.finds
    assert abs(find["longitude"]) == pytest.approx(180, abs=1e-7)


def test_bad_radius():
    with pytest.raises(InputError, match="--merge 0"):
        FindBook(0)
