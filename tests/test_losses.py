"""The losses of CPRNet against numbers worked by hand and against their definition."""

import math

import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from cpr.modeling import losses as losses_module
from cpr.modeling.losses import (
    annotation_loss,
    bag_scores,
    cpr_losses,
    focal_loss,
    mil_loss,
    negative_loss,
    positive_loss,
)

WEIGHTS = {"mil": 1.0, "ann": 1.0, "neg": 1.0}


def _logit(p):
    return math.log(p / (1 - p))


def test_focal_loss_by_hand():
    loss = focal_loss(torch.tensor([0.5, 0.9]), torch.tensor([1.0, 0.0]), gamma=2.0)
    assert loss.tolist() == pytest.approx([-0.25 * math.log(0.5), -0.81 * math.log(0.1)], rel=1e-4)


def test_focal_loss_equals_torchvision_without_alpha():
    # Within +-4, where the e in the logarithms does not show.
    logits = torch.linspace(-4, 4, 40)
    targets = (torch.arange(40) % 3 == 0).float()
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2.0)
    torch.testing.assert_close(
        focal_loss(logits.sigmoid(), targets, 2.0), expected, atol=1e-5, rtol=1e-4
    )


def test_bag_score_by_hand():
    # Softmax weights 0.25 and 0.75, class scores 0.2 and 0.6.
    ins = torch.tensor([[[0.0], [math.log(3)], [9.0]]])
    cls = torch.tensor([[[_logit(0.2)], [_logit(0.6)], [9.0]]])
    valid = torch.tensor([[True, True, False]])
    assert bag_scores(cls, ins, valid).item() == pytest.approx(0.25 * 0.2 + 0.75 * 0.6, rel=1e-6)


def test_bag_without_valid_point_scores_and_weighs_nothing():
    cls, ins = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    valid = torch.tensor([[True] * 4, [False] * 4])
    scores = bag_scores(cls, ins, valid)
    assert scores[1].tolist() == [0, 0, 0]
    labels = torch.tensor([0, 2])
    assert mil_loss(scores, labels, valid, 2.0) == mil_loss(scores[:1], labels[:1], valid[:1], 2.0)


def test_annotation_and_negative_loss_by_hand():
    logits = torch.tensor([[_logit(0.5), _logit(0.1)], [5.0, 5.0]])
    ann = annotation_loss(logits, torch.tensor([0, 0]), torch.tensor([True, False]), 2.0)
    assert ann.item() == pytest.approx(-0.25 * math.log(0.5) - 0.01 * math.log(0.9), rel=1e-4)
    mask = torch.tensor([[True, False], [False, False]])
    assert negative_loss(logits, mask, 2.0).item() == pytest.approx(-0.25 * math.log(0.5), rel=1e-4)


def _random_inputs(num_objects, num_classes, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator).requires_grad_()

    return {
        "bag_cls_logits": randn(num_objects, 9, num_classes),
        "bag_ins_logits": randn(num_objects, 9, num_classes),
        "bag_valid": torch.rand(num_objects, 9, generator=generator) > 0.2,
        "labels": torch.randint(num_classes, (num_objects,), generator=generator),
        "neg_cls_logits": randn(30, num_classes),
        "neg_mask": torch.rand(30, num_classes, generator=generator) > 0.5,
    }


@pytest.mark.parametrize("num_classes", [1, 4])
def test_no_objects_gives_a_differentiable_zero_and_negatives_still_count(num_classes):
    inputs = _random_inputs(0, num_classes)
    losses = cpr_losses(**inputs, weights=WEIGHTS, gamma=2.0)
    assert losses["loss_mil"].item() == 0
    assert losses["loss_ann"].item() == 0
    assert losses["loss_neg"].item() > 0
    sum(losses.values()).backward()
    assert torch.isfinite(inputs["neg_cls_logits"].grad).all()


@pytest.mark.parametrize("term", ["loss_mil", "loss_ann", "loss_neg"])
def test_every_term_has_a_gradient(term):
    inputs = _random_inputs(3, 2)
    cpr_losses(**inputs, weights=WEIGHTS, gamma=2.0)[term].backward()
    reached = {
        name
        for name in ("bag_cls_logits", "bag_ins_logits", "neg_cls_logits")
        if inputs[name].grad is not None and inputs[name].grad.abs().sum() > 0
    }
    assert (
        reached
        == {
            "loss_mil": {"bag_cls_logits", "bag_ins_logits"},
            "loss_ann": {"bag_cls_logits"},
            "loss_neg": {"neg_cls_logits"},
        }[term]
    )


def test_normaliser_divides_by_objects_with_a_valid_point():
    inputs = _random_inputs(4, 2)
    inputs["bag_valid"][1] = False
    losses = cpr_losses(**inputs, weights=WEIGHTS, gamma=2.0)
    mil = mil_loss(
        bag_scores(inputs["bag_cls_logits"], inputs["bag_ins_logits"], inputs["bag_valid"]),
        inputs["labels"],
        inputs["bag_valid"],
        2.0,
    )
    np.testing.assert_allclose(losses["loss_mil"].item(), mil.item() / 3, rtol=1e-6)


