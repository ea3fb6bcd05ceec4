"""Tree crowns in NEON airborne images: the demo's data, from a wheel that PyPI gives to anyone.

Source: the sample data of DeepForest 2.1.0 (https://pypi.org/project/deepforest/, MIT licence,
Copyright (c) 2019 Ben Weinstein). Only its images and boxes are read; the package is not installed.
The images are RGB orthophotos, 0.1 m a pixel, of the National Ecological Observatory Network
(NEON), Airborne Observation Platform, data product DP3.30010.001; the boxes were drawn by hand.
Cite: National Ecological Observatory Network (NEON), High-resolution orthorectified camera imagery
mosaic (DP3.30010.001), https://data.neonscience.org, and B. G. Weinstein et al., "A benchmark
dataset for canopy crown detection and delineation in co-registered airborne RGB, LiDAR and
hyperspectral imagery from the National Ecological Observation Network", PLOS Computational Biology
2021.

Boxes in the files are Pascal VOC's: 1-based pixel indices, both ends included. All four files
agree: the smallest coordinate is 1, never 0, and the largest is the image's width or height. So
the box spans xmin - 1 to xmax in continuous pixels.

Four images, four places; no two overlap:

| image | site, place | size | crowns | used as |
|---|---|---|---|---|
| 2019_YELL_2_528000_4978000_image_crop2 | Yellowstone, easting 528 km | 2299x2472 | 574 | train |
| 2019_YELL_2_541000_4977000_image_crop | Yellowstone, easting 541 km | 1249x1035 | 279 | held out |
| OSBS_029 | Ordway-Swisher, Florida | 400x400 | 61 | other sites |
| SOAP_061 | Soaproot Saddle, California | 400x400 | 37 | other sites |

The held-out image lies 13 km from the training image. `tune` is a part of the training image, and
`fit` the rest of it: settings are chosen by training on fit and looking at tune.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cpr_deploy.files import InputError, atomic_path, file_sha256, run_main, write_json

logger = logging.getLogger(__name__)

REQUIREMENT = "deepforest==2.1.0"
WHEEL_NAME = "deepforest-2.1.0-py3-none-any.whl"
WHEEL_SHA256 = "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54"
LICENCE_MEMBER = "deepforest-2.1.0.dist-info/licenses/LICENSE"
DATA_MEMBER = "deepforest/data/"

TRAIN_IMAGE = "2019_YELL_2_528000_4978000_image_crop2"
HELDOUT_IMAGE = "2019_YELL_2_541000_4977000_image_crop"
OTHER_IMAGES = ("OSBS_029", "SOAP_061")

# Images are reduced to 0.133 m a pixel: crowns of 42 px become 31 px, and all else gets cheaper.
SCALE = 0.75
# No tile is wider or higher than this; a multiple of 32 wastes the least on padding.
MAX_TILE = 256
# The images of the other sites are small enough to stay whole.
OTHER_MAX_TILE = 320
# Columns of tiles, from the right, that are `tune`.
TUNE_COLUMNS = 2
# An object that lost more than this share of its box to the tile's edge is a region to ignore.
MAX_CUT = 0.5
# Parts of a neighbour tile's object that are narrower than this (px) are not worth a region.
MIN_PART = 2.0

CATEGORIES = [{"id": 1, "name": "tree"}]

# The largest member we read, unpacked; the biggest image has 15 MB.
_MAX_MEMBER_BYTES = 64 << 20


def cache_folder() -> Path:
    """Where the wheel is kept between runs: $XDG_CACHE_HOME/cpr, else ~/.cache/cpr."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpr"


