import csv
import json
import threading
import time

import cv2
import numpy as np
import pytest

import spot_model
import stream_parts
from cpr_deploy.feed import FeedSettings
from cpr_deploy.feed_group import FeedGroup
from cpr_deploy.files import InputError
from cpr_deploy.regions import Region, RegionLocalizer
from cpr_deploy.sessions import InferenceError
from cpr_deploy.sources import SourceSpec
from cpr_deploy.stream import StreamOutputs, run_streams
from cpr_deploy.stream_health import HealthSettings, StreamEvent
from stream_parts import Frames, Records, counts, run

COUNT = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return stream_parts.write_clip(path, stream_parts.pictures(COUNT), crf="10")


@pytest.fixture(autouse=True)
def no_decoder_left():
    with stream_parts.no_decoder_left():
        yield


class Slow:
    """A localizer that takes its time."""

    def __init__(self, seconds):
        self._localizer, self._seconds = stream_parts.localizer(), seconds
        self.class_names = self._localizer.class_names
        self.batches = []

    def __call__(self, images, *, latency=None):
        self.batches.append(len(images))
        time.sleep(self._seconds)
        return self._localizer(images, latency=latency)


def found(record):
    return {(point["x"], point["y"]) for point in record["points"]}


def test_every_frame_of_a_file_with_its_points(clip):
    summary, records = run(clip)
    frames = records.of("frame")
    assert [record["frame"] for record in frames] == list(range(COUNT))
    for index, record in enumerate(frames):
        assert found(record) == spot_model.centres(stream_parts.cells_of(index))
    assert (counts(summary).decoded, counts(summary).processed) == (COUNT, COUNT)
    assert summary.streams[0].feed.in_flight() == 0 and not summary.errors


def test_a_slow_reader_loses_no_frame_of_a_file(clip):
    frames = Frames(0.02)
    summary, _ = run(clip, frames=[[frames]])
    assert len(frames) == COUNT and counts(summary).dropped == 0


def test_the_newest_of_a_live_source_and_every_drop_told(tmp_path):
    clip = stream_parts.write_clip(tmp_path / "clip.mp4", stream_parts.pictures(40), fps=40)
    slow = Slow(0.1)
    settings = FeedSettings(mode="latest")
    summary, records = run(SourceSpec(str(clip), paced=True), using=slow, settings=settings)
    got, frames = counts(summary), records.of("frame")
    assert got.decoded == 40 and got.dropped > 10
    assert got.decoded == got.processed + got.dropped
    assert sum(record["count"] for record in records.of("drop")) == got.dropped
    assert frames[-1]["frame"] == 39
    # Each says how many were lost just before it, and none is older than two inferences.
    last = -1
    for record in frames:
        assert record["frame"] - last - 1 == record.get("dropped", 0)
        last = record["frame"]
    assert np.median([record["age_ms"] for record in frames]) < 250


def test_drops_and_losses_before_a_stop_are_told(tmp_path, monkeypatch):
    """Also those behind a frame that waits and will not be processed."""
    from cpr_deploy.feed import StreamFeed

    real, waiting = StreamFeed.join, []

    def join(self):
        real(self)
        if not waiting:
            waiting.append(self.in_flight())
            self._event(StreamEvent("lost", self._next_index, {"message": "x", "retry_in": 1}))

    monkeypatch.setattr(StreamFeed, "join", join)
    clip = stream_parts.write_clip(tmp_path / "clip.mp4", stream_parts.pictures(80), fps=40)
    records = Records()
    with FeedGroup([SourceSpec(str(clip), paced=True)], FeedSettings()) as group:
        timer = threading.Timer(1.0, group.stop)
        timer.start()
        summary = run_streams(Slow(0.2), group, StreamOutputs([records]))
    assert summary.stopped and waiting == [1] and len(records.of("lost")) == 1
    assert sum(record["count"] for record in records.of("drop")) == counts(summary).dropped > 5


