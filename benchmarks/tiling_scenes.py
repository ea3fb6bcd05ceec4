"""Pictures with true boxes for compare_tiling.py: a clip as it is, enlarged, or as mosaics."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from cpr_deploy.files import InputError, read_json
from cpr_deploy.sources import SourceError, open_source


@dataclasses.dataclass(frozen=True)
class Scene:
    """Pictures made from a clip.

    scale: px of the picture per px of the clip; cells: frames in a picture; picture(i): the i-th of
    `count`, (height, width, 3) uint8 BGR, and its true boxes (n, 4) x, y, w, h in its px.
    """

    label: str
    scale: float
    cells: int
    count: int
    picture: Callable[[int], tuple[np.ndarray, np.ndarray]]


def read_clip(
    clip: str, boxes_file: str, part: str, every: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames (height, width, 3) uint8 BGR of a clip, and the true boxes (n, 4) of each.

    Args:
        clip: video or folder of images.
        boxes_file: {"frames": [{"boxes": [{"bbox": [x, y, w, h]}]}]}, px.
        part: "A:B", the frames from A to before B; every: each so-many-th of them.

    Raises:
        InputError: no such frames, or no boxes for them.
    """
    try:
        first, _, last = part.partition(":")
        start, stop = int(first or 0), int(last) if last else None
    except ValueError:
        raise InputError(f"--frames {part}: give A:B, for example 540:791.") from None
    numbers = range(start, stop or 1 << 31, every)
    truth = read_json(boxes_file)
    try:
        boxes = [
            np.array([box["bbox"] for box in frame["boxes"]], float).reshape(-1, 4)
            for frame in truth["frames"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f'{boxes_file}: {error!r}; {{"frames": [{{"boxes": [{{"bbox": [x, y, w, h]}}]}}]}} is'
            " needed."
        ) from None
    frames = []
    with contextlib.closing(open_source(clip)) as source:
        for number, item in enumerate(itertools.islice(source, numbers.stop)):
            if isinstance(item, SourceError):
                raise InputError(item.message)
            if number in numbers:
                frames.append(item.image)
    numbers = numbers[: len(frames)]
    if not frames:
        raise InputError(f"--frames {part}: {clip} has none of them. Choose others.")
    if numbers[-1] >= len(boxes):
        raise InputError(
            f"{boxes_file}: has boxes of {len(boxes)} frames, frame {numbers[-1]} is to be scored."
            " Give a smaller --frames."
        )
    return frames, [boxes[number] for number in numbers]


def make_scene(
    label: str,
    frames: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    *,
    enlarge: float,
    mosaic: int,
    cell_scale: float,
) -> Scene:
    """A scene out of frames and their boxes.

    label: plain, enlarged (by `enlarge`), or mosaic: `mosaic` x `mosaic` frames, each resized by
    `cell_scale`, in one picture.
    """
    if label == "plain":
        return Scene(label, 1.0, 1, len(frames), lambda i: (frames[i], boxes[i]))
    if label == "enlarged":
        return Scene(
            label, enlarge, 1, len(frames), lambda i: _scaled(frames[i], boxes[i], enlarge)
        )
    count = len(frames) // mosaic**2
    if count == 0:
        raise InputError(
            f"--mosaic {mosaic}: needs {mosaic**2} frames, there are {len(frames)}. Give a smaller"
            " one, or more --frames."
        )

    def picture(index: int) -> tuple[np.ndarray, np.ndarray]:
        # Frames far from each other in time stand side by side.
        cells = [
            _scaled(frames[number], boxes[number], cell_scale)
            for number in range(index, count * mosaic**2, count)
        ]
        height, width = cells[0][0].shape[:2]
        rows = [
            np.concatenate([image for image, _ in cells[row * mosaic : (row + 1) * mosaic]], axis=1)
            for row in range(mosaic)
        ]
        moved = [
            own + [place % mosaic * width, place // mosaic * height, 0, 0]
            for place, (_, own) in enumerate(cells)
        ]
        return np.concatenate(rows), np.concatenate(moved)

    return Scene(f"mosaic of {mosaic} x {mosaic}", cell_scale, mosaic**2, count, picture)


def _scaled(image: np.ndarray, boxes: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    factors = size[0] / width, size[1] / height
    return np.asarray(resized), boxes * [*factors, *factors]
