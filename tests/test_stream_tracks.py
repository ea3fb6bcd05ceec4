"""Tracks in the stream runtime, in deploy/video.py and in deploy/count_tracks.py."""

import dataclasses
import json
import re

import cv2
import numpy as np
import pytest

import spot_model
import stream_parts
import tool_runner
import track_scenes
from cpr_deploy.files import InputError
from cpr_deploy.tracking.camera_motion import transform
from cpr_deploy.tracking.settings import TrackSettings
from cpr_deploy.tracking.stream_tracks import StreamTracks
from cpr_deploy.tracking.track_files import class_names_of, read_records, track_again
from cpr_deploy.tracking.zones import parse_zones
from stream_parts import Frames

COUNT = 30
SETTINGS = TrackSettings(size=16, camera=False)
ZONES = {
    "width": 256,
    "height": 192,
    "zones": [{"name": "right", "polygon": [[130, 0], [256, 0], [256, 192], [130, 192]]}],
    "lines": [{"name": "middle", "from": [130, 192], "to": [130, 0]}],
    "alarms": [{"name": "there", "zone": "right", "seconds": 0.2}],
}


def walkers(count=COUNT):
    """Pictures with a cell that goes right, one that goes left below it, and one that stays."""
    return [
        spot_model.picture(192, 256, [(1 + k, 9), (30 - k, 14), (8, 20)], noise=0)
        for k in range(count)
    ]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return stream_parts.write_clip(path, walkers(), fps=10, crf="10")


def ids_of(record):
    return {(point["x"], point["y"]): point.get("track_id") for point in record["points"]}


def test_points_have_numbers_and_frames_have_tracks(clip):
    _, records = stream_parts.run(clip, tracking=SETTINGS)
    frames, first = records.of("frame"), None
    assert all(set(ids_of(record).values()) == {None} for record in frames[:2])
    for k, record in enumerate(frames[2:], 2):
        by_row = {y: track for (_, y), track in ids_of(record).items()}
        assert sorted(by_row.values()) == [1, 2, 3], k
        first = by_row if k == 2 else first
        assert by_row == first
        assert (record["width"], record["height"]) == (256, 192)
        assert [track["track_id"] for track in record["tracks"]] == [1, 2, 3]
        assert record["latency_ms"]["track"] >= 0
    speeds = {round(track["vx"], -1) for track in frames[-1]["tracks"]}
    assert speeds == {80.0, -80.0, 0.0}  # 8 px at 10 frames a second


def test_without_tracking_records_have_points_alone(clip):
    _, records = stream_parts.run(clip)
    frame = records.of("frame")[-1]
    assert (frame["width"], frame["height"]) == (256, 192)
    assert "tracks" not in frame
    assert all("track_id" not in point for point in frame["points"])
    assert "track" not in frame["latency_ms"]


def test_each_stream_has_tracks_of_its_own(clip):
    _, records = stream_parts.run(clip, clip, tracking=SETTINGS)
    for stream in (1, 2):
        last = [r for r in records.of("frame") if r["stream"] == stream][-1]
        assert [track["track_id"] for track in last["tracks"]] == [1, 2, 3]


def test_numbers_and_traces_are_drawn(clip):
    plain, drawn = [], []

    class Keeper(Frames):
        def __init__(self, kept):
            super().__init__()
            self.kept = kept

        def write(self, image, seconds):
            self.kept.append(image.copy())

    stream_parts.run(clip, frames=[[Keeper(plain)]], show_scores=False)
    stream_parts.run(clip, frames=[[Keeper(drawn)]], tracking=SETTINGS)
    # Below the panel, which tells times.
    first, last = (np.abs(plain[k].astype(int) - drawn[k])[60:].max(axis=2) > 60 for k in (0, -1))
    assert not first.any()
    # The way of the first walker, in row 76, two seconds back.
    assert last[14:18, 100:230].any(axis=0).mean() > 0.9
    assert not last[14:18, :60].any()


@pytest.mark.parametrize("kind", ["reconnected", "resolution"])
def test_an_interruption_ends_all_tracks(kind):
    from cpr_deploy.feed_group import FeedGroup
    from cpr_deploy.sources import SourceSpec
    from cpr_deploy.stream import StreamOutputs, _Run
    from cpr_deploy.stream_health import StreamEvent

    group = FeedGroup([SourceSpec("x")])
    feed = group.feeds[0]
    run = _Run(stream_parts.localizer(), group, StreamOutputs(), 500.0, False, SETTINGS)
    tracks = run._tracks[id(feed)]
    found = track_scenes.result([[50, 50]])
    for k in range(4):
        last = tracks.update(found, k / 10)
    assert last.ids.tolist() == [1]
    run._tell(feed, StreamEvent("gap", 4, {"seconds": 2.0}))
    assert tracks.update(found, 0.4).ids.tolist() == [1]
    run._tell(feed, StreamEvent(kind, 5, {}))
    assert tracks.update(found, 0.5).ids.tolist() == []


