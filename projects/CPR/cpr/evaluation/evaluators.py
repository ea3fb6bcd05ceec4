"""Detectron2's evaluators for points: mAP for localizers, RSV for refinement."""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from cpr_deploy.files import InputError, write_json

from ..architectures import is_box_detector
from ..data.datasets import load_dataset
from ..data.point_json import is_ignored, save_points
from ..data.refined_points import apply_refinement
from .box_ap import evaluate_boxes, format_box_table
from .point_ap import evaluate_points, format_table
from .semantic_variance import rsv

logger = logging.getLogger(__name__)

NAN = math.nan


def detections_of(image_id: int, instances, category_ids: list[int]) -> list[dict]:
    """A localizer's output for an image as entries of the detections JSON.

    Args:
        image_id: original id of the image.
        instances: Instances with scores, pred_classes and, in original px, pred_points (n, 2) or
            pred_boxes (n, 4), x1 y1 x2 y2, whose centres are the points. Detectron2's detectors
            clip their boxes to the image: there the centre is that of the visible part.
        category_ids: original id of each contiguous class.

    Returns:
        [{"image_id", "category_id", "point": [x, y] original px, "score"}], plain numbers; of a box
        detector each has its "bbox" [x, y, w, h] too.
    """
    if instances.has("pred_points"):
        points = instances.pred_points.double()
        boxes = [{}] * len(points)
    else:
        corners = instances.pred_boxes.tensor.double()
        points = (corners[:, :2] + corners[:, 2:]) / 2
        sides = corners[:, 2:] - corners[:, :2]
        boxes = [
            {"bbox": [*corner, *side]}
            for corner, side in zip(corners[:, :2].tolist(), sides.tolist(), strict=True)
        ]
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "point": point,
            **box,
            "score": score,
        }
        for point, box, score, label in zip(
            points.cpu().tolist(),
            boxes,
            instances.scores.double().cpu().tolist(),
            instances.pred_classes.cpu().tolist(),
            strict=True,
        )
    ]


def refinements_of(instances, *, semantic_points: bool = False) -> list[dict]:
    """CPRNet's output for an image as plain records.

    Returns:
        a dict per object: "id", "coarse_point" and "point" (x, y; original px), "score", "refined",
        "moved" (distance from the click over R), "kept_by" [inside the image, I, II, III] and
        "kept" (numbers of bag points), "bag_radius" (how far its bag reaches, original px); with
        several classes "own_score", "other_label" (contiguous), "other_score" (see
        `refinement.class_evidence`); with `semantic_points` also those, (S, 2) original px.
    """
    fields = {
        "id": instances.gt_ids,
        "coarse_point": instances.coarse_points,
        "point": instances.refined_points,
        "score": instances.refine_scores,
        "refined": instances.refined,
        "moved": instances.moved,
        "kept_by": instances.kept_by,
        "kept": instances.kept.sum(dim=1),
        "bag_radius": _reach(instances),
    }
    if instances.has("own_scores"):
        fields |= {
            "own_score": instances.own_scores,
            "other_label": instances.other_labels,
            "other_score": instances.other_scores,
        }
    columns = {key: value.cpu().tolist() for key, value in fields.items()}
    records = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    if semantic_points:
        bags, kept = instances.bag_points.cpu().numpy(), instances.kept.cpu().numpy()
        for record, bag, mask in zip(records, bags, kept, strict=True):
            record["semantic_points"] = bag[mask]
    return records


def _reach(instances):
    """(N,) distance from each click to the farthest point of its bag."""
    offsets = instances.bag_points - instances.coarse_points[:, None]
    return offsets.norm(dim=2).amax(dim=1)


