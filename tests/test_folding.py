"""Norms folded into convs leave the network's outputs as they are."""

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, get_norm
from detectron2.modeling import build_model
from torch import nn

from cpr.folding import fold_norms
from tiny_models import tiny_cfg


def lively(module):
    """Statistics and affine parameters as after a training."""
    for norm in module.modules():
        if isinstance(norm, (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)):
            for tensor, low in ((norm.weight, -1.5), (norm.bias, -1), (norm.running_mean, -2)):
                tensor.data.uniform_(low, 2)
            norm.running_var.uniform_(0.2, 3)
    return module.eval()


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN"])
@pytest.mark.parametrize("bias", [False, True])
def test_one_conv(norm, bias):
    torch.manual_seed(0)
    conv = lively(
        Conv2d(3, 6, 3, stride=2, bias=bias, norm=get_norm(norm, 6), activation=nn.ReLU())
    )
    x = torch.randn(2, 3, 9, 11)
    before = conv(x)
    assert fold_norms(conv) is conv and conv.norm is None
    torch.testing.assert_close(conv(x), before)
    assert before.std() > 0.1


def test_a_realtime_localizer_keeps_its_outputs_and_has_no_norm_left():
    keys = {"FPN.NORM": "SyncBN", "P2PNET.NORM": "SyncBN", "RESNETS.NORM": "FrozenBN"}
    torch.manual_seed(1)
    model = build_model(
        tiny_cfg("P2PNet", **{f"MODEL.{key}": value for key, value in keys.items()})
    )
    lively(model)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = model.predict_maps(x)
        after = fold_norms(model).predict_maps(x)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert not any("Norm" in type(module).__name__ for module in model.modules())


def test_group_norm_and_statistics_of_the_batch_stay():
    group = Conv2d(3, 32, 3, norm=get_norm("GN", 32))
    batch = Conv2d(3, 4, 3, norm=nn.BatchNorm2d(4, track_running_stats=False))
    fold_norms(nn.Sequential(group, batch))
    assert group.norm is not None and batch.norm is not None
