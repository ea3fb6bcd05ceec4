"""Tiles as image files of their own: one decode an image, several processes, resumable."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from cpr_deploy.cpus import available_cpus
from cpr_deploy.files import InputError, check_output_folder, explain, safe_child
from cpr_deploy.image_files import read_rgb, write_rgb
from cpr_deploy.tiling import Corner

from ..point_json import Problem, image_path
from .records import crop_tile, tile_corner

logger = logging.getLogger(__name__)

FORMATS = ("keep", "png", "jpg")
JPEG_SUFFIXES = (".jpg", ".jpeg")
JPEG_QUALITY = 95


class _Job(NamedTuple):
    """The tiles of one image file."""

    source: Path
    tiles: list[tuple[Corner, Path]]
    place: int  # among the jobs


def cut_tiles(
    dataset: dict[str, Any],
    image_root: str | os.PathLike,
    output_root: str | os.PathLike,
    *,
    image_format: str = "keep",
    workers: int | None = None,
    skip_bad: bool = False,
    progress: Callable[..., Iterable] = lambda iterable, total: iterable,
) -> tuple[dict[str, Any], list[Problem]]:
    """Writes every tile to an image file; those that are there already are left as they are.

    Args:
        dataset: a point JSON of tiles, whose records have a `corner`.
        image_root: folder of the full images.
        output_root: folder to write, with the folders of `image_root` in it.
        image_format: "keep": JPEG (quality 95) of JPEG images, PNG of all others; "png": every
            pixel stays as it is; "jpg".
        workers: processes; None: one a CPU.
        skip_bad: leave out images that cannot be read, instead of stopping at the first.
        progress: wraps the iterable of images, for example tqdm; called with `total`.

    Returns:
        the data set of the files, in whose records `cut_corner` stands for `corner` and
        `full_file_name` is the image that they were cut from; and what was left out.

    Raises:
        InputError: an image is missing, cannot be read or is smaller than its tiles; two images
            would be cut into the same files; the output folder cannot be written to.
    """
    if image_format not in FORMATS:
        raise InputError(f"format {image_format!r}: use one of {', '.join(FORMATS)}.")
    check_output_folder(output_root, [image_root])
    by_file: dict[str, list[dict]] = {}
    for image in dataset["images"]:
        if image.get("corner") is None:
            raise InputError(
                f"image id {image['id']!r}: has no corner, so it is no tile that could be cut."
            )
        by_file.setdefault(image["file_name"], []).append(image)
    names = _names(by_file, image_format)

    skipped: list[Problem] = []
    bad: set[str] = set()
    jobs: list[_Job] = []
    files = list(by_file)
    for place, (file, records) in enumerate(by_file.items()):
        try:
            source = image_path(image_root, records[0])
            targets = [
                (tile_corner(r), safe_child(output_root, names[file, tile_corner(r)]))
                for r in records
            ]
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append(Problem(file, str(error)))
            bad.add(file)
            continue
        jobs.append(_Job(source, targets, place))
    for place, text in progress(_run(jobs, workers), total=len(jobs)):
        if text is not None:
            if not skip_bad:
                raise InputError(text)
            skipped.append(Problem(files[place], text))
            bad.add(files[place])
    return _of_files(dataset, names, bad), skipped


def _names(by_file: dict[str, list[dict]], image_format: str) -> dict[tuple[str, Corner], str]:
    """The file of each tile, relative to the output folder."""
    names: dict[tuple[str, Corner], str] = {}
    sources: dict[str, str] = {}
    for file, records in by_file.items():
        path = PurePosixPath(file)
        keep = image_format == "keep" and path.suffix.lower() in JPEG_SUFFIXES
        suffix = ".jpg" if keep or image_format == "jpg" else ".png"
        for record in records:
            corner = tile_corner(record)
            name = str(path.with_name("_".join(map(str, (path.stem, *corner))) + suffix))
            # Case does not count on every file system.
            if sources.setdefault(name.casefold(), file) != file:
                raise InputError(
                    f"{file!r} and {sources[name.casefold()]!r} would both be cut into {name!r}."
                    " Rename one of the images, in the annotations too."
                )
            names[file, corner] = name
    return names


def _run(jobs: list[_Job], workers: int | None) -> Iterator[tuple[int, str | None]]:
    """Place of each job, as they are done, and what went wrong with it."""
    workers = min(available_cpus() if workers is None else workers, len(jobs))
    if workers <= 1:
        yield from map(_cut, jobs)
        return
    # Fresh processes: forked ones would hold a copy of all annotations before long.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        for done in as_completed([pool.submit(_cut, job) for job in jobs]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _cut(job: _Job) -> tuple[int, str | None]:
    try:
        # An image may be replaced by one that was written earlier: then only its inode is newer.
        status = job.source.stat()
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        missing = [(c, path) for c, path in job.tiles if not _is_done(path, c, changed)]
        if missing:
            image = read_rgb(job.source)
            for corner, path in missing:
                tile = crop_tile(str(job.source), image, corner)
                write_rgb(path, tile, jpeg_quality=JPEG_QUALITY)
    except (InputError, OSError) as error:
        text = explain(error)
        if text is None:
            raise
        return job.place, text
    return job.place, None


def _is_done(path: Path, corner: Corner, changed: int) -> bool:
    """Whether `path` is a tile of this size, written since its image changed."""
    from PIL import Image

    try:
        if path.stat().st_mtime_ns < changed:
            return False
        with Image.open(path) as image:
            return image.size == (corner[2] - corner[0], corner[3] - corner[1])
    except Exception:  # Pillow raises many types; whatever it is, the tile is cut again
        return False


def _of_files(
    dataset: dict[str, Any], names: dict[tuple[str, Corner], str], bad: set[str]
) -> dict[str, Any]:
    images, left_out = [], set()
    for image in dataset["images"]:
        if image["file_name"] in bad:
            left_out.add(image["id"])
            continue
        corner = tile_corner(image)
        record = {**image, "file_name": names[image["file_name"], corner]}
        record |= {"full_file_name": image["file_name"], "cut_corner": record.pop("corner")}
        images.append(record)
    annotations = dataset["annotations"]
    if left_out:
        annotations = [a for a in annotations if a["image_id"] not in left_out]
    return {**dataset, "images": images, "annotations": annotations}