def test_results_too_old_are_stale(clip):
    slow = Slow(0.1)
    settings = FeedSettings(mode="latest")
    for age, expected in ((50.0, True), (30_000.0, None)):
        _, records = run(
            SourceSpec(str(clip), paced=True), using=slow, settings=settings, max_age_ms=age
        )
        assert {record.get("stale") for record in records.of("frame")} == {expected}


def test_several_sources_share_batches_and_one_bad_one_stops_no_other(tmp_path, clip):
    folder = tmp_path / "images"
    folder.mkdir()
    for index, image in enumerate(stream_parts.pictures(6)):
        cv2.imwrite(str(folder / f"{index}.png"), image)
    (folder / "3.png").write_bytes(b"damaged")
    small = stream_parts.pictures(9, (64, 96))
    other = stream_parts.write_clip(tmp_path / "b.mp4", small, crf="10")
    slow = Slow(0.05)
    summary, records = run(clip, folder, other, using=slow)
    assert max(slow.batches) >= 2
    for number, count in ((1, COUNT), (2, 5), (3, 9)):
        frames = [record for record in records.of("frame") if record["stream"] == number]
        assert len(frames) == count
        for record in frames:
            expected = spot_model.centres(stream_parts.cells_of(record["frame"]))
            # The small clip holds fewer columns than the pictures have cells.
            assert found(record) == {(x, y) for x, y in expected if number < 3 or x < 96}
    assert [record["stream"] for record in records.of("error")] == [2]
    assert len(summary.errors) == 1 and "3.png" in summary.errors[0]
    assert [record["stream"] for record in records.of("end")] == [1, 2, 3]


def test_a_region_outside_of_one_stream_ends_that_stream_only(tmp_path, clip):
    small = stream_parts.write_clip(tmp_path / "s.mp4", stream_parts.pictures(3, (64, 64)))
    using = RegionLocalizer(stream_parts.localizer(), roi=Region(96, 0, 32, 96))
    summary, records = run(small, clip, using=using)
    (error,) = records.of("error")
    assert error["stream"] == 1 and "outside of a frame of 64x64" in error["message"]
    assert counts(summary, 0).processed == 0 and counts(summary, 1).processed == COUNT


def test_max_frames_leaves_the_rest_in_flight(clip):
    summary, records = run(clip, max_frames=4)
    assert len(records.of("frame")) == 4 == counts(summary).processed
    assert counts(summary).decoded == 4 + summary.streams[0].feed.in_flight()


def test_a_stop_ends_a_source_without_end_soon(tmp_path):
    clip = stream_parts.write_clip(tmp_path / "c.mp4", stream_parts.pictures(200), fps=10)
    records = Records()
    group = FeedGroup([SourceSpec(str(clip), paced=True)])
    with group:
        threading.Timer(1.0, group.stop).start()
        begin = time.monotonic()
        summary = run_streams(stream_parts.localizer(), group, StreamOutputs([records]))
        assert time.monotonic() - begin < 3
    assert summary.stopped and records[-1]["type"] == "end"


def test_a_slow_writer_does_not_hold_up_a_live_stream(clip):
    frames = Frames(0.3)
    source = SourceSpec(str(clip), paced=True)
    summary, records = run(source, frames=[[frames]], settings=FeedSettings(mode="latest"))
    assert max(record["age_ms"] for record in records.of("frame")) < 300
    assert summary.undrawn == counts(summary).processed - len(frames) > 0


@pytest.mark.parametrize("paced", [False, True])
def test_frames_are_whole_and_in_order(clip, paced):
    drawn = []

    class Writer:
        def write(self, image, seconds):
            assert threading.current_thread() is not threading.main_thread()
            drawn.append(seconds)
            if len(drawn) == 3 and not paced:
                raise OSError(28, "No space left on device")

    source = SourceSpec(str(clip), paced=paced)
    if paced:
        run(source, frames=[[Writer()]])
        assert drawn == sorted(drawn) and len(drawn) >= 3
    else:
        with pytest.raises(OSError, match="No space"):
            run(source, frames=[[Writer()]])
        assert len(drawn) == 3


