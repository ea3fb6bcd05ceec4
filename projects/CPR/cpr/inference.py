"""Running trained networks over whole data sets; used by the tools and the demo."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from torch import nn
from tqdm import tqdm

from cpr_deploy.files import InputError

from .checkpoint import PointCheckpointer
from .data.box_mapper import build_mapper
from .data.dataset_mapper import plain_worker_errors
from .data.datasets import ensure_registered, make_spec
from .engine import build_network
from .evaluation.evaluators import detections_of, refinements_of

logger = logging.getLogger(__name__)


def load_model(
    cfg: CfgNode, weights: str | os.PathLike, *, architecture: str | None = None
) -> tuple[nn.Module, dict]:
    """Builds the network of `cfg`, in eval mode, with the trained weights of a checkpoint.

    Args:
        cfg: full config.
        weights: path of a checkpoint of the whole network.
        architecture: the MODEL.META_ARCHITECTURE that the caller needs, if it needs a certain one.

    Returns:
        the network, and the checkpoint's metadata: {"class_names", "category_ids"} or {}.

    Raises:
        InputError: the config is for another network; no such file; weights that do not fit.
    """
    if architecture is not None and architecture != cfg.MODEL.META_ARCHITECTURE:
        raise InputError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, {architecture} is needed."
            " Give its config file."
        )
    if not str(weights):
        raise InputError("no weights: give the checkpoint that training has written.")
    model = build_network(cfg)
    rest = PointCheckpointer(model, require_all=True).load(str(weights), checkpointables=[])
    model.eval()
    return model, rest.get("metadata", {})


def dataset_dicts(
    cfg: CfgNode, json_file: str | os.PathLike, image_root: str | os.PathLike
) -> tuple[list[dict], dict]:
    """The images of a point JSON for the networks, after checking that its classes fit `cfg`.

    Returns:
        dicts as `datasets.to_dataset_dicts` makes them, and {"class_names", "category_ids"}.
    """
    spec = make_spec(json_file, image_root)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = (spec,)
    ensure_registered(cfg, train=False, evaluate=False)
    metadata = MetadataCatalog.get(spec)
    return DatasetCatalog.get(spec), {
        "class_names": list(metadata.thing_classes),
        "category_ids": list(metadata.category_ids),
    }


def refine(
    model: nn.Module, cfg: CfgNode, images: list[dict], *, semantic_points: bool = False
) -> list[dict]:
    """Algorithm 2 over `images`: records of `evaluators.refinements_of`, for all their objects.

    Images without objects are not read.
    """
    records = []
    with_objects = [image for image in images if image["annotations"]]
    for _, output in _outputs(model, cfg, with_objects, "refining"):
        records += refinements_of(output["instances"], semantic_points=semantic_points)
    return records


def predict(
    model: nn.Module, cfg: CfgNode, images: list[dict], category_ids: list[int]
) -> list[dict]:
    """Detections of a localizer on `images`: `evaluators.detections_of` all of them."""
    detections = []
    for inputs, output in _outputs(model, cfg, images, "predicting"):
        detections += detections_of(inputs["image_id"], output["instances"], category_ids)
    return detections


def _outputs(
    model: nn.Module, cfg: CfgNode, images: list[dict], what: str
) -> Iterator[tuple[dict, dict]]:
    """(input, output) of each image; shows progress on a terminal."""
    if not images:
        return
    loader = build_detection_test_loader(
        dataset=images,
        mapper=build_mapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    with torch.inference_mode(), plain_worker_errors():
        for batch in tqdm(loader, desc=what, unit="image", disable=None):
            yield from zip(batch, model(batch), strict=True)
