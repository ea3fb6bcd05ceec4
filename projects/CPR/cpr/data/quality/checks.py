"""What is wrong with a data set, record by record (`tools/prepare_points.py check`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cpr_deploy.files import InputError, name_problem

from ..dataset_files import record_place
from ..point_json import Problem, Require, check_image_root, find_problems, is_ignored
from .image_facts import ImageFacts, inspect_images
from .same_place import double_clicks, repeats

# Every rule and what it is about; `find_problems` and `cpr.data.quality.leaks` have some of them.
RULES = {
    "structure": "the file is no data set of images, annotations and categories",
    "empty": "no images, classes or objects",
    "id": "an id that is none, or is there twice",
    "class-name": "a class without a name, or with the name of another",
    "file-name": "no file name, or one that leads out of the folder",
    "size": "no width and height in px",
    "image-id": "an object of no image",
    "class-id": "an object of no class",
    "flag": "ignore, iscrowd or refined is not 0 or 1",
    "box": "a box that is none",
    "point": "a point that is none",
    "coarse-point": "a click before refinement that is none",
    "refine-score": "a score that is no number",
    "no-position": "no point, or no box where one is needed",
    "out-of-image": "a point outside its image",
    "box-outside": "a box outside its image",
    "box-over-border": "a box that reaches out of its image",
    "same-place": "an object at the place of another of its class",
    "other-class": "an object at the place of one of another class",
    "double-click": "two objects that seem to be one",
    "image-twice": "an image, or a tile of one, that is listed twice",
    "unreadable-image": "an image that is missing or damaged",
    "image-size": "an image of another size than the file says",
    "class-without-objects": "a class without objects",
    "leak-file": "an image of both parts",
    "leak-sequence": "a sequence with images in both parts",
    "leak-near-duplicate": "an image that looks like one of the other part",
}
# Objects with one of these cannot be placed.
UNPLACED = {"image-id", "class-id", "flag", "box", "point"}


class Objects(NamedTuple):
    """The annotations that have a place, in arrays of one row each.

    Attributes:
        index: (N,) their places in the list of annotations.
        images, classes: (N,) int64 places in the lists of images and of categories.
        points: (N, 2) x, y in px, the centre of the box where there is no point.
        boxes: (N, 4) x, y, w, h in px, NaN where there is no box.
        regions: (N,) bool: regions instead of objects.
    """

    index: np.ndarray
    images: np.ndarray
    classes: np.ndarray
    points: np.ndarray
    boxes: np.ndarray
    regions: np.ndarray

    def take(self, rows: np.ndarray) -> Objects:
        """Some of them, by mask or rows."""
        return Objects(*(array[rows] for array in self))


def check_dataset(
    dataset: Any,
    image_root: str | os.PathLike | None = None,
    *,
    require: Require = "any",
    same_place: float = 0.5,
    double_click: float | None = None,
    facts: dict[str, ImageFacts] | None = None,
    hashes: bool = False,
    resume: bool = False,
    progress: Callable[..., Iterable] = lambda iterable, total: iterable,
) -> list[Problem]:
    """All problems of a parsed point JSON, and of its images if `image_root` is given.

    Args:
        dataset: the parsed JSON, of any shape.
        image_root: the folder of the images; None leaves them unread.
        require: what every object must have, see `cpr.data.point_json.load_points`.
        same_place: two objects of an image that are at most this far apart (px) are reported.
        double_click: two clicks of a class and image that are nearer than this (px) are reported;
            None: nearer than fits the class and the place, see `cpr.data.quality.same_place`.
        facts: what is known of images, by file name; others are read and added.
        hashes: images that are read are hashed too, for `cpr.data.quality.leaks`.
        resume: do not read again what an earlier pass has found good, see `cpr.data.file_notes`.
        progress: wraps the iterable of images, for example tqdm; called with `total`.

    Returns:
        Problems, each of one of `RULES`; `is_error` is False for what may well be meant, such as a
        class without objects.

    Raises:
        InputError: no such image folder, or `same_place` or `double_click` is no distance.
    """
    for name, distance in (("same_place", same_place), ("double_click", double_click)):
        if distance is not None and not distance >= 0:
            raise InputError(f"{name} {distance}: give a distance of 0 px or more.")
    if image_root is not None:
        check_image_root(image_root)
    problems = list(find_problems(dataset, require=require))
    if any(problem.rule == "structure" for problem in problems):
        return problems
    objects = placed_objects(dataset, problems)
    problems.extend(_boxes_outside(dataset, objects))
    problems.extend(_same_place(dataset, objects.take(~objects.regions), same_place, double_click))
    problems.extend(_images_twice(dataset["images"]))
    if image_root is not None:
        usable = usable_images(dataset["images"])
        facts = {} if facts is None else facts
        names = [i["file_name"] for i in usable if i["file_name"] not in facts]
        facts |= inspect_images(image_root, names, hashes=hashes, resume=resume, progress=progress)
        problems.extend(_image_problems(usable, facts))
    return problems


def images_without_objects(dataset: dict[str, Any]) -> int:
    """How many images of a data set, of any shape, hold no object, or regions only."""
    lists = (dataset.get("images"), dataset.get("annotations"))
    images, annotations = (
        [record for record in records if isinstance(record, dict)]
        if isinstance(records, list)
        else []
        for records in lists
    )
    # Text, because whatever stands in the file may not be hashable.
    used = {repr(a.get("image_id")) for a in annotations if not is_ignored(a)}
    return sum(repr(image.get("id")) not in used for image in images)


def usable_images(images: list[dict]) -> list[dict]:
    """Image records that name a file inside the folder; what is wrong with the others is said."""
    return [
        image
        for image in images
        if "id" in image
        and isinstance(image.get("file_name"), str)
        and not name_problem(image["file_name"])
    ]


def placed_objects(dataset: dict[str, Any], problems: Iterable[Problem]) -> Objects:
    """The annotations that have a place.

    Args:
        dataset: a COCO-like dict.
        problems: what `find_problems` says of it: records that cannot be placed are left out.
    """
    without = set()
    for problem in problems:
        if problem.rule in UNPLACED:
            without.add(record_place(problem))
    images, categories = (
        {r["id"]: n for n, r in enumerate(dataset[key]) if isinstance(r.get("id"), (int, str))}
        for key in ("images", "categories")
    )
    rows = [
        (
            n,
            images[a["image_id"]],
            categories[a["category_id"]],
            a.get("point"),
            a.get("bbox"),
            is_ignored(a),
        )
        for n, a in enumerate(dataset["annotations"])
        if (not without or ("annotation", n) not in without)
        and (a.get("point") is not None or a.get("bbox") is not None)
    ]
    index, image, category, points, boxes, regions = zip(*rows, strict=True) if rows else [()] * 6
    boxes = np.array([(np.nan,) * 4 if b is None else b for b in boxes], float).reshape(-1, 4)
    points = np.array([(np.nan,) * 2 if p is None else p for p in points], float).reshape(-1, 2)
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    return Objects(
        np.array(index, np.int64),
        np.array(image, np.int64),
        np.array(category, np.int64),
        np.where(np.isnan(points), centres, points),
        boxes,
        np.array(regions, bool),
    )


def boxes_outside(dataset: dict[str, Any], objects: Objects) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool each: boxes that lie outside their image, and others that reach out of it.

    COCO rounds corners, so up to a pixel over the border is usual and does not count.
    """
    sizes = np.array([_size(image) for image in dataset["images"]], float).reshape(-1, 2)
    size = sizes[objects.images]
    low, high = objects.boxes[:, :2], objects.boxes[:, :2] + objects.boxes[:, 2:]
    # Comparisons with NaN, of what has no box or no size, are False.
    outside = ((low >= size) | (high <= 0)).any(1)
    return outside, ((low < -1) | (high > size + 1)).any(1) & ~outside


