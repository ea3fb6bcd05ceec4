import json
import subprocess
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

import tiny_localizer
from cpr_deploy.feed_group import FeedGroup
from cpr_deploy.files import InputError
from cpr_deploy.overlay import draw_points
from cpr_deploy.point_localizer import PointLocalizer, PointResult
from cpr_deploy.sources import Frame, SourceSpec, VideoSource, open_source
from cpr_deploy.stream import StreamOutputs, run_streams
from cpr_deploy.video_writer import open_video

pytestmark = pytest.mark.onnx

# Seconds; irregular on purpose.
TIMES = (0.0, 0.04, 0.2, 0.24, 0.28, 0.9, 1.0, 1.5, 1.54, 1.58, 2.0, 2.04)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(tiny_localizer.exported_bytes())
    return path


@pytest.fixture(scope="module")
def localizer(model_path):
    return PointLocalizer(model_path, threads=1, resize="none")


def write_clip(path, times=TIMES, size=(96, 128), codec="mpeg4", **options):
    """A clip whose picture k is a scene of seed k."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, seconds in enumerate(times):
            picture = tiny_localizer.scene(*size, seed=index)
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = round(1000 * seconds), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_times(path):
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, str(tiny_localizer.ROOT / "deploy" / "video.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=tiny_localizer.environment(),
    )


def records_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Records(list):
    write = list.append


def test_script_writes_video_and_records_with_the_container_times(tmp_path, model_path):
    clip = write_clip(tmp_path / "clip.mp4")
    video, points = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    done = run_script(
        *("--model", model_path, "--source", clip, "--output", video, "--points", points),
        *("--threads", 1, "--resize", "none"),
    )
    assert done.returncode == 0, done.stderr
    for word in ("decode", "preprocess", "infer", "postprocess", "draw", "encode", "p99"):
        assert word in done.stderr
    *frames, end = records_of(points)
    assert end == {"type": "end", "source": str(clip), "frames": len(TIMES), "errors": 0}
    assert [record["frame"] for record in frames] == list(range(len(TIMES)))
    np.testing.assert_allclose([record["pts"] for record in frames], TIMES, atol=1e-3)
    first = frames[0]
    assert set(first["latency_ms"]) == {"decode", "preprocess", "infer", "postprocess"}
    assert set(first["points"][0]) == {"x", "y", "score", "label", "class_name"}
    assert first["points"][0]["class_name"] in tiny_localizer.CLASS_NAMES
    # Variable frame rate survives in the annotated video.
    np.testing.assert_allclose(read_times(video), TIMES, atol=2e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.jsonl", "out.mp4"]


def test_every_and_max_frames(tmp_path, localizer):
    clip = write_clip(tmp_path / "clip.mp4")
    records = Records()
    with FeedGroup([SourceSpec(str(clip), every=3)]) as group:
        summary = run_streams(localizer, group, StreamOutputs([records]), max_frames=3)
    assert summary.frames == 3 and not summary.errors
    assert [record["frame"] for record in records if record["type"] == "frame"] == [0, 3, 6]


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_cut_video_keeps_what_was_decoded(tmp_path, model_path, suffix):
    # The index of the MP4 at its front, so that the file opens at all.
    options = {"movflags": "faststart"} if suffix == "mp4" else {}
    times = [k / 25 for k in range(12)]
    clip = write_clip(tmp_path / f"clip.{suffix}", times, **options)
    data = clip.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(data[: int(0.6 * len(data))])
    points = tmp_path / "out.jsonl"
    done = run_script(
        *("--model", model_path, "--source", cut, "--points", points),
        *("--output", tmp_path / "out.mp4", "--threads", 1),
    )
    assert done.returncode == 1, done.stderr
    assert "cut off" in done.stderr
    kinds = [record["type"] for record in records_of(points)]
    count = kinds.count("frame")
    assert 3 <= count <= 9 and kinds[-2:] == ["error", "end"]
    assert len(read_times(tmp_path / "out.mp4")) == count


def test_mp4_without_its_index_is_a_clear_error(tmp_path):
    data = write_clip(tmp_path / "clip.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cut.mp4: cannot be opened as video.*cut off"):
        open_source(str(cut))


def test_whole_videos_of_others_raise_no_alarm():
    folder = tiny_localizer.ROOT.parent / "shared" / "data" / "video"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    source = VideoSource(str(folder / "kit_ais_road.mp4"))
    items = list(source)
    source.close()
    assert len(items) == 25 and all(isinstance(item, Frame) for item in items)


def test_folder_of_images(tmp_path, localizer, model_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in (1, 2, 10):
        cv2.imwrite(str(folder / f"frame{index}.png"), tiny_localizer.scene(64, 96, seed=index))
    (folder / "notes.txt").write_text("not an image")
    source = open_source(str(folder), fps=4.0)
    frames = list(source)
    assert [frame.name for frame in frames] == ["frame1.png", "frame2.png", "frame10.png"]
    assert [frame.pts for frame in frames] == [0.0, 0.25, 0.5]
    np.testing.assert_array_equal(frames[2].image, tiny_localizer.scene(64, 96, seed=10))
    # A damaged image is reported; the others are processed.
    data = (folder / "frame2.png").read_bytes()
    (folder / "frame2.png").write_bytes(data[:100])
    points = tmp_path / "out.jsonl"
    done = run_script("--model", model_path, "--source", folder, "--points", points)
    assert done.returncode == 1 and "frame2.png" in done.stderr
    kinds = [(record["type"], record.get("file")) for record in records_of(points)]
    assert kinds == [
        ("frame", "frame1.png"),
        ("error", None),
        ("frame", "frame10.png"),
        ("end", None),
    ]


def test_bad_sources_and_outputs(tmp_path, model_path):
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(str(tmp_path / "none.mp4"))
    with pytest.raises(InputError, match="holds no images"):
        open_source(str(tmp_path))
    text = tmp_path / "text.mp4"
    text.write_text("hello")
    with pytest.raises(InputError, match="cannot be opened as video"):
        open_source(str(text))
    with pytest.raises(InputError, match="ends in .mp4"), open_video(tmp_path / "out.mov"):
        pass
    done = run_script("--model", model_path, "--source", tmp_path)
    assert done.returncode == 2 and "nothing to write" in done.stderr


def test_failing_consumer_leaves_no_video(tmp_path):
    with pytest.raises(RuntimeError), open_video(tmp_path / "out.mp4") as writer:
        writer.write(tiny_localizer.scene(64, 64), 0.0)
        raise RuntimeError
    with open_video(tmp_path / "empty.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_odd_and_changing_sizes(tmp_path):
    path = tmp_path / "out.mp4"
    with open_video(path) as writer:
        for index, size in enumerate([(65, 97), (65, 97), (130, 100), (20, 30)]):
            writer.write(tiny_localizer.scene(*size), index / 10)
        writer.write(tiny_localizer.scene(65, 97), 0.1)  # a time that goes back
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [(frame.height, frame.width) for frame in frames] == [(66, 98)] * 5
    assert all(b.pts > a.pts for a, b in zip(frames, frames[1:], strict=False))


@pytest.mark.parametrize("size", [(180, 320), (1080, 1920)])
def test_overlay_puts_discs_at_the_points(size):
    image = np.full((*size, 3), 90, np.uint8)
    point = np.array([[0.75 * size[1] + 0.5, 0.5 * size[0] + 0.5]], np.float32)
    result = PointResult(point, np.array([0.9], np.float32), np.array([1]), 0)
    drawn = draw_points(image, result, ("car", "person"), status="12 ms", show_scores=False)
    assert drawn is image
    from cpr_deploy.overlay import class_colour

    x, y = (point[0] - 0.5).astype(int)
    assert tuple(drawn[y, x].tolist()) == class_colour(1)
    # The disc's centre of mass is the point: no shift by half a pixel.
    right = drawn[:, size[1] // 2 :].astype(int)
    ys, xs = np.nonzero((right != 90).any(axis=-1))
    centre = [xs.mean() + size[1] // 2 + 0.5, ys.mean() + 0.5]
    np.testing.assert_allclose(centre, point[0], atol=0.05)
    assert (drawn[:10, :10] != 90).any(), "the panel with counts"


def test_help_is_quick():
    import time

    for script in ("video.py", "export_onnx.py"):
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(tiny_localizer.ROOT / "deploy" / script), "--help"],
            capture_output=True,
            env=tiny_localizer.environment(),
        )
        assert done.returncode == 0 and time.perf_counter() - begin < 2