def fetch_wheel(cache: Path) -> Path:
    """The wheel in `cache`, downloaded with pip if it is not there; its hash is always checked."""
    wheel = cache / WHEEL_NAME
    if wheel.is_file() and file_sha256(wheel) == WHEEL_SHA256:
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    logger.info("downloading %s (20 MB) with pip to %s", REQUIREMENT, cache)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n")
        # The wheel is pure Python; its data do not depend on the Python at hand.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", "--only-binary=:all:", "--no-input"]
        command += ["--disable-pip-version-check", "--dest", folder, "-r", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise InputError(
                f"{WHEEL_NAME}: pip could not download it ({last}). Check the network or the"
                f" package index, or put the file into {cache}."
            )
        downloaded = Path(folder) / WHEEL_NAME
        if not downloaded.is_file() or file_sha256(downloaded) != WHEEL_SHA256:
            raise InputError(f"{WHEEL_NAME}: the download is not the expected file. Try again.")
        os.replace(downloaded, wheel)
    return wheel


def read_members(wheel: Path, names: list[str]) -> dict[str, bytes]:
    """The named files of the wheel. Nothing is unpacked to disk, so no name can lead astray."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = {}
            for name in names:
                if archive.getinfo(name).file_size > _MAX_MEMBER_BYTES:
                    raise InputError(f"{wheel}: {name} is too large to be a sample image.")
                members[name] = archive.read(name)
            return members
    except KeyError as error:
        raise InputError(f"{wheel}: has no file {error}. It is another version.") from None
    except zipfile.BadZipFile:
        raise InputError(f"{wheel}: is not a wheel. Delete it and run again.") from None


def parse_voc(text: bytes, source: str) -> tuple[tuple[int, int], np.ndarray]:
    """Pascal VOC XML -> ((width, height), boxes (N, 4) x, y, w, h in continuous pixels).

    `source` names the file in errors. All object names count as one class: the files say "Tree",
    "Alive" and "Dead" for the same thing.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{source}: not valid XML ({error}). Copy the file again.") from None
    try:
        size = (int(root.findtext("size/width")), int(root.findtext("size/height")))
        corners = [
            [float(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
            for item in root.iter("object")
        ]
    except (TypeError, ValueError):
        raise InputError(
            f"{source}: a size or bndbox is missing or no number. Is it Pascal VOC?"
        ) from None
    corners = np.array(corners, dtype=np.float64).reshape(-1, 4)
    first, last = corners[:, :2] - 1, corners[:, 2:]
    wrong = ~((first >= 0) & (last > first) & (last <= size)).all(axis=1)
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{source}: box {index + 1} {corners[index].tolist()} is empty or leaves the image"
            f" {size[0]}x{size[1]}. Correct or remove it."
        )
    return size, np.hstack([first, last - first])


@dataclass(frozen=True)
class Tile:
    """One tile: column, row and its pixels, left <= x < right, top <= y < bottom."""

    column: int
    row: int
    left: int
    top: int
    right: int
    bottom: int


def tile_grid(width: int, height: int, max_tile: int = MAX_TILE) -> list[Tile]:
    """The fewest near-equal tiles of at most `max_tile` px a side; no gap, no overlap."""
    columns, rows = -(-width // max_tile), -(-height // max_tile)
    x = [round(width * i / columns) for i in range(columns + 1)]
    y = [round(height * i / rows) for i in range(rows + 1)]
    return [Tile(c, r, x[c], y[r], x[c + 1], y[r + 1]) for r in range(rows) for c in range(columns)]


def tile_annotations(boxes: np.ndarray, tile: Tile) -> list[dict]:
    """The annotations of `tile`, without ids: `bbox` in pixels of the tile, `area`, `ignore`.

    An object belongs to the tile that holds its centre, with its box cut at the tile's edge; if
    more than MAX_CUT of the box is cut, it is ignored. The part of an object that reaches in from
    a neighbour tile is a region to ignore too: it shows a crown, so it is neither an object of
    this tile nor background. Ignored ones have `ignore: 1`.
    """
    origin = np.array([tile.left, tile.top], dtype=np.float64)
    size = np.array([tile.right - tile.left, tile.bottom - tile.top], dtype=np.float64)
    annotations = []
    for box in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        first, last = box[:2] - origin, box[:2] + box[2:] - origin
        cut_first, cut_last = np.clip(first, 0, size), np.clip(last, 0, size)
        cut = cut_last - cut_first
        if (cut <= 0).any():
            continue
        centre = (first + last) / 2
        own = bool(((centre >= 0) & (centre < size)).all())
        if not own and cut.min() < MIN_PART:
            continue
        share = float(cut.prod() / box[2:].prod())
        annotation = {
            "category_id": 1,
            "bbox": [round(float(v), 3) for v in (*cut_first, *cut)],
            "area": round(float(cut.prod()), 3),
            "iscrowd": 0,
        }
        if not own or share < 1 - MAX_CUT:
            annotation["ignore"] = 1
        annotations.append(annotation)
    return annotations


def build_split(
    images: dict[str, tuple[np.ndarray, np.ndarray]],
    image_folder: Path,
    keep: Callable[[Tile], bool] = lambda tile: True,
    max_tile: int = MAX_TILE,
) -> dict:
    """Cuts images into PNG tiles under `image_folder`; returns the COCO dict of the kept ones.

    images: name -> (RGB uint8 (H, W, 3), boxes (N, 4) x, y, w, h in its pixels). Tiles and
    annotations are numbered in reading order, so that a split is the same on every machine.
    """
    records, annotations = [], []
    for name, (pixels, boxes) in images.items():
        for tile in tile_grid(pixels.shape[1], pixels.shape[0], max_tile):
            if not keep(tile):
                continue
            file_name = f"{name}_r{tile.row}_c{tile.column}.png"
            with atomic_path(image_folder / file_name) as path:
                Image.fromarray(pixels[tile.top : tile.bottom, tile.left : tile.right]).save(path)
            record = {
                "id": len(records) + 1,
                "file_name": file_name,
                "width": tile.right - tile.left,
                "height": tile.bottom - tile.top,
                "source_image": name,
                "source_offset": [tile.left, tile.top],
            }
            records.append(record)
            for annotation in tile_annotations(boxes, tile):
                number = len(annotations) + 1
                annotations.append({"id": number, "image_id": record["id"], **annotation})
    return {"images": records, "annotations": annotations, "categories": CATEGORIES}


def shrink(pixels: np.ndarray, boxes: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The image resized by `scale`, and its boxes by the exact factors of the rounded size."""
    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Pillow widens the filter when it shrinks, and keeps corners on corners.
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    factor = np.array([size[0] / width, size[1] / height])
    return resized, np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * np.tile(factor, 2)


def prepare(output: Path, cache: Path | None = None) -> dict:
    """Writes the demo's data to `output` and returns a summary of them.

    output/{train,fit,tune,heldout,other_sites}.json (COCO boxes, no points yet), images/ (tiles),
    whole/ (the images at SCALE), LICENSE-deepforest.txt and data.json (the summary).
    """
    wheel = fetch_wheel(cache or cache_folder())
    names = [TRAIN_IMAGE, HELDOUT_IMAGE, *OTHER_IMAGES]
    wanted = [f"{DATA_MEMBER}{name}{end}" for name in names for end in (".png", ".xml")]
    members = read_members(wheel, [*wanted, LICENCE_MEMBER])
    licence = members[LICENCE_MEMBER].decode()
    if not licence.startswith("MIT License"):
        raise InputError(f"{wheel}: its licence is not the MIT licence that we expect.")
    output.mkdir(parents=True, exist_ok=True)
    (output / "LICENSE-deepforest.txt").write_text(licence, encoding="utf-8")

    images = {}
    for name in names:
        size, boxes = parse_voc(members[f"{DATA_MEMBER}{name}.xml"], f"{name}.xml")
        pixels = _decode(members[f"{DATA_MEMBER}{name}.png"], name)
        if (pixels.shape[1], pixels.shape[0]) != size:
            raise InputError(f"{name}: image and XML differ in size. Delete {wheel} and run again.")
        images[name] = shrink(pixels, boxes, SCALE)
        with atomic_path(output / "whole" / f"{name}.png") as path:
            Image.fromarray(images[name][0]).save(path)

    train = {TRAIN_IMAGE: images[TRAIN_IMAGE]}
    train_width = images[TRAIN_IMAGE][0].shape[1]
    first_tune_column = -(-train_width // MAX_TILE) - TUNE_COLUMNS
    folder = output / "images"
    splits = {
        "train": build_split(train, folder),
        "fit": build_split(train, folder, lambda tile: tile.column < first_tune_column),
        "tune": build_split(train, folder, lambda tile: tile.column >= first_tune_column),
        "heldout": build_split({HELDOUT_IMAGE: images[HELDOUT_IMAGE]}, folder),
        "other_sites": build_split(
            {name: images[name] for name in OTHER_IMAGES}, folder, max_tile=OTHER_MAX_TILE
        ),
    }
    for name, split in splits.items():
        write_json(output / f"{name}.json", split)
    summary = {
        "name": "NEON tree crowns (DeepForest 2.1.0 sample data)",
        "source": f"https://pypi.org/project/deepforest/ {WHEEL_NAME} sha256 {WHEEL_SHA256}",
        "licence": "MIT (the wheel's LICENSE); imagery: NEON, DP3.30010.001, please cite",
        "scale": SCALE,
        "splits": {name: split_counts(split) for name, split in splits.items()},
    }
    write_json(output / "data.json", summary, indent=1)
    return summary


def split_counts(split: dict) -> dict:
    """Numbers of images, objects and ignored regions of a COCO dict."""
    ignored = sum(1 for item in split["annotations"] if item.get("ignore"))
    return {
        "images": len(split["images"]),
        "objects": len(split["annotations"]) - ignored,
        "ignored": ignored,
    }


def _decode(data: bytes, name: str) -> np.ndarray:
    import io

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError):
        raise InputError(f"{name}.png: cannot be read. Delete the wheel and run again.") from None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cpr.demo.neon_trees",
        description="Downloads the demo's aerial images and writes them as tiles with boxes.",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--cache", type=Path, help="folder that keeps the wheel")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    summary = prepare(args.output, args.cache)
    for name, counts in summary["splits"].items():
        logger.info(
            "%s: %d tiles, %d objects, %d regions to ignore",
            *(name, counts["images"], counts["objects"], counts["ignored"]),
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
