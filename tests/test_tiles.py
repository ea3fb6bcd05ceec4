"""Data sets in tiles and back: nothing lost, nothing twice, each object where it is seen best."""

import copy
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from cpr.data.point_json import find_problems, is_ignored, load_points
from cpr.data.tiling.grid import make_grid
from cpr.data.tiling.records import outside_core, tile_corner
from cpr.data.tiling.tiles import tile_dataset
from cpr.data.tiling.untile import untile_detections, untile_points
from cpr_deploy.files import InputError
from tool_runner import run_tool

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 5, "name": "boat"}]
REAL = Path(__file__).parents[2] / "shared" / "data"
GOLDEN = Path(__file__).parent / "data" / "golden" / "train_tiles.json"


def dataset_of(annotations, size=(1920, 1080), **more):
    image = {"id": 7, "file_name": "a.png", "width": size[0], "height": size[1], "drone": "x"}
    records = [
        {"id": 10 + index, "image_id": 7, "category_id": 1, **annotation}
        for index, annotation in enumerate(annotations)
    ]
    return {"images": [image], "annotations": records, "categories": CATEGORIES, **more}


def errors(dataset):
    return [p for p in find_problems(dataset, may_be_empty=True) if p.is_error]


def full_px(tiled, annotation, key="point"):
    """The point or box of an annotation of a tile in px of the full image."""
    image = next(i for i in tiled["images"] if i["id"] == annotation["image_id"])
    left, top = image["corner"][:2]
    x, y, *size = annotation[key]
    return [x + left, y + top, *size]


# --- grids


def test_even_tiles_of_a_full_hd_frame():
    grid = make_grid(1920, 1080, tile=640, overlap=100)
    # 4 columns and 2 rows, as few as an overlap of 100 px allows; 1280 / 3 = 426.67.
    assert grid.xs.starts == (0, 426, 853, 1280) and grid.xs.ends == (640, 1066, 1493, 1920)
    assert grid.ys.starts == (0, 440) and grid.ys.ends == (640, 1080)
    # Middles of 426..640, 853..1066, 1280..1493 and 440..640.
    assert grid.xs.seams == (533, 959.5, 1386.5) and grid.ys.seams == (540,)
    assert list(grid)[:3] == [(0, 0), (0, 1), (1, 0)]  # columns first
    assert grid.corner((1, 1)) == (426, 440, 1066, 1080)
    assert grid.core((1, 1)) == [533 - 426, 100, 959.5 - 426, 640]
    assert [grid.owner(x, 0)[0] for x in (0, 532.9, 533, 959.4, 959.6, 1920)] == [0, 0, 1, 1, 2, 3]


@given(
    size=st.integers(1, 3000),
    tile=st.integers(1, 700),
    overlap=st.integers(0, 650),
    grid=st.sampled_from(["even", "official-test"]),
    place=st.floats(0, 1),
)
@settings(max_examples=300, deadline=None)
def test_tiles_along_a_side(size, tile, overlap, grid, place):
    overlap = min(overlap, tile - 1)
    if size > 100 * (tile - overlap):
        size = 100 * (tile - overlap)
    axis = make_grid(size, 1, tile=tile, overlap=overlap, grid=grid).xs
    # All of full size where the image is, from end to end, sharing at least the overlap.
    assert {end - start for start, end in zip(axis.starts, axis.ends, strict=True)} == {
        min(tile, size)
    }
    assert axis.starts[0] == 0 and axis.ends[-1] == size
    pairs = list(zip(axis.starts[1:], axis.ends[:-1], strict=True))
    assert all(end - start >= overlap for start, end in pairs)
    assert list(axis.starts) == sorted(set(axis.starts))
    # As few as possible, and the cores fill the side without gap or overlap.
    assert len(axis.starts) == max(1, math.ceil((size - overlap) / (tile - overlap)))
    cores = [tuple(start + edge for edge in axis.core(i)) for i, start in enumerate(axis.starts)]
    assert cores[0][0] == 0 and cores[-1][1] == size
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in zip(cores, cores[1:], strict=False))
    # The owner is the tile in which a position is furthest from the sides that cut.
    position = place * size

    def depth(i):
        cuts = [position - axis.starts[i]] if axis.starts[i] > 0 else []
        cuts += [axis.ends[i] - position] if axis.ends[i] < size else []
        return min(cuts, default=math.inf)

    depths = [depth(i) for i in range(len(axis.starts))]
    assert depths[axis.owner(position)] == pytest.approx(max(depths), abs=1e-9)


