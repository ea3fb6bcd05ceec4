"""Images that show nearly the same: 64-bit perceptual hashes and what lies close to what.

The hash is the usual pHash (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010): 32 x 32 grey values, their two-dimensional cosine transform, its 8 x 8 lowest
frequencies, a bit for each that is above their median. The distance of two images is the number of
bits in which their hashes differ: 0 to 64, about 32 for images that have nothing in common.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cpr_deploy.cpus import available_cpus
from cpr_deploy.files import InputError, explain
from cpr_deploy.image_files import read_rgb

from ..file_notes import FileNotes, open_notes
from ..image_folder import check_size
from ..point_json import Problem, image_path
from ..tiling.records import crop_tile, tile_corner

logger = logging.getLogger(__name__)

BITS = 64
# Images at most so many bits apart count as near-duplicates.
THRESHOLD = 4
# Grey values a side that are transformed, and frequencies a side that are kept.
_SIDE, _FREQUENCIES = 32, 8
# Pairs that are compared at a time: 32 MB of differences.
_CHUNK = 1 << 22


def hash_image(rgb: np.ndarray) -> int:
    """The 64-bit perceptual hash of an image, (H, W, 3) uint8 RGB.

    The same number as `imagehash.phash` of the ImageHash library gives, read as hexadecimal.
    """
    from PIL import Image
    from scipy.fft import dct

    grey = Image.fromarray(rgb).convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    frequencies = dct(dct(np.asarray(grey, dtype=np.float64), axis=0), axis=1)
    # Rounded, so that the frequencies that a flat image does not have are 0 and not noise.
    low = np.round(frequencies[:_FREQUENCIES, :_FREQUENCIES], 6)
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def hash_images(
    image_root: str | os.PathLike,
    records: Sequence[dict[str, Any]],
    *,
    resume: bool = False,
    workers: int | None = None,
    progress: Callable[..., Iterable] = lambda iterable, total: iterable,
) -> tuple[np.ndarray, dict[int, Problem]]:
    """The hashes of images; each file is decoded once, however many tiles are of it.

    Args:
        image_root: the folder of the images.
        records: image records of a point JSON; those with a `corner` are tiles of their file.
        resume: do not read again what an earlier pass has found good, see `cpr.data.file_notes`.
        workers: threads; None: one a CPU.
        progress: wraps the iterable of files, for example tqdm; called with `total`.

    Returns:
        hashes (N,) uint64 in the order of `records`; and what is wrong with images that cannot be
        read, by their place in `records`: their hash is 0 and means nothing.
    """
    places: dict[Any, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(record["file_name"], []).append(place)
    hashes = np.zeros(len(records), dtype=np.uint64)
    problems: dict[int, Problem] = {}

    def run(of_file: list[int]) -> list[tuple[int, int | Problem]]:
        results = _hash_file(image_root, [records[i] for i in of_file], notes)
        return list(zip(of_file, results, strict=True))

    # Threads are enough: Pillow and scipy let others run while they work.
    pool = ThreadPoolExecutor(max(1, workers or available_cpus()))
    with open_notes(image_root, resume) as notes, pool:
        try:
            for results in progress(pool.map(run, places.values()), total=len(places)):
                for place, result in results:
                    if isinstance(result, Problem):
                        problems[place] = result
                    else:
                        hashes[place] = result
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return hashes, dict(sorted(problems.items()))


def _hash_file(
    image_root: str | os.PathLike, records: list[dict], notes: FileNotes
) -> list[int | Problem]:
    """Hash or problem of the records of one file."""
    parts = [[record.get(key) for key in ("corner", "width", "height")] for record in records]
    kind = f"hashes of {json.dumps(parts)}"
    path = Path(image_root) / records[0]["file_name"]
    if noted := notes.get(path, kind):
        return noted
    results: list[int | Problem] = []
    image = None
    for record in records:
        name = f"image id {record['id']!r}"
        try:
            if image is None:
                image = read_rgb(image_path(image_root, record))
            part = image
            if record.get("corner") is not None:
                part = np.ascontiguousarray(crop_tile(name, image, tile_corner(record)))
            check_size(record["file_name"], part.shape, record)
            results.append(hash_image(part))
        except (InputError, OSError) as error:
            text = explain(error)
            if text is None:
                raise
            results.append(Problem(name, text.removeprefix(f"{name}: ")))
    if not any(isinstance(result, Problem) for result in results):
        notes.put(path, kind, results)
    return results


def near_duplicate_pairs(
    first: np.ndarray, second: np.ndarray, threshold: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which hashes of two lists are at most `threshold` bits apart.

    Args:
        first, second: (N,) and (M,) uint64.
        threshold: bits, 0 to 64.

    Returns:
        pairs (P, 2) int64: places in `first` and in `second`, in that order; distances (P,) int64
        in bits.

    Raises:
        InputError: no such threshold.
    """
    check_threshold(threshold)
    first, second = (np.asarray(hashes, dtype=np.uint64).reshape(-1) for hashes in (first, second))
    pairs, distances = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)]
    rows = max(1, _CHUNK // max(1, len(second)))
    for start in range(0, len(first), rows):
        apart = np.bitwise_count(first[start : start + rows, None] ^ second)
        near = np.argwhere(apart <= threshold)
        distances.append(apart[near[:, 0], near[:, 1]].astype(np.int64))
        pairs.append(near + (start, 0))
    return np.concatenate(pairs), np.concatenate(distances)


def check_threshold(threshold: int) -> None:
    """InputError unless it is a number of bits of a hash."""
    if not 0 <= threshold <= BITS:
        raise InputError(f"threshold {threshold}: give a number of bits, 0 to {BITS}.")


def find_near_duplicates(
    hashes: np.ndarray,
    sequences: Sequence[Hashable],
    threshold: int = THRESHOLD,
    *,
    across: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Which images to drop: those too close to the last one that was kept of their sequence.

    Args:
        hashes: (N,) uint64, in the order of time.
        sequences: what each image is a part of, such as its video.
        threshold: images at most so many bits apart are near-duplicates.
        across: compare also with all images that were kept before of other sequences.

    Returns:
        kept (N,) int64: the place of the image that each one duplicates, its own if it is kept;
        distances (N,) int64 in bits, 0 of those that are kept.
    """
    check_threshold(threshold)
    hashes = np.asarray(hashes, dtype=np.uint64).reshape(-1)
    of, distances = np.arange(len(hashes)), np.zeros(len(hashes), np.int64)
    numbers: dict[Hashable, int] = {}
    # Place in `hashes`, sequence, and whether it is the last one of its sequence, of those kept.
    kept, part, is_last = (np.empty(len(hashes), kind) for kind in (np.int64, np.int64, bool))
    count = 0
    for place, sequence in zip(range(len(hashes)), sequences, strict=True):
        number = numbers.setdefault(sequence, len(numbers))
        own = part[:count] == number
        last = own & is_last[:count]
        candidates = kept[:count][last | ~own if across else last]
        apart = np.bitwise_count(hashes[candidates] ^ hashes[place])
        if len(apart) and apart.min() <= threshold:
            # The latest of equally close ones.
            nearest = len(apart) - 1 - int(np.argmin(apart[::-1]))
            of[place], distances[place] = candidates[nearest], apart[nearest]
            continue
        is_last[:count][last] = False
        kept[count], part[count], is_last[count] = place, number, True
        count += 1
    return of, distances
