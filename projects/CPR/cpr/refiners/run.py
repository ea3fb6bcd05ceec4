"""A refiner over a whole data set; used by the tool and by experiments."""

from __future__ import annotations

import os
from collections.abc import Iterable

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from cpr_deploy.files import InputError

from ..data.datasets import ensure_registered, load_dataset, make_spec, to_dataset_dicts
from ..data.point_json import check_image_root, load_points
from ..data.refined_points import apply_refinement
from ..engine import build_cfg, check_classes
from ..evaluation.evaluators import refinement_metrics
from .registry import get_refiner


def refine_dataset(
    refiner: str,
    annotations: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    config_file: str | os.PathLike | None = None,
    weights: str | os.PathLike | None = None,
    opts: list[str] | tuple[str, ...] = (),
    semantic_points: bool = False,
) -> tuple[dict, dict[str, float]]:
    """Moves the clicks of a data set.

    Args:
        refiner: a registered name.
        annotations: point JSON with clicks.
        image_root: folder of its images.
        config_file, opts: config as for `engine.build_cfg`, with the refiner's own keys.
        weights: checkpoint of the trained network.
        semantic_points: also keep the points that each refined one is the mean of.

    Returns:
        the point JSON with refined points (`apply_refinement`), and the figures
        (`refinement_metrics`).

    Raises:
        InputError: no such refiner, config or weights missing or not for it, bad data.
    """
    refiner_class = get_refiner(refiner)
    if refiner_class.needs_network and not (config_file and weights):
        raise InputError(
            f"refiner {refiner!r}: needs a trained network. Give its --config-file and --weights."
        )
    cfg = build_cfg(config_file or "", opts, extend=refiner_class.add_config)
    # Before the network is built: classes that do not fit are plainer to read than shapes.
    images, classes = _clicked_images(cfg, annotations, image_root, refiner_class.needs_network)
    dataset = load_dataset(annotations)
    built = refiner_class(cfg, weights or "", semantic_points=semantic_points)
    check_classes(built.trained, classes, annotations)
    records = built.refine(dataset, images)
    _check_complete(refiner, records, images)
    return apply_refinement(dataset, records), refinement_metrics(dataset, records)


def _clicked_images(
    cfg: CfgNode, annotations: str | os.PathLike, image_root: str | os.PathLike, network: bool
) -> tuple[list[dict], dict]:
    """Images and class names of a data set with clicks; with `network` they must fit `cfg`."""
    if not network:
        check_image_root(image_root)
        return to_dataset_dicts(load_points(annotations, require="point"), image_root), {}
    spec = make_spec(annotations, image_root)
    cfg = cfg.clone()
    cfg.defrost()
    # Points to train on, so each object must have one.
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (spec,), ()
    ensure_registered(cfg)
    return DatasetCatalog.get(spec), {"class_names": list(MetadataCatalog.get(spec).thing_classes)}


def _check_complete(refiner: str, records: Iterable[dict], images: list[dict]) -> None:
    """ValueError unless there is one record for each object: a defect of the refiner."""
    found = [record["id"] for record in records]
    wanted = {annotation["id"] for image in images for annotation in image["annotations"]}
    odd = wanted.symmetric_difference(found)
    if odd or len(found) != len(wanted):
        raise ValueError(
            f"refiner {refiner!r}: {len(found)} records for {len(wanted)} objects"
            + (f"; annotation id {min(odd)} has none or is not one of them" if odd else "")
        )
