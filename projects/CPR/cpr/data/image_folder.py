"""A folder of images as a data set without annotations (numpy and Pillow only)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cpr_deploy.files import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}


def list_images(folder: str | os.PathLike) -> list[dict]:
    """Image records of all images in `folder` and below, by name.

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
    for index, path in enumerate(paths, start=1):
        try:
            with Image.open(path) as image:
                # The header is enough: the size after the rotation that EXIF asks for.
                width, height = image.size
                if image.getexif().get(0x0112) in (5, 6, 7, 8):
                    width, height = height, width
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{path}: not a readable image ({error}). Remove it.") from None
        records.append(
            {
                "id": index,
                "file_name": path.relative_to(folder).as_posix(),
                "width": width,
                "height": height,
            }
        )
    return records


def read_bgr(path: str | os.PathLike) -> np.ndarray:
    """Reads an image upright as (H, W, 3) uint8 BGR; InputError if that cannot be done."""
    try:
        with Image.open(path) as image:
            rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such image file. Check the image folder.") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error}). Copy it again.") from None
    return np.ascontiguousarray(rgb[:, :, ::-1])
