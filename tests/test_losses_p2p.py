"""The losses of P2PNet against other libraries and their definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from cpr.modeling.class_scores import CLASS_LOSSES
from cpr.modeling.distributed import count_normalizer
from cpr.modeling.losses_p2p import (
    POINT_LOSSES,
    LossSettings,
    cross_entropy_class_loss,
    focal_class_loss,
    l2_point_loss,
    p2p_losses,
    smooth_l1_point_loss,
)

SETTINGS = {
    "stride": 4,
    "settings": LossSettings(alpha=0.25, gamma=2.0, beta=1 / 9, point_weight=0.5),
    "normalizer": count_normalizer("local"),
}


@pytest.mark.parametrize("num_classes", [1, 4])
def test_focal_loss_equals_torchvision(num_classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 30, num_classes, generator=generator) * 4
    labels = torch.randint(0, num_classes + 1, (2, 30), generator=generator)
    weights = torch.randint(0, 2, (2, 30), generator=generator).float()
    targets = F.one_hot(labels, num_classes + 1)[..., :-1].float()
    expected = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0) * weights[..., None]
    loss = focal_class_loss(logits, labels, weights, alpha=0.25, gamma=2.0)
    torch.testing.assert_close(loss, expected.sum(), rtol=1e-5, atol=1e-6)


def test_focal_loss_survives_extreme_logits():
    logits = torch.tensor([[[200.0], [-200.0]]], requires_grad=True)
    loss = focal_class_loss(logits, torch.tensor([[1, 0]]), torch.ones(1, 2), alpha=0.25, gamma=2.0)
    loss.backward()
    # -log(1 - sigmoid(200)) = 200, weighted 0.75 and 0.25.
    assert loss.item() == pytest.approx(200.0)
    assert torch.isfinite(logits.grad).all()


def test_smooth_l1_by_hand():
    """Errors in cells: 0.05, below beta, and 2, above; the second row is background."""
    pred = torch.tensor([[[10.2, 28.0], [0.0, 0.0]]])
    gt = torch.tensor([[[10.0, 20.0], [1e9, 1e9]]])
    loss = smooth_l1_point_loss(pred, gt, torch.tensor([[True, False]]), stride=4, beta=1 / 9)
    assert loss.item() == pytest.approx(0.5 * 0.05**2 * 9 + 2 - 0.5 / 9, rel=1e-4)


def test_background_gets_no_gradient_from_the_point_loss():
    pred = torch.zeros(1, 3, 2, requires_grad=True)
    smooth_l1_point_loss(
        pred, torch.full((1, 3, 2), float("nan")), torch.zeros(1, 3).bool(), stride=4, beta=1 / 9
    ).backward()
    assert (pred.grad == 0).all()


def test_both_are_divided_by_the_positives():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 6, 3, generator=generator)
    points = torch.randn(2, 6, 2, generator=generator) * 5
    assigned = torch.tensor([[0, 0, -1, 1, -1, -1], [-1, 2, -1, -1, -1, -1]])
    weights = torch.ones(2, 6)
    gt_points, gt_labels = torch.randn(3, 2, generator=generator) * 5, torch.tensor([2, 0, 1])
    losses = p2p_losses(logits, points, assigned, weights, gt_points, gt_labels, **SETTINGS)
    labels = torch.tensor([[2, 2, 3, 0, 3, 3], [3, 1, 3, 3, 3, 3]])
    positive = assigned >= 0
    torch.testing.assert_close(
        losses["loss_cls"], focal_class_loss(logits, labels, weights, alpha=0.25, gamma=2.0) / 4
    )
    expected = F.smooth_l1_loss(
        points[positive] / 4, gt_points[assigned[positive]] / 4, beta=1 / 9, reduction="sum"
    )
    torch.testing.assert_close(losses["loss_point"], 0.5 * expected / 4)


def test_cross_entropy_equals_torch():
    """Four references of an image, K = 2; the weighted mean that torch takes over a batch."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 20, 3, generator=generator) * 3
    labels = torch.randint(0, 3, (2, 20), generator=generator)
    weights = torch.ones(2, 20, dtype=torch.bool)
    weights[1, 12:] = False
    total, divisor = cross_entropy_class_loss(logits, labels, weights, no_object_weight=0.5)
    expected = F.cross_entropy(
        logits[weights], labels[weights], weight=torch.tensor([1.0, 1.0, 0.5])
    )
    torch.testing.assert_close(total / divisor, expected)