def refinement_metrics(dataset: dict, records: list[dict]) -> dict[str, float]:
    """What the refinement did, over all `records` of a refiner, such as those of `refinements_of`.

    Returns:
        objects: number of them,
        refined: % that moved off their click, score: their mean score, moved: their mean distance
            from it, over R (NaN for a refiner without bags),
        refined-<class>, moved-<class>: the same for each class that has objects,
        kept_I, kept_II, kept_III, kept: % of the bag points inside their image that pass each
            constraint by itself, and all of them; NaN for a refiner without bags,
        and where boxes exist, for the clicks (_coarse) and the refined points (_refined):
        rsv (Eq. 15), inside: % of points inside their box, distance: mean point-box distance
            (Eq. 12). NaN without boxes.
    """
    boxes = {a["id"]: a["bbox"] for a in dataset["annotations"] if a.get("bbox") is not None}
    refined = [record for record in records if record["refined"]]
    metrics: dict[str, float] = {
        "objects": float(len(records)),
        "refined": _percent(len(refined), len(records)),
        "score": float(np.mean([r["score"] for r in refined])) if refined else NAN,
        "moved": _mean_moved(refined),
    }
    bags = [record for record in records if "kept_by" in record]
    valid, one, two, three = np.sum([r["kept_by"] for r in bags] or np.zeros((1, 4)), axis=0)
    for name, count in (("I", one), ("II", two), ("III", three)):
        metrics[f"kept_{name}"] = _percent(count, valid)
    metrics["kept"] = _percent(sum(record["kept"] for record in bags), valid)

    class_of = {a["id"]: a["category_id"] for a in dataset["annotations"]}
    by_class = defaultdict(list)
    for record in records:
        by_class[class_of.get(record["id"])].append(record)
    for category in dataset["categories"]:
        if own := by_class[category["id"]]:
            moved = [record for record in own if record["refined"]]
            metrics[f"refined-{category['name']}"] = _percent(len(moved), len(own))
            metrics[f"moved-{category['name']}"] = _mean_moved(moved)

    with_box = [record for record in records if record["id"] in boxes]
    for suffix, key in (("coarse", "coarse_point"), ("refined", "point")):
        summary = {}
        if with_box:
            summary = rsv(
                np.array([record[key] for record in with_box], dtype=np.float64),
                np.array([boxes[record["id"]] for record in with_box], dtype=np.float64),
            )
        metrics[f"rsv_{suffix}"] = _number(summary.get("rsv"))
        metrics[f"inside_{suffix}"] = 100 * _number(summary.get("inside"))
        metrics[f"distance_{suffix}"] = _number(summary.get("mean_distance"))
    return metrics


class _GatheringEvaluator(DatasetEvaluator):
    """Collects records per image on every process, evaluates them on the main one."""

    def __init__(
        self, cfg: CfgNode, dataset_name: str, *, output_dir: str | os.PathLike | None = None
    ) -> None:
        self.settings = cfg.TEST.POINTS
        self.metadata = MetadataCatalog.get(dataset_name)
        self.output_dir = None if output_dir is None else Path(output_dir)
        self._records: list[dict] = []

    def reset(self) -> None:
        self._records = []

    def evaluate(self) -> dict | None:
        """Results of the main process, None on the others."""
        gathered = comm.gather(self._records)
        if not comm.is_main_process():
            return None
        return self._evaluate(list(itertools.chain.from_iterable(gathered)))


class PointEvaluator(_GatheringEvaluator):
    """mAP of predicted points at the distances tau of TEST.POINTS.

    Writes detections.json and metrics.json (formats: the project's README) to `output_dir`.
    `evaluate` returns {"points": {"AP@0.5", ..., "AP@0.5/small", ..., "AP@0.5-<class>", ...}} in %.
    With TEST.BOX_AP also {"bbox": `box_ap.evaluate_boxes`}, written to box_metrics.json, of the
    TEST.DETECTIONS_PER_IMAGE best boxes of an image and class.
    """

    def __init__(
        self, cfg: CfgNode, dataset_name: str, *, output_dir: str | os.PathLike | None = None
    ) -> None:
        super().__init__(cfg, dataset_name, output_dir=output_dir)
        self.box_dets = cfg.TEST.DETECTIONS_PER_IMAGE if cfg.TEST.BOX_AP else None

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for one, output in zip(inputs, outputs, strict=True):
            self._records += detections_of(
                one["image_id"], output["instances"], self.metadata.category_ids
            )

    def _evaluate(self, detections: list[dict]) -> dict:
        dataset = load_dataset(self.metadata.json_file)
        if self.output_dir is not None:
            write_json(self.output_dir / "detections.json", detections)
        objects = [a for a in dataset["annotations"] if not is_ignored(a)]
        if not any(a.get("bbox") is not None for a in objects):
            logger.warning(
                "%s has no boxes, so there is no mAP; use tools/evaluate_points.py --radius",
                self.metadata.json_file,
            )
            return {"points": {"detections": float(len(detections))}}
        metrics = evaluate_points(dataset, detections, **point_settings(self.settings))
        if self.output_dir is not None:
            write_json(self.output_dir / "metrics.json", metrics, indent=1)
        logger.info("Point localization:\n%s", format_table(metrics))
        results = {"points": flatten_metrics(metrics)}
        if self.box_dets is not None:
            results["bbox"] = evaluate_boxes(dataset, detections, max_dets=self.box_dets)
            if self.output_dir is not None:
                finite = {key: v for key, v in results["bbox"].items() if v == v}
                write_json(self.output_dir / "box_metrics.json", finite, indent=1)
            logger.info("Boxes: %s", format_box_table(results["bbox"]))
        return results


