"""What the benchmark sets share: reading a split, linking images, writing tiles and clicks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cpr_deploy.files import InputError

from ..coarse_points import add_coarse_points
from ..dataset_files import drop_bad_records
from ..point_json import (
    Problem,
    check_image_root,
    is_ignored,
    load_points,
    read_unchecked,
    save_points,
)
from ..tiling.files import cut_tiles
from ..tiling.records import is_tiled
from ..tiling.tiles import tile_dataset

logger = logging.getLogger(__name__)


def no_progress(iterable: Iterable, *, desc: str, total: int | None = None) -> Iterable:
    return iterable


@dataclass(frozen=True)
class Options:
    """How a benchmark set is prepared.

    Attributes:
        seed, sigma: of the simulated clicks (Eq. 11).
        tile, overlap: px.
        official: training tiles as the official code cuts them, instead of the even grid.
        drop_empty: no training tiles without objects.
        cut: write tiles to image files; else they are cropped when they are read.
        image_format, workers: see `cpr.data.tiling.files.cut_tiles`.
        skip_bad: leave out bad records and images instead of stopping at the first.
        progress: wraps iterables, called with `desc` and `total`, for example tqdm.
    """

    seed: int = 0
    sigma: float = 0.25
    tile: int = 640
    overlap: int = 100
    official: bool = False
    drop_empty: bool = False
    cut: bool = False
    image_format: str = "keep"
    workers: int | None = None
    skip_bad: bool = False
    progress: Callable[..., Iterable] = no_progress


class Split(NamedTuple):
    """One part of a benchmark set."""

    name: str  # train, val or test
    dataset: dict[str, Any]  # of full images
    images: Path  # folder that the file names start at


@dataclass
class Prepared:
    """What was written, and what was left out."""

    files: list[Path] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)

    def write(self, path: Path, dataset: dict[str, Any]) -> None:
        save_points(path, dataset)
        self.files.append(path)
        logger.info(
            "wrote %s: %d images, %d annotations",
            path,
            len(dataset["images"]),
            len(dataset["annotations"]),
        )


def read_split(
    path: Path, prepared: Prepared, *, skip_bad: bool, require: str = "box", may_be_empty=False
) -> dict[str, Any]:
    """A COCO file; with `skip_bad` without its bad records, which are noted in `prepared`."""
    if not skip_bad:
        return load_points(path, require=require, may_be_empty=may_be_empty, drop_flat=True)
    dataset, _ = read_unchecked(path)
    try:
        dataset, dropped = drop_bad_records(dataset, require=require, may_be_empty=may_be_empty)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    prepared.skipped += [Problem(f"{path.name}: {p.record}", p.text) for p in dropped]
    return dataset


def find_source(source: Path, layouts: dict[str, dict[str, tuple[str, str]]]) -> dict:
    """The first of `layouts` (split -> file, image folder) whose train and val files exist.

    Returns:
        split -> (file, image folder) as paths, for the splits that are there.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder. Give the folder of the data set.")
    for layout in layouts.values():
        found = {
            split: (source / file, source / images)
            for split, (file, images) in layout.items()
            if (source / file).exists()
        }
        if {"train", "val"} <= set(found):
            for _, images in found.values():
                check_image_root(images)
            return found
    wanted = "; ".join(
        f"{name}: {', '.join(file for file, _ in layout.values())}"
        for name, layout in layouts.items()
    )
    raise InputError(f"{source}: not the folder of the data set. It must hold one of: {wanted}.")


def link_folder(folder: Path, link: Path) -> None:
    """Makes `link` a link to `folder`, if it is not one already."""
    if link.is_symlink() and link.resolve() == folder.resolve():
        return
    if link.exists() or link.is_symlink():
        raise InputError(
            f"{link}: is there already and no link to {folder}. Remove it, or give another output."
        )
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(folder.resolve(), target_is_directory=True)
    except (OSError, NotImplementedError) as error:
        raise InputError(
            f"{link}: cannot link to {folder} ({error}). Put the images there yourself, or cut"
            " tiles (--cut)."
        ) from None


