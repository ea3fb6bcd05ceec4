import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from cpr.demo import neon_trees
from cpr.demo.neon_trees import (
    Tile,
    build_split,
    parse_voc,
    read_members,
    shrink,
    tile_annotations,
    tile_grid,
)
from cpr_deploy.files import InputError


def voc(boxes, size=(100, 80)):
    items = "".join(
        "<object><name>Tree</name><bndbox>"
        f"<xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax>"
        "</bndbox></object>"
        for b in boxes
    )
    head = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation>{head}{items}</annotation>".encode()


def test_voc_boxes_are_one_based_and_hold_both_ends():
    # The first pixel alone, the last pixel alone, and the whole image.
    size, boxes = parse_voc(voc([(1, 1, 1, 1), (100, 80, 100, 80), (1, 1, 100, 80)]), "a.xml")
    assert size == (100, 80)
    assert boxes.tolist() == [[0, 0, 1, 1], [99, 79, 1, 1], [0, 0, 100, 80]]


def test_voc_without_objects():
    assert parse_voc(voc([]), "a.xml")[1].shape == (0, 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"<annotation>", "not valid XML"),
        (b"<annotation></annotation>", "Pascal VOC"),
        (voc([("x", 1, 2, 2)]), "Pascal VOC"),
        (voc([(5, 5, 4, 9)]), "box 1"),
        (voc([(1, 1, 9, 9), (0, 1, 9, 9)]), "box 2"),
        (voc([(1, 1, 101, 9)]), "leaves the image"),
    ],
)
def test_bad_voc_is_named(text, said):
    with pytest.raises(InputError, match=said) as error:
        parse_voc(text, "bad.xml")
    assert "bad.xml" in str(error.value)