def point_settings(node: CfgNode) -> dict:
    """TEST.POINTS as the settings of `evaluate_points`."""
    return {
        "taus": node.TAUS,
        "size_ranges": node.SIZE_RANGES,
        "max_dets": node.MAX_DETS,
        "ap": node.AP,
        "paper_ignore": node.PAPER_IGNORE,
        "box_centre": node.BOX_CENTRE,
        "several_boxes": node.SEVERAL_BOXES,
        "absent_classes": node.ABSENT_CLASSES,
    }


def check_point_settings(node: CfgNode) -> None:
    """InputError if TEST.POINTS would stop the evaluation, which comes after the training."""
    nothing: dict = {"images": [], "annotations": [], "categories": []}
    try:
        evaluate_points(nothing, [], **point_settings(node))
    except InputError as error:
        raise InputError(f"TEST.POINTS: {error}") from None


def check_box_settings(cfg: CfgNode) -> None:
    """InputError if TEST.BOX_AP asks for the boxes of a network that predicts points."""
    if cfg.TEST.BOX_AP and not is_box_detector(cfg):
        raise InputError(
            f"TEST.BOX_AP is True, but {cfg.MODEL.META_ARCHITECTURE} predicts points. Set"
            " TEST.BOX_AP False."
        )


def flatten_metrics(metrics: dict) -> dict[str, float]:
    """metrics.json as {"AP@<tau>", "AP@<tau>/<size>", "AP@<tau>-<class>"} in %; NaN: no object."""
    flat = {}
    for size, by_tau in metrics["AP"].items():
        suffix = "" if size == "all" else f"/{size}"
        flat.update({f"AP@{tau}{suffix}": 100 * _number(ap) for tau, ap in by_tau.items()})
    for name, values in metrics["per_class"].items():
        by_tau = values["AP"]["all"]
        flat.update({f"AP@{tau}-{name}": 100 * _number(ap) for tau, ap in by_tau.items()})
    return flat


class RefinementEvaluator(_GatheringEvaluator):
    """What CPRNet's refinement does to the given clicks: RSV and point-box distance, never mAP.

    Writes refined.json (point JSON) and refinement.json (the figures) to `output_dir`. `evaluate`
    returns {"refinement": `refinement_metrics`}.
    """

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for output in outputs:
            self._records += refinements_of(output["instances"])

    def _evaluate(self, records: list[dict]) -> dict:
        dataset = load_dataset(self.metadata.json_file)
        metrics = refinement_metrics(dataset, records)
        if self.output_dir is not None:
            save_points(self.output_dir / "refined.json", apply_refinement(dataset, records))
            finite = {key: value for key, value in metrics.items() if value == value}
            write_json(self.output_dir / "refinement.json", finite, indent=1)
        logger.info("Refinement:\n%s", format_refinement(metrics))
        return {"refinement": metrics}


def format_refinement(metrics: dict[str, float]) -> str:
    """A table of `refinement_metrics` for people."""
    lines = [f"{metrics['objects']:.0f} objects, {metrics['refined']:.1f} % refined"]
    if metrics["score"] == metrics["score"]:
        lines[0] += f" (mean score {metrics['score']:.3f})"
    if metrics["moved"] == metrics["moved"]:
        lines[0] += f", by {metrics['moved']:.2f} R on average"
    if metrics["kept"] == metrics["kept"]:
        lines.append(
            f"bag points kept by constraint I {metrics['kept_I']:.1f} %,"
            f" II {metrics['kept_II']:.1f} %, III {metrics['kept_III']:.1f} %,"
            f" all {metrics['kept']:.1f} %"
        )
    if metrics["rsv_coarse"] == metrics["rsv_coarse"]:
        lines.append(f"{'':10}{'RSV':>10}{'inside box':>12}{'distance':>10}")
        for name in ("coarse", "refined"):
            lines.append(
                f"{name:10}{metrics[f'rsv_{name}']:10.4f}{metrics[f'inside_{name}']:10.1f} %"
                f"{metrics[f'distance_{name}']:10.4f}"
            )
    else:
        lines.append("no boxes, so no RSV")
    return "\n".join(lines)


def _mean_moved(refined: list[dict]) -> float:
    distances = [record["moved"] for record in refined if "moved" in record]
    return float(np.mean(distances)) if distances else NAN


def _percent(part: float, whole: float) -> float:
    return 100.0 * float(part) / float(whole) if whole else NAN


def _number(value: float | None) -> float:
    return NAN if value is None else float(value)
