"""Points and boxes drawn on images.

Images are RGB, uint8, (H, W, 3). Points are continuous pixels of the image they are drawn on:
origin at the top-left corner, the first pixel's centre is (0.5, 0.5), x then y. Colours follow the
paper's figures 5 and 8-10: green = click, red = semantic points, yellow = refined point.

Drawing functions change the image in place and return it, as OpenCV does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, int, int]

CLICK: Colour = (40, 220, 60)
SEMANTIC: Colour = (235, 50, 45)
REFINED: Colour = (255, 225, 30)
PREDICTED: Colour = (40, 220, 240)
BOX: Colour = (255, 255, 255)
OUTLINE: Colour = (20, 20, 20)

# One colour per class. The first is that of predictions in general; green, red and yellow are left
# out because they mean something else here.
_CLASS_COLOURS: tuple[Colour, ...] = (
    PREDICTED,
    (255, 145, 40),
    (225, 90, 225),
    (120, 150, 255),
    (165, 255, 175),
    (255, 170, 185),
    (185, 130, 255),
    (215, 215, 215),
)

# OpenCV takes integers with this many fractional bits: points land within 1/32 px.
_SHIFT = 4
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def class_colour(label: int) -> Colour:
    """The colour of contiguous class `label`; repeats after eight classes."""
    return _CLASS_COLOURS[label % len(_CLASS_COLOURS)]


def encode_image(image: np.ndarray, suffix: str = ".png", quality: int = 90) -> bytes:
    """RGB uint8 (H, W, 3) as the bytes of a PNG or JPEG file, chosen by `suffix`."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix.lower() in (".jpg", ".jpeg") else []
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image[:, :, ::-1]), options)
    if not done:
        raise ValueError(f"OpenCV cannot write a {suffix} file of shape {image.shape}")
    return data.tobytes()


def marker_radius(image: np.ndarray) -> float:
    """Radius in pixels of a marker that can be seen, and seen past, on an image of this size."""
    return float(np.clip(min(image.shape[:2]) / 75, 2.0, 12.0))


def draw_points(
    image: np.ndarray, points: np.ndarray, colour: Colour, *, radius: float | None = None
) -> np.ndarray:
    """Draws `points` (N, 2) as anti-aliased discs with a dark outline.

    `radius` in pixels defaults to one that suits the image's size. Points outside are skipped.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    radius = marker_radius(image) if radius is None else radius
    outline = max(1.0, 0.3 * radius)
    height, width = image.shape[:2]
    # Also keeps not-a-number and huge values away from OpenCV's integers.
    margin = radius + outline
    with np.errstate(invalid="ignore"):
        near = (points > -margin).all(1) & (points < (width + margin, height + margin)).all(1)
    for centre in _fixed(points[near]):
        cv2.circle(image, centre, _fixed_length(radius + outline), OUTLINE, -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(image, centre, _fixed_length(radius), colour, -1, cv2.LINE_AA, _SHIFT)
    return image


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, colour: Colour = BOX, *, thickness: int = 1
) -> np.ndarray:
    """Draws the outlines of `boxes` (N, 4), x, y, w, h in pixels."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    height, width = image.shape[:2]
    # A box edge runs through the outermost pixels of the box, so it stays visible at the border.
    first = np.clip(boxes[:, :2] + 0.5, 0.5, (width - 0.5, height - 0.5))
    last = np.clip(boxes[:, :2] + boxes[:, 2:] - 0.5, 0.5, (width - 0.5, height - 0.5))
    for corner, opposite in zip(_fixed(first), _fixed(last), strict=True):
        cv2.rectangle(image, corner, opposite, colour, thickness, cv2.LINE_AA, _SHIFT)
    return image


def draw_layers(
    image: np.ndarray,
    *,
    boxes: np.ndarray | None = None,
    semantic: np.ndarray | None = None,
    clicks: np.ndarray | None = None,
    refined: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    predicted_labels: Sequence[int] | None = None,
    radius: float | None = None,
) -> np.ndarray:
    """Draws what is given, in this order: the few points that matter end up on top.

    boxes (N, 4) x, y, w, h; every other array (N, 2). Predicted points have their class's colour
    if `predicted_labels` (N,) are given.
    """
    radius = marker_radius(image) if radius is None else radius
    if boxes is not None:
        draw_boxes(image, boxes)
    if semantic is not None:
        draw_points(image, semantic, SEMANTIC, radius=0.55 * radius)
    if clicks is not None:
        draw_points(image, clicks, CLICK, radius=radius)
    if refined is not None:
        draw_points(image, refined, REFINED, radius=radius)
    if predicted is not None:
        predicted = np.asarray(predicted, dtype=np.float64).reshape(-1, 2)
        labels = [0] * len(predicted) if predicted_labels is None else predicted_labels
        for point, label in zip(predicted, labels, strict=True):
            draw_points(image, point, class_colour(label), radius=radius)
    return image


