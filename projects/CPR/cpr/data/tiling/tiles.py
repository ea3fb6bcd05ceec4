"""Data sets of large images as data sets of overlapping tiles.

Every tile is an image record of its own: `corner` [left, top, right, bottom] in px of the full
image says which part of `file_name` to read (`cut_corner`: which part its own file holds),
`full_image_id` which image it is of. Points, boxes and masks are in px of the tile.

Grids:
    even: as few tiles as the overlap allows, evenly spread, none narrower than the others.
    official: training tiles of the official code, cut off at the right and lower border, with its
        rules for the objects in them (`cpr_deploy.tiling.training_tiles`).
    official-test: test tiles of the official code, all of full size.

In the grids "even" and "official-test" an object belongs to one tile, the one that sees it most
centrally, and keeps its id there. Neighbours that see it too do not know it, so each tile has a
`core` [left, top, right, bottom] in its own px, in which it knows everything; training masks out
the rest. With `copies` they all know it, the others under a new id, and there is no core: for
scoring single tiles. The way back is in `untile.py`.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from cpr_deploy.files import InputError
from cpr_deploy.tiling import MIN_POINT_MARGIN, training_tiles

from ..coarse_points import MAX_MASK_PIXELS
from ..point_json import MIN_BOX_SIDE, is_ignored
from .grid import Grid, Place, make_grid
from .records import is_tiled

logger = logging.getLogger(__name__)

GRIDS = ("even", "official", "official-test")
POINTS = ("point", "coarse_point")
# More tiles of an image are a typing error.
MAX_TILES = 100_000


def tile_dataset(
    dataset: dict[str, Any],
    *,
    tile: int = 640,
    overlap: int = 100,
    grid: str = "even",
    copies: bool = False,
    drop_empty: bool = False,
) -> dict[str, Any]:
    """A data set in tiles; the input stays as it is.

    Args:
        dataset: a valid point JSON of full images.
        tile, overlap: px.
        grid: one of `GRIDS`, see the top of this file.
        copies: an object goes to every tile that sees its point, or the centre of its box, at
            least 2 px from the sides that cut. The grid "official" copies by rules of its own.
        drop_empty: leave out tiles without any object or region.

    Returns:
        the point JSON of the tiles, with new image ids (from 1; "official": from 0). Objects keep
        their ids, copies get new ones and name the old one as `full_id`; so do all annotations of
        the grid "official". Boxes are clipped to the tile. Regions (`ignore`, `iscrowd`) go to
        every tile that sees a part of them.

    Raises:
        InputError: tile and overlap that do not fit each other, or a data set of tiles.
    """
    if not (0 <= overlap < tile):
        raise InputError(f"tile {tile} and overlap {overlap}: 0 <= overlap < tile is needed.")
    if grid not in GRIDS:
        raise InputError(f"grid {grid!r}: use one of {', '.join(GRIDS)}.")
    if is_tiled(dataset):
        raise InputError("these are tiles already. Give the annotations of the full images.")
    _check_number_of_tiles(dataset["images"], tile - overlap)
    by_image: dict[Any, list[dict]] = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        by_image[annotation["image_id"]].append(annotation)

    if grid == "official":
        cutter = _OfficialCutter(dataset, tile=tile, overlap=overlap)
    else:
        settings = {"tile": tile, "overlap": overlap, "grid": grid}
        cutter = _Cutter(dataset, copies=copies, **settings)
    images: list[dict] = []
    annotations: list[dict] = []
    for image in dataset["images"]:
        size = {"width": int(image["width"]), "height": int(image["height"])}
        tiles, found = cutter.cut({**image, **size}, by_image[image["id"]])
        if drop_empty:
            used = {annotation["image_id"] for annotation in found}
            tiles = [record for record in tiles if record["id"] in used]
        images += tiles
        annotations += found
    copies = copies or grid == "official"
    settings = {"tile": tile, "overlap": overlap, "grid": grid, "copies": copies}
    result = {**dataset, "images": images, "annotations": annotations, "tiling": settings}
    _log_counts(dataset, result)
    return result


def position_of(annotation: dict[str, Any]) -> tuple[float, float]:
    """The point of an annotation, else the centre of its box, px; InputError if it has neither."""
    if annotation.get("point") is not None:
        return tuple(annotation["point"])
    if annotation.get("bbox") is None:
        raise InputError(
            f"annotation id {annotation['id']}: has neither point nor bbox, so it is in no tile."
            " Add one of them or remove the record."
        )
    x, y, w, h = annotation["bbox"]
    return x + w / 2, y + h / 2


def _check_number_of_tiles(images: Iterable[dict], step: int) -> None:
    for image in images:
        number = math.ceil(image["width"] / step) * math.ceil(image["height"] / step)
        if number > MAX_TILES:
            raise InputError(
                f"image id {image['id']!r}: {image['width']} x {image['height']} px make {number}"
                f" tiles, more than {MAX_TILES}. Choose larger tiles or less overlap."
            )


def _log_counts(dataset: dict[str, Any], tiled: dict[str, Any]) -> None:
    found = {annotation.get("full_id", annotation["id"]) for annotation in tiled["annotations"]}
    lost = sum(annotation["id"] not in found for annotation in dataset["annotations"])
    logger.info(
        "%d images make %d tiles, %d annotations %d; %d lie in no tile",
        len(dataset["images"]),
        len(tiled["images"]),
        len(dataset["annotations"]),
        len(tiled["annotations"]),
        lost,
    )


class _OfficialCutter:
    """Tiles and their annotations by the official rules, numbered from 0 over all images."""

    def __init__(self, dataset: dict[str, Any], **settings: int) -> None:
        clicked = any(a.get("point") is not None for a in dataset["annotations"])
        self.settings = {**settings, "mode": "point" if clicked else "bbox"}
        self.next_ids = [0, 0]

    def cut(self, image: dict, annotations: list[dict]) -> tuple[list[dict], list[dict]]:
        for annotation in annotations:
            clicked = self.settings["mode"] == "point" and annotation.get("point") is not None
            if not clicked and annotation.get("bbox") is None:
                raise InputError(
                    f"annotation id {annotation['id']}: has no bbox, by which the official rules"
                    " choose its tiles. Add it, remove the record, or use another grid."
                )
        tiles, found = training_tiles(
            {**image, "full_image_id": image["id"]},
            [{**annotation, "full_id": annotation["id"]} for annotation in annotations],
            first_image_id=self.next_ids[0],
            first_annotation_id=self.next_ids[1],
            **self.settings,
        )
        self.next_ids = [self.next_ids[0] + len(tiles), self.next_ids[1] + len(found)]
        masks = {
            annotation["id"]: _decoded(annotation, image)
            for annotation in annotations
            if isinstance(annotation.get("segmentation"), dict)
        }
        for annotation in found if masks else ():
            if annotation["full_id"] in masks:
                tile = tiles[annotation["image_id"] - tiles[0]["id"]]
                annotation["segmentation"] = _part(masks[annotation["full_id"]], tile)
        return tiles, found


class _Cutter:
    """Tiles and their annotations, each object in the tile that sees it most centrally."""

    def __init__(self, dataset: dict[str, Any], *, copies: bool, **settings: Any) -> None:
        self.copies = copies
        self.settings = settings
        self.image_ids = itertools.count(1)
        highest = max((annotation["id"] for annotation in dataset["annotations"]), default=0)
        self.new_ids = itertools.count(max(highest, 0) + 1)

    def cut(self, image: dict, annotations: list[dict]) -> tuple[list[dict], list[dict]]:
        grid = make_grid(image["width"], image["height"], **self.settings)
        tiles = {place: self._record(image, grid, place) for place in grid}
        found = []
        for annotation in annotations:
            owner, others = self._places(annotation, image, grid)
            mask = None
            if isinstance(annotation.get("segmentation"), dict):
                mask = _decoded(annotation, image)
            for place in (owner, *others):
                moved = _moved(annotation, tiles[place], mask)
                if moved is None:
                    continue
                if place != owner:
                    moved |= {"id": next(self.new_ids), "full_id": annotation["id"]}
                found.append(moved)
        return list(tiles.values()), found

    def _record(self, image: dict, grid: Grid, place: Place) -> dict:
        left, top, right, bottom = grid.corner(place)
        record = {
            **image,
            "id": next(self.image_ids),
            "width": right - left,
            "height": bottom - top,
            "corner": [left, top, right, bottom],
            "full_image_id": image["id"],
        }
        return record if self.copies else {**record, "core": grid.core(place)}

    def _places(self, annotation: dict, image: dict, grid: Grid) -> tuple[Place, list[Place]]:
        """The tile that an annotation belongs to, and the others that get it too."""
        x, y = position_of(annotation)
        # A box may reach out of the image so far that its centre does.
        x, y = min(max(x, 0.0), image["width"]), min(max(y, 0.0), image["height"])
        owner = grid.owner(x, y)
        if is_ignored(annotation) and annotation.get("bbox") is not None:
            left, top, w, h = annotation["bbox"]
            columns, rows = grid.xs.seeing(left, left + w), grid.ys.seeing(top, top + h)
        elif self.copies:
            columns = grid.xs.seeing(x, x, MIN_POINT_MARGIN)
            rows = grid.ys.seeing(y, y, MIN_POINT_MARGIN)
        else:
            return owner, []
        return owner, [place for place in itertools.product(columns, rows) if place != owner]


def _moved(annotation: dict, tile: dict, mask: np.ndarray | None) -> dict | None:
    """A copy in px of `tile`; None for a region of which the tile sees nothing.

    `mask` (H, W): the run-length mask of the annotation in the full image, if it has one.
    """
    left, top, right, bottom = tile["corner"]
    moved = {**annotation, "image_id": tile["id"]}
    region = is_ignored(annotation)
    for key in POINTS:
        if annotation.get(key) is not None:
            x, y = annotation[key]
            moved[key] = [x - left, y - top]
            if region and not (left <= x <= right and top <= y <= bottom):
                del moved[key]  # its box is what counts here
    if annotation.get("bbox") is not None:
        x, y, w, h = annotation["bbox"]
        moved["bbox"] = [x - left, y - top, w, h]
        x1, y1, x2, y2 = max(x, left), max(y, top), min(x + w, right), min(y + h, bottom)
        if x2 - x1 < MIN_BOX_SIDE or y2 - y1 < MIN_BOX_SIDE:
            # An object may have its point far from its box, which then stays, outside of the tile.
            if region:
                return None
        elif (x1, y1) != (x, y) or (x2, y2) != (x + w, y + h):
            moved["bbox"] = [x1 - left, y1 - top, x2 - x1, y2 - y1]
            if isinstance(annotation.get("area"), (int, float)):
                # Exact for boxes; for masks about what is left.
                moved["area"] = annotation["area"] * ((x2 - x1) * (y2 - y1) / (w * h))
    try:
        if annotation.get("semantic_points"):
            points = annotation["semantic_points"]
            moved["semantic_points"] = [[x - left, y - top] for x, y in points]
        if mask is not None:
            moved["segmentation"] = _part(mask, tile)
        elif annotation.get("segmentation"):
            # Not clipped: a mask is drawn on the grid of its box.
            moved["segmentation"] = [
                [value - (top if index % 2 else left) for index, value in enumerate(polygon)]
                for polygon in annotation["segmentation"]
            ]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"annotation id {annotation['id']}: segmentation or semantic_points are no lists of"
            f" coordinates ({error}). Correct or remove them."
        ) from None
    return moved


def _decoded(annotation: dict, image: dict) -> np.ndarray:
    """The run-length mask of an annotation as (H, W) uint8."""
    from pycocotools import mask as coco_mask

    segmentation = annotation["segmentation"]
    rows, columns = image["height"], image["width"]
    try:
        if rows * columns > MAX_MASK_PIXELS:
            raise ValueError(f"a mask of {columns} x {rows} px is too large")
        if list(segmentation["size"]) != [rows, columns]:
            raise ValueError(f"its size {segmentation['size']} is not the image's")
        if isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, rows, columns)
        return coco_mask.decode(segmentation)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(
            f"annotation id {annotation['id']}: the segmentation is not a COCO run-length mask"
            f" ({error}). Correct or remove it."
        ) from None


def _part(mask: np.ndarray, tile: dict) -> dict[str, Any]:
    """The part of a full image's mask (H, W) uint8 in `tile`, as compressed run lengths."""
    from pycocotools import mask as coco_mask

    left, top, right, bottom = tile["corner"]
    encoded = coco_mask.encode(np.asfortranarray(mask[top:bottom, left:right]))
    return {"size": [int(n) for n in encoded["size"]], "counts": encoded["counts"].decode("ascii")}
