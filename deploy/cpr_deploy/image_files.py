"""Image files, read upright and whole or not at all (Pillow)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cpr_deploy.files import InputError, atomic_path


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """The image as (H, W, 3) uint8 RGB, turned as its EXIF tag says.

    A truncated file is an error: OpenCV would fill the missing part with grey.

    Raises:
        InputError: the file is missing, cut off, too large or no image.
    """
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such image file. Check the image folder.") from None
    except Exception as error:  # Pillow raises many types for damaged files
        raise InputError(f"{path}: {unreadable(error)} Copy it again or remove it.") from None


def read_bgr(path: str | os.PathLike) -> np.ndarray:
    """As `read_rgb`, with the channels in the order that the ONNX graphs and OpenCV take."""
    return np.ascontiguousarray(read_rgb(path)[:, :, ::-1])


def write_rgb(path: Path, pixels: np.ndarray, *, jpeg_quality: int) -> None:
    """Writes (H, W, 3) uint8 RGB in the format of the suffix, atomically.

    JPEG (.jpg) keeps colours at full resolution: objects may be a few px wide.
    """
    settings = {"quality": jpeg_quality, "subsampling": 0} if path.suffix == ".jpg" else {}
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, **settings)


def unreadable(error: Exception) -> str:
    """What Pillow's error says about an image file, for people."""
    if isinstance(error, UnidentifiedImageError):
        return "is not an image of a known format, or empty."
    return f"cannot be read as an image ({error})."
