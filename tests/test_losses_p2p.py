"""The losses of P2PNet against other libraries and their definition."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from cpr.modeling.distributed import count_normalizer
from cpr.modeling.losses_p2p import class_loss, p2p_losses, point_loss

SETTINGS = {
    "stride": 4,
    "alpha": 0.25,
    "gamma": 2.0,
    "beta": 1 / 9,
    "point_weight": 0.5,
    "normalizer": count_normalizer("local"),
}


@pytest.mark.parametrize("num_classes", [1, 4])
def test_class_loss_equals_torchvision(num_classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 30, num_classes, generator=generator) * 4
    labels = torch.randint(0, num_classes + 1, (2, 30), generator=generator)
    weights = torch.randint(0, 2, (2, 30), generator=generator).float()
    targets = F.one_hot(labels, num_classes + 1)[..., :-1].float()
    expected = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0) * weights[..., None]
    loss = class_loss(logits, labels, weights, alpha=0.25, gamma=2.0)
    torch.testing.assert_close(loss, expected.sum(), rtol=1e-5, atol=1e-6)


def test_class_loss_survives_extreme_logits():
    logits = torch.tensor([[[200.0], [-200.0]]], requires_grad=True)
    loss = class_loss(logits, torch.tensor([[1, 0]]), torch.ones(1, 2), alpha=0.25, gamma=2.0)
    loss.backward()
    # -log(1 - sigmoid(200)) = 200, weighted 0.75 and 0.25.
    assert loss.item() == pytest.approx(200.0)
    assert torch.isfinite(logits.grad).all()


def test_point_loss_by_hand():
    """Errors in cells: 0.05, below beta, and 2, above; the second row is background."""
    pred = torch.tensor([[[10.2, 28.0], [0.0, 0.0]]])
    gt = torch.tensor([[[10.0, 20.0], [1e9, 1e9]]])
    loss = point_loss(pred, gt, torch.tensor([[True, False]]), stride=4, beta=1 / 9)
    assert loss.item() == pytest.approx(0.5 * 0.05**2 * 9 + 2 - 0.5 / 9, rel=1e-4)


def test_background_gets_no_gradient_from_the_point_loss():
    pred = torch.zeros(1, 3, 2, requires_grad=True)
    point_loss(
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
        losses["loss_cls"], class_loss(logits, labels, weights, alpha=0.25, gamma=2.0) / 4
    )
    expected = F.smooth_l1_loss(
        points[positive] / 4, gt_points[assigned[positive]] / 4, beta=1 / 9, reduction="sum"
    )
    torch.testing.assert_close(losses["loss_point"], 0.5 * expected / 4)


def test_no_objects_give_a_differentiable_zero():
    logits = torch.zeros(1, 4, 2, requires_grad=True)
    points = torch.zeros(1, 4, 2, requires_grad=True)
    losses = p2p_losses(
        logits,
        points,
        torch.full((1, 4), -1),
        torch.ones(1, 4),
        torch.zeros(0, 2),
        torch.zeros(0, dtype=torch.long),
        **SETTINGS,
    )
    sum(losses.values()).backward()
    assert losses["loss_point"] == 0
    assert losses["loss_cls"] > 0
    assert (logits.grad > 0).all()
    assert (points.grad == 0).all()
