"""What class logits mean: sigmoids, or the softmax without "no object"."""

import pytest
import torch
import torch.nn.functional as F

from cpr.modeling.class_scores import class_scores, require_class_loss


def test_focal_scores_are_sigmoids():
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(class_scores(logits, "focal"), 1 / (1 + (-logits).exp()))


def test_cross_entropy_scores_leave_out_no_object():
    """Logits ln 1, ln 2, ln 5: of 8 parts the classes have 1 and 2."""
    scores = class_scores(torch.tensor([[1.0, 2.0, 5.0]]).log(), "cross_entropy")
    torch.testing.assert_close(scores, torch.tensor([[1 / 8, 2 / 8]]))


def test_scores_are_what_the_cross_entropy_trains():
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    chosen = class_scores(logits, "cross_entropy")[torch.arange(7), labels]
    torch.testing.assert_close(-chosen.log(), F.cross_entropy(logits, labels, reduction="none"))


@pytest.mark.parametrize("class_loss", ["focal", "cross_entropy"])
def test_scores_of_half_precision_are_float32_and_finite(class_loss):
    logits = torch.tensor([[60000.0, -60000.0, 0.0]], dtype=torch.float16)
    scores = class_scores(logits, class_loss)
    assert scores.dtype == torch.float32
    assert scores[0, :2].tolist() == [1.0, 0.0]


def test_an_unknown_loss_names_its_key():
    with pytest.raises(ValueError, match=r"MODEL\.P2PNET\.CLASS_LOSS is 'hinge'"):
        require_class_loss("hinge")
