import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_backbone

from cpr.engine import build_network
from cpr.modeling.pyramid import ExtraLevels
from cpr_deploy.files import InputError
from tiny_models import tiny_cfg


def backbone(stages=("res2", "res3", "res4"), *, outputs=None, extra=0, norm="GN", depth=18):
    cfg = tiny_cfg("P2PNet")
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_pyramid_backbone"
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = list(outputs or stages)
    cfg.MODEL.FPN.IN_FEATURES = list(stages)
    cfg.MODEL.FPN.EXTRA_LEVELS = extra
    cfg.MODEL.FPN.NORM = norm
    torch.manual_seed(0)
    return build_backbone(cfg)


@pytest.mark.parametrize(
    "stages, extra, strides",
    [
        (["res2", "res3", "res4"], 0, {"p2": 4, "p3": 8, "p4": 16}),
        (["res3", "res4"], 0, {"p3": 8, "p4": 16}),
        (["res4"], 1, {"p4": 16, "p5": 32}),
        (
            ["res3", "res4", "res5"],
            2,
            {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128},
        ),
    ],
)
def test_levels(stages, extra, strides):
    network = backbone(stages, extra=extra, norm="")
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        levels = network(images)
    shapes = network.output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == strides
    for name, stride in strides.items():
        size = (-(-64 // stride), -(-96 // stride))
        assert levels[name].shape == (1, 32, *size)
        assert shapes[name].channels == 32
    assert network.size_divisibility == 2 ** int(stages[-1][-1])


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_depths(depth):
    with torch.no_grad():
        levels = backbone(["res3", "res4", "res5"], extra=1, depth=depth, norm="")(
            torch.rand(1, 3, 64, 64)
        )
    assert [level.shape[-1] for level in levels.values()] == [8, 4, 2, 1]


def test_levels_of_the_fpn_by_hand():
    """Lateral 1x1 convs, doubled and added from the top down, then a 3x3 conv each."""
    network = backbone(norm="")
    images = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        below, merged = network.bottom_up(images), None
        expected = {}
        for stage in (4, 3, 2):
            level = getattr(network, f"fpn_lateral{stage}")(below[f"res{stage}"])
            if merged is not None:
                level = level + merged.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            merged = level
            expected[f"p{stage}"] = getattr(network, f"fpn_output{stage}")(merged)
        for name, level in network(images).items():
            torch.testing.assert_close(level, expected[name])


def test_extra_levels_by_hand():
    """Each is a conv of stride 2 on the one below; between two of them a ReLU."""
    torch.manual_seed(0)
    block = ExtraLevels(in_feature="p5", channels=4, num_levels=2, norm="")
    feature = torch.randn(2, 4, 7, 5)
    first, second = block(feature)

    def conv(value, index):
        layer = block.convs[index]
        return F.conv2d(value, layer.weight, layer.bias, stride=2, padding=1)

    torch.testing.assert_close(first, conv(feature, 0))
    torch.testing.assert_close(second, conv(first.clamp(min=0), 1))
    assert (first < 0).any()
    assert first.shape[-2:] == (4, 3) and second.shape[-2:] == (2, 2)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"stages": ["res2", "res4"]}, r"MODEL\.FPN\.IN_FEATURES is \['res2', 'res4'\]"),
        ({"stages": ["res3", "res5"], "outputs": ["res3", "res4"]}, r"MODEL\.FPN\.IN_FEATURES"),
        ({"stages": ["res4", "res3"], "outputs": ["res3", "res4"]}, r"MODEL\.FPN\.IN_FEATURES"),
        ({"stages": [], "outputs": ["res3"]}, r"MODEL\.FPN\.IN_FEATURES"),
        ({"extra": -1}, r"MODEL\.FPN\.EXTRA_LEVELS is -1"),
    ],
)
def test_bad_settings(settings, message):
    settings.setdefault("outputs", ["res2", "res3", "res4"])
    with pytest.raises(InputError, match=message):
        backbone(**settings)


@pytest.mark.parametrize(
    "architecture, node", [("RetinaNet", "RETINANET"), ("RepPoints", "REPPOINTS")]
)
def test_a_level_that_nobody_reads(architecture, node):
    """On several processes a training would stop at weights without a gradient."""
    cfg = tiny_cfg(architecture)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_pyramid_backbone"
    cfg.MODEL.FPN.EXTRA_LEVELS = 1
    names = ["p" + stage[3:] for stage in cfg.MODEL.FPN.IN_FEATURES]
    cfg.MODEL[node].IN_FEATURES = names
    with pytest.raises(InputError, match=rf"MODEL\.{node}\.IN_FEATURES.*nobody reads"):
        build_network(cfg)
    cfg.MODEL.FPN.EXTRA_LEVELS = 0
    build_network(cfg)


@pytest.mark.parametrize(
    "architecture, key",
    [("RetinaNet", "RETINANET"), ("GeneralizedRCNN", "RPN"), ("GeneralizedRCNN", "ROI_HEADS")],
)
def test_a_detector_that_reads_a_missing_level(architecture, key):
    cfg = tiny_cfg(architecture)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_pyramid_backbone"
    for node in ("RETINANET", "RPN", "ROI_HEADS"):
        cfg.MODEL[node].IN_FEATURES = ["p2", "p3"]
    cfg.MODEL[key].IN_FEATURES = ["p3", "p6"]
    with pytest.raises(InputError, match=rf"MODEL\.{key}\.IN_FEATURES is \['p3', 'p6'\].*'p4'"):
        build_network(cfg)
