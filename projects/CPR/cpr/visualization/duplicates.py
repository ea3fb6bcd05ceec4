"""Dropped near-duplicates beside the images that they duplicate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from cpr.visualization.draw import encode_image, montage

# Pairs in a picture, and the longer side of an image in it, px.
MAX_PAIRS = 24
_SIDE = 400


class DuplicatePair(NamedTuple):
    """kept, dropped: names. distance: bits. read_kept, read_dropped: give (H, W, 3) uint8 RGB."""

    kept: str
    dropped: str
    distance: int
    read_kept: Callable[[], np.ndarray]
    read_dropped: Callable[[], np.ndarray]


def duplicates_montage(pairs: Sequence[DuplicatePair], *, columns: int = 3) -> bytes:
    """PNG of pairs, in rows of `columns`: what was kept, what was dropped.

    The least alike come first, as far as there is room (MAX_PAIRS): if these are rightly dropped,
    all are.
    """
    if not pairs:
        raise ValueError("no pair to show")
    shown = sorted(pairs, key=lambda pair: -pair.distance)[:MAX_PAIRS]
    cells = []
    for pair in shown:
        images = [_small(read()) for read in (pair.read_kept, pair.read_dropped)]
        bits = f"dropped ({pair.distance} bits): {_end(pair.dropped)}"
        captions = [f"kept: {_end(pair.kept)}", bits]
        cells.append(montage(images, captions, columns=2, gap=4))
    picture = montage(cells, columns=columns, gap=10, background=(205, 205, 205))
    bar = np.full((34, picture.shape[1], 3), 255, dtype=np.uint8)
    title = f"{len(pairs)} images dropped as near-duplicates"
    if len(shown) < len(pairs):
        title += f"; the {len(shown)} that are least like the kept one"
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(bar, title, (10, 23), font, 0.6, (30, 30, 30), 1, cv2.LINE_AA)
    return encode_image(np.vstack([bar, picture]))


def _small(image: np.ndarray) -> np.ndarray:
    factor = _SIDE / max(image.shape[:2])
    size = tuple(max(1, round(factor * side)) for side in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _end(name: str) -> str:
    """The part of a long name that tells it from others."""
    name = name.rsplit("/", 1)[-1]
    return name if len(name) <= 34 else f"..{name[-32:]}"
