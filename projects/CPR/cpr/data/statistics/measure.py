"""How large the objects of a data set are, and how many: the paper's tables 6 and 7.

Of an object's box, w x h px in an image of W x H px (X. Yu et al., "Scale Match for Tiny Person
Detection", WACV 2020):

    absolute size   sqrt(w h), px
    relative size   sqrt(w h / (W H))
    aspect ratio    w / h

Means and standard deviations are over all objects of a part; the deviation is that of the
population (divided by N). Regions (`ignore`, `iscrowd`) are counted, but are no objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..point_json import is_ignored

# Of a box; in the order of table 7.
QUANTITIES = ("absolute_size", "relative_size", "aspect_ratio")


class Measures(NamedTuple):
    """What the statistics of a part are made of; of the N objects, M images.

    labels (N,) int64: category ids. images (N,) int64: places of the objects' images. boxes (N, 2):
    width and height px, NaN without a box. sizes (M, 2): width and height of the images. positions
    (N, 2): where objects are in their image, x / W and y / H: their point, else the centre of their
    box; NaN without both. has_point (N,) bool. regions: how many of them, per category id.
    """

    labels: np.ndarray
    images: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    positions: np.ndarray
    has_point: np.ndarray
    regions: Counter

    @property
    def per_image(self) -> np.ndarray:
        """(M,) int64 objects of each image."""
        return np.bincount(self.images, minlength=len(self.sizes))

    def quantity(self, name: str) -> np.ndarray:
        """(N,) of one of QUANTITIES, NaN without a box."""
        width, height = self.boxes.T
        if name == "aspect_ratio":
            return width / height
        size = np.sqrt(width * height)
        if name == "absolute_size":
            return size
        if name == "relative_size":
            return size / np.sqrt(self.sizes.prod(1))[self.images]
        raise ValueError(f"{name!r} is none of {', '.join(QUANTITIES)}")


def measure(dataset: dict[str, Any]) -> Measures:
    """The measures of a valid point JSON."""
    places = {image["id"]: place for place, image in enumerate(dataset["images"])}
    sizes = np.array([(i["width"], i["height"]) for i in dataset["images"]], dtype=np.float64)
    objects = [a for a in dataset["annotations"] if not is_ignored(a)]
    images = np.array([places[a["image_id"]] for a in objects], dtype=np.int64)
    nothing = (np.nan,) * 4
    boxes = np.array([a.get("bbox") or nothing for a in objects], dtype=np.float64).reshape(-1, 4)
    points = np.array(
        [a["point"] if a.get("point") is not None else nothing[:2] for a in objects],
        dtype=np.float64,
    ).reshape(-1, 2)
    has_point = ~np.isnan(points).any(1)
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    return Measures(
        labels=np.array([a["category_id"] for a in objects], dtype=np.int64),
        images=images,
        boxes=boxes[:, 2:],
        sizes=sizes.reshape(-1, 2),
        positions=np.where(has_point[:, None], points, centres) / sizes.reshape(-1, 2)[images],
        has_point=has_point,
        regions=Counter(a["category_id"] for a in dataset["annotations"] if is_ignored(a)),
    )


def joined(parts: Iterable[Measures]) -> Measures:
    """The measures of all parts together; an image in two parts counts twice."""
    parts = list(parts)
    starts = np.cumsum([0, *(len(part.sizes) for part in parts)])
    moved = [part._replace(images=part.images + n) for part, n in zip(parts, starts, strict=False)]
    arrays = [np.concatenate(values) for values in zip(*(p[:-1] for p in moved), strict=True)]
    return Measures(*arrays, regions=sum((part.regions for part in parts), Counter()))


def spread(values: np.ndarray) -> dict[str, float] | None:
    """count, mean, std (of the population), min, median, max of what is not NaN; None: nothing."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "median": float(np.median(values)),
        "max": float(values.max()),
    }


def statistics(parts: Mapping[str, Measures], categories: list[dict]) -> dict[str, Any]:
    """The statistics of each part of a data set, and of all together.

    Args:
        parts: measures by the name of the part.
        categories: those of the point JSONs.

    Returns:
        {"parts": {name: entry}, "all": entry}. An entry: images, images_without_objects,
        annotations (objects), regions, with_point, with_box, objects_per_image and QUANTITIES (see
        `spread`; None: no object has a box), and per_class: by name annotations, regions, images
        that show it, and QUANTITIES.
    """
    return {
        "parts": {name: _entry(part, categories) for name, part in parts.items()},
        "all": _entry(joined(parts.values()), categories),
    }


def _entry(part: Measures, categories: list[dict]) -> dict[str, Any]:
    quantities = {name: part.quantity(name) for name in QUANTITIES}
    per_class = {}
    for category in categories:
        chosen = part.labels == category["id"]
        per_class[category["name"]] = {
            "annotations": int(chosen.sum()),
            "regions": part.regions[category["id"]],
            "images": len(np.unique(part.images[chosen])),
            **{name: spread(values[chosen]) for name, values in quantities.items()},
        }
    return {
        "images": len(part.sizes),
        "images_without_objects": int((part.per_image == 0).sum()),
        "annotations": len(part.labels),
        "regions": part.regions.total(),
        "with_point": int(part.has_point.sum()),
        "with_box": int((~np.isnan(part.boxes).any(1)).sum()),
        "objects_per_image": spread(part.per_image.astype(np.float64)),
        **{name: spread(values) for name, values in quantities.items()},
        "per_class": per_class,
    }


def markdown_tables(result: dict[str, Any]) -> str:
    """The statistics as tables: of the parts, and of the classes if there are several."""
    entries = dict(result["parts"])
    if len(entries) > 1:
        entries["all"] = result["all"]
    lines = [
        "| part | images | annotations | regions | per image | absolute size px | relative size"
        " | aspect ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, entry in entries.items():
        counts = f"{entry['images']:,} | {entry['annotations']:,} | {entry['regions']:,}"
        each = _mean_and_std(entry["objects_per_image"], 1)
        lines.append(f"| {_cell(name)} | {counts} | {each} | {_sizes(entry)} |")
    classes = result["all"]["per_class"]
    if len(classes) > 1:
        names = list(result["parts"])
        lines += [
            "",
            f"| class | {' | '.join(f'in {_cell(name)}' for name in names)} | regions"
            " | absolute size px | relative size | aspect ratio |",
            "|---|" + "---:|" * (len(names) + 4),
        ]
        # The most frequent first, as far as that is known.
        for name, entry in sorted(classes.items(), key=lambda item: -item[1]["annotations"]):
            counts = [
                f"{result['parts'][part]['per_class'][name]['annotations']:,}" for part in names
            ]
            lines.append(
                f"| {_cell(name)} | {' | '.join(counts)} | {entry['regions']:,} | {_sizes(entry)} |"
            )
    return "\n".join(lines) + "\n"


def _sizes(entry: dict[str, Any]) -> str:
    digits = {"absolute_size": 1, "relative_size": 4, "aspect_ratio": 3}
    return " | ".join(_mean_and_std(entry[name], digits[name]) for name in QUANTITIES)


def _mean_and_std(values: dict[str, float] | None, digits: int) -> str:
    if values is None:
        return "n/a"
    return f"{values['mean']:.{digits}f} ± {values['std']:.{digits}f}"


def _cell(text: str) -> str:
    """Text that neither ends a cell of a table nor becomes HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")
