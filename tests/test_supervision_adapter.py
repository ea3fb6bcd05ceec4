import sys

import numpy as np
import pytest
import supervision as sv

import track_scenes
from cpr_deploy.files import InputError
from cpr_deploy.tracking.counter import TrackCounter
from cpr_deploy.tracking.settings import TrackSettings
from cpr_deploy.tracking.stream_tracks import StreamTracks, add_tracks
from cpr_deploy.tracking.supervision_adapter import (
    from_supervision,
    to_supervision,
    to_supervision_key_points,
)
from cpr_deploy.tracking.zones import parse_zones

NAMES = ["person", "dog"]
POINTS = [
    {"x": 10.5, "y": 20.25, "score": 0.75, "label": 1, "class_name": "dog", "track_id": 4},
    {"x": 30.0, "y": 5.0, "score": 0.5, "label": 0, "class_name": "person"},
]
OUTLINE = [[300, 200], [900, 150], [1000, 600], [250, 550]]


@pytest.fixture(scope="module")
def records():
    """Frames of 1280x720 with tracks of a walking crowd."""
    scene = track_scenes.crowd(60, 120, speed=60.0)
    stream = StreamTracks(TrackSettings(track_scenes.SIZE, camera=False), 1)
    made = []
    for index, found in enumerate(scene.results(miss=0.05, noise=1.0)):
        points = [
            {"x": float(x), "y": float(y), "score": 0.9, "label": 0, "class_name": "person"}
            for x, y in found.points
        ]
        record = {"type": "frame", "source": "s", "frame": index, "pts": index / 25}
        record |= {"captured_at": 0.0, "width": 1280, "height": 720, "points": points}
        add_tracks(record, stream.update(found, index / 25), NAMES)
        made.append(record)
    return made


@pytest.mark.parametrize("size", [0.0, 12.0])
def test_there_and_back(size):
    detections = to_supervision(POINTS, size=size)
    assert detections.tracker_id.tolist() == [4, -1]
    assert (detections.xyxy[:, 2] - detections.xyxy[:, 0]).tolist() == [size, size]
    assert from_supervision(detections) == POINTS


def test_key_points_there_and_back():
    plain = [{k: v for k, v in p.items() if k not in ("track_id", "class_name")} for p in POINTS]
    key_points = to_supervision_key_points(POINTS)
    assert key_points.xy.shape == (2, 1, 2)
    assert from_supervision(key_points) == plain


def test_nothing_there_and_back():
    assert from_supervision(to_supervision([])) == []
    assert from_supervision(to_supervision_key_points([])) == []


def test_detections_of_other_people():
    boxes = sv.Detections(np.array([[0, 0, 10, 20.0]]))
    assert from_supervision(boxes) == [{"x": 5.0, "y": 10.0, "score": 1.0, "label": 0}]
    boxes.class_id = np.array([1])
    assert from_supervision(boxes, NAMES)[0]["class_name"] == "dog"
    with pytest.raises(InputError, match="class 1 has no name"):
        from_supervision(boxes, ["person"])


@pytest.mark.parametrize(
    "anchors",
    [[sv.Position.BOTTOM_CENTER], [sv.Position.CENTER], [sv.Position.TOP_LEFT]],
)
def test_its_zones_agree_with_ours(records, anchors):
    theirs = sv.PolygonZone(np.array(OUTLINE), triggering_anchors=anchors)
    text = {"width": 1280, "height": 720, "zones": [{"name": "z", "polygon": OUTLINE}]}
    ours = parse_zones(text, "x").zones[0]
    seen = 0
    for record in records[::10]:
        tracks = record["tracks"]
        places = np.array([[track["x"], track["y"]] for track in tracks]).reshape(-1, 2)
        # Theirs rounds: px at the border are not compared.
        outline = np.array([*OUTLINE, OUTLINE[0]], float)
        starts, along = outline[:-1], np.diff(outline, axis=0)
        share = ((places[:, None] - starts) * along).sum(-1) / (along**2).sum(-1)
        nearest = starts + np.clip(share, 0, 1)[..., None] * along
        clear = np.linalg.norm(places[:, None] - nearest, axis=-1).min(axis=1) > 1.5
        if not tracks:
            continue
        inside = theirs.trigger(to_supervision(tracks))
        assert (inside == ours.contains(places))[clear].all()
        seen += clear.sum()
    assert seen > 300


def test_its_line_counter_agrees_with_ours(records):
    theirs = sv.LineZone(sv.Point(640, -100), sv.Point(640, 900))
    lines = [{"name": "l", "from": [640, -100], "to": [640, 900], "margin": 0}]
    ours = TrackCounter(parse_zones({"width": 1280, "height": 720, "lines": lines}, "x"))
    for record in records:
        ours.update(record)
        seen = [track for track in record["tracks"] if not track.get("missed")]
        theirs.trigger(to_supervision(seen))
    counts = ours.summary()["lines"]["l"]
    mine = sorted(sum(classes.values()) for classes in counts.values())
    assert sum(mine) > 5
    assert mine == sorted([theirs.in_count, theirs.out_count])


def test_its_annotators_draw_at_our_points(records):
    points = [p for p in records[-1]["points"] if "track_id" in p]
    detections = to_supervision(points)
    for annotator in (sv.DotAnnotator(), sv.TraceAnnotator(), sv.LabelAnnotator()):
        image = np.zeros((720, 1280, 3), np.uint8)
        for _ in range(3):
            drawn = annotator.annotate(image, detections)
        assert drawn.any()
    image = sv.DotAnnotator(radius=3).annotate(np.zeros((720, 1280, 3), np.uint8), detections)
    places = [(int(point["y"]), int(point["x"])) for point in points]
    inside = [(row, column) for row, column in places if 0 <= row < 720 and 0 <= column < 1280]
    assert len(inside) > 30 and all(image[place].any() for place in inside)
    drawn = sv.VertexAnnotator().annotate(
        np.zeros((720, 1280, 3), np.uint8), to_supervision_key_points(points)
    )
    assert all(drawn[place].any() for place in inside)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match=r"cpr-point-localization\[track\]"):
        to_supervision(POINTS)
