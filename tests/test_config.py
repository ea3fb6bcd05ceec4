"""Each key of `cpr/config.py` matters: another value changes what it is there for."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes

import cpr.modeling  # noqa: F401  registers the meta-architectures
from cpr.config import add_cpr_config
from cpr.evaluation.evaluators import PointEvaluator
from cpr.modeling import distributed, p2pnet
from point_scenes import make_scene
from tiny_models import point_input, tiny_cfg

# key: another value, and options that both sides share to let it matter.
CPRNET = {
    "NUM_CLASSES": (3, {}),
    "IN_FEATURE": ("p3", {}),
    "NUM_CONVS": (2, {}),
    "CONV_DIM": (64, {}),
    "NORM": ("", {}),
    "PRIOR_PROB": (0.02, {}),
    "HEAD_INIT": ("xavier", {}),
    "RADIUS": (3, {}),
    "U0": (6, {}),
    "REGION": ("rectangle", {}),
    "REGION_ASPECT": (2.0, {"REGION": "rectangle"}),
    "ANNOTATED_POINT_IN_BAG": (False, {}),
    "SAMPLE_OFFSET": (0.0, {}),
    "LOSS_SCALE": (1.0, {}),
    "ALPHA_MIL": (2.0, {}),
    "ALPHA_ANN": (1.0, {}),
    "ALPHA_NEG": (1.0, {}),
    "ALPHA_POS": (1.0, {}),
    "GAMMA": (1.5, {}),
    "LOSS_NORMALIZER": ("local", {}),
    "IGNORE_AS_BACKGROUND": (True, {}),
    "REFINE.CONSTRAINT_I": (False, {"REFINE.DELTA1": 0.5}),
    "REFINE.DELTA1": (0.55, {}),
    "REFINE.DELTA2": (1.1, {}),
    "REFINE.CONSTRAINT_II": (False, {}),
    "REFINE.CONSTRAINT_III": (False, {}),
    "REFINE.SCORE_THRESH": (0.9, {}),
    "REFINE.ANNOTATED_POINT": ("forced", {"REFINE.DELTA1": 0.5, "REFINE.DELTA2": 1.0}),
}
P2PNET = {
    "NUM_CLASSES": (3, {}),
    "IN_FEATURE": ("p3", {}),
    "NUM_CONVS": (2, {}),
    "CONV_DIM": (64, {}),
    "NORM": ("", {}),
    "SHARED_TOWER": (True, {}),
    "PRIOR_PROB": (0.02, {}),
    "HEAD_INIT": ("xavier", {}),
    "POINTS_PER_LOCATION": (4, {}),
    "REFERENCE_OFFSET": (0.0, {}),
    "OFFSET_SCALE": (100.0, {}),
    "ASSIGNER": ("hungarian", {}),
    "TOPK": (3, {}),
    "CANDIDATE_RADIUS": (1, {"TOPK": 9}),
    "COST_RULE": ("probability", {"COST_CLASS": 50.0}),
    "COST_DISTANCE": ("l2", {"TOPK": 1}),
    "COST_CLASS": (50.0, {}),
    "COST_POINT": (0.0, {}),
    "CLASS_LOSS": ("cross_entropy", {}),
    "NO_OBJECT_WEIGHT": (0.1, {"CLASS_LOSS": "cross_entropy"}),
    "FOCAL_ALPHA": (0.5, {}),
    "FOCAL_GAMMA": (1.0, {}),
    "POINT_LOSS": ("l2", {}),
    "SMOOTH_L1_BETA": (1.0, {}),
    "POINT_LOSS_WEIGHT": (1.0, {}),
    "LOSS_NORMALIZER": ("local", {}),
    "IGNORE_AS_BACKGROUND": (True, {}),
    "SCORE_THRESH": (0.6, {}),
    "PRE_NMS_TOPK": (20, {}),
    "NMS_RULE": ("radius", {"NMS_RADIUS": 3.0}),
    "NMS_SIZE": (8.0, {}),
    "NMS_IOU": (0.5, {}),
    "NMS_RADIUS": (3.0, {"NMS_RULE": "radius"}),
    "MAX_DETS": (3, {}),
    "PADDING_POINTS": ("clamp", {}),
}
REPPOINTS = {
    "NUM_CLASSES": (3, {}),
    "IN_FEATURES": (["p3"], {}),
    "NUM_CONVS": (2, {}),
    "CONV_DIM": (64, {}),
    "NORM": ("", {}),
    "POINT_CONV_DIM": (16, {}),
    "PRIOR_PROB": (0.02, {}),
    "NUM_POINTS": (25, {}),
    "TRANSFORM": ("minmax", {}),
    "MOMENT_MUL": (1.0, {}),
    "GRADIENT_MUL": (1.0, {}),
    "POINT_BASE_SCALE": (2.0, {}),
    "INIT_POSITIVES": (2, {}),
    "POSITIVE_IOU": (0.6, {}),
    "NEGATIVE_IOU": (0.3, {}),
    "MIN_POSITIVE_IOU": (0.9, {"POSITIVE_IOU": 0.95}),
    "FOCAL_ALPHA": (0.5, {}),
    "FOCAL_GAMMA": (1.0, {}),
    "SMOOTH_L1_BETA": (1.0, {}),
    "INIT_LOSS_WEIGHT": (1.0, {}),
    "REFINE_LOSS_WEIGHT": (0.5, {}),
    "LOSS_NORMALIZER": ("local", {}),
    "IGNORE_AS_BACKGROUND": (True, {}),
    "SCORE_THRESH": (0.6, {}),
    "PRE_NMS_TOPK": (20, {}),
    "NMS_THRESH": (0.3, {}),
    "MAX_DETS": (3, {}),
    "CLIP_BOXES": (False, {}),
}
POINTS = {
    "TAUS": [0.3],
    "SIZE_RANGES": "tiny",
    "MAX_DETS": 2,
    "AP": "coco",
    "BOX_CENTRE": "official",
    "SEVERAL_BOXES": "nearest",
    "ABSENT_CLASSES": "official",
    "PAPER_IGNORE": True,
}


def leaves(node: CfgNode, prefix: str = "") -> set[str]:
    return {
        name
        for key, value in node.items()
        for name in (
            leaves(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key}
        )
    }


def test_the_tables_hold_every_key():
    plain, ours = get_cfg(), get_cfg()
    add_cpr_config(ours)
    listed = {f"MODEL.CPRNET.{key}" for key in CPRNET} | {f"MODEL.P2PNET.{key}" for key in P2PNET}
    listed |= {f"MODEL.REPPOINTS.{key}" for key in REPPOINTS}
    listed |= {f"TEST.POINTS.{key}" for key in POINTS}
    # Of the optimizer: tests/test_engine.py; of the resize: tests/test_dataset_mapper.py.
    listed |= {"SOLVER.OPTIMIZER", "SOLVER.BACKBONE_MULTIPLIER", "INPUT.SCALE"}
    # Of self-refinement: tests/test_refiners.py.
    listed |= {f"TEST.SELF_REFINE.{key}" for key in ("TOPK", "MAX_DISTANCE", "SCORE_THRESH")}
    # Of box detectors: tests/test_box_mapper.py, test_pyramid.py and test_evaluators.py.
    listed |= {"MODEL.PSEUDO_BOX.SIZE", "MODEL.FPN.EXTRA_LEVELS", "TEST.BOX_AP"}
    assert leaves(ours) - leaves(plain) == listed


@pytest.fixture
def another_rank(monkeypatch):
    """As if a second process had five more of everything that is counted."""
    monkeypatch.setattr(distributed, "all_rank_sum", lambda value: (value + 5, 1))


def observe(architecture: str, options: dict) -> list[torch.Tensor]:
    """Weights, losses and results of a lively network on a crowded image with a region."""
    node = f"MODEL.{architecture.upper()}"
    cfg = tiny_cfg(
        architecture,
        **{
            "MODEL.FPN.IN_FEATURES": ["res3", "res4"]
            if "p3" in (options.get("IN_FEATURE"), *options.get("IN_FEATURES", ()))
            else ["res2", "res3", "res4"],
            **{f"{node}.{key}": value for key, value in options.items()},
        },
    )
    torch.manual_seed(0)
    model = build_model(cfg)
    weights = [parameter.detach().clone() for parameter in model.head.parameters()]
    gradients = []
    generator = torch.Generator().manual_seed(0)
    # Scores on both sides of 0.5.
    score = model.head.cls_score
    score.weight.data = 0.2 * torch.randn(score.weight.shape, generator=generator)
    score.bias.data.zero_()
    points = [[20.0, 30.0], [27.0, 33.0], [24.0, 24.0], [60.0, 40.0]]
    # Sides that need padding.
    inputs = [point_input(points, [0, 0, 1, 1], size=(60, 90), regions=[[70.0, 5.0, 90.0, 50.0]])]
    if architecture == "RepPoints":
        # Objects of 12 px, first boxes of much the same size in all places.
        inputs[0]["instances"].gt_boxes = Boxes(
            torch.tensor([[x - 6, y - 6, x + 6, y + 6] for x, y in points])
        )
        bias = model.head.init_offset.bias
        bias.data = 1.5 * torch.randn(bias.shape, generator=generator)
        # Two of its keys act on gradients only.
        sum(model(inputs).values()).backward()
        gradients = [parameter.grad for parameter in model.head.parameters()]
    losses = model(inputs)
    with torch.no_grad():
        found = model.eval()(inputs)[0]["instances"]
    results = [
        value.tensor if isinstance(value, Boxes) else value.detach()
        for value in found.get_fields().values()
    ]
    return [*weights, *gradients, *losses.values(), *results]


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return len(one) == len(two) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("key", CPRNET)
def test_key_of_cprnet_matters(key, another_rank):
    value, shared = CPRNET[key]
    assert same(observe("CPRNet", shared), observe("CPRNet", shared))
    assert not same(observe("CPRNet", shared), observe("CPRNet", {**shared, key: value}))


@pytest.mark.parametrize("key", P2PNET)
def test_key_of_p2pnet_matters(key, another_rank, monkeypatch):
    value, shared = P2PNET[key]
    shared = {"NMS_SIZE": 12.0, "NMS_IOU": 0.1, **shared}
    if key == "ASSIGNER":
        # Both find the same positives in so small a scene.
        monkeypatch.setattr(
            p2pnet,
            "hungarian_topk_assign",
            lambda logits, points, valid, *_, **__: torch.full(valid.shape, -1),
        )
    assert not same(observe("P2PNet", shared), observe("P2PNet", {**shared, key: value}))


@pytest.mark.parametrize("key", REPPOINTS)
def test_key_of_reppoints_matters(key, another_rank):
    value, shared = REPPOINTS[key]
    assert same(observe("RepPoints", shared), observe("RepPoints", shared))
    assert not same(observe("RepPoints", shared), observe("RepPoints", {**shared, key: value}))


@pytest.fixture
def scored(monkeypatch, tmp_path):
    """Evaluates a scene as the trainer does, with one class that has detections only."""
    ground_truth, detections = make_scene(1)
    ground_truth["categories"].append({"id": 9, "name": "absent"})
    detections.append({**detections[0], "category_id": 9})
    monkeypatch.setattr("cpr.evaluation.evaluators.load_dataset", lambda _: ground_truth)
    cfg = get_cfg()
    add_cpr_config(cfg)

    def run(**settings) -> dict:
        changed = copy.deepcopy(cfg)
        for key, value in settings.items():
            changed.TEST.POINTS[key] = value
        evaluator = PointEvaluator(changed, "a scene", output_dir=tmp_path)
        evaluator.metadata = type("Metadata", (), {"json_file": "scene.json"})
        return evaluator._evaluate(detections)["points"]

    return run


@pytest.mark.parametrize("key", POINTS)
def test_key_of_the_evaluation_matters(key, scored):
    plain, changed = scored(), scored(**{key: POINTS[key]})
    assert plain.keys() != changed.keys() or not np.allclose(
        list(plain.values()), list(changed.values()), rtol=0, atol=1e-9, equal_nan=True
    )