@dataclass(frozen=True)
class Crop:
    """A cut-out of an image, resized. `origin` is its top-left corner in pixels of the image."""

    image: np.ndarray
    origin: tuple[int, int]
    scale: tuple[float, float]

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) of the whole image in pixels of the crop."""
        return (np.asarray(points, dtype=np.float64).reshape(-1, 2) - self.origin) * self.scale

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) x, y, w, h of the whole image in pixels of the crop."""
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        return np.hstack([self.points(boxes[:, :2]), boxes[:, 2:] * self.scale])


def crop_around(
    image: np.ndarray, centre: Sequence[float], size: float, *, output_size: int = 256
) -> Crop:
    """Cuts a square of `size` px around `centre`, `output_size` px on its longer side.

    At the border of the image the square moves inwards; it only gets smaller than `size` where the
    image itself is.
    """
    height, width = image.shape[:2]
    size = max(1, round(size))
    crop_width, crop_height = min(size, width), min(size, height)
    x = int(np.clip(round(centre[0] - crop_width / 2), 0, width - crop_width))
    y = int(np.clip(round(centre[1] - crop_height / 2), 0, height - crop_height))
    factor = output_size / max(crop_width, crop_height)
    shape = (max(1, round(crop_width * factor)), max(1, round(crop_height * factor)))
    cut = image[y : y + crop_height, x : x + crop_width]
    interpolation = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    resized = cv2.resize(cut, shape, interpolation=interpolation)
    return Crop(resized, (x, y), (shape[0] / crop_width, shape[1] / crop_height))


def montage(
    images: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 4,
    gap: int = 6,
    background: Colour = (255, 255, 255),
    text: Colour = (30, 30, 30),
) -> np.ndarray:
    """Lays images out in rows of `columns`, each with its caption below; RGB (H, W, 3).

    Cells have the size of the largest image; smaller ones are centred, none is resized. Captions
    are cut to the cell's width; OpenCV's fonts know ASCII only.
    """
    if not images:
        raise ValueError("montage needs at least one image")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(images)} images but {len(captions)} captions")
    cell_height = max(image.shape[0] for image in images)
    cell_width = max(image.shape[1] for image in images)
    bar = 22 if captions is not None else 0
    columns = max(1, min(columns, len(images)))
    rows = -(-len(images) // columns)
    step_y, step_x = cell_height + bar + gap, cell_width + gap
    canvas = np.full((rows * step_y + gap, columns * step_x + gap, 3), background, dtype=np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        height, width = image.shape[:2]
        top = gap + row * step_y + (cell_height - height) // 2
        left = gap + column * step_x + (cell_width - width) // 2
        canvas[top : top + height, left : left + width] = image
        if captions is not None:
            line = _fit(captions[index], cell_width)
            origin = (gap + column * step_x, gap + row * step_y + cell_height + 16)
            cv2.putText(canvas, line, origin, _FONT, 0.45, text, 1, cv2.LINE_AA)
    return canvas


def side_by_side(images: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """`montage` in a single row."""
    return montage(images, captions, columns=len(images))


def _fit(caption: str, width: int) -> str:
    """`caption` in ASCII, cut at the end until it is at most `width` pixels wide."""
    caption = caption.encode("ascii", "replace").decode()
    while caption and cv2.getTextSize(caption, _FONT, 0.45, 1)[0][0] > width:
        caption = caption[:-3] + ".." if len(caption) > 3 else ""
    return caption


def _fixed(points: np.ndarray) -> list[tuple[int, int]]:
    """Continuous points (N, 2) as OpenCV's fixed-point numbers, whose pixel centres are whole."""
    return [tuple(p) for p in np.rint((points - 0.5) * (1 << _SHIFT)).astype(int).tolist()]


def _fixed_length(length: float) -> int:
    return round(length * (1 << _SHIFT))
