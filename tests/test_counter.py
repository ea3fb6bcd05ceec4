import csv
import json

import cv2
import numpy as np
import pytest

from cpr_deploy.files import InputError
from cpr_deploy.tracking import count_files
from cpr_deploy.tracking.count_files import CountWriter
from cpr_deploy.tracking.counter import TrackCounter
from cpr_deploy.tracking.density import DensityGrid
from cpr_deploy.tracking.zones import parse_zones

ZONES = parse_zones(
    {
        "width": 100,
        "height": 100,
        "zones": [{"name": "gate", "polygon": [[40, 0], [60, 0], [60, 100], [40, 100]]}],
        "lines": [{"name": "middle", "from": [50, 100], "to": [50, 0], "margin": 2}],
        "alarms": [{"name": "stays", "zone": "gate", "seconds": 1.0, "classes": ["person"]}],
    },
    "zones.json",
)


def record(frame, *tracks, fps=10.0, **more):
    """A frame of 100x100 px with tracks (id, x, y[, class, missed])."""
    entries = []
    for track_id, x, y, *rest in tracks:
        name = rest[0] if rest else "person"
        entry = {"track_id": track_id, "x": x, "y": y, "score": 0.9, "class_name": name}
        entries.append(entry | ({"missed": rest[1]} if len(rest) > 1 else {}))
    head = {"type": "frame", "source": "s", "frame": frame, "pts": frame / fps, "captured_at": 1e9}
    return {**head, "width": 100, "height": 100, "points": [], "tracks": entries, **more}


def run(records, zones=ZONES):
    counter = TrackCounter(zones)
    events = [event for item in records for event in counter.update(item)]
    return counter.summary(), events


def kinds(events):
    return [event["type"] for event in events]


def test_who_walks_through_enters_crosses_and_leaves_once():
    summary, events = run([record(k, (1, 2 * k, 50)) for k in range(50)])
    assert kinds(events) == ["enter", "crossing", "exit"]  # 0.9 s: no alarm
    assert summary["objects"] == 1 and summary["classes"] == {"person": 1}
    # Looking up along the line, the left of the picture is on the left.
    assert summary["lines"]["middle"] == {"left_to_right": {"person": 1}, "right_to_left": {}}
    gate = summary["zones"]["gate"]
    assert gate["objects"] == 1 and gate["inside_now"] == 0
    assert gate["seconds"] == pytest.approx(1.0)  # frames 20 to 29
    crossing = next(event for event in events if event["type"] == "crossing")
    assert crossing["frame"] == 27 and crossing["direction"] == "left_to_right"


def test_back_and_forth_is_two_crossings():
    xs = [*range(30, 70, 4), *range(70, 30, -4)]
    summary, _ = run([record(k, (1, x, 50)) for k, x in enumerate(xs)])
    assert summary["lines"]["middle"] == {
        "left_to_right": {"person": 1},
        "right_to_left": {"person": 1},
    }


def test_trembling_on_a_line_or_border_counts_nothing():
    rng = np.random.default_rng(0)
    still = [record(k, (1, 50 + rng.uniform(-1.9, 1.9), 50)) for k in range(100)]
    summary, events = run(still)
    assert summary["lines"]["middle"] == {"left_to_right": {}, "right_to_left": {}}
    border = [record(k, (1, 40 + rng.uniform(-3, 3), 50)) for k in range(100)]
    summary, events = run(border)
    assert kinds(events).count("enter") == 1 and "exit" not in kinds(events)
    assert summary["zones"]["gate"]["objects"] == 1


def test_who_is_hidden_while_he_crosses_has_crossed():
    def at(k):
        return (1, 2 * k, 50, "person", k - 15) if 15 < k < 35 else (1, 2 * k, 50)

    summary, _ = run([record(k, at(k)) for k in range(50)])
    assert summary["lines"]["middle"]["left_to_right"] == {"person": 1}
    assert summary["zones"]["gate"]["objects"] == 0  # never seen there


def test_past_the_end_of_a_line_is_no_crossing():
    short = parse_zones(
        {
            "width": 100,
            "height": 100,
            "lines": [{"name": "middle", "from": [50, 40], "to": [50, 0]}],
        },
        "x",
    )
    summary, events = run([record(k, (1, 2 * k, 60)) for k in range(50)], short)
    assert events == [] and summary["lines"]["middle"]["left_to_right"] == {}