def test_traces_follow_the_camera():
    """An object that stands has a trace of one place, however the camera goes."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8), (900, 600))
    place = np.array([[450.0, 300.0]])
    stream = StreamTracks(TrackSettings(size=20), 1, traced=True)
    for k in range(20):
        x, y = 100 + 6 * k, 60 + 3 * k
        image = ground[y : y + 360, x : x + 480]
        tracks = stream.update(track_scenes.result(place - [x, y]), k / 10, image)
    (way,) = stream.traces.values()
    assert tracks.ids.tolist() == [1] and len(way) >= 15
    np.testing.assert_allclose(way, np.tile(place - [x, y], (len(way), 1)), atol=3)
    assert np.linalg.norm(tracks.velocities[0]) < 15  # not that of the camera


def test_video_and_count_tracks_agree(tmp_path, clip, capsys):
    (tmp_path / "zones.json").write_text(json.dumps(ZONES))
    (tmp_path / "model.onnx").write_bytes(spot_model.model_bytes())
    code = tool_runner.run_script(
        *("deploy/video.py", "--model", tmp_path / "model.onnx", "--source", clip, "--threads", 1),
        *("--track-size", 16, "--zones", tmp_path / "zones.json", "--counts", tmp_path / "a"),
        *("--points", tmp_path / "o.jsonl", "--csv", tmp_path / "o.csv"),
        *("--output", tmp_path / "o.mp4"),
    )
    assert code == 0
    counts = json.loads((tmp_path / "a/counts.json").read_text())
    assert counts["objects"] == 3 and counts["zones"]["right"]["objects"] == 2
    assert counts["lines"]["middle"] == {
        "left_to_right": {"spot": 1},
        "right_to_left": {"spot": 1},
    }
    assert counts["alarms"] == 2
    assert ",track_id" in (tmp_path / "o.csv").read_text().splitlines()[0]
    assert cv2.imread(str(tmp_path / "a/density.png")).shape == (192, 256, 3)

    common = ["--points", tmp_path / "o.jsonl", "--zones", tmp_path / "zones.json"]
    assert count_tracks(*common, "--output", tmp_path / "b") == 0
    for name in ("counts.json", "counts.csv", "density.csv"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    # And so it is of records whose points have no numbers, tracked again on the clip.
    plain = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    for record in plain:
        for key in ("tracks", "width", "height"):
            record.pop(key, None)
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(r) + "\n" for r in plain))
    common[1] = tmp_path / "plain.jsonl"
    assert count_tracks(*common, "--output", tmp_path / "c") == 2
    assert "--track-size" in capsys.readouterr().err
    sizeless = ["--points", tmp_path / "plain.jsonl", "--track-size", 16]
    assert count_tracks(*sizeless, "--output", tmp_path / "c") == 2
    assert "size of the frames is not known" in capsys.readouterr().err
    common += ["--track-size", 16, "--source", clip]
    assert count_tracks(*common, "--output", tmp_path / "c") == 0
    assert json.loads(capsys.readouterr().out) == counts


def count_tracks(*words):
    return tool_runner.run_script("deploy/count_tracks.py", *words)


def test_alarms_that_nobody_takes_are_kept_and_replayed(tmp_path, clip, capsys):
    (tmp_path / "zones.json").write_text(json.dumps(ZONES))
    _, records = stream_parts.run(clip, tracking=SETTINGS)
    (tmp_path / "o.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    address = f"http://127.0.0.1:{stream_parts.free_port()}/hook"
    code = count_tracks(
        *("--points", tmp_path / "o.jsonl", "--zones", tmp_path / "zones.json"),
        *("--output", tmp_path / "c", "--alarms", address),
        *("--dead-letters", tmp_path / "dead.jsonl"),
    )
    assert code == 0
    letters = (tmp_path / "dead.jsonl").read_text().splitlines()
    assert len(letters) == json.loads(capsys.readouterr().out)["alarms"] == 2
    words = ["--replay", "--alarms", address, "--dead-letters", tmp_path / "dead.jsonl"]
    assert count_tracks(*words) == 1
    assert "0 alarms sent, 2 left" in capsys.readouterr().out


def test_a_class_that_no_record_has_is_told(tmp_path, clip, capsys):
    zones = {**ZONES, "alarms": [{**ZONES["alarms"][0], "classes": ["preson"]}]}
    (tmp_path / "zones.json").write_text(json.dumps(zones))
    _, records = stream_parts.run(clip, tracking=SETTINGS)
    (tmp_path / "o.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    words = ["--points", tmp_path / "o.jsonl", "--zones", tmp_path / "zones.json"]
    assert count_tracks(*words, "--output", tmp_path / "c") == 0
    told = capsys.readouterr()
    assert "alarm 'there': no point of the records has the class preson" in told.err
    assert json.loads(told.out)["alarms"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--zones", "bad.json", "--counts", "c"], "the polygon crosses itself"),
        (["--counts", "c", "--alarms", "http://h/x"], "rules are in the file of --zones"),
        (["--zones", "good.json", "--alarms", "ftp://h/x"], "alarms can be sent to"),
        (["--counts", "c", "--source", "two.mp4"], "must hold {n}"),
        (["--track", "--track-size", "-3", "--points", "o"], "size -3"),
        (["--counts", "model.onnx"], "is a file|is read by"),
    ],
)
def test_bad_options(tmp_path, clip, capsys, monkeypatch, words, message):
    bad = {**ZONES, "zones": [{"name": "right", "polygon": [[0, 0], [9, 9], [9, 0], [0, 9]]}]}
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    (tmp_path / "good.json").write_text(json.dumps(ZONES))
    (tmp_path / "model.onnx").write_bytes(spot_model.model_bytes())
    monkeypatch.chdir(tmp_path)
    code = tool_runner.run_script(
        "deploy/video.py", "--model", "model.onnx", "--source", clip, *words
    )
    assert code == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_zones_of_the_documentation():
    text = (spot_model.ROOT / "deploy/TRACKS.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```json\n(.*?)```", text, re.S) if "zones" in block]
    zones = parse_zones(json.loads(blocks[0]), "TRACKS.md", ["person"])
    assert [len(part) for part in (zones.zones, zones.lines, zones.alarms)] == [1, 1, 1]


class SometimesBlind:
    """A localizer whose network gives NaN for every third image."""

    def __init__(self):
        self._localizer, self.images = stream_parts.localizer(), 0
        self.class_names = self._localizer.class_names

    def __call__(self, images, *, latency=None):
        found = self._localizer(images, latency=latency)
        self.images += len(found)
        return [dataclasses.replace(one, flags=4) if self.images % 3 == 0 else one for one in found]


def test_a_frame_of_which_nothing_is_known_is_not_tracked(clip):
    _, records = stream_parts.run(clip, using=SometimesBlind(), tracking=SETTINGS)
    frames = records.of("frame")
    assert [record["flags"] for record in frames] == [0, 0, 4] * (COUNT // 3)
    assert all(("tracks" in record) == (record["flags"] == 0) for record in frames)
    assert {track["track_id"] for track in frames[-2]["tracks"]} == {1, 2, 3}
    for record in frames:
        record.pop("tracks", None)
    again = list(track_again(frames, SETTINGS, class_names_of(frames), (256, 192)))
    assert all(("tracks" in record) == (record["flags"] == 0) for record in again)


# --- records of an earlier run ---


def test_tracked_again_is_what_the_run_would_have_written(clip):
    _, records = stream_parts.run(clip, tracking=SETTINGS)
    _, plain = stream_parts.run(clip)
    names = class_names_of(plain)
    again = list(track_again(plain, SETTINGS, names, (256, 192)))
    for one, two in zip(
        records.of("frame"), [r for r in again if r["type"] == "frame"], strict=True
    ):
        assert one["points"] == two["points"] and one["tracks"] == two["tracks"]


FRAME = {"type": "frame", "source": "s", "frame": 0, "pts": 0.0, "captured_at": 1.0, "points": []}
POINT = {"x": 1.0, "y": 2, "score": 0.5, "label": 0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello", "line 2 is not JSON"),
        ("[1]", "line 2 is no stream record"),
        (json.dumps({**FRAME, "frame": "x"}), "line 2: frame is 'x'"),
        (json.dumps({**FRAME, "points": 3}), "points is no list"),
        (json.dumps({**FRAME, "points": [{**POINT, "x": None}]}), r"points\[0\]: x is None"),
        (json.dumps({**FRAME, "points": [{**POINT, "y": float("nan")}]}), r"points\[0\]: y is nan"),
        (json.dumps({**FRAME, "points": [{**POINT, "label": -1}]}), "label is not from 0"),
        (json.dumps({**FRAME, "pts": "late"}), "a time is no number"),
        (json.dumps({**FRAME, "flags": "4"}), "flags is no whole number"),
        (json.dumps({**FRAME, "tracks": []}), "width is None"),
        (json.dumps({**FRAME, "tracks": [{"x": 1}], "width": 5, "height": 5}), "track_id is None"),
    ],
)
def test_records_that_are_none_are_named(tmp_path, line, message):
    path = tmp_path / "o.jsonl"
    path.write_text(f"{json.dumps(FRAME)}\n{line}\n{json.dumps(FRAME)}\n")
    with pytest.raises(InputError, match=message):
        list(read_records(path))


def test_a_last_line_that_was_cut_is_left_out(tmp_path):
    path = tmp_path / "o.jsonl"
    path.write_text(f'{json.dumps(FRAME)}\n{{"type": "fra')
    assert list(read_records(path)) == [FRAME]
    assert transform(np.eye(3), np.zeros((0, 2))).shape == (0, 2)
