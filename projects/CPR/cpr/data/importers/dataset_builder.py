"""From the records of a foreign file to a data set: what is checked whatever the format."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cpr_deploy.files import InputError, is_broken_text, name_problem, safe_child

from ..point_json import MAX_COORDINATE, MAX_ID, MAX_SIDE, MIN_BOX_SIDE, Problem, is_ignored
from .records import Category, Click, Image, finite

logger = logging.getLogger(__name__)

# The class of clicks that name none.
DEFAULT_CLASS = "object"


class DatasetBuilder:
    """Collects the records of a file, checks each, and makes a data set of them.

    Args:
        image_root: folder of the images, if there is one.
        images: file name -> record of the images that are known; empty: those of the file.
        classes: the names of the classes, if they are given.
        before: the original, if there is one.
    """

    def __init__(
        self,
        image_root: str | os.PathLike | None,
        images: dict[str, dict],
        classes: Sequence[str] | None,
        before: dict[str, Any] | None,
    ) -> None:
        self.clicks: list[Click] = []
        self._root = image_root
        self._images = images
        self._lists_images = image_root is None and before is None
        self._before = before
        self._classes = classes
        if before is not None:
            self._classes = [category["name"] for category in before["categories"]]
        self._class_set = set(self._classes or ())
        self._categories: dict[str, Category] = {}
        self._category_ids: set[int] = set()
        self._image_ids: dict[int | str, str] = {}
        self._listed: dict[str, Image] = {}
        self._bad_images: dict[str, str] = {}
        self._annotation_ids: dict[int, str] = {}
        # Each name is checked once: resolving links takes longer than all the rest.
        self._name_problems: dict[str, str | None] = {}
        self._similar = {name.rpartition("/")[2].lower(): name for name in images}
        self._earlier = {a["id"]: a for a in (before or {}).get("annotations", [])}
        self._earlier_images = {i["file_name"]: i for i in (before or {}).get("images", [])}

    def add(self, item: Click | Image | Category) -> Problem | None:
        """Takes a record; what is wrong with it if it cannot be used."""
        if isinstance(item, Click):
            text = self._click_problem(item)
            if text is None:
                self.clicks.append(item)
                if item.id is not None:
                    self._annotation_ids[item.id] = item.record
        elif isinstance(item, Image):
            text = self._image_problem(item)
        else:
            text = self._category_problem(item)
        return None if text is None else Problem(item.record, text)

    # --- images ---

    def _image_problem(self, item: Image) -> str | None:
        name = item.file_name
        if not isinstance(name, str) or not name:
            return f"the image's name {name!r:.60} is not a text. Correct it."
        listed = self._listed.setdefault(name, item)
        if listed is not item:
            text = f"the image {name!r} is listed twice, also by {listed.record}. Keep one of them."
        else:
            text = (
                (name_problem(name) if self._lists_images else None)
                or self._size_problem(item)
                or self._image_id_problem(item)
            )
        if text is not None:
            self._bad_images[name] = text
        elif self._lists_images and item.size is not None:
            width, height = item.size
            self._images[name] = {"file_name": name, "width": width, "height": height}
        return text

    def _size_problem(self, item: Image) -> str | None:
        if item.size is None:
            return None
        width, height = item.size
        if not _is_side(width) or not _is_side(height):
            return f"the size {width!r:.30} x {height!r:.30} is not one of an image, in px."
        image = self._images.get(item.file_name)
        if image is None or (width, height) == (image["width"], image["height"]):
            return None
        actual = (image["width"], image["height"])
        turned = " It is turned by its EXIF tag." if actual == (height, width) else ""
        return (
            f"the file says that {item.file_name!r} has {width} x {height} px, but it has"
            f" {actual[0]} x {actual[1]}.{turned} Use the image that was annotated."
        )

    def _image_id_problem(self, item: Image) -> str | None:
        # With an original, its ids count: other tools number images anew.
        if item.id is None or self._before is not None:
            return None
        if not _is_id(item.id, text_allowed=True):
            return f"the image id {item.id!r:.60} is not a whole number. Correct it."
        other = self._image_ids.setdefault(item.id, item.file_name)
        if other != item.file_name:
            return f"the image id {item.id!r:.60} is used twice, also by {other!r}. Correct it."
        return None

    def _name_problem(self, name: str) -> str | None:
        if name not in self._name_problems:
            self._name_problems[name] = self._look_up(name)
        return self._name_problems[name]

    def _look_up(self, name: str) -> str | None:
        if self._root is None:
            if name_problem(name):
                return f"image {name!r}: {name_problem(name)}"
        else:
            try:
                safe_child(self._root, name)
            except (InputError, OSError) as error:  # OSError: a name that is too long
                return f"image {name[:200]!r}: {error}"
        if name in self._images:
            return None
        if self._lists_images:
            return (
                f"image {name!r}: the file does not tell its size. Give the image folder"
                " (--image-root)."
            )
        where = (
            "among those of the original"
            if self._root is None
            else f"in the image folder {os.fspath(self._root)!r}"
        )
        text = f"image {name[:200]!r} is not {where}."
        similar = self._similar.get(name.rpartition("/")[2].lower())
        if similar:
            return f"{text} Did you mean {similar!r}?"
        return f"{text} Add the image, or correct the name or the folder."

    # --- classes ---

    def _category_problem(self, item: Category) -> str | None:
        name = item.name
        if not isinstance(name, str):
            return f"the name {name!r:.60} is not a text. Name the class."
        text = class_name_problem(name)
        if text:
            return text
        if name in self._categories:
            other = self._categories[name].record
            return f"the class {name!r} is there twice, also as {other}. Merge or rename them."
        if item.id is not None:
            if not _is_id(item.id):
                return f"the class id {item.id!r:.60} is not a whole number. Correct it."
            if item.id in self._category_ids:
                return f"the class id {item.id} is used twice. Give each class its own."
            self._category_ids.add(item.id)
        self._categories[name] = item
        return None

    # --- clicks ---

    def _click_problem(self, click: Click) -> str | None:
        if not isinstance(click.file_name, str) or not click.file_name:
            return f"the image's name {click.file_name!r:.60} is not a text. Correct it."
        if click.label is not None and not isinstance(click.label, str):
            return f"the class {click.label!r:.60} is not a text. Name it."
        text = self._bad_images.get(click.file_name) or self._name_problem(click.file_name)
        if text:
            return text
        image = self._images[click.file_name]
        return (
            _place_problem(click, image)
            or self._label_problem(click.label)
            or self._id_problem(click)
        )

    def _label_problem(self, label: str | None) -> str | None:
        name = DEFAULT_CLASS if label is None else label
        text = class_name_problem(name)
        if text or self._classes is None or name in self._class_set:
            return text
        similar = [c for c in self._classes if c.casefold() == name.casefold()]
        where = "--classes" if self._before is None else "the original's"
        hint = f"Did you mean {similar[0]!r}?" if similar else "Add or correct it."
        return f"the class {name!r} is not among {where} {','.join(self._classes)}. {hint}"

    def _id_problem(self, click: Click) -> str | None:
        if click.id is None:
            return None
        if not _is_id(click.id):
            return f"the annotation id {click.id!r:.60} is not a whole number. Correct it."
        if click.id in self._annotation_ids:
            return (
                f"the annotation id {click.id} is used twice, also by"
                f" {self._annotation_ids[click.id]}. Give every object its own, or none."
            )
        earlier = self._earlier.get(click.id)
        if earlier is not None:
            image = self._earlier_images.get(click.file_name)
            if image is None or image["id"] != earlier["image_id"]:
                return (
                    f"the annotation id {click.id} is one of another image in the original. Remove"
                    " the id."
                )
        return None

    # --- the data set ---

    def log_unused(self, path: Path) -> None:
        """Says how many images that the file lists are not part of the data set."""
        missing = [name for name in self._listed if name not in self._images]
        if missing:
            logger.warning(
                "%s: left out %d images that it lists, the first one %r: %s",
                path,
                len(missing),
                missing[0],
                "it does not tell their size" if self._lists_images else "there is no such file",
            )

    def log_unannotated(self, path: Path) -> None:
        """Says how many images are part of the data set, though nobody may have annotated them."""
        used = {click.file_name for click in self.clicks}
        unlisted, unfinished = [], []
        for name in self._images:
            listed = self._listed.get(name)
            if name not in used and name not in self._bad_images:
                if listed is None:
                    unlisted.append(name)
                elif not listed.is_annotated:
                    unfinished.append(name)
        if not self._listed:
            unlisted = []  # a table: where nothing was clicked, it has no line
        for names, what in (
            (unlisted, "images are not in it"),
            (unfinished, "images have no finished annotation"),
        ):
            if names:
                logger.warning(
                    "%s: %d %s, the first one %r; they count as free of objects. If they are not"
                    " annotated yet, leave them out (--annotated-only).",
                    path,
                    len(names),
                    what,
                    names[0],
                )

    def dataset(self, *, annotated_only: bool = False) -> dict[str, Any]:
        """The point JSON of all that was taken.

        annotated_only: without images that the file does not list, or says not to be annotated.
        """
        images = self._final_images(annotated_only)
        image_ids = {image["file_name"]: image["id"] for image in images}
        categories = self._final_categories()
        _warn_of_similar([category["name"] for category in categories])
        category_ids = {category["name"]: category["id"] for category in categories}
        # An id that was once given is never given to another object.
        unused = _unused_ids([*self._annotation_ids, *self._earlier])
        annotations = [
            self._annotation(
                click,
                id=next(unused) if click.id is None else click.id,
                image_id=image_ids[click.file_name],
                category_id=category_ids[_label(click)],
            )
            for click in self.clicks
        ]
        dataset = {"images": images, "categories": categories, "annotations": annotations}
        return {**(self._before or {}), **dataset}

    def _annotation(self, click: Click, **ids: Any) -> dict[str, Any]:
        annotation = dict(self._earlier.get(ids["id"], {}))
        # What the file says counts, also where it says nothing: no flag, no click.
        annotation.pop("point", None)
        if not is_ignored(click.extra):
            annotation.pop("ignore", None)
            annotation.pop("iscrowd", None)
        annotation |= {**ids, **click.extra}
        if click.point is not None:
            annotation["point"] = list(click.point)
        if click.bbox is not None:
            annotation["bbox"] = list(click.bbox)
        return annotation

    def _final_images(self, annotated_only: bool) -> list[dict[str, Any]]:
        ids = {name: image_id for image_id, name in self._image_ids.items()}
        ids |= {name: image["id"] for name, image in self._earlier_images.items()}
        unused = _unused_ids(i for i in ids.values() if isinstance(i, int))
        images = []
        used = {click.file_name for click in self.clicks}
        for name, image in self._images.items():
            if name in self._bad_images and name not in used:
                continue  # it may well hold objects, but which ones was not readable
            listed = self._listed.get(name)
            is_annotated = name in used or (listed is not None and listed.is_annotated)
            if annotated_only and not is_annotated:
                continue
            image_id = ids[name] if name in ids else next(unused)
            extra = {} if listed is None else listed.extra
            earlier = self._earlier_images.get(name, {})
            images.append({"id": image_id} | {**extra, **earlier, **image, "id": image_id})
        return images

    def _final_categories(self) -> list[dict[str, Any]]:
        if self._before is not None:
            return self._before["categories"]
        if self._classes is not None:
            return [{"id": n, "name": name} for n, name in enumerate(self._classes, start=1)]
        found = {_label(click) for click in self.clicks}
        names = [*self._categories, *sorted(found - set(self._categories))]
        unused = _unused_ids(self._category_ids)
        categories = []
        for name in names:
            listed = self._categories.get(name, Category("", name))
            number = next(unused) if listed.id is None else listed.id
            categories.append({**listed.extra, "id": number, "name": name})
        return categories


def _label(click: Click) -> str:
    return DEFAULT_CLASS if click.label is None else click.label


def _unused_ids(used: Iterable[int]) -> Iterator[int]:
    """Ids on from the largest one, or from 1 where that is near the largest that can be."""
    taken = set(used)
    number = max([0, *taken])
    if number > MAX_ID // 2:
        number = 0
    while True:
        number += 1
        if number not in taken:
            yield number


def _is_side(value: Any) -> bool:
    number = finite(value)
    return number is not None and number == int(number) and 0 < number <= MAX_SIDE


def _is_id(value: Any, text_allowed: bool = False) -> bool:
    if isinstance(value, str):
        return text_allowed and bool(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_ID


def _place_problem(click: Click, image: dict) -> str | None:
    """What is wrong with where an object is."""
    size = f"{click.file_name} of {image['width']} x {image['height']} px"
    see = "Correct it, and see --origin and --one-based."
    if click.point is None and click.bbox is None:
        return "has neither a point nor a box. Add one, or remove the record."
    if click.point is not None:
        x, y = click.point
        # Not so for NaN either.
        if not (abs(x) <= MAX_COORDINATE and abs(y) <= MAX_COORDINATE):
            return f"the point ({x:g}, {y:g}) is no pixel. Correct it."
        if not (0 <= x <= image["width"] and 0 <= y <= image["height"]):
            return f"the point ({x:g}, {y:g}) lies outside {size}. {see}"
    if click.bbox is not None:
        x, y, w, h = click.bbox
        if not all(abs(value) <= MAX_COORDINATE for value in click.bbox):
            return f"the box ({x:g}, {y:g}, {w:g}, {h:g}) is not one of pixels. Correct it."
        if min(w, h) < MIN_BOX_SIDE:
            return f"the box of {w:g} x {h:g} px is none. Draw it again, or remove it."
        if x >= image["width"] or y >= image["height"] or x + w <= 0 or y + h <= 0:
            return f"the box ({x:g}, {y:g}, {w:g}, {h:g}) lies outside {size}. {see}"
    return None


def class_name_problem(name: str) -> str | None:
    if not name:
        return "names no class. Write its name, or leave the column out for one class."
    if is_broken_text(name):
        return f"the class {name!r} holds characters that nothing can show. Rename it."
    return None


def _warn_of_similar(names: list[str]) -> None:
    spellings: dict[str, str] = {}
    for name in names:
        other = spellings.setdefault(name.casefold(), name)
        if other != name:
            logger.warning("the classes %r and %r differ in case only; are they one?", other, name)