def test_alarm_once_a_track_after_so_many_seconds_for_its_classes():
    def crowd(k):
        x = 30 if 25 < k < 45 else 50  # away for two seconds, and back
        return [(1, x, 50), (2, 50, 20, "dog"), (3, 45, 80)] if k > 4 else [(1, x, 50)]

    summary, events = run([record(k, *crowd(k)) for k in range(80)])
    alarms = [event for event in events if event["type"] == "alarm"]
    assert [(a["track_id"], a["frame"]) for a in alarms] == [(1, 10), (3, 15)]
    assert summary["alarms"] == 2 and len({a["id"] for a in alarms}) == 2
    assert alarms[0]["rule"] == "stays" and alarms[0]["seconds"] >= 1.0
    assert {"source", "pts", "captured_at", "x", "y", "class_name"} <= set(alarms[0])


def test_classes_follow_the_vote():
    records = [record(k, (1, 50, 50, "dog" if k < 3 else "person")) for k in range(9)]
    summary, _ = run(records)
    assert summary["classes"] == {"person": 1} and summary["objects"] == 1
    assert summary["zones"]["gate"]["classes"] == {"person": 1}


def test_tracks_that_end_leave_their_zones_and_are_kept_in_the_counts():
    records = [record(k, (1, 50, 50)) for k in range(5)] + [record(5), record(6, (2, 50, 50))]
    summary, events = run(records)
    assert kinds(events) == ["enter", "exit", "enter"]
    assert events[1]["track_id"] == 1 and events[1]["seconds"] == pytest.approx(0.4)
    assert summary["zones"]["gate"]["objects"] == 2 and summary["objects"] == 2
    assert summary["most_at_a_time"] == 1


@pytest.mark.parametrize("kind", ["reconnected", "resolution"])
def test_an_interruption_ends_all_visits(kind):
    event = {"type": kind, "source": "s", "frame": 5, "at": 1.0, "width": 200, "height": 100}
    summary, events = run([*(record(k, (1, 50, 50)) for k in range(5)), event, record(90)])
    assert kinds(events) == ["enter", "exit"]
    assert summary["zones"]["gate"]["inside_now"] == 0
    assert summary["seconds"] == pytest.approx(0.4)


def test_frozen_frames_and_other_records_count_nothing():
    frozen = record(1)
    del frozen["tracks"]
    blind = {**record(2, (1, 50, 50)), "flags": 4}  # of a file of an earlier version
    summary, events = run([frozen, blind, {"type": "stale", "source": "s"}, {"type": "end"}])
    assert summary["frames"] == 0 and events == []


def test_a_pause_is_no_presence():
    records = [record(0, (1, 50, 50)), record(100, (1, 50, 50)), record(101, (1, 50, 50))]
    summary, events = run(records)
    assert "alarm" not in kinds(events)
    assert summary["zones"]["gate"]["seconds"] == pytest.approx(0.1)


def test_live_records_go_by_the_wall_clock():
    """Their pts begin anew after each interruption."""
    records = [
        record(k, (1, 50, 50), pts=(k % 3) * 0.1, captured_at=1e9 + k * 0.1, age_ms=5.0)
        for k in range(20)
    ]
    assert run(records)[0]["seconds"] == pytest.approx(1.9, abs=1e-3)


def test_zones_scale_with_the_frame():
    records = [record(k, (1, 4 * k, 50), width=200, height=100) for k in range(50)]
    summary, _ = run(records)
    assert summary["zones"]["gate"]["seconds"] == pytest.approx(1.0)
    assert summary["lines"]["middle"]["left_to_right"] == {"person": 1}


def test_memory_does_not_grow_with_tracks():
    counter = TrackCounter(ZONES)
    for k in range(3000):
        counter.update(record(k, (k + 1, 50, 50)))
    assert counter.summary()["objects"] == 3000
    sizes = [len(v) for v in vars(counter).values() if isinstance(v, (dict, set, list))]
    assert max(sizes) < 5


# --- density and files ---


def test_density_is_seconds_by_place():
    grid = DensityGrid(100, 50, cell=10)
    grid.add(np.array([[5, 5], [5, 5], [95, 45], [100, 5], [-1, 5]]), 0.5)
    assert grid.seconds.shape == (5, 10)
    assert grid.seconds[0, 0] == 1.0 and grid.seconds[4, 9] == 0.5 and grid.seconds.sum() == 1.5


