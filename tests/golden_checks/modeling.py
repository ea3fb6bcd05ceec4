"""Golden vectors of CPRNet: bags, negatives, losses and refinement, with the official settings."""

import numpy as np
import torch

from cpr.modeling.losses import cpr_losses
from cpr.modeling.point_sampling import (
    circle_offsets,
    inside,
    negative_mask,
    point_bags,
    sample_maps,
)
from cpr.modeling.refinement import RefinementSettings, refine_points

OFFICIAL_SAMPLE_OFFSET = 0.0


def _close(actual, expected, *, rtol=0.0, atol=0.0):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=rtol, atol=atol)


def _loss_close(actual, expected):
    _close(actual.detach(), expected, rtol=1e-5, atol=1e-6)


def _gradient_close(actual, expected):
    expected = np.asarray(expected)
    _close(actual, expected, atol=1e-4 * np.abs(expected).max())


def _bags(centres, case):
    points = torch.tensor(centres, dtype=torch.float32).reshape(-1, 2)
    offsets = circle_offsets(case["R"], case["u0"])
    return points, point_bags(points, offsets, case["stride"])


def check_point_bags(case):
    _, bags = _bags(case["centers_xy"], case)
    _close(bags, case["points_xy"], atol=1e-3)
    valid = inside(bags, torch.tensor(case["pad_hw"]))
    np.testing.assert_array_equal(valid.int(), case["valid"])
    features = sample_maps(
        torch.tensor(case["feature_map_chw"])[None],
        bags,
        torch.zeros(len(bags), dtype=torch.long),
        [len(bags)],
        case["stride"],
        OFFICIAL_SAMPLE_OFFSET,
    )
    _close(features, case["sampled_features"], rtol=1e-5, atol=1e-5)


def _negatives(images, case, map_size):
    counts = [len(image["points_xy"]) for image in images]
    points = [point for image in images for point in image["points_xy"]]
    labels = [label for image in images for label in image["labels"]]
    return negative_mask(
        torch.tensor(points, dtype=torch.float32).reshape(-1, 2),
        torch.tensor(labels, dtype=torch.long),
        torch.repeat_interleave(torch.arange(len(images)), torch.tensor(counts)),
        torch.tensor([image["pad_hw"] for image in images], dtype=torch.float32),
        num_classes=case["num_classes"],
        radius=case["R"],
        stride=case["stride"],
        map_size=map_size,
    )


def check_negative_masks(case):
    mask = _negatives([case], case, tuple(case["map_hw"]))[0]
    if case["min_margin_px"] >= 1e-3:
        np.testing.assert_array_equal(mask.int(), case["negative_mask_khw"])
        assert mask.flatten(1).sum(1).tolist() == case["num_negatives_per_class"]
    else:
        # Cells closer to the circle than the tolerance may fall either way.
        assert (mask.int() != torch.tensor(case["negative_mask_khw"])).sum() <= len(
            case["points_xy"]
        )


def _settings(case):
    return RefinementSettings(
        delta1=case["delta1_merge_th"],
        delta2=case["delta2_gt_alpha"],
        constraint_ii=bool(case["classify_filter"]),
        constraint_iii=bool(case["nearest_filter"]),
        score_thresh=case["refine_th"],
    )


def check_refinement(case):
    result = refine_points(
        torch.tensor(case["bag_points_xy"]),
        torch.tensor(case["bag_prob"]),
        torch.tensor(case["annotated_xy"]),
        torch.tensor(case["labels"]),
        tuple(case["img_hw"]),
        _settings(case),
    )
    _close(result.points, case["refined_xy"], atol=1e-3)
    _close(result.scores, case["score"], rtol=1e-5, atol=1e-6)
    assert result.refined.tolist() == [not flag for flag in case["not_refined"]]
    kept = [row.nonzero().flatten().tolist() for row in result.kept]
    assert kept == case["kept_indices"]


def check_cpr_losses(case):
    bag_cls = torch.tensor(case["bag_cls_logits"], requires_grad=True)
    bag_ins = torch.tensor(case["bag_ins_logits"], requires_grad=True)
    neg_cls = torch.tensor(case["neg_cls_logits"], requires_grad=True)
    losses = cpr_losses(
        bag_cls,
        bag_ins,
        torch.tensor(case["bag_valid"], dtype=torch.bool),
        torch.tensor(case["labels"]),
        neg_cls,
        torch.tensor(case["neg_mask"], dtype=torch.bool),
        weights=case["weights"],
        gamma=case["gamma"],
    )
    total = sum(losses.values())
    for name in ("mil", "ann", "neg"):
        _loss_close(losses[f"loss_{name}"], case[f"loss_{name}_weighted"])
    _loss_close(total, case["total"])
    total.backward()
    _gradient_close(bag_cls.grad, case["grad_bag_cls"])
    _gradient_close(bag_ins.grad, case["grad_bag_ins"])
    _gradient_close(neg_cls.grad, case["grad_neg_cls"])


def check_cpr_end_to_end(case):
    feature = torch.tensor(case["feature_map_bchw"], requires_grad=True)
    images = case["images"]
    weights = {
        name: (
            torch.tensor(case[f"{name}_weight"], requires_grad=True),
            torch.tensor(case[f"{name}_bias"]),
        )
        for name in ("cls", "ins")
    }
    # The linear branches as 1x1 convs, before the sampling.
    cls_map, ins_map = (
        torch.nn.functional.conv2d(feature, weight[:, :, None, None], bias)
        for weight, bias in weights.values()
    )
    counts = [len(image["points_xy"]) for image in images]
    batch_index = torch.repeat_interleave(torch.arange(len(images)), torch.tensor(counts))
    labels = torch.tensor([label for image in images for label in image["labels"]])
    points, bags = _bags([p for image in images for p in image["points_xy"]], case)
    pads = torch.tensor([image["pad_hw"] for image in images], dtype=torch.float32)
    valid = inside(bags, pads[batch_index][:, None])

    def sample(maps):
        return sample_maps(maps, bags, batch_index, counts, case["stride"], OFFICIAL_SAMPLE_OFFSET)

    bag_cls = sample(cls_map)
    mask = _negatives(images, case, tuple(cls_map.shape[2:]))
    losses = cpr_losses(
        bag_cls,
        sample(ins_map),
        valid,
        labels,
        cls_map,
        mask,
        weights=case["weights"],
        gamma=2.0,
    )
    for name in ("mil", "ann", "neg"):
        _loss_close(losses[f"loss_{name}"], case[f"loss_{name}_weighted"])
    total = sum(losses.values())
    _loss_close(total, case["total"])
    total.backward()
    _gradient_close(weights["cls"][0].grad, case["grad_cls_weight"])
    _gradient_close(weights["ins"][0].grad, case["grad_ins_weight"])
    _close(feature.grad.abs().sum(), case["grad_feature_abs_sum"], rtol=1e-4)

    for index, image in enumerate(images):
        own = batch_index == index
        result = refine_points(
            bags[own],
            bag_cls[own].sigmoid(),
            points[own],
            labels[own],
            tuple(image["img_hw"]),
            RefinementSettings(),
        )
        _close(result.points.detach(), image["refined_xy"], atol=1e-3)
        _close(result.scores.detach(), image["score"], rtol=1e-5, atol=1e-6)
