"""What both heads start with."""

import math

import pytest
import torch
from torch import nn

from cpr.modeling.head import conv_tower, init_head
from cpr_deploy.files import InputError

TOWER = {"num_convs": 2, "conv_dim": 32, "norm": "GN", "node": "MODEL.P2PNET"}
INIT = {"prior_prob": 0.01, "init": "normal", "node": "MODEL.P2PNET"}


@pytest.mark.parametrize("norm, parameters", [("GN", 3), ("BN", 3), ("", 2)])
def test_tower(norm, parameters):
    """Convs have a bias or a norm, never both; the size of the map stays."""
    tower = conv_tower(8, **{**TOWER, "norm": norm})
    assert len(list(tower.parameters())) == 2 * parameters
    out = tower(torch.randn(2, 8, 5, 7))
    assert out.shape == (2, 32, 5, 7) and (out >= 0).all()


def test_no_conv_leaves_the_input_as_it_is():
    x = torch.randn(1, 8, 3, 3)
    assert torch.equal(conv_tower(8, **{**TOWER, "num_convs": 0})(x), x)


@pytest.mark.parametrize(
    "init, spread",
    # Xavier, uniform: standard deviation sqrt(2 / (fan in + fan out)).
    [("normal", 0.01), ("xavier", math.sqrt(2 / (9 * 64 + 9 * 64)))],
)
def test_start(init, spread):
    torch.manual_seed(0)
    head = nn.ModuleDict({"tower": nn.Conv2d(64, 64, 3), "score": nn.Conv2d(64, 5, 1)})
    init_head(head, head["score"], **{**INIT, "init": init})
    assert head["tower"].weight.std().item() == pytest.approx(spread, rel=0.05)
    assert not head["tower"].bias.any()
    torch.testing.assert_close(head["score"].bias.sigmoid(), torch.full((5,), 0.01))


@pytest.mark.parametrize(
    "key, change",
    [
        ("NUM_CONVS", {"num_convs": -1}),
        ("NORM", {"norm": "LN"}),
        ("CONV_DIM", {"conv_dim": 20}),
        ("CONV_DIM", {"conv_dim": 0, "norm": ""}),
    ],
)
def test_meaningless_towers_name_their_key(key, change):
    with pytest.raises(InputError, match=f"MODEL.P2PNET.{key} is"):
        conv_tower(8, **{**TOWER, **change})


@pytest.mark.parametrize(
    "key, change", [("PRIOR_PROB", {"prior_prob": 1.0}), ("HEAD_INIT", {"init": "zero"})]
)
def test_meaningless_starts_name_their_key(key, change):
    head = nn.Conv2d(4, 4, 1)
    with pytest.raises(InputError, match=f"MODEL.P2PNET.{key} is"):
        init_head(head, head, **{**INIT, **change})