def _size(image: dict[str, Any]) -> tuple[float, float]:
    sides = image.get("width"), image.get("height")
    usable = all(isinstance(s, (int, float)) and not isinstance(s, bool) for s in sides)
    # A whole number in JSON may be too long for a float.
    return tuple(map(float, sides)) if usable and max(map(abs, sides)) < 1e9 else (np.nan, np.nan)


def _boxes_outside(dataset: dict[str, Any], objects: Objects) -> Iterator[Problem]:
    outside, over = boxes_outside(dataset, objects)
    for row in np.flatnonzero(outside | over).tolist():
        annotation = dataset["annotations"][objects.index[row]]
        text = f"bbox {annotation['bbox']!r} "
        if outside[row]:
            text += "lies outside its image. Correct it."
            yield Problem(_name(annotation), text, rule="box-outside")
        else:
            text += "reaches out of its image by more than 1 px."
            yield Problem(_name(annotation), text, is_error=False, rule="box-over-border")


def _same_place(
    dataset: dict[str, Any], objects: Objects, distance: float, double_click: float | None
) -> Iterator[Problem]:
    annotations = dataset["annotations"]
    groups = objects.images * max(1, len(dataset["categories"])) + objects.classes
    first = repeats(groups, objects.points, objects.boxes, distance)
    is_first = first == np.arange(len(first))
    for row in np.flatnonzero(~is_first).tolist():
        second, other = annotations[objects.index[row]], annotations[objects.index[first[row]]]
        yield Problem(
            _name(second),
            "is at the same place as another object of its class, annotation id"
            f" {other.get('id')!r} of image {other['image_id']!r}. Remove one.",
            rule="same-place",
        )
    # Only once of each place: what is left at a place of another is of another class.
    left = objects.take(is_first)
    if len(dataset["categories"]) > 1:
        first = repeats(left.images, left.points, left.boxes, distance)
    else:
        first = np.arange(len(left.index))
    for row in np.flatnonzero(first != np.arange(len(first))).tolist():
        second, other = annotations[left.index[row]], annotations[left.index[first[row]]]
        yield Problem(
            _name(second),
            "is at the same place as an object of another class"
            f" ({other['category_id']!r} and {second['category_id']!r}), annotation id"
            f" {other.get('id')!r} of image {other['image_id']!r}. Remove one.",
            rule="other-class",
        )
    pairs, distances = double_clicks(
        groups[is_first], left.classes, left.points, left.boxes, double_click
    )
    for (i, j), apart in zip(pairs.tolist(), distances.tolist(), strict=True):
        second, other = annotations[left.index[j]], annotations[left.index[i]]
        yield Problem(
            _name(second),
            f"may be the same object as annotation id {other.get('id')!r} of image"
            f" {other['image_id']!r}, {apart:.1f} px away. Look at both.",
            is_error=False,
            rule="double-click",
        )


