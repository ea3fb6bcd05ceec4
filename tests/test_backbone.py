"""Every ResNet and FPN level under either network: shapes, and one training iteration."""

import pytest
import torch
from detectron2.modeling import build_model

import cpr.modeling  # noqa: F401 (registers the meta-architectures)
from tiny_models import point_input, tiny_cfg

STAGES = ["res2", "res3", "res4", "res5"]
STRIDES = {"p2": 4, "p3": 8, "p4": 16}
# 3x3 and 1x1 convs of each ResNet, its stem and shortcuts: torchvision's layers without fc.
CONVS = {18: 20, 34: 36, 50: 53, 101: 104}


def narrow_cfg(architecture: str, depth: int, level: str):
    """As the tiny config, with res5 and, for bottlenecks, an eighth of the usual width."""
    stages = STAGES[STAGES.index(level.replace("p", "res")) :]
    width = {"RES2_OUT_CHANNELS": 64} if depth < 50 else {"RES2_OUT_CHANNELS": 32}
    width["WIDTH_PER_GROUP"] = 64 if depth < 50 else 8
    # The convs of a bottleneck are too narrow for the 32 groups of "GN".
    width["NORM"] = "FrozenBN"
    settings = {"DEPTH": depth, "OUT_FEATURES": stages, **width}
    return tiny_cfg(
        architecture,
        level=level,
        **{"MODEL.FPN.IN_FEATURES": stages},
        **{f"MODEL.RESNETS.{key}": value for key, value in settings.items()},
    )


@pytest.mark.parametrize("level", STRIDES)
@pytest.mark.parametrize("depth", CONVS)
@pytest.mark.parametrize("architecture", ["CPRNet", "P2PNet"])
def test_network_trains_an_iteration(architecture, depth, level):
    torch.manual_seed(0)
    model = build_model(narrow_cfg(architecture, depth, level))
    convs = [m for m in model.backbone.bottom_up.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == CONVS[depth]
    assert model.stride == STRIDES[level]
    with torch.no_grad():
        (feature,) = model.backbone(torch.zeros(1, 3, 64, 96)).values()
    assert feature.shape == (1, 32, 64 // model.stride, 96 // model.stride)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    total = sum(model([point_input([[20.0, 30.0], [60.0, 40.0]], [0, 1])]).values())
    total.backward()
    assert torch.isfinite(total) and total > 0
    # The loss reaches the first conv.
    assert model.backbone.bottom_up.stem.conv1.weight.grad.abs().sum() > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    optimizer.step()
    after = model.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