# --- the default: each object in one tile


def test_an_object_belongs_to_the_tile_that_sees_it_most_centrally():
    dataset = dataset_of(
        [
            {"point": [532.0, 300.0], "bbox": [520.0, 290.0, 24.0, 20.0], "note": "kept"},
            {"point": [534.0, 300.0]},
            # Without a click the centre of the box counts: (600, 545) is nearer to tile (1, 1).
            {"bbox": [590.0, 535.0, 20.0, 20.0], "area": 400.0},
        ],
        info={"kept": True},
    )
    before = copy.deepcopy(dataset)
    tiled = tile_dataset(dataset)
    assert dataset == before, "the input must not change"
    assert [image["id"] for image in tiled["images"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert tiled["images"][3] == {
        "id": 4,
        "file_name": "a.png",
        "width": 640,
        "height": 640,
        "drone": "x",
        "corner": [426, 440, 1066, 1080],
        "full_image_id": 7,
        "core": [107, 100, 533.5, 640],
    }
    assert [(a["id"], a["image_id"]) for a in tiled["annotations"]] == [(10, 1), (11, 3), (12, 4)]
    assert tiled["annotations"][0]["point"] == [532.0, 300.0]
    assert tiled["annotations"][0]["note"] == "kept" and tiled["info"] == {"kept": True}
    assert tiled["annotations"][1]["point"] == [108.0, 300.0]
    assert tiled["annotations"][2]["bbox"] == [164.0, 95.0, 20.0, 20.0]
    assert tiled["annotations"][2]["area"] == 400.0
    settings_ = {"tile": 640, "overlap": 100, "grid": "even", "copies": False}
    assert tiled["tiling"] == settings_
    assert errors(tiled) == []


def test_boxes_are_clipped_and_regions_go_to_every_tile_that_sees_them():
    dataset = dataset_of(
        [
            {"bbox": [5.0, 5.0, 80.0, 10.0], "area": 400.0},  # a mask of half of its box
            {"bbox": [40.0, 0.0, 30.0, 20.0], "iscrowd": 1, "area": 600.0},
            {"bbox": [0.0, 0.0, 5.0, 5.0], "ignore": 1, "point": [2.0, 3.0]},
        ],
        size=(100, 40),
    )
    # Tiles 0..50 and 50..100 meet at 50.
    tiled = tile_dataset(dataset, tile=50, overlap=0)
    found = [(a["id"], a["image_id"], a["bbox"], a.get("area")) for a in tiled["annotations"]]
    assert found == [
        (10, 1, [5.0, 5.0, 45.0, 10.0], 225.0),
        (11, 2, [0.0, 0.0, 20.0, 20.0], 400.0),  # its centre is at 55
        (13, 1, [40.0, 0.0, 10.0, 20.0], 200.0),
        (12, 1, [0.0, 0.0, 5.0, 5.0], None),
    ]
    assert tiled["annotations"][2]["full_id"] == 11
    assert untile_points(dataset, tiled) == dataset


def test_a_region_of_another_tile_loses_its_point_but_an_object_keeps_its_box():
    dataset = dataset_of(
        [
            {"bbox": [40.0, 0.0, 30.0, 20.0], "ignore": 1, "point": [45.0, 10.0]},
            # A refined point far away from its box.
            {"bbox": [70.0, 5.0, 10.0, 10.0], "point": [20.0, 10.0], "area": 100.0},
            # A region that lies outside of its image.
            {"bbox": [200.0, 5.0, 10.0, 10.0], "ignore": 1},
        ],
        size=(100, 40),
    )
    tiled = tile_dataset(dataset, tile=50, overlap=0)
    first, second, third = tiled["annotations"]
    assert first["image_id"] == 1 and first["point"] == [45.0, 10.0]
    assert second["image_id"] == 2 and "point" not in second and second["full_id"] == 10
    assert third["bbox"] == [70.0, 5.0, 10.0, 10.0] and third["area"] == 100.0
    assert errors(tiled) == []
    assert untile_points(dataset, tiled) == dataset


def boxes(width, height):
    side = st.floats(0.5, 200)
    return st.tuples(st.floats(-50, width), st.floats(-50, height), side, side).map(list)


@st.composite
def data_sets(draw):
    width, height = draw(st.integers(20, 400)), draw(st.integers(20, 400))
    annotations = []
    for _ in range(draw(st.integers(0, 12))):
        annotation = {"category_id": draw(st.sampled_from([1, 5])), "tag": draw(st.integers())}
        if draw(st.booleans()):
            annotation["point"] = [draw(st.floats(0, width)), draw(st.floats(0, height))]
        if "point" not in annotation or draw(st.booleans()):
            annotation["bbox"] = draw(boxes(width, height))
        if draw(st.booleans()):
            annotation[draw(st.sampled_from(["ignore", "iscrowd"]))] = 1
        if draw(st.booleans()):
            annotation["coarse_point"] = [draw(st.floats(-9, 999)), 3.25]
        annotations.append(annotation)
    dataset = dataset_of(annotations, (width, height))
    dataset["images"].append({"id": "two", "file_name": "b.png", "width": 30, "height": 500})
    for annotation in dataset["annotations"]:
        fits = annotation.get("point", [0, 0])[0] <= 30
        if fits and draw(st.booleans()):
            annotation["image_id"] = "two"
    return dataset


@given(dataset=data_sets(), tile=st.integers(20, 250), data=st.data())
@settings(max_examples=200, deadline=None)
def test_full_to_tiles_to_full_loses_nothing(dataset, tile, data):
    overlap = data.draw(st.integers(0, min(tile - 1, 100)))
    copies = data.draw(st.booleans())
    grid = data.draw(st.sampled_from(["even", "official-test"]))
    tiled = tile_dataset(dataset, tile=tile, overlap=overlap, grid=grid, copies=copies)
    assert not errors(tiled)
    assert len({a["id"] for a in tiled["annotations"]}) == len(tiled["annotations"])

    tiles = {image["id"]: image for image in tiled["images"]}
    by_full_id = {}
    for annotation in tiled["annotations"]:
        full_id = annotation.get("full_id", annotation["id"])
        by_full_id.setdefault(full_id, []).append(annotation)
    for annotation in dataset["annotations"]:
        found = by_full_id.get(annotation["id"], [])
        if is_ignored(annotation) and "bbox" in annotation:
            check_region(annotation, found, tiles)
            continue
        # In exactly one tile under its own id, and there where it was.
        (own,) = [a for a in found if "full_id" not in a]
        assert copies or len(found) == 1
        assert tiles[own["image_id"]]["full_image_id"] == annotation["image_id"]
        if "point" in annotation:
            point = full_px(tiled, own)
            np.testing.assert_allclose(point, annotation["point"], rtol=0, atol=1e-9)

    # Nothing changed: nothing changes. Each point moved: each point moves, once.
    assert untile_points(dataset, tiled) == dataset
    for annotation in tiled["annotations"]:
        if "point" in annotation and "full_id" not in annotation:
            annotation["point"] = [annotation["point"][0] / 2, annotation["point"][1] + 1]
            annotation["refined"] = True
    back = untile_points(dataset, tiled)
    assert [a["id"] for a in back["annotations"]] == [a["id"] for a in dataset["annotations"]]
    for old, new in zip(dataset["annotations"], back["annotations"], strict=True):
        assert {k: v for k, v in new.items() if k not in ("point", "refined")} == {
            k: v for k, v in old.items() if k != "point"
        }
        own = [a for a in by_full_id.get(old["id"], []) if "full_id" not in a]
        if "point" in old and own and "point" in own[0]:
            np.testing.assert_allclose(new["point"], full_px(tiled, own[0]), rtol=0, atol=1e-9)
            assert new["refined"]


def check_region(annotation, found, tiles):
    """By brute force: each tile of its image has exactly what it sees of the region."""
    x, y, w, h = annotation["bbox"]
    boxes_by_tile = {a["image_id"]: a["bbox"] for a in found}
    assert len(boxes_by_tile) == len(found)
    for tile in tiles.values():
        if tile["full_image_id"] != annotation["image_id"]:
            continue
        left, top, right, bottom = tile["corner"]
        x1, y1, x2, y2 = max(x, left), max(y, top), min(x + w, right), min(y + h, bottom)
        if x2 - x1 > 0.01 and y2 - y1 > 0.01:
            expected = [x1 - left, y1 - top, x2 - x1, y2 - y1]
            np.testing.assert_allclose(boxes_by_tile[tile["id"]], expected, rtol=0, atol=1e-9)
        elif x2 - x1 < 0 or y2 - y1 < 0:
            assert tile["id"] not in boxes_by_tile


def test_cores_mask_out_what_a_tile_does_not_own():
    tiled = tile_dataset(dataset_of([{"point": [5.0, 5.0]}], (1920, 1080)))
    owned = np.zeros((1080, 1920), dtype=int)
    for image in tiled["images"]:
        learned = np.ones((640, 640), dtype=int)
        for x1, y1, x2, y2 in outside_core(image):
            # A pixel counts where its centre is.
            xs, ys = np.arange(640) + 0.5, np.arange(640) + 0.5
            inside = ((xs > x1) & (xs < x2))[None] & ((ys > y1) & (ys < y2))[:, None]
            assert (learned[inside] == 1).all(), "strips must not overlap"
            learned[inside] = 0
        left, top, right, bottom = tile_corner(image)
        owned[top:bottom, left:right] += learned
    # 959.5 and 1386.5 are centres of pixels, which two tiles may learn.
    doubled = np.isin(np.arange(1920), [959, 1386])
    assert (owned[:, ~doubled] == 1).all()
    assert outside_core({"id": 1, "width": 9, "height": 9}) == []


# --- copies, and the official tiles


def test_copies_go_to_every_tile_that_sees_the_point():
    dataset = dataset_of([{"point": [x, 10.0]} for x in (39.0, 41.9, 42.0, 47.9, 48.0)], (90, 40))
    # Tiles 0..50 and 40..90: seen from 42 on in the second, up to 48 in the first.
    tiled = tile_dataset(dataset, tile=50, overlap=10, copies=True)
    assert all("core" not in image for image in tiled["images"])
    records = tiled["annotations"]
    found = [(a.get("full_id", a["id"]), a["image_id"], "full_id" in a) for a in records]
    assert found == [
        (10, 1, False),
        (11, 1, False),
        (12, 1, False),
        (12, 2, True),
        (13, 2, False),
        (13, 1, True),
        (14, 2, False),
    ]
    assert tiled["tiling"]["copies"] is True


def golden_cases():
    """Those with the official settings, which are not for the user to choose."""
    cases = json.loads(GOLDEN.read_text())["cases"]
    keys = ("area_keep_ratio", "size_th", "area_th")
    return [case for case in cases if [case[key] for key in keys] == [0.3, 2, 4]]


@pytest.mark.parametrize("case", golden_cases(), ids=lambda case: case["name"])
def test_official_tiles_are_the_official_ones(case):
    """Golden tiles and annotations, numbered on through several images."""
    image = {"id": 7, "file_name": "a.png", "width": case["width"], "height": case["height"]}
    other = [{**a, "id": a["id"] + 1000, "image_id": 8} for a in case["input_annotations"]]
    dataset = {
        "images": [image, {**image, "id": 8}],
        "annotations": case["input_annotations"] + other,
        "categories": CATEGORIES,
    }
    tiled = tile_dataset(dataset, tile=case["tile"], overlap=case["overlap"], grid="official")
    tiles, annotations = len(case["tiles"]), len(case["annotations"])
    assert len(tiled["images"]) == 2 * tiles and len(tiled["annotations"]) == 2 * annotations
    for part in range(2):
        for index, expected in enumerate(case["tiles"]):
            record = tiled["images"][part * tiles + index]
            assert record["corner"] == expected["corner"]
            assert record["id"] == expected["id"] + part * tiles
            assert record["full_image_id"] == 7 + part
        for index, expected in enumerate(case["annotations"]):
            record = tiled["annotations"][part * annotations + index]
            assert record["id"] == expected["id"] + part * annotations
            assert record["image_id"] == expected["image_id"] + part * tiles
            for key in ("point", "bbox"):
                if key in expected:
                    np.testing.assert_allclose(record[key], expected[key], rtol=0, atol=1e-3)
    assert untile_points(dataset, tiled) == dataset


def test_of_official_copies_the_most_central_counts():
    dataset = dataset_of([{"point": [x, 20.0], "bbox": [x - 5, 10, 10, 20]} for x in (43.0, 47.5)])
    dataset["images"][0].update(width=90, height=40)
    # Tiles 0..50, 40..90 and 80..90, which is narrow.
    tiled = tile_dataset(dataset, tile=50, overlap=10, grid="official")
    assert [image["width"] for image in tiled["images"]] == [50, 50, 10]
    assert [(a["full_id"], a["image_id"]) for a in tiled["annotations"]] == [
        (10, 0),
        (11, 0),
        (10, 1),
        (11, 1),
    ]
    for annotation in tiled["annotations"]:
        annotation["coarse_point"] = annotation["point"]
        annotation["point"] = [annotation["point"][0], 20.0 + annotation["image_id"]]
    back = untile_points(dataset, tiled)
    # 43 is 7 px from the end of the first tile and 3 from the start of the second.
    assert [a["point"] for a in back["annotations"]] == [[43.0, 20.0], [47.5, 21.0]]
    assert [a["coarse_point"] for a in back["annotations"]] == [[43.0, 20.0], [47.5, 20.0]]


def test_objects_in_no_tile_are_counted(caplog):
    dataset = dataset_of([{"point": [1.0, 1.0]}, {"point": [9.0, 9.0]}], (50, 50))
    with caplog.at_level(logging.INFO):
        tiled = tile_dataset(dataset, tile=50, overlap=10, grid="official")
    assert "2 annotations 1; 1 lie in no tile" in caplog.text
    # The first is nearer than 2 px to the border; it stays what it was.
    assert untile_points(dataset, tiled) == dataset
    assert "1 annotations are in no tile and stay as they were" in caplog.text


def test_tiles_without_objects_can_be_dropped():
    dataset = dataset_of([{"point": [5.0, 5.0]}, {"bbox": [60, 5, 2, 2], "ignore": 1}], (150, 40))
    tiled = tile_dataset(dataset, tile=50, overlap=0, drop_empty=True)
    assert [image["corner"][0] for image in tiled["images"]] == [0, 50]
    assert len(tile_dataset(dataset, tile=50, overlap=0)["images"]) == 3


# --- masks


def test_run_length_masks_are_cropped():
    rng = np.random.default_rng(0)
    mask = (rng.random((40, 100)) < 0.3).astype(np.uint8)
    encoded = coco_mask.encode(np.asfortranarray(mask))
    runs = np.diff(np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=2, append=2)))
    first = [] if mask[0, 0] == 0 else [0]
    plain = {"size": [40, 100], "counts": first + runs.tolist()}
    packed = {"size": [40, 100], "counts": encoded["counts"].decode()}
    for segmentation in (plain, packed):
        region = {"bbox": [0, 0, 100, 40], "iscrowd": 1, "segmentation": segmentation}
        for grid in ("even", "official"):
            dataset = dataset_of([region], (100, 40))
            tiled = tile_dataset(dataset, tile=60, overlap=20, grid=grid)
            corners = {image["id"]: image["corner"] for image in tiled["images"]}
            # The official rules keep a region of which 0.3 is seen: not in the tile of 80..100.
            assert len(tiled["annotations"]) == 2
            for annotation in tiled["annotations"]:
                left, _, right, _ = corners[annotation["image_id"]]
                part = coco_mask.decode(annotation["segmentation"])
                np.testing.assert_array_equal(part, mask[:, left:right])
            json.dumps(tiled)


