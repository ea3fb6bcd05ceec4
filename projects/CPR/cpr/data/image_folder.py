"""Images of a folder or of a data set's records (numpy and Pillow only)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from cpr_deploy.files import InputError
from cpr_deploy.image_files import read_rgb, unreadable

from .point_json import Problem, image_path
from .tiling.records import crop_tile, tile_corner

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}


def list_images(folder: str | os.PathLike, *, skipped: list[Problem] | None = None) -> list[dict]:
    """Image records of all images in `folder` and below, by name.

    Args:
        folder: the folder.
        skipped: if given, files that are no images are left out and noted here.

    Returns:
        {"id" (from 1), "file_name" (relative to `folder`), "width", "height"} px, upright.

    Raises:
        InputError: no such folder, no image in it, a file that is no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Give the folder of the images.")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise InputError(f"{folder}: no image in it ({', '.join(sorted(SUFFIXES))}).")
    records = []
    for path in paths:
        try:
            with Image.open(path) as image:
                # The header is enough: the size after the rotation that EXIF asks for.
                width, height = image.size
                if _has_exif(image) and image.getexif().get(0x0112) in (5, 6, 7, 8):
                    width, height = height, width
        except Exception as error:  # Pillow raises many types for damaged files
            text = f"{unreadable(error)} Copy it again or remove it."
            if skipped is None:
                raise InputError(f"{path}: {text}") from None
            skipped.append(Problem(str(path), text))
            continue
        records.append(
            {
                "id": len(records) + 1,
                "file_name": path.relative_to(folder).as_posix(),
                "width": width,
                "height": height,
            }
        )
    return records


def _has_exif(image: Image.Image) -> bool:
    """False if an image surely has no EXIF tags.

    To find those of a PNG, Pillow decodes all pixels, because they may come after them; looking
    which chunks do takes no time.
    """
    if image.format != "PNG" or "exif" in image.info or "Raw profile type exif" in image.info:
        return True
    with open(image.filename, "rb") as file:
        file.seek(8)
        after_pixels = False
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            after_pixels |= head[4:] == b"IDAT"
            if after_pixels and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, 1)  # the chunk and its checksum
    return False


def read_recorded(image_root: str | os.PathLike, record: dict) -> np.ndarray:
    """The image of a record, or the tile that it is of one, as (H, W, 3) uint8 RGB.

    Raises:
        InputError: missing, outside `image_root`, damaged, or not of the size that the record says.
    """
    path = image_path(image_root, record)
    image = read_rgb(path)
    name = f"{path} (image id {record['id']!r})"
    if record.get("corner") is not None:
        image = np.ascontiguousarray(crop_tile(name, image, tile_corner(record)))
    check_size(name, image.shape, record)
    return image


def check_size(name: str, shape: tuple[int, ...], record: dict) -> None:
    """InputError about `name` if an image of `shape` (H, W, ...) is not of the record's size."""
    height, width = shape[:2]
    if (width, height) != (record["width"], record["height"]):
        raise InputError(
            f"{name}: the image is {width}x{height} (width x height), the annotation file says"
            f" {record['width']}x{record['height']}. Correct width and height there, or use the"
            " image that was annotated."
        )