def test_density_picture_leaves_the_rest_of_the_frame(tmp_path):
    frame = np.full((50, 105, 3), 77, np.uint8)  # the last column of cells is cut
    grid = DensityGrid(105, 50, cell=10)
    assert (grid.picture(frame) == frame).all()
    grid.add(np.array([[25.0, 25.0]]), 2.0)
    picture = grid.picture(frame)
    assert picture[25, 25, 2] > 100 and (picture[:, 60:] == 77).all()  # red there
    grid.write_png(tmp_path / "d.png", frame)
    assert (cv2.imread(str(tmp_path / "d.png")) == picture).all()
    with pytest.raises(InputError, match="does not fit"):
        grid.picture(frame[:40])


def test_counts_of_an_earlier_lookout_are_set_aside(tmp_path):
    for _ in range(2):
        writer = CountWriter(tmp_path, ZONES, in_place=True)
        for k in range(50):
            writer.write(record(k, (1, 2 * k, 50)))
        writer.close()
    for name in ("events.jsonl", "counts.json", "counts.csv", "density.csv", "density.png"):
        stem, dot, suffix = name.partition(".")
        earlier = tmp_path / f"{stem}-1{dot}{suffix}"
        assert earlier.read_bytes() == (tmp_path / name).read_bytes()


def test_counts_of_a_lookout_are_there_before_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(count_files, "SAVE_EVERY", 0.0)
    path = tmp_path / "counts.json"
    writer = CountWriter(tmp_path, ZONES, in_place=True)
    for k in range(50):
        writer.write(record(k, (1, 2 * k, 50)))
        assert json.loads(path.read_text())["frames"] == k + 1

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(count_files, "write_json", full)
        writer.write(record(50, (1, 2 * k, 50)))  # counting goes on
    writer.close()
    assert json.loads(path.read_text())["frames"] == 51


def test_a_full_disk_does_not_silence_the_alarms(tmp_path, caplog):
    records = [record(k, (1, 50, 50)) for k in range(30)]
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        writer = CountWriter(tmp_path, ZONES)
        for item in records:
            writer.write(item)
    alarms = []
    writer = CountWriter(tmp_path, ZONES, on_alarm=alarms.append, in_place=True)
    for item in records:
        writer.write(item)
    writer.close()
    assert len(alarms) == 1 and "the disk is full" in caplog.text
    assert json.loads((tmp_path / "counts.json").read_text())["alarms"] == 1


def test_density_png_has_a_scale_in_its_corner(tmp_path):
    frame = np.full((240, 640, 3), 77, np.uint8)
    grid = DensityGrid(640, 240)
    grid.add(np.array([[500.0, 50.0]]), 8.0)
    grid.write_png(tmp_path / "d.png", frame)
    changed = (cv2.imread(str(tmp_path / "d.png")) != grid.picture(frame)).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert rows.min() >= 180 and columns.max() <= 200
    # From the colour of nothing to that of the most, which is at the place itself.
    bar = cv2.imread(str(tmp_path / "d.png"))[208, 12:172]
    ends = cv2.applyColorMap(np.array([[0, 255]], np.uint8), cv2.COLORMAP_TURBO)[0]
    assert (bar[0] == ends[0]).all() and (bar[-1] == ends[1]).all()


def test_the_folder_of_counts(tmp_path):
    alarms = []
    writer = CountWriter(tmp_path / "c", ZONES, on_alarm=alarms.append)
    writer.keep_frame(np.full((100, 100, 3), 50, np.uint8))
    for k in range(50):
        writer.write(record(k, (1, 2 * k if k < 25 else 50, 50)))
        writer.write(record(k, (9, 50, 50), stream=2))  # another stream's
    lines = (tmp_path / "c/events.jsonl").read_text().splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["enter", "alarm"]  # before close
    writer.close()
    counts = json.loads((tmp_path / "c/counts.json").read_text())
    assert counts["objects"] == 1 and counts["alarms"] == len(alarms) == 1
    with open(tmp_path / "c/counts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"kind": "zone", "name": "gate", "class_name": "person", "count": "1"}.items() <= (
        rows[1].items()
    )
    with open(tmp_path / "c/density.csv", newline="") as file:
        total = sum(float(row["seconds"]) for row in csv.DictReader(file))
    assert total == pytest.approx(counts["seconds"])
    assert cv2.imread(str(tmp_path / "c/density.png")).shape == (100, 100, 3)