def test_polygons_move_with_their_object():
    polygon = [55.0, 5.0, 85.0, 8.0, 60.0, 30.0]
    dataset = dataset_of([{"bbox": [55, 5, 30, 25], "segmentation": [polygon]}], (100, 40))
    tiled = tile_dataset(dataset, tile=50, overlap=0)
    (annotation,) = tiled["annotations"]
    assert annotation["segmentation"] == [[5.0, 5.0, 35.0, 8.0, 10.0, 30.0]]
    full = coco_mask.decode(coco_mask.frPyObjects([polygon], 40, 100))[:, 50:, 0]
    part = coco_mask.decode(coco_mask.frPyObjects(annotation["segmentation"], 40, 50))[..., 0]
    np.testing.assert_array_equal(part, full)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [40, 100], "counts": "???"},
        {"size": [40, 99], "counts": [4000]},
        {"size": [40, 100]},
        [["a", "b"]],
        [5],
        "mask",
        7,
    ],
)
def test_bad_masks(segmentation):
    dataset = dataset_of([{"bbox": [5, 5, 9, 9], "segmentation": segmentation}], (100, 40))
    try:
        tile_dataset(dataset, tile=50, overlap=0)
    except InputError as error:
        assert "annotation id 10" in str(error)
    else:
        assert segmentation == {"size": [40, 100], "counts": "???"}  # pycocotools reads it


