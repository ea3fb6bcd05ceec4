"""Tiles cropped when they are read and tiles cut to files: the same pixels, once, and safely."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from cpr.data.image_folder import read_recorded
from cpr.data.tiling.files import cut_tiles
from cpr.data.tiling.tiles import tile_dataset
from cpr_deploy.files import InputError
from cpr_deploy.image_files import read_rgb
from tool_runner import run_tool

SIZE = (90, 40)  # width, height; tiles of 50 px are 0..50 and 40..90


def noise(seed):
    return np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    Image.fromarray(noise(0)).save(tmp_path / "images" / "a.png")
    Image.fromarray(noise(1)).save(tmp_path / "images" / "sub" / "b.jpg", quality=100)
    return tmp_path


def tiles():
    images = [
        {"id": index, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
        for index, name in enumerate(("a.png", "sub/b.jpg"))
    ]
    annotations = [
        {"id": 5 + index, "image_id": index, "category_id": 1, "point": [60.0, 7.0]}
        for index in range(2)
    ]
    dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    return tile_dataset(dataset, tile=50, overlap=10)


def test_tiles_are_cropped_when_they_are_read(folder):
    for record in tiles()["images"]:
        left = record["corner"][0]
        full = read_rgb(folder / "images" / record["file_name"])
        pixels = read_recorded(folder / "images", record)
        np.testing.assert_array_equal(pixels, full[:, left : left + 50])


def test_a_tile_outside_its_image(folder):
    record = tiles()["images"][1]
    record["corner"] = [41, 0, 91, 40]
    with pytest.raises(InputError, match=r"a\.png.*is 90x40 .*tile \[41, 0, 91, 40\] reaches out"):
        read_recorded(folder / "images", record)
    dataset = {**tiles(), "images": [record]}
    with pytest.raises(InputError, match="reaches out"):
        cut_tiles(dataset, folder / "images", folder / "cut", workers=1)
    assert list(folder.glob("cut/*")) == []


@pytest.mark.parametrize("image_format", ["keep", "png", "jpg"])
def test_cut_tiles_hold_the_same_pixels(folder, image_format):
    cut, skipped = cut_tiles(
        tiles(), folder / "images", folder / "cut", image_format=image_format, workers=1
    )
    names = ["a_0_0_50_40", "a_40_0_90_40", "sub/b_0_0_50_40", "sub/b_40_0_90_40"]
    suffixes = {"keep": [".png", ".png", ".jpg", ".jpg"]}.get(
        image_format, [f".{image_format}"] * 4
    )
    assert [i["file_name"] for i in cut["images"]] == list(map(str.__add__, names, suffixes))
    assert skipped == [] and cut["annotations"] == tiles()["annotations"]
    for before, record in zip(tiles()["images"], cut["images"], strict=True):
        assert "corner" not in record and record["cut_corner"] == before["corner"]
        assert record["full_file_name"] == before["file_name"]
        assert record["core"] == before["core"]
        pixels = read_recorded(folder / "cut", record)
        expected = read_recorded(folder / "images", before)
        if record["file_name"].endswith(".png"):
            np.testing.assert_array_equal(pixels, expected)
        else:
            # Noise is the worst case of JPEG; quality 95 without subsampling stays near it.
            assert np.abs(pixels.astype(int) - expected).mean() < 4


def test_cutting_resumes(folder):
    cut_tiles(tiles(), folder / "images", folder / "cut", workers=1)
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("cut/**/*.*")}
    assert len(done) == 4
    missing, cut_off, old = sorted(done)[:3]
    missing.unlink()
    cut_off.write_bytes(b"")  # newer than its image, but no image
    os.utime(old, (1, 1))  # older than its image
    cut_tiles(tiles(), folder / "images", folder / "cut", workers=1)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("cut/**/*.*")}
    assert after.keys() == done.keys()
    assert [path for path in sorted(done) if after[path] != done[path]] == [missing, cut_off, old]
    assert read_rgb(cut_off).shape == (40, 50, 3)


def test_an_image_that_is_replaced_is_cut_again(folder):
    """Also by one that was written before the tiles, as a copy with its time stamps is."""
    first, _ = cut_tiles(tiles(), folder / "images", folder / "cut", workers=1)
    pixels = read_recorded(folder / "cut", first["images"][0])
    Image.fromarray(255 - read_rgb(folder / "images" / "a.png")).save(folder / "other.png")
    os.utime(folder / "other.png", (1, 1))
    os.replace(folder / "other.png", folder / "images" / "a.png")
    second, _ = cut_tiles(tiles(), folder / "images", folder / "cut", workers=1)
    np.testing.assert_array_equal(read_recorded(folder / "cut", second["images"][0]), 255 - pixels)


def test_several_processes_make_the_same(folder):
    one, _ = cut_tiles(tiles(), folder / "images", folder / "one", workers=1)
    seen = []

    def progress(jobs, total):
        assert total == 2
        for job in jobs:
            seen.append(job)
            yield job

    two, _ = cut_tiles(tiles(), folder / "images", folder / "two", workers=2, progress=progress)
    assert one == two and len(seen) == 2
    for record in one["images"]:
        first, second = (folder / name / record["file_name"] for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_images(folder, workers):
    (folder / "images" / "a.png").write_bytes(b"no image")
    arguments = {"image_root": folder / "images", "output_root": folder / "cut"}
    with pytest.raises(InputError, match=r"a\.png: is not an image"):
        cut_tiles(tiles(), **arguments, workers=workers)
    cut, skipped = cut_tiles(tiles(), **arguments, workers=workers, skip_bad=True)
    assert [p.record for p in skipped] == ["a.png"] and "not an image" in skipped[0].text
    assert [i["id"] for i in cut["images"]] == [3, 4]
    assert [a["id"] for a in cut["annotations"]] == [6]
    (folder / "images" / "a.png").unlink()
    with pytest.raises(InputError, match=r"no such image \(image id 1\)"):
        cut_tiles(tiles(), **arguments, workers=workers)
    _, skipped = cut_tiles(tiles(), **arguments, workers=workers, skip_bad=True)
    assert "no such image" in skipped[0].text


def test_nothing_is_written_outside_the_output(folder):
    dataset = tiles()
    for name in ("../a.png", "/a.png", "C:\\a.png"):
        changed = {**dataset, "images": [{**dataset["images"][0], "file_name": name}]}
        with pytest.raises(InputError, match="leads out"):
            cut_tiles(changed, folder / "images", folder / "cut", workers=1)
    (folder / "cut").mkdir(exist_ok=True)
    (folder / "elsewhere").mkdir()
    (folder / "cut" / "sub").symlink_to(folder / "elsewhere")
    with pytest.raises(InputError, match="leads out"):
        cut_tiles(dataset, folder / "images", folder / "cut", workers=1)
    assert list((folder / "elsewhere").iterdir()) == []


def test_settings_and_names(folder):
    dataset = tiles()
    root = folder / "images"
    with pytest.raises(InputError, match="use one of keep, png, jpg"):
        cut_tiles(dataset, root, folder / "cut", image_format="gif")
    with pytest.raises(InputError, match="is read by this command"):
        cut_tiles(dataset, root, root)
    with pytest.raises(InputError, match="image id 1: has no corner"):
        cut_tiles({**dataset, "images": [{"id": 1, "file_name": "a.png"}]}, root, folder / "cut")
    twins = [
        {**i, "file_name": i["file_name"].replace("sub/b.jpg", "A.bmp")} for i in dataset["images"]
    ]
    with pytest.raises(InputError, match=r"'A.bmp' and 'a.png' would both be cut into"):
        cut_tiles({**dataset, "images": twins}, root, folder / "cut")


def test_cut_command(folder, capsys):
    dataset = tiles()
    full = {**dataset, "annotations": []}
    full["images"] = [{"id": 1, "file_name": "a.png", "width": SIZE[0], "height": SIZE[1]}]
    (folder / "full.json").write_text(json.dumps(full))
    arguments = ["--image-root", folder / "images", "--cut", folder / "cut", "--workers", 1]
    arguments += ["--tile", 50, "--overlap", 10]
    source = ["tile", "--annotations", folder / "full.json", "--output", folder / "tiles.json"]
    assert run_tool("prepare_points", *source, *arguments) == 0
    assert len(list((folder / "cut").iterdir())) == 2
    assert json.loads((folder / "tiles.json").read_text())["images"][1]["cut_corner"][0] == 40
    # Annotations in tiles already, such as the authors': only cut.
    (folder / "official.json").write_text(json.dumps(dataset))
    source = ["tile", "--annotations", folder / "official.json", "--output", folder / "tiles.json"]
    assert run_tool("prepare_points", *source, *arguments) == 0
    assert len(list((folder / "cut").rglob("*.*"))) == 4
    assert "4 images, 2 annotations" in capsys.readouterr().out
    # Cut once more: there is no corner left.
    source[2], source[4] = folder / "tiles.json", folder / "again.json"
    assert run_tool("prepare_points", *source, *arguments) == 2
    assert "has no corner" in capsys.readouterr().err


def test_an_interrupted_cut_leaves_no_half_tile(folder, monkeypatch):
    class Interrupted(Exception):
        pass

    def save(self, path, **settings_):
        path.write_bytes(b"half")
        raise Interrupted

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(Interrupted):
        cut_tiles(tiles(), folder / "images", folder / "cut", workers=1)
    assert list(folder.rglob("cut/**/*.*")) == []


def test_cutting_is_one_decode_an_image(folder, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        "cpr.data.tiling.files.read_rgb", lambda path: decoded.append(path) or read_rgb(path)
    )
    cut_tiles(tiles(), folder / "images", folder / "cut", workers=1)
    assert len(decoded) == 2
    cut_tiles(tiles(), folder / "images", folder / "cut", workers=1)
    assert len(decoded) == 2