def test_a_pause_of_our_own_is_no_gap(clip):
    settings = FeedSettings(mode="every", health=HealthSettings(gap_after=0.2))
    source = SourceSpec(str(clip), paced=True)
    _, records = run(source, settings=settings, using=Slow(0.25))
    assert len(records.of("frame")) == COUNT and not records.of("gap")


def test_a_network_that_fails_ends_all_streams_in_order(clip):
    class Failing(Slow):
        def __call__(self, images, *, latency=None):
            if len(self.batches) == 5:
                raise InferenceError("the network failed: the GPU is gone")
            return super().__call__(images, latency=latency)

    summary, records = run(clip, clip, using=Failing(0))
    assert summary.failed and summary.frames >= 5
    message = f"{clip}: the network failed: the GPU is gone"
    for stream in (1, 2):
        own = [record for record in records if record["stream"] == stream]
        assert [record["type"] for record in own][-2:] == ["error", "end"]
        assert own[-2]["message"] == message and own[-1]["errors"] == 1
    assert summary.errors == [message] * 2


def test_a_frame_not_accounted_for_is_an_error(clip, monkeypatch):
    from cpr_deploy.feed import StreamFeed

    real = StreamFeed.done

    def forgetful(self, **options):
        real(self, **options)
        self.counts.processed -= self.counts.processed == 3

    monkeypatch.setattr(StreamFeed, "done", forgetful)
    with pytest.raises(RuntimeError, match=r"12 frames decoded, but \d+ processed"):
        run(clip)


def test_a_full_disk_ends_a_file_and_not_a_lookout(clip):
    class Full:
        writes = 0

        def write(self, *_):
            self.writes += 1
            if self.writes > 3:
                raise OSError(28, "No space left on device", "out.mp4")

    with pytest.raises(OSError, match="No space left"):
        run(clip, frames=[[Full()]])
    frames, full = Frames(), Full()
    summary, records = run(SourceSpec(str(clip), paced=True), frames=[[full, frames]])
    assert len(frames) == counts(summary).processed == len(records.of("frame")) > 4
    assert full.writes == 4 and summary.errors == [
        "out.mp4: the disk is full; free some space or choose another output folder"
    ]


def test_a_lookout_without_any_output_left_ends(clip):
    class Full:
        def write(self, *_):
            raise OSError(28, "No space left on device", "out.mp4")

    with (
        FeedGroup([SourceSpec(str(clip), paced=True)], FeedSettings()) as group,
        pytest.raises(OSError, match="No space left"),
    ):
        run_streams(stream_parts.localizer(), group, StreamOutputs([], [[Full()]]))
    assert group.feeds[0].counts.processed < COUNT


def test_an_encoder_that_fails_ends_a_file_and_not_a_lookout(clip, caplog):
    class Broken:
        def write(self, *_):
            raise ValueError("the encoder is broken")

    with pytest.raises(ValueError, match="the encoder is broken"):
        run(clip, frames=[[Broken()]])
    summary, records = run(SourceSpec(str(clip), paced=True), frames=[[Broken()]])
    assert len(records.of("frame")) == counts(summary).processed > 4
    assert summary.errors == ["the encoder is broken"] and "Traceback" in caplog.text


def test_a_lookout_goes_on_when_its_decoder_can_start_again(clip, monkeypatch):
    """Too many processes, for now."""
    from cpr_deploy import feed

    real, tries = feed.Decoder, []

    def short_of_processes(spec):
        tries.append(spec)
        if len(tries) < 3:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real(spec)

    monkeypatch.setattr(feed, "Decoder", short_of_processes)
    monkeypatch.setattr(feed.StreamFeed, "_restartable", property(lambda self: True))
    settings = FeedSettings(mode="latest", first_wait=0.05)
    summary, records = run(SourceSpec(str(clip), paced=True), settings=settings)
    assert ["cannot be started" in record["message"] for record in records.of("lost")] == [True] * 2
    assert records.of("frame") and not summary.errors


def test_frames_without_and_with_thousands_of_objects(tmp_path):
    # 50 x 100 cells, all of them bright.
    full = spot_model.picture(400, 800, [(x, y) for x in range(100) for y in range(50)])
    images = [spot_model.picture(400, 800), full, spot_model.picture(400, 800)]
    clip = stream_parts.write_clip(tmp_path / "clip.mp4", images, crf="5")
    _, records = run(clip, frames=[[Frames()]])
    assert [len(record["points"]) for record in records.of("frame")] == [0, 5000, 0]