def with_clicks(
    dataset: dict[str, Any], path: Path, options: Options, *, source: str
) -> dict[str, Any]:
    """A copy with clicks and without the masks, which nothing needs after them."""

    def progress(objects: Iterable) -> Iterable:
        return options.progress(objects, desc="clicking")

    try:
        clicked = add_coarse_points(
            dataset, source=source, sigma=options.sigma, seed=options.seed, progress=progress
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    for annotation in clicked["annotations"]:
        if not is_ignored(annotation):  # these are copies
            annotation.pop("segmentation", None)
    return clicked


def write_tiled(
    splits: Iterable[Split],
    output: Path,
    options: Options,
    prepared: Prepared,
    *,
    click_source: str,
    coarse: tuple[Path, dict[str, Any]] | None = None,
) -> None:
    """Writes the layout of a benchmark set in tiles.

    Training tiles are those of the even grid, or the official ones; val and test are cut by the
    official test grid. In train_coarse.json each object belongs to one tile of the even grid; in
    the other files each tile knows all objects that it sees, for any trainer and for scoring tiles.

    Args:
        splits: the parts, one in memory at a time.
        output: the benchmark's folder.
        options: see there.
        prepared: takes what is written and left out.
        click_source: of simulated clicks, "mask" or "box".
        coarse: file and content of published clicks, for train_coarse.json instead of simulated
            ones. If they are on tiles, train.json gets these tiles too.
    """
    annotations, images = output / "annotations", output / "images"
    if options.cut and images.is_symlink():
        raise InputError(
            f"{images}: is a link, and tiles would be written behind it. Remove the link, or give"
            " another output."
        )
    seen: dict[str, Path] = {}
    for split in splits:
        if options.cut:
            _check_names(split, seen)
        prepared.write(annotations / "full" / f"{split.name}.json", split.dataset)
        parts = {split.name: split.dataset}
        if split.name == "train":
            if coarse is None:
                clicks = with_clicks(
                    split.dataset, annotations / "train.json", options, source=click_source
                )
            else:
                clicks = coarse[1]
                if is_tiled(clicks):
                    parts["train"] = without_points(clicks)
            parts["train_coarse"] = clicks
        for name, dataset in parts.items():
            tiles = _tiles(name, dataset, options)
            if options.cut:
                tiles, skipped = cut_tiles(
                    tiles,
                    split.images,
                    images,
                    image_format=options.image_format,
                    workers=options.workers,
                    skip_bad=options.skip_bad,
                    progress=lambda jobs, total: options.progress(
                        jobs, desc="cutting", total=total
                    ),
                )
                known = set(prepared.skipped)
                prepared.skipped += [problem for problem in skipped if problem not in known]
            prepared.write(annotations / f"{name}.json", tiles)


def _tiles(name: str, dataset: dict[str, Any], options: Options) -> dict[str, Any]:
    """The tiles of one of the files; a file of published clicks may be in tiles already."""
    if is_tiled(dataset):
        return dataset
    is_train = name.startswith("train")
    grid = ("official" if options.official else "even") if is_train else "official-test"
    return tile_dataset(
        dataset,
        tile=options.tile,
        overlap=options.overlap,
        grid=grid,
        copies=name != "train_coarse",
        drop_empty=is_train and options.drop_empty,
    )


def without_points(dataset: dict[str, Any]) -> dict[str, Any]:
    """A copy with boxes only."""
    annotations = [
        {key: value for key, value in annotation.items() if key != "point"}
        for annotation in dataset["annotations"]
    ]
    return {**dataset, "annotations": annotations}


def _check_names(split: Split, seen: dict[str, Path]) -> None:
    """Tiles of all splits lie in one folder, so their images need different names."""
    for image in split.dataset["images"]:
        other = seen.setdefault(image["file_name"], split.images)
        if other != split.images:
            raise InputError(
                f"{split.images / image['file_name']}: another image of this name is in {other}."
                " Rename one of them."
            )


def link_images(folders: dict[str, Path], output: Path) -> None:
    """Links `images`, or if the splits have different folders, `images/train` and so on."""
    if len({folder.resolve() for folder in folders.values()}) == 1:
        link_folder(next(iter(folders.values())), output / "images")
        return
    for split, folder in folders.items():
        link_folder(folder, output / "images" / split)