def test_annotated_point_in_its_bag_or_not():
    """Without it L_MIL is that of the circles alone; L_ann and L_neg are the same."""
    inputs = _random_inputs(4, 2)
    inputs["bag_valid"][1, :-1] = False
    inputs["bag_valid"][:, -1] = True
    official = cpr_losses(**inputs, weights=WEIGHTS, gamma=2.0)
    paper = cpr_losses(**inputs, weights=WEIGHTS, gamma=2.0, annotated_in_bag=False)
    circles = inputs["bag_cls_logits"][:, :-1], inputs["bag_ins_logits"][:, :-1]
    valid = inputs["bag_valid"][:, :-1]
    mil = mil_loss(bag_scores(*circles, valid), inputs["labels"], valid, 2.0)
    # The second bag has no other valid point, so three objects count.
    torch.testing.assert_close(paper["loss_mil"], WEIGHTS["mil"] * mil / 3)
    torch.testing.assert_close(paper["loss_ann"], official["loss_ann"])
    torch.testing.assert_close(paper["loss_neg"], official["loss_neg"] * 4 / 3)


def test_positive_loss_by_hand():
    """Two objects of three bag points and two classes; one point is outside the image."""
    scores = [
        [(0.5, 0.1), (0.9, 0.2), (0.3, 0.4)],  # of class 0
        [(0.2, 0.6), (0.7, 0.8), (0.5, 0.5)],  # of class 1
    ]
    logits = torch.tensor([[[_logit(p) for p in point] for point in bag] for bag in scores])
    valid = torch.tensor([[True, True, True], [True, False, True]])
    labels = torch.tensor([0, 1])

    def term(own, other):
        return -((1 - own) ** 2) * math.log(own) - other**2 * math.log(1 - other)

    expected = term(0.5, 0.1) + term(0.9, 0.2) + term(0.3, 0.4) + term(0.6, 0.2) + term(0.5, 0.5)
    assert positive_loss(logits, labels, valid, 2.0).item() == pytest.approx(expected, rel=1e-4)

    inputs = {"bag_ins_logits": None, "neg_cls_logits": None, "neg_mask": None, "labels": labels}
    inputs |= {"bag_cls_logits": logits, "bag_valid": valid, "gamma": 2.0}
    losses = cpr_losses(**inputs, weights={"pos": 0.25})
    assert losses.keys() == {"loss_pos"}
    # Over the five valid points.
    assert losses["loss_pos"].item() == pytest.approx(0.25 * expected / 5, rel=1e-4)
    # Without the annotated point three are left.
    circles = term(0.5, 0.1) + term(0.9, 0.2) + term(0.6, 0.2)
    losses = cpr_losses(**inputs, weights={"pos": 1.0}, annotated_in_bag=False)
    assert losses["loss_pos"].item() == pytest.approx(circles / 3, rel=1e-4)


def test_gradient_of_the_positive_loss():
    """Against finite differences in float64; points that do not count have none."""
    inputs = _random_inputs(2, 3)
    logits = inputs["bag_cls_logits"].detach().double().requires_grad_()
    valid = inputs["bag_valid"]
    assert not valid.all()

    def loss(x):
        return positive_loss(x, inputs["labels"], valid, 2.0)

    assert torch.autograd.gradcheck(loss, (logits,))
    loss(logits).backward()
    assert (logits.grad[~valid] == 0).all()
    own = torch.nn.functional.one_hot(inputs["labels"], 3).bool()[:, None].expand(-1, 9, -1)
    # Every valid point is pulled to its class and away from the others.
    assert (logits.grad[valid & own.any(2)][own[valid]] < 0).all()
    assert (logits.grad[valid][~own[valid]] > 0).all()


def test_one_point_per_bag_makes_positive_and_annotation_loss_equal():
    inputs = _random_inputs(5, 4)
    for name in ("bag_cls_logits", "bag_ins_logits", "bag_valid"):
        inputs[name] = inputs[name][:, -1:]
    losses = cpr_losses(**inputs, weights={"ann": 0.5, "pos": 0.5}, gamma=2.0)
    torch.testing.assert_close(losses["loss_pos"], losses["loss_ann"])


@pytest.mark.parametrize("left", ["mil", "ann", "neg", "pos"])
def test_terms_without_weight_are_neither_computed_nor_returned(left, monkeypatch):
    everything = {"mil": 0.25, "ann": 0.5, "neg": 3.0, "pos": 1.0}
    inputs = _random_inputs(3, 2)
    whole = cpr_losses(**inputs, weights=everything, gamma=2.0)
    assert list(whole) == ["loss_mil", "loss_ann", "loss_neg", "loss_pos"]
    functions = {
        "mil": ["mil_loss", "bag_scores"],
        "ann": ["annotation_loss"],
        "neg": ["negative_loss"],
        "pos": ["positive_loss"],
    }
    for function in functions[left]:
        monkeypatch.delattr(losses_module, function)
    rest = cpr_losses(**inputs, weights={**everything, left: 0.0}, gamma=2.0)
    assert rest.keys() == whole.keys() - {f"loss_{left}"}
    for name, value in rest.items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=0)


def test_extreme_logits_stay_finite():
    inputs = _random_inputs(2, 3)
    for name in ("bag_cls_logits", "bag_ins_logits", "neg_cls_logits"):
        inputs[name] = (inputs[name].detach() * 1e4).requires_grad_()
    losses = cpr_losses(**inputs, weights=WEIGHTS, gamma=2.0)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert torch.isfinite(inputs["bag_cls_logits"].grad).all()