def test_script_with_all_outputs(tmp_path, clip):
    model = tmp_path / "model.onnx"
    model.write_bytes(spot_model.model_bytes())
    names = ["o-{n}.mp4", "o.jsonl", "o.csv", "o.json", "o.prom"]
    video, points, table, summary, metrics = (tmp_path / name for name in names)
    done = stream_parts.run_video(
        *("--model", model, "--source", clip, "--source", clip, "--output", video),
        *("--points", points, "--csv", table, "--summary", summary, "--metrics", metrics),
        *("--tile", 96, "--overlap", 32, "--threads", 1),
    )
    assert done.returncode == 0, done.stderr
    records = stream_parts.read_records(points)
    assert len(records.of("frame")) == 2 * COUNT
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    total = sum(len(record["points"]) for record in records.of("frame"))
    assert len(rows) == total == 2 * sum(range(1, COUNT + 1))
    assert {row["stream"] for row in rows} == {"1", "2"} and rows[0]["class_name"] == "spot"
    assert float(rows[0]["x"]) == 4.0
    told = json.loads(summary.read_text())
    assert [s["processed"] for s in told["streams"]] == [COUNT, COUNT] and not told["errors"]
    assert {"decode", "infer", "draw", "encode"} <= set(told["latency_ms"])
    assert (
        f'cpr_frames_processed_total{{stream="2",source="{clip}"}} {COUNT}' in metrics.read_text()
    )
    for number in (1, 2):
        with stream_parts.av.open(str(tmp_path / f"o-{number}.mp4")) as container:
            assert len(list(container.decode(video=0))) == COUNT


def test_script_reads_raw_frames_from_a_pipe(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(spot_model.model_bytes())
    data = b"".join(image.tobytes() for image in stream_parts.pictures(5))
    words = ("--model", model, "--source", "-", "--raw-size", "128x96", "--points", "-")
    done = stream_parts.run_video(*words, "--fps", 50, "--threads", 1, input=data)
    assert done.returncode == 0, done.stderr
    records = Records(map(json.loads, done.stdout.splitlines()))
    assert [record["pts"] for record in records.of("frame")] == [0.0, 0.02, 0.04, 0.06, 0.08]
    assert [len(record["points"]) for record in records.of("frame")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "a.mp4", "--source", "b.mp4", "--output", "o.mp4"], "must hold {n}"),
        (["--source", "-", "--points", "-"], "--raw-size 640x480"),
        (["--source", "-", "--points", "-", "--raw-size", "12"], "2 whole numbers are needed"),
        (["--source", "-", "--source", "-", "--points", "-"], "only one of the sources"),
        (["--source", "0", "--points", "-", "--csv", "-"], "only one of them"),
        (["--source", "0", "--points", "-", "--roi", "1,2,3"], "4 whole numbers are needed"),
        (["--source", "0", "--points", "-", "--tile", "9", "--overlap", "9"], "overlap < tile"),
        (["--source", "0", "--points", "-", "--max-fps", "0"], "max_fps 0"),
        (["--source", "none.mp4", "--web", "0:x"], "a port is needed"),
        (["--source", "none.mp4", "--push", "ftp://x"], "video can be sent to rtmp://"),
        (["--source", "none.mp4", "--points", "-"], "none.mp4: no such file"),
    ],
)
def test_bad_options(tmp_path, words, message, capsys, monkeypatch):
    import importlib.util

    from cpr_deploy.files import run_main

    spec = importlib.util.spec_from_file_location("video_script", stream_parts.VIDEO)
    video = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(video)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(spot_model.model_bytes())
    code = run_main(lambda: video.main(["--model", "model.onnx", *words]))
    assert code == 2 and message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_bad_settings():
    for options in ({"mode": "some"}, {"attempts": -1}):
        with pytest.raises(InputError):
            FeedSettings(**options)