def test_cross_entropy_by_hand():
    """A positive with probability 0.8 and a background with 0.6 for "no object"."""
    logits = torch.tensor([[[0.8, 0.1, 0.1], [0.3, 0.1, 0.6]]]).log()
    total, divisor = cross_entropy_class_loss(
        logits, torch.tensor([[0, 2]]), torch.ones(1, 2), no_object_weight=0.5
    )
    assert total.item() == pytest.approx(-math.log(0.8) - 0.5 * math.log(0.6))
    assert divisor.item() == 1.5


def test_l2_equals_torch():
    generator = torch.Generator().manual_seed(3)
    pred, gt = (torch.randn(2, 9, 2, generator=generator) * 20 for _ in range(2))
    positive = torch.rand(2, 9, generator=generator) > 0.5
    loss = l2_point_loss(pred, torch.where(positive[..., None], gt, float("nan")), positive)
    expected = F.mse_loss(pred[positive], gt[positive], reduction="sum")
    torch.testing.assert_close(loss, expected)


def test_losses_of_the_original_network():
    """Cross-entropy as torch averages it; 2e-4 * squared px over the positives."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(1, 8, 3, generator=generator)
    points = torch.randn(1, 8, 2, generator=generator) * 9
    assigned = torch.tensor([[1, -1, -1, 0, -1, -1, -1, -1]])
    gt_points, gt_labels = torch.tensor([[3.0, 4.0], [5.0, 6.0]]), torch.tensor([1, 0])
    settings = LossSettings(class_loss="cross_entropy", point_loss="l2", point_weight=2e-4)
    losses = p2p_losses(
        logits,
        points,
        assigned,
        torch.ones(1, 8, dtype=torch.bool),
        gt_points,
        gt_labels,
        **{**SETTINGS, "settings": settings},
    )
    labels = torch.tensor([0, 2, 2, 1, 2, 2, 2, 2])
    torch.testing.assert_close(
        losses["loss_cls"],
        F.cross_entropy(logits[0], labels, weight=torch.tensor([1.0, 1.0, 0.5])),
    )
    squared = F.mse_loss(points[0, [0, 3]], gt_points[[1, 0]], reduction="none").sum()
    torch.testing.assert_close(losses["loss_point"], 2e-4 * squared / 2)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("CLASS_LOSS", {"class_loss": "hinge"}),
        ("FOCAL_ALPHA", {"alpha": -0.1}),
        ("FOCAL_GAMMA", {"gamma": 0.5}),
        ("NO_OBJECT_WEIGHT", {"no_object_weight": 0.0}),
        ("POINT_LOSS", {"point_loss": "L2"}),
        ("SMOOTH_L1_BETA", {"beta": -1.0}),
        ("POINT_LOSS_WEIGHT", {"point_weight": -1.0}),
    ],
)
def test_bad_settings_name_their_key(key, change):
    with pytest.raises(ValueError, match=f"MODEL.P2PNET.{key} "):
        LossSettings(**change)


@pytest.mark.parametrize("class_loss", CLASS_LOSSES)
@pytest.mark.parametrize("point_loss", POINT_LOSSES)
def test_no_objects_give_a_differentiable_zero(class_loss, point_loss):
    logits = torch.zeros(1, 4, 2, requires_grad=True)
    points = torch.zeros(1, 4, 2, requires_grad=True)
    losses = p2p_losses(
        logits,
        points,
        torch.full((1, 4), -1),
        torch.ones(1, 4),
        torch.zeros(0, 2),
        torch.zeros(0, dtype=torch.long),
        **{**SETTINGS, "settings": LossSettings(class_loss=class_loss, point_loss=point_loss)},
    )
    sum(losses.values()).backward()
    assert losses["loss_point"] == 0
    assert losses["loss_cls"] > 0
    # Down with every class; the last logit of the softmax is "no object".
    last = 2 if class_loss == "focal" else 1
    assert (logits.grad[..., :last] > 0).all() and (logits.grad[..., last:] < 0).all()
    assert (points.grad == 0).all()