@pytest.mark.parametrize(("width", "height"), [(1724, 1854), (256, 256), (257, 10), (1, 1)])
def test_tiles_cover_every_pixel_once(width, height):
    seen = np.zeros((height, width), dtype=int)
    tiles = tile_grid(width, height)
    for tile in tiles:
        seen[tile.top : tile.bottom, tile.left : tile.right] += 1
        assert max(tile.right - tile.left, tile.bottom - tile.top) <= neon_trees.MAX_TILE
    assert (seen == 1).all()
    assert len(tiles) == -(-width // 256) * -(-height // 256)


def test_objects_belong_to_the_tile_of_their_centre():
    tile = Tile(1, 0, 100, 0, 200, 100)
    inside, cut, neighbour, far, sliver = (
        [120, 10, 20, 20],
        [190, 40, 16, 20],  # centre 198: own, 6 of 16 px cut
        [80, 60, 30, 20],  # centre 95: only a part shows
        [10, 10, 20, 20],
        [80, 10, 21, 20],  # shows 1 px
    )
    annotations = tile_annotations(np.array([inside, cut, neighbour, far, sliver]), tile)
    assert [a["bbox"] for a in annotations] == [
        [20, 10, 20, 20],
        [90, 40, 10, 20],
        [0, 60, 10, 20],
    ]
    assert [a.get("ignore", 0) for a in annotations] == [0, 0, 1]
    assert annotations[1]["area"] == 200


def test_object_that_lost_more_than_half_is_ignored():
    # Centre in the corner of the tile: a quarter and a bit of the box is left.
    tile = Tile(0, 0, 0, 0, 100, 100)
    (annotation,) = tile_annotations(np.array([[89.0, 89.0, 20.0, 20.0]]), tile)
    assert annotation["ignore"] == 1 and annotation["area"] == pytest.approx(121)


def test_each_object_is_counted_in_exactly_one_tile():
    rng = np.random.default_rng(0)
    size = rng.uniform(5, 60, (300, 2))
    boxes = np.hstack([rng.uniform(0, (700, 500) - size), size])
    own = 0
    for tile in tile_grid(700, 500):
        for annotation in tile_annotations(boxes, tile):
            x, y, w, h = annotation["bbox"]
            assert x >= 0 and y >= 0 and w > 0 and h > 0
            assert x + w <= tile.right - tile.left + 1e-3
            assert y + h <= tile.bottom - tile.top + 1e-3
            own += "ignore" not in annotation
    # Those that lost more than half are few.
    assert 0.97 * 300 <= own <= 300


def test_shrink_keeps_corners_on_corners():
    pixels = np.zeros((80, 101, 3), dtype=np.uint8)
    pixels[20:40, 40:60] = 255
    resized, boxes = shrink(pixels, np.array([[40, 20, 20, 20], [0, 0, 101, 80]]), 0.5)
    assert resized.shape == (40, 50, 3)
    assert boxes[1] == pytest.approx([0, 0, 50, 40])
    ys, xs = np.nonzero(resized[:, :, 0] > 127)
    x, y, w, h = boxes[0]
    assert (xs.min(), xs.max() + 1) == pytest.approx((x, x + w), abs=0.5)
    assert (ys.min(), ys.max() + 1) == pytest.approx((y, y + h), abs=0.5)


def test_split_has_unique_ids_and_its_tiles_show_the_image(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (300, 520, 3), dtype=np.uint8)
    boxes = np.array([[250.0, 100, 30, 30], [10, 10, 20, 20], [400, 200, 40, 40]])
    split = build_split({"a": (pixels, boxes)}, tmp_path)
    assert len(split["images"]) == 6
    ids = [a["id"] for a in split["annotations"]]
    assert len(set(ids)) == len(ids)
    for record in split["images"]:
        tile = np.asarray(Image.open(tmp_path / record["file_name"]))
        assert tile.shape == (record["height"], record["width"], 3)
        x, y = record["source_offset"]
        assert (tile == pixels[y : y + tile.shape[0], x : x + tile.shape[1]]).all()
    right = build_split({"a": (pixels, boxes)}, tmp_path, lambda tile: tile.column == 2)
    assert len(right["images"]) == 2
    assert {i["file_name"] for i in right["images"]} <= {i["file_name"] for i in split["images"]}


def test_wheel_with_other_content_is_refused(tmp_path):
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("../outside", "x")
    with pytest.raises(InputError, match="another version"):
        read_members(wheel, ["deepforest/data/a.png"])
    assert [p.name for p in tmp_path.iterdir()] == ["w.whl"]
    wheel.write_bytes(b"no zip")
    with pytest.raises(InputError, match="not a wheel"):
        read_members(wheel, ["a"])


def test_cached_wheel_with_a_wrong_hash_is_not_used(tmp_path, monkeypatch):
    (tmp_path / neon_trees.WHEEL_NAME).write_bytes(b"something else")

    class Failed:
        returncode, stderr = 1, "line one\nno network\n"

    monkeypatch.setattr(neon_trees.subprocess, "run", lambda *args, **kwargs: Failed)
    with pytest.raises(InputError, match="no network"):
        neon_trees.fetch_wheel(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [neon_trees.WHEEL_NAME]


@pytest.mark.slow
def test_real_data(tmp_path):
    try:
        summary = neon_trees.prepare(tmp_path)
    except InputError as error:
        pytest.skip(f"the data cannot be had here: {error}")
    counts = summary["splits"]
    assert counts["train"]["objects"] == 574
    assert counts["fit"]["objects"] + counts["tune"]["objects"] == 574
    assert counts["heldout"]["objects"] + counts["heldout"]["ignored"] >= 279
    assert "MIT License" in (tmp_path / "LICENSE-deepforest.txt").read_text()
    names = {}
    for split in ("train", "fit", "tune", "heldout", "other_sites"):
        data = json.loads((tmp_path / f"{split}.json").read_text())
        names[split] = {image["file_name"] for image in data["images"]}
    assert names["fit"] | names["tune"] == names["train"] and not names["fit"] & names["tune"]
    assert not names["train"] & names["heldout"]
    assert not names["other_sites"] & (names["train"] | names["heldout"])
