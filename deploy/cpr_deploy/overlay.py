"""Points drawn on frames: discs with an outline, class counts and a line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from cpr_deploy.point_localizer import PointResult

# BGR; bright colours that differ also in lightness. More classes repeat them.
CLASS_COLOURS = (
    (60, 220, 255),
    (255, 160, 40),
    (120, 255, 120),
    (200, 110, 255),
    (60, 130, 255),
    (255, 255, 100),
    (180, 180, 255),
    (100, 200, 180),
)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Scores are written beside the points up to this many of them.
MAX_SCORES_SHOWN = 40
# Coordinates are given to OpenCV in 1/16 px.
_SHIFT = 4


def class_colour(label: int) -> tuple[int, int, int]:
    """BGR."""
    return CLASS_COLOURS[label % len(CLASS_COLOURS)]


def draw_points(
    image: np.ndarray,
    result: PointResult,
    class_names: Sequence[str],
    *,
    status: str = "",
    show_scores: bool = True,
) -> np.ndarray:
    """Draws onto `image` (height, width, 3) uint8 BGR in place and returns it.

    Sizes follow the image, so that 320 px and 4K frames are readable alike. The panel at the top
    left lists the classes found with their counts, then `status`.
    """
    height, width = image.shape[:2]
    unit = max(1.0, math.sqrt(height * width) / 500)
    radius = 2.2 * unit
    scores_shown = show_scores and len(result) <= MAX_SCORES_SHOWN
    font_scale = max(0.33, 0.28 * unit)
    for (x, y), score, label in zip(result.points, result.scores, result.labels, strict=True):
        # OpenCV puts the centre of the first pixel at 0, we at 0.5.
        centre = (round((x - 0.5) * 2**_SHIFT), round((y - 0.5) * 2**_SHIFT))
        for r, colour in (
            (radius + max(1.0, 0.6 * unit), (0, 0, 0)),
            (radius, class_colour(label)),
        ):
            cv2.circle(image, centre, round(r * 2**_SHIFT), colour, -1, cv2.LINE_AA, _SHIFT)
        if scores_shown:
            place = (int(x + 1.8 * radius), int(y + 1.2 * radius))
            draw_text(image, f"{score:.2f}", place, font_scale, class_colour(label))
    _draw_panel(image, result, class_names, status, max(0.38, 0.36 * unit))
    return image


def draw_text(
    image: np.ndarray,
    text: str,
    place: tuple[int, int],
    scale: float,
    colour: tuple[int, int, int],
) -> None:
    """Writes `text` onto `image` in place, with a dark outline; `place` is its left bottom."""
    # The outline is the same text moved about: OpenCV 5 sets bolder text wider, so that a bold
    # black copy beneath would not fit.
    thickness = max(1, round(1.6 * scale))
    step = max(1, round(scale))
    for dx, dy in ((-step, 0), (step, 0), (0, -step), (0, step)):
        moved = (place[0] + dx, place[1] + dy)
        cv2.putText(image, text, moved, _FONT, scale, (0, 0, 0), thickness, cv2.LINE_AA)
    cv2.putText(image, text, place, _FONT, scale, colour, thickness, cv2.LINE_AA)


def _draw_panel(
    image: np.ndarray,
    result: PointResult,
    class_names: Sequence[str],
    status: str,
    scale: float,
) -> None:
    counts = np.bincount(result.labels, minlength=len(class_names))
    lines = [
        (f"{class_names[label]}: {counts[label]}", class_colour(label))
        for label in np.argsort(-counts, kind="stable")[: len(CLASS_COLOURS)]
        if counts[label]
    ] or [("no points", (220, 220, 220))]
    if status:
        lines.append((status, (220, 220, 220)))
    sizes = [cv2.getTextSize(text, _FONT, scale, 1)[0] for text, _ in lines]
    step = int(1.7 * max(size[1] for size in sizes)) + 2
    margin = step // 2
    panel_height = min(image.shape[0], step * len(lines) + margin)
    panel_width = min(image.shape[1], max(size[0] for size in sizes) + 2 * margin)
    panel = image[:panel_height, :panel_width]
    panel[:] = (0.3 * panel).astype(np.uint8)
    for index, (text, colour) in enumerate(lines):
        place = (margin, step * (index + 1))
        cv2.putText(image, text, place, _FONT, scale, colour, 1, cv2.LINE_AA)
