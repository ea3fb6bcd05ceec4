"""Where tracks were, and for how long: a grid of seconds, and a picture of it."""

from __future__ import annotations

import csv
import io
import os

import cv2
import numpy as np

from cpr_deploy.files import InputError, atomic_path, write_text
from cpr_deploy.overlay import draw_text

# Cells along the longer side.
_CELLS = 64
# The strongest colour covers the frame by so much.
_OPACITY = 0.75
# The scale of colours, px; smaller frames have none.
_SCALE_WIDTH, _SCALE_HEIGHT, _SCALE_MARGIN = 160, 10, 12


class DensityGrid:
    """Cells of equal size over frames of (width, height) px; the last ones may reach beyond."""

    def __init__(self, width: int, height: int, cell: int | None = None):
        self.cell = max(1, round(max(width, height) / _CELLS)) if cell is None else cell
        if self.cell < 1:
            raise InputError(f"a density cell of {cell} px: at least 1 is needed.")
        self.size = (width, height)
        self.seconds = np.zeros((-(-height // self.cell), -(-width // self.cell)))

    def add(self, points: np.ndarray, seconds: float) -> None:
        """`seconds` more at each of (N, 2) px; points outside of the frame do not count."""
        columns, rows = np.floor(np.asarray(points).reshape(-1, 2) / self.cell).astype(int).T
        height, width = self.seconds.shape
        inside = (rows >= 0) & (columns >= 0) & (rows < height) & (columns < width)
        np.add.at(self.seconds, (rows[inside], columns[inside]), seconds)

    def picture(self, frame: np.ndarray) -> np.ndarray:
        """(height, width, 3) uint8 BGR: the frame with the seconds over it as colours, the most
        of them red."""
        width, height = self.size
        if frame.shape[:2] != (height, width):
            raise InputError(
                f"a frame of {frame.shape[1]}x{frame.shape[0]} px does not fit a density of"
                f" {width}x{height} px."
            )
        rows, columns = self.seconds.shape
        # Square root: a place where somebody stood must not hide the ways of the others.
        share = np.sqrt(self.seconds / (self.seconds.max() or 1.0)).astype(np.float32)
        big = (columns * self.cell, rows * self.cell)
        share = cv2.resize(share, big, interpolation=cv2.INTER_LINEAR)[:height, :width]
        colours = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_TURBO)
        weight = _OPACITY * np.minimum(1.0, 4 * share)[..., None]
        return (frame * (1 - weight) + colours * weight).round().astype(np.uint8)

    def _draw_scale(self, image: np.ndarray) -> None:
        """In the lower left corner, in place: the colours with seconds in a cell."""
        height, width = image.shape[:2]
        if width < 2 * _SCALE_WIDTH or height < _SCALE_WIDTH:
            return
        most = float(self.seconds.max())
        left, top = _SCALE_MARGIN, height - 3 * _SCALE_MARGIN
        shares = np.linspace(0, 255, _SCALE_WIDTH).astype(np.uint8)
        colours = cv2.applyColorMap(np.tile(shares, (_SCALE_HEIGHT, 1)), cv2.COLORMAP_TURBO)
        image[top : top + _SCALE_HEIGHT, left : left + _SCALE_WIDTH] = colours
        below = top + _SCALE_HEIGHT + _SCALE_MARGIN
        texts = [(f"seconds in {self.cell} x {self.cell} px", (left, top - 5))]
        for share in (0.0, 0.5, 1.0):  # of the root of the most
            place = (left + int(share * (_SCALE_WIDTH - 16)), below)
            texts.append((f"{share**2 * most:.3g}", place))
        for text, place in texts:
            draw_text(image, text, place, 0.38, (255, 255, 255))

    def write_png(self, path: str | os.PathLike, frame: np.ndarray) -> None:
        """Writes `picture` with a scale as PNG, atomically."""
        picture = self.picture(frame)
        self._draw_scale(picture)
        encoded = cv2.imencode(".png", picture)[1]
        with atomic_path(path) as temporary:
            temporary.write_bytes(encoded.tobytes())

    def write_csv(self, path: str | os.PathLike) -> None:
        """Writes cells that are not empty: x, y (px of the centre), seconds."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("x", "y", "seconds"))
        for row, column in zip(*np.nonzero(self.seconds), strict=True):
            centre = ((column + 0.5) * self.cell, (row + 0.5) * self.cell)
            rows.writerow((*map(float, centre), round(float(self.seconds[row, column]), 3)))
        write_text(path, text.getvalue())
