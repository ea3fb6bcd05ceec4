"""Exported models over whole data sets. Imports neither torch nor Detectron2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cpr_deploy.files import InputError
from cpr_deploy.point_localizer import PointLocalizer

from .data.image_folder import read_recorded
from .data.point_json import check_image_root, image_path
from .evaluation.point_ap import evaluate_points

# Below it, differences of mAP between precisions are noise on most sets.
SMALL_LOSS = 0.005


def predict(
    localizer: PointLocalizer,
    records: Iterable[Mapping[str, Any]],
    folder: Path,
    category_ids: Sequence[int],
) -> list[dict]:
    """Detections of a localizer in images.

    Args:
        records: image records with id, file_name, width and height.
        folder: where the files are.
        category_ids: one per class of the model.

    Returns:
        {image_id, category_id, point [x, y], score} each, points in original px.
    """
    detections = []
    for record in records:
        result = localizer(read_recorded(folder, record)[:, :, ::-1])  # RGB to BGR
        for point, score, label in zip(result.points, result.scores, result.labels, strict=True):
            detections.append(
                {
                    "image_id": record["id"],
                    "category_id": category_ids[label],
                    "point": [float(value) for value in point],
                    "score": float(score),
                }
            )
    return detections


def check_images(dataset: Mapping[str, Any], folder: Path) -> None:
    """InputError if the folder or one of the images is missing, before the work begins."""
    check_image_root(folder)
    for record in dataset["images"]:
        image_path(folder, record)


def category_numbers(dataset: Mapping[str, Any]) -> dict[str, int]:
    """Category name -> id."""
    return {category["name"]: category["id"] for category in dataset["categories"]}


def match_classes(names: Sequence[str], ids: Mapping[str, int], source: Path) -> list[int]:
    """Category id of each of the model's classes; `ids` are those of `source`, by name."""
    unknown = [name for name in names if name not in ids]
    if unknown:
        raise InputError(
            f"{source}: has no category named {unknown[0]!r}, which the model predicts"
            f" (it has {', '.join(ids)}). Give annotations with the model's classes."
        )
    return [ids[name] for name in names]


def compare_precisions(
    models: Mapping[str, bytes | Path], dataset: Mapping[str, Any], source: Path, folder: Path
) -> dict[str, dict]:
    """mAP of several files of the same model on the same images: name -> metrics.

    Args:
        models: name -> ONNX file or its bytes.
        dataset: annotations with boxes, read from `source`; folder: its images.

    Returns:
        what `evaluate_points` returns, per model.
    """
    check_images(dataset, folder)
    results = {}
    for name, model in models.items():
        localizer = PointLocalizer(model)
        ids = match_classes(localizer.class_names, category_numbers(dataset), source)
        detections = predict(localizer, dataset["images"], folder, ids)
        results[name] = evaluate_points(dict(dataset), detections)
    return results


def precision_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """mAP at tau = 0.5 / 1 / 2 by object size, a row per model, in %; "-" without objects."""
    sizes = list(next(iter(results.values()))["AP"])
    lines = ["mAP, %".ljust(10) + "".join(size.rjust(22) for size in sizes)]
    for name, metrics in results.items():
        cells = (
            " / ".join("-" if v is None else f"{100 * v:.1f}" for v in metrics["AP"][size].values())
            for size in sizes
        )
        lines.append(name.ljust(10) + "".join(cell.rjust(22) for cell in cells))
    return "\n".join(lines)


def losses(reference: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """A line for each object size whose mAP (tau = 1) falls by more than SMALL_LOSS."""
    lines = []
    for size, values in reference["AP"].items():
        before, after = values.get("1.0"), other["AP"][size].get("1.0")
        if before is not None and after is not None and before - after > SMALL_LOSS:
            lines.append(f"{size}: mAP at tau = 1 falls from {before:.1%} to {after:.1%}")
    return lines