# --- real data


@pytest.mark.parametrize("name", ["aerial_cars", "bccd", "coco_mini", "elephant_seals"])
def test_real_data_sets(name):
    """Images of many sizes, polygons, run-length masks of crowds: there and back."""
    path = REAL / name / "annotations" / "train.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    dataset = load_points(path, require="box")
    for settings_ in ({}, {"copies": True}, {"grid": "official"}):
        tiled = tile_dataset(dataset, tile=320, overlap=60, **settings_)
        assert not errors(tiled)
        assert untile_points(dataset, tiled) == dataset
    tiled = tile_dataset(dataset, tile=320, overlap=60)
    found = [a["id"] for a in tiled["annotations"] if not is_ignored(a)]
    assert sorted(found) == sorted(a["id"] for a in dataset["annotations"] if not is_ignored(a))
    sizes = {image["id"]: (image["width"], image["height"]) for image in dataset["images"]}
    for image in tiled["images"]:
        full = sizes[image["full_image_id"]]
        assert (image["width"], image["height"]) == (min(320, full[0]), min(320, full[1]))


# --- detections


def test_detections_on_a_seam_count_once():
    full = dataset_of([], (90, 40))
    tiles = tile_dataset(full, tile=50, overlap=10)  # 0..50 and 40..90
    detections = [
        {"image_id": 1, "category_id": 1, "score": 0.9, "point": [45.0, 20.0], "id": "a"},
        {"image_id": 2, "category_id": 1, "score": 0.8, "point": [5.5, 20.0], "id": "b"},
        {"image_id": 2, "category_id": 5, "score": 0.7, "point": [5.5, 20.0], "id": "c"},
        {"image_id": 2, "category_id": 1, "score": 0.95, "bbox": [28.0, 8.0, 4.0, 6.0], "id": "d"},
    ]

    def merged(**settings_):
        found = untile_detections(full, tiles, detections, **settings_)
        assert all(d["image_id"] == 7 for d in found)
        return [(d["id"], d["point"]) for d in found]

    expected = [("d", [70.0, 11.0]), ("a", [45.0, 20.0]), ("c", [45.5, 20.0])]
    assert merged(size=10) == expected
    assert merged(radius=1.0) == expected
    assert merged(radius=0.4)[2] == ("b", [45.5, 20.0])
    assert merged(size=10, max_dets=2) == expected[:2]
    # 45 is 5 px from the end of the first tile; what lies at the image's border stays.
    assert merged(size=10, margin=5.2) == [expected[0], ("b", [45.5, 20.0]), expected[2]]
    found = untile_detections(full, tiles, detections)
    assert next(d for d in found if d["id"] == "d")["bbox"] == [68.0, 8.0, 4.0, 6.0]
    assert untile_detections(full, tiles, []) == []
    for bad in ({"size": 0}, {"iou": 1}, {"margin": -1}, {"radius": math.nan}, {"max_dets": 0}):
        with pytest.raises(InputError, match="give sizes"):
            untile_detections(full, tiles, detections, **bad)


