"""Golden vectors of P2PNet: assignment with its losses, decoding and tiles; official settings."""

import numpy as np
import torch

from cpr.modeling.class_scores import class_scores
from cpr.modeling.decoding import DecodeSettings, decode_points, decode_tiles
from cpr.modeling.distributed import count_normalizer
from cpr.modeling.losses_p2p import LossSettings, p2p_losses
from cpr.modeling.matcher import CostSettings, assignment_cost, hungarian_topk_assign
from cpr.modeling.reference_grid import ReferenceGrid, maps_to_references

OFFICIAL_COST = CostSettings(class_weight=2.0, point_weight=0.1, alpha=0.25, gamma=2.0)
OFFICIAL_LOSS = LossSettings(alpha=0.25, gamma=2.0, beta=1 / 9, point_weight=0.5)
BACKGROUND, NOT_VALID = -1, -2


def _close(actual, expected, *, rtol=0.0, atol=0.0):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=rtol, atol=atol)


def _grid(maps, stride):
    """One reference per location, at the cell's corner."""
    height, width = maps.shape[-2:]
    return ReferenceGrid(height=height, width=width, stride=stride, offset=0.0, points_per_cell=1)


def _predictions(cls_maps, point_maps, stride):
    """(B, K, H, W), (B, 2, H, W) -> logits (B, L, K), points (B, L, 2)."""
    references = _grid(cls_maps, stride).points(cls_maps.device)
    offsets = maps_to_references(point_maps, 1)
    return maps_to_references(cls_maps, 1), references + offsets * stride


def check_p2p_assignment(case):
    cls_maps = torch.tensor(case["cls_logits_bkhw"], requires_grad=True)
    point_maps = torch.tensor(case["reg_out_b2hw"], requires_grad=True)
    stride, images = case["stride"], case["images"]
    logits, points = _predictions(cls_maps, point_maps, stride)
    _close(points.detach(), case["pred_xy"], atol=1e-3)

    grid = _grid(cls_maps, stride)
    valid = torch.stack([grid.inside(tuple(image["pad_hw"]), points.device) for image in images])
    _close(valid.int(), [image["location_valid"] for image in images])
    counts = [len(image["gt_xy"]) for image in images]
    gt_points = torch.tensor([p for image in images for p in image["gt_xy"]]).reshape(-1, 2)
    gt_labels = torch.tensor(
        [label for image in images for label in image["gt_labels"]], dtype=torch.long
    )

    scores = class_scores(logits.detach(), "focal")
    _check_costs(case, scores, points, valid, gt_points.split(counts), gt_labels.split(counts))
    assigned = hungarian_topk_assign(
        scores, points, valid, gt_points, gt_labels, counts, k=case["topk"], cost=OFFICIAL_COST
    )
    starts = torch.tensor([0, *counts[:-1]]).cumsum(0)[:, None]
    own = torch.where(assigned >= 0, assigned - starts, BACKGROUND)
    own = torch.where(valid, own, NOT_VALID)
    _close(own, [image["assigned_gt"] for image in images])

    losses = p2p_losses(
        logits,
        points,
        assigned,
        valid,
        gt_points,
        gt_labels,
        stride=stride,
        settings=OFFICIAL_LOSS,
        normalizer=count_normalizer("local"),
    )
    _close(losses["loss_cls"].detach(), case["loss_cls"], rtol=1e-5, atol=1e-6)
    _close(losses["loss_point"].detach(), case["loss_pts"], rtol=1e-5, atol=1e-6)
    sum(losses.values()).backward()
    expected = np.asarray(case["grad_reg"])
    _close(point_maps.grad, expected, atol=1e-4 * np.abs(expected).max())
    _close(cls_maps.grad.abs().sum(), case["grad_cls_logits_abs_sum"], rtol=1e-4)


def _check_costs(case, scores, points, valid, gt_points, gt_labels):
    """The two parts of the cost, of valid locations."""
    for i, image in enumerate(case["images"]):
        pairs = (
            scores[i, valid[i]][:, gt_labels[i]],
            points[i, valid[i], None],
            gt_points[i],
        )
        for name, part in (
            ("cls_cost", CostSettings(class_weight=2.0, point_weight=0.0)),
            ("dis_cost", CostSettings(class_weight=0.0, point_weight=0.1)),
        ):
            _close(assignment_cost(*pairs, part), image[name], rtol=1e-5, atol=1e-5)


def _settings(case):
    width, height = case["pseudo_wh"]
    assert width == height, "pseudo boxes are squares"
    return DecodeSettings(
        score_thresh=case["score_thr"],
        pre_nms_topk=case["nms_pre"],
        nms_rule="pseudo_box",
        nms_size=float(width),
        nms_iou=case["nms_iou"],
        nms_radius=0.0,
        max_dets=case["max_per_img"],
    )


def _check_detections(detections, expected):
    _close(detections.points, np.reshape(expected["det_xy"], (-1, 2)), atol=1e-3)
    _close(detections.scores, expected["det_score"], rtol=1e-5, atol=1e-6)
    assert detections.labels.tolist() == expected["det_label"]


def check_p2p_decode(case):
    logits, points = _predictions(
        torch.tensor(case["cls_logits_khw"])[None],
        torch.tensor(case["reg_out_2hw"])[None],
        case["stride"],
    )
    scale_xy = tuple(case["scale_factor_xy"]) if case.get("rescale", True) else (1.0, 1.0)
    detections = decode_points(
        logits[0],
        points[0],
        image_size=tuple(case["img_hw"]),
        scale_xy=scale_xy,
        settings=_settings(case),
    )
    # NMS here is truly class-wise; the official one shifts classes apart, not always far enough.
    quirk = case.get("class_offset_quirk", False)
    _check_detections(detections, case["per_class_nms"] if quirk else case)


def check_p2p_tiles(case):
    predictions = [
        _predictions(
            torch.tensor(tile["cls_logits_khw"])[None],
            torch.tensor(tile["reg_out_2hw"])[None],
            case["stride"],
        )
        for tile in case["tiles"]
    ]
    detections, counts = decode_tiles(
        [logits[0] for logits, _ in predictions],
        [points[0] for _, points in predictions],
        torch.tensor(case["tile_offsets_xy"]),
        tile_sizes=[tuple(case["tile_hw"])] * len(case["tiles"]),
        scale_xy=(1.0, 1.0),
        settings=_settings(case),
    )
    assert counts == [tile["num_after_tile_nms"] for tile in case["tiles"]]
    _check_detections(detections, case)
