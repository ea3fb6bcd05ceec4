import json

import cv2
import numpy as np
import pytest

from cpr_deploy.files import InputError
from cpr_deploy.tracking.zones import Line, Zone, load_zones, parse_zones

SQUARE = [[10, 10], [50, 10], [50, 50], [10, 50]]
GOOD = {
    "width": 100,
    "height": 80,
    "zones": [{"name": "gate", "polygon": SQUARE}],
    "lines": [{"name": "road", "from": [0, 40], "to": [100, 40]}],
    "alarms": [{"name": "long", "zone": "gate", "seconds": 5, "classes": ["person"]}],
}


def changed(**changes):
    return {**GOOD, **changes}


def polygon(points):
    return changed(zones=[{"name": "gate", "polygon": points}])


def test_a_file_of_all_kinds(tmp_path):
    path = tmp_path / "zones.json"
    path.write_text(json.dumps(GOOD))
    zones = load_zones(path, ["person", "dog"])
    assert [zone.name for zone in zones.zones] == ["gate"]
    assert zones.lines[0].margin == 3.0 and zones.alarms[0].classes == ("person",)
    assert parse_zones({"width": 5, "height": 5}, "x").zones == ()


def test_inside_is_what_opencv_calls_inside():
    rng = np.random.default_rng(0)
    for _ in range(50):
        # Star-shaped about its middle: simple, not convex.
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        outline = 50 + rng.uniform(5, 45, (9, 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
        outline = outline.astype(np.float32)
        points = rng.uniform(0, 100, (200, 2))
        found = Zone("z", outline.astype(float)).contains(points)
        true = [cv2.pointPolygonTest(outline, tuple(p), False) > 0 for p in points.tolist()]
        assert found.tolist() == true


def test_zones_that_share_an_edge_share_no_point():
    left, right = Zone("l", np.array([[0, 0], [5, 0], [5, 9], [0, 9.0]])), None
    right = Zone("r", np.array([[5, 0], [9, 0], [9, 9], [5, 9.0]]))
    points = np.array([[5.0, y] for y in np.linspace(0.1, 8.9, 20)] + [[5.0, 0.0]])
    assert (left.contains(points) ^ right.contains(points)).all()


@pytest.mark.parametrize(
    "points",
    [
        [[0, 0], [10, 10], [10, 0], [0, 10]],  # a bow tie
        [[0, 0], [20, 0], [20, 20], [10, -5], [0, 20]],
        [[0, 0], [10, 0], [10, 10], [5, 0], [0, 10]],  # touches its own edge
        [[0, 0], [10, 0], [5, 0], [5, 10]],  # folds back
        [[0, 0], [10, 0], [10, 10], [0, 0.0], [-5, 5]],  # passes a corner twice
    ],
)
def test_polygons_that_cross_themselves_are_refused_by_name(points):
    for turned in range(len(points)):
        for direction in (1, -1):
            way = (points[turned:] + points[:turned])[::direction]
            with pytest.raises(InputError, match=r"zones\[0\] 'gate': the polygon crosses itself"):
                parse_zones(polygon(way), "f.json")


def test_simple_polygons_are_not_refused():
    rng = np.random.default_rng(1)
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        outline = 50 + rng.uniform(5, 45, (12, 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
        parse_zones(polygon(outline.tolist()), "x")
    parse_zones(polygon([[0, 0], [10, 0], [20, 0], [20, 9]]), "x")  # a straight corner
    assert len(parse_zones(polygon([*SQUARE, SQUARE[0]]), "x").zones[0].polygon) == 4  # closed


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "a JSON object is needed"),
        (changed(width=0), "whole px"),
        (changed(lines={}), "lines must be a list"),
        (changed(colour=1), "unknown"),
        ({"width": 5}, "lacks"),
        (polygon([[0, 0], [1, 1]]), "3 to 200 points"),
        (polygon([[0, 0], [1, 1], [float("inf"), 0]]), "no point"),
        (polygon([[0, 0], [1, 1], [0, "1"]]), "no point"),
        (polygon([[0, 0], [0, 0], [1, 1], [2, 0]]), "points 0 and 1 are the same"),
        (polygon([[0, 0], [1, 1], [2, 2]]), "crosses itself|no area"),
        (changed(zones=GOOD["zones"] * 2), "two of zones are called 'gate'"),
        (changed(zones=[{"polygon": SQUARE}]), r"zones\[0\] needs a name"),
        (changed(lines=[{"name": "a", "from": [1, 1], "to": [1, 1]}]), "the same point"),
        (changed(lines=[{"name": "a", "from": [1, 1], "to": [2, 1], "margin": -1}]), "margin -1"),
        (changed(alarms=[{"name": "a", "zone": "door", "seconds": 5}]), "no zone 'door'"),
        (changed(alarms=[{"name": "a", "zone": ["x"], "seconds": 5}]), "no zone"),
        (changed(alarms=[{"name": "a", "zone": "gate", "seconds": "5"}]), "seconds '5'"),
        (changed(alarms=[{"name": "a", "zone": "gate", "seconds": 5, "classes": "x"}]), "classes"),
        (changed(alarms=[{**GOOD["alarms"][0], "classes": ["cat"]}]), r"no class \['cat'\]"),
    ],
)
def test_what_is_wrong_is_named(value, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_zones(value, "my.json", ["person"])
    assert str(caught.value).startswith("my.json")


def test_right_of_a_line_is_that_of_who_looks_along_it():
    north = Line("l", np.array([50.0, 90]), np.array([50.0, 10]), 3.0)  # up in the picture
    assert north.distance(np.array([[60, 50], [45, 50]])).tolist() == [10.0, -5.0]


def test_only_steps_between_the_ends_meet_a_line():
    line = Line("l", np.array([0.0, 0]), np.array([10.0, 0]), 0.0)
    assert line.is_met_by(np.array([5.0, -1]), np.array([5.0, 1]))
    assert line.is_met_by(np.array([9.0, -1]), np.array([10.5, 1]))
    assert not line.is_met_by(np.array([9.0, -1]), np.array([13.0, 1]))
    assert not line.is_met_by(np.array([-3.0, -1]), np.array([-3.0, 1]))


def test_on_frames_of_another_size_they_scale():
    zones = parse_zones(GOOD, "x").scaled(200, 240)
    assert zones.zones[0].polygon.tolist() == [[20, 30], [100, 30], [100, 150], [20, 150]]
    assert zones.lines[0].end.tolist() == [200, 120]
    assert zones.scaled(200, 240) is zones