# --- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile": 0}, "0 <= overlap < tile"),
        ({"tile": 50, "overlap": 50}, "0 <= overlap < tile"),
        ({"overlap": -1}, "0 <= overlap < tile"),
        ({"grid": "hex"}, "use one of even, official"),
        ({"tile": 2, "overlap": 1}, "image id 7.*more than 100000. Choose larger"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        tile_dataset(dataset_of([{"point": [1, 1]}]), **changes)


def test_what_is_no_tiling():
    dataset = dataset_of([{"point": [5.0, 5.0]}], (100, 40))
    tiled = tile_dataset(dataset, tile=50, overlap=10)
    with pytest.raises(InputError, match="tiles already"):
        tile_dataset(tiled)
    with pytest.raises(InputError, match="image id 7 of the tiles: has no full_image_id"):
        untile_points(dataset, dataset)
    for change, message in (
        (lambda t: t["annotations"][0].update(id=99), "annotation id 99.*no annotation 99"),
        (lambda t: t["annotations"][0].update(category_id=3), "no category 3"),
        (lambda t: t["annotations"][0].update(full_id=[1]), "id 10 .*full_id .* is not a whole"),
        (lambda t: t["annotations"][0].update(semantic_points=[1]), "id 10 .*no list of points"),
        (lambda t: t["images"][0].update(full_image_id=8), "no part of an image 8"),
        (lambda t: t["images"][0].update(full_image_id=[8]), "no full_image_id"),
        (lambda t: t["images"][2].update(corner=[60, 0, 110, 40]), "no part of an image 7"),
        (lambda t: t["images"][0].update(corner=[0, 0, 50]), "corner .* is not"),
        (lambda t: t["images"][0].update(corner=[0, 0, 50.5, 40]), "corner .* is not"),
        (lambda t: t["images"][0].update(corner=[0, 0, "a", 40]), "corner .* is not"),
        (lambda t: t["images"][0].update(corner=[-50, 0, 0, 40]), "corner .* is not"),
        (lambda t: t["images"][0].update(corner=[0, 0, math.inf, 40]), "corner .* is not"),
        (lambda t: t["images"][0].update(corner={"a": 1}), "corner .* is not"),
    ):
        changed = copy.deepcopy(tiled)
        change(changed)
        with pytest.raises(InputError, match=message):
            untile_points(dataset, changed)
    for core in ([0, 0, 51, 40], [5, 0, 5, 40], "abcd", [0, 0, 40], [math.nan, 0, 9, 9], 3):
        with pytest.raises(InputError, match="core .* is not"):
            outside_core({**tiled["images"][0], "core": core})


# --- the commands


def test_tile_and_untile_commands(tmp_path, capsys):
    dataset = dataset_of([{"point": [45.0, 20.0]}, {"point": [60.0, 3.0]}], (90, 40))
    paths = [tmp_path / name for name in ("full.json", "tiles.json", "back.json", "det.json")]
    full, tiles, back, detections = paths
    full.write_text(json.dumps(dataset))
    arguments = ["tile", "--annotations", full, "--tile", 50, "--overlap", 10]
    assert run_tool("prepare_points", *arguments, "--output", tiles) == 0
    assert "2 images, 2 annotations, 2 categories, 0 skipped" in capsys.readouterr().out
    tiled = json.loads(tiles.read_text())
    assert tiled == tile_dataset(dataset, tile=50, overlap=10)
    tiled["annotations"][1]["point"][1] += 4
    tiles.write_text(json.dumps(tiled))
    arguments = ["untile", "--annotations", full, "--tiles", tiles, "--output"]
    assert run_tool("prepare_points", *arguments, back) == 0
    points = [a["point"] for a in json.loads(back.read_text())["annotations"]]
    assert points == [[45.0, 20.0], [60.0, 7.0]]
    found = [{"image_id": i, "category_id": 1, "score": 0.5, "point": [9, 9]} for i in (1, 2)]
    detections.write_text(json.dumps(found))
    assert run_tool("prepare_points", *arguments, back, "--predictions", detections) == 0
    merged = json.loads(back.read_text())
    assert [(d["image_id"], d["point"]) for d in merged] == [(7, [9, 9]), (7, [49, 9])]


def test_tile_command_skips_bad_records(tmp_path, capsys):
    dataset = dataset_of([{"point": [5.0, 5.0]}, {"point": [500.0, 5.0]}, {"point": "x"}], (90, 40))
    (tmp_path / "full.json").write_text(json.dumps(dataset))
    arguments = ["tile", "--annotations", tmp_path / "full.json", "--output", tmp_path / "t.json"]
    assert run_tool("prepare_points", *arguments) == 2
    error = capsys.readouterr().err
    assert "full.json: annotation id 11" in error and "outside its image" in error
    assert not (tmp_path / "t.json").exists()
    assert run_tool("prepare_points", *arguments, "--skip-bad") == 0
    shown = capsys.readouterr().out
    assert "1 annotations" in shown and "2 skipped" in shown
    assert "skipped: full.json: annotation id 11" in shown and "annotation id 12" in shown
    assert run_tool("prepare_points", *arguments, "--cut", tmp_path / "tiles") == 2
    assert "--image-root: give both" in capsys.readouterr().err
