"""The benchmark that puts full frame, tiles and SAHI side by side."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

import spot_model
import tiny_localizer
from cpr_deploy.files import InputError
from cpr_deploy.point_localizer import PointLocalizer
from cpr_deploy.regions import RegionLocalizer
from cpr_deploy.video_writer import open_video
from tool_runner import ROOT, run_script

sys.path.append(str(ROOT / "benchmarks"))
import compare_tiling
import tiling_scenes
import tiling_ways

SCRIPT = "benchmarks/compare_tiling.py"
HEIGHT, WIDTH = 48, 64


def frame(number):
    """A dark frame with two bright rectangles, left and right, and their boxes.

    Its number can be told from its ground.
    """
    rng = np.random.default_rng(number)
    image = np.full((HEIGHT, WIDTH, 3), 10 * number, np.uint8)
    boxes = []
    for left in (0, 40):
        x, y = left + 4 * rng.integers(0, 4), 4 * rng.integers(0, 9)
        image[y : y + 12, x : x + 8] = 250
        boxes.append([x, y, 8, 12])
    return image, np.array(boxes, float)


@pytest.fixture(scope="module")
def frames():
    return [frame(seed) for seed in range(9)]


@pytest.fixture
def clip(tmp_path, frames):
    """Options of the script for a clip of nine frames, and its files."""
    with open_video(tmp_path / "clip.mp4") as video:
        for index, (image, _) in enumerate(frames):
            video.write(image, index / 10)
    truth = [
        {"frame": index, "boxes": [{"track": 1, "bbox": box} for box in boxes.tolist()]}
        for index, (_, boxes) in enumerate(frames)
    ]
    (tmp_path / "boxes.json").write_text(json.dumps({"frames": truth}))
    return str(tmp_path / "clip.mp4"), str(tmp_path / "boxes.json")


def scene(label, frames, **options):
    images, boxes = zip(*frames, strict=True)
    settings = {"enlarge": 2.5, "mosaic": 2, "cell_scale": 0.5, **options}
    return tiling_scenes.make_scene(label, images, boxes, **settings)


def test_frames_and_their_boxes(clip, frames):
    images, boxes = tiling_scenes.read_clip(*clip, "2:8", 3)
    assert len(images) == len(boxes) == 2
    for image, own, number in zip(images, boxes, (2, 5), strict=True):
        np.testing.assert_array_equal(own, frames[number][1])
        assert np.abs(image.astype(int) - frames[number][0]).mean() < 6  # compressed
    assert len(tiling_scenes.read_clip(*clip, "4:", 1)[0]) == 5


@pytest.mark.parametrize(("part", "word"), [("9:", "none of them"), ("a:b", "540:791")])
def test_frames_that_are_not_there(clip, part, word):
    with pytest.raises(InputError, match=word):
        tiling_scenes.read_clip(*clip, part, 1)


def test_boxes_that_do_not_fit(clip, tmp_path):
    short = tmp_path / "short.json"
    short.write_text(json.dumps({"frames": [{"boxes": []}] * 4}))
    with pytest.raises(InputError, match="4 frames, frame 8"):
        tiling_scenes.read_clip(clip[0], str(short), "0:", 1)
    short.write_text(json.dumps({"frames": [{"boxes": [{"box": 1}]}]}))
    with pytest.raises(InputError, match="bbox"):
        tiling_scenes.read_clip(clip[0], str(short), "0:", 1)


@pytest.mark.parametrize(("label", "scale"), [("plain", 1), ("enlarged", 2.5)])
def test_boxes_lie_on_their_objects(frames, label, scale):
    made = scene(label, frames)
    assert (made.scale, made.cells, made.count) == (scale, 1, 9)
    for index in range(9):
        image, boxes = made.picture(index)
        assert image.shape == (HEIGHT * scale, WIDTH * scale, 3) and image.dtype == np.uint8
        for x, y, width, height in boxes:
            assert (width, height) == (8 * scale, 12 * scale)
            assert (image[int(y + height / 2), int(x + width / 2)] == 250).all()


def test_a_mosaic_shows_each_frame_once(frames):
    made = scene("mosaic", frames)
    assert (made.scale, made.cells, made.count) == (0.5, 4, 2)
    numbers = []
    for index in range(2):
        image, boxes = made.picture(index)
        assert image.shape == (HEIGHT, WIDTH, 3) and boxes.shape == (8, 4)
        for place in range(4):
            left, top = place % 2 * WIDTH // 2, place // 2 * HEIGHT // 2
            cell = image[top : top + HEIGHT // 2, left : left + WIDTH // 2]
            numbers.append(int(np.median(cell)) // 10)
            expected = frames[numbers[-1]][1] / 2 + [left, top, 0, 0]
            np.testing.assert_array_equal(boxes[2 * place : 2 * place + 2], expected)
            for x, y, width, height in expected:
                assert (image[int(y + height / 2), int(x + width / 2)] == 250).all()
    assert sorted(numbers) == list(range(8))
    with pytest.raises(InputError, match="needs 16 frames, there are 9"):
        scene("mosaic", frames, mosaic=4)


def test_options_of_a_scene():
    from cpr.engine import build_cfg

    cfg = build_cfg(str(tiny_localizer.CONFIG), ["INPUT.SCALE", "0.5", "MODEL.P2PNET.MAX_DETS", 9])
    empty = lambda index: None  # noqa: E731
    for scale, cells in ((2.5, 1), (0.5, 4)):
        made = tiling_scenes.Scene("", scale, cells, 1, empty)
        other = build_cfg(str(tiny_localizer.CONFIG), tiling_ways.scene_options(cfg, made))
        # In px of the network and of the clip nothing changes.
        assert other.INPUT.SCALE * scale == cfg.INPUT.SCALE
        assert cfg.MODEL.P2PNET.NMS_SIZE * scale == other.MODEL.P2PNET.NMS_SIZE
        assert cfg.MODEL.P2PNET.NMS_RADIUS * scale == other.MODEL.P2PNET.NMS_RADIUS
    tile = build_cfg(
        str(tiny_localizer.CONFIG), tiling_ways.scene_options(cfg, made, in_tiles=True)
    )
    sizes = [(node.PRE_NMS_TOPK, node.MAX_DETS) for node in (other.MODEL.P2PNET, tile.MODEL.P2PNET)]
    assert sizes[0] > sizes[1] > (cfg.MODEL.P2PNET.PRE_NMS_TOPK, 4 * 9)
    with pytest.raises(InputError, match=r"INPUT\.SCALE is 0"):
        tiling_ways.input_scale(build_cfg(str(tiny_localizer.CONFIG), []), "config")


def test_speed_and_accuracy_belong_to_their_way(frames):
    made = scene("plain", frames)
    calls = []

    def way(name, shift, flags=0):
        def run(image):
            number = next(i for i, (known, _) in enumerate(frames) if known is image)
            calls.append((name, number))
            points = frames[number][1][:, :2] + frames[number][1][:, 2:] / 2 + [shift, 0]
            return tiling_ways.Found(np.zeros((2, 4)), points, np.ones(2), flags)

        return run

    # Objects are 8 px wide: 6 px are a distance of 0.75.
    ways = {"right": way("right", 0), "off": way("off", 6, flags=1), "far": way("far", 900)}
    result = compare_tiling.compare(made, ways)
    assert (result["pictures"], result["objects"]) == (9, 18)
    assert (result["height"], result["width"]) == (HEIGHT, WIDTH)
    rows = {row["way"]: row for row in result["rows"]}
    assert rows["right"]["AP"] == {"0.5": 1.0, "1.0": 1.0}
    assert rows["off"]["AP"]["1.0"] == 1.0 > rows["off"]["AP"]["0.5"]
    assert rows["far"]["AP"] == {"0.5": 0.0, "1.0": 0.0}
    assert [rows[name]["flagged"] for name in ways] == [0, 9, 0]
    # A warm-up call each, then every picture by all, each of them first in its turn.
    assert [name for name, _ in calls[:3]] == list(ways)
    timed = [calls[3 + 3 * turn : 6 + 3 * turn] for turn in range(9)]
    assert all({number for _, number in turn} == {index} for index, turn in enumerate(timed))
    assert [turn[0][0] for turn in timed] == ["right", "off", "far"] * 3

    lines = compare_tiling.table([result]).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 5
    assert lines[2].startswith("| plain, 64x48, 9 pictures, 18 objects | right | ")
    assert "| 1.00 |" in lines[2] and lines[2].endswith("| 100.0 | 100.0 |")
    assert lines[4].endswith("| 0.0 | 0.0 |")


CELLS = [(1, 1), (12, 3), (13, 9), (10, 12), (23, 17), (0, 18), (24, 0), (8, 10)]


@pytest.mark.onnx
def test_points_with_boxes_around_them():
    localizer = PointLocalizer(spot_model.model_bytes(), threads=1)
    picture = spot_model.picture(152, 200, CELLS)
    for used in (localizer, RegionLocalizer(localizer, tile=96, overlap=32)):
        found = tiling_ways.localizer_way(used, 4.0)(picture)
        assert set(map(tuple, found.points.tolist())) == spot_model.centres(CELLS)
        np.testing.assert_array_equal(found.boxes[:, 2:] - found.boxes[:, :2], 4.0)
        np.testing.assert_array_equal((found.boxes[:, 2:] + found.boxes[:, :2]) / 2, found.points)


@pytest.mark.onnx
@pytest.mark.parametrize("options", [{}, {"perform_standard_pred": False}])
def test_sahi_finds_the_same_points(options):
    pytest.importorskip("sahi", reason="SAHI is not installed: pip install sahi")
    calls = []
    localizer = PointLocalizer(spot_model.model_bytes(), threads=1)
    inner = tiling_ways.localizer_way(localizer, 24.0)

    def detect(image):
        calls.append(image.shape[:2])
        return inner(image)

    way = tiling_ways.sahi_way(
        detect, tile=96, overlap=32, threshold=0.05, **{"postprocess_type": "NMS", **options}
    )
    found = way(spot_model.picture(152, 200, CELLS))
    # Cells on the border of a tile, whose boxes SAHI cuts, too.
    assert sorted(map(tuple, found.points.tolist())) == sorted(spot_model.centres(CELLS))
    assert len(found.boxes) == len(found.scores) == len(CELLS)
    assert calls == [(96, 96)] * 6 + ([] if options else [(152, 200)])
    assert len(way(spot_model.picture(152, 200)).points) == 0


def arguments(clip, *more):
    return [
        *("--config-file", "missing.yaml", "--weights", "missing.pth"),
        *("--clip", clip[0], "--boxes", clip[1], *more),
    ]


def test_without_sahi_it_says_so(clip, capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sahi" else real(name)
    )
    assert run_script(SCRIPT, *arguments(clip)) == 2
    message = capsys.readouterr().err
    assert "pip install sahi" in message and "--no-sahi" in message


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--overlap", "640"), "overlap < tile"),
        (("--mosaic", "0"), "--mosaic 0"),
        (("--box-weights", "a.pth"), "belong together"),
        (("--enlarge", "nan"), "--enlarge nan"),
    ],
)
def test_bad_options(clip, capsys, more, word):
    assert run_script(SCRIPT, *arguments(clip, "--no-sahi", *more)) == 2
    assert word in capsys.readouterr().err


@pytest.mark.onnx
@pytest.mark.slow
def test_whole_comparison(clip, tmp_path):
    import torch

    options = [*tiny_localizer.options(classes=1), "INPUT.SCALE", "0.5"]
    model, cfg = tiny_localizer.build(options)
    metadata = {"class_names": ["person"], "category_ids": [1]}
    torch.save({"model": model.state_dict(), "metadata": metadata}, tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / SCRIPT), "--config-file", str(tmp_path / "config.yaml")),
            *("--weights", str(tmp_path / "model.pth"), "--clip", clip[0], "--boxes", clip[1]),
            *("--mosaic", "2", "--tile", "32", "--overlap", "8", "--no-sahi"),
            *("--output", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")),
        ],
        capture_output=True,
        text=True,
        timeout=280,
        env=tiny_localizer.environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["pictures"] for row in report["scenes"]] == [9, 9, 2]
    sizes = [(row["width"], row["height"]) for row in report["scenes"]]
    assert sizes == [(64, 48), (160, 120), (64, 48)]
    for row in report["scenes"]:
        assert [way["way"] for way in row["rows"]] == ["full frame", "tiles 32/8"]
        assert all(way["fps"] > 0 and set(way["AP"]) == {"0.5", "1.0"} for way in row["rows"])
    assert report["settings"]["threads"] == 1 and report["settings"]["torch"]
    text = (tmp_path / "out.md").read_text()
    assert text in done.stdout and text.count("\n") == 2 + 3 * 2