def _name(annotation: dict[str, Any]) -> str:
    return f"annotation id {annotation.get('id')!r}"


def _images_twice(images: list[dict]) -> Iterator[Problem]:
    seen: dict[tuple[str, str], Any] = {}
    for image in images:
        # Text, because whatever stands in the file may not be hashable.
        key = repr(image.get("file_name")), repr(image.get("corner"))
        other = seen.setdefault(key, image)
        if other is not image:
            text = f"{image.get('file_name')!r} is image id {other.get('id')!r} too."
            yield Problem(
                f"image id {image.get('id')!r}",
                f"{text} Keep one, with the objects of both.",
                is_error=False,
                rule="image-twice",
            )


def _image_problems(images: list[dict], facts: Mapping[str, ImageFacts]) -> Iterator[Problem]:
    for image in images:
        record = f"image id {image['id']!r}"
        width, height, problem, *_ = facts[image["file_name"]]
        if problem is not None:
            yield Problem(record, problem, rule="unreadable-image")
            continue
        if not has_other_size(image, facts[image["file_name"]]):
            continue
        text = f"{image['file_name']} is {width} x {height} px, "
        if image.get("corner") is None:
            text += f"the JSON says {image.get('width')!r} x {image.get('height')!r}."
            yield Problem(record, f"{text} Correct the JSON or the file.", rule="image-size")
        else:
            text += f"its tile {image['corner']!r} reaches out."
            yield Problem(record, text, rule="image-size")


def has_other_size(image: dict[str, Any], fact: ImageFacts) -> bool:
    """Whether a file that can be read has another size than its image record says."""
    if fact.problem is not None:
        return False
    if image.get("corner") is not None:
        return not _holds_tile(image["corner"], fact.width, fact.height)
    return (fact.width, fact.height) != (image.get("width"), image.get("height"))


def _holds_tile(corner: Any, width: int, height: int) -> bool:
    try:
        left, top, right, bottom = corner
        return 0 <= left < right <= width and 0 <= top < bottom <= height
    except (TypeError, ValueError):
        return False
