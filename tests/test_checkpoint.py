import logging
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from torch import nn

import cpr.modeling  # noqa: F401
from cpr.checkpoint import PointCheckpointer, from_torchvision, is_torchvision_resnet
from cpr_deploy.files import InputError
from tiny_models import tiny_cfg

IMAGENET_C4 = (
    Path(__file__).parents[1].parent / "shared" / "weights" / "resnet18_imagenet_c4_bnfolded.pth"
)


def network(architecture="CPRNet", *, depth=18, res5=False, norm="FrozenBN"):
    cfg = tiny_cfg(architecture)
    stages = ["res2", "res3", "res4"] + ["res5"] * res5
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.OUT_FEATURES = stages
    cfg.MODEL.FPN.IN_FEATURES = stages
    return build_model(cfg).eval()


def randomize_norms(model):
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
            ):
                value.uniform_(low, high, generator=generator)
    return model.eval()


def torchvision_features(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    features = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = getattr(model, name)(x)
        features[f"res{int(name[-1]) + 1}"] = x
    return features


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_torchvision_features_are_equal(tmp_path, depth):
    theirs = randomize_norms(getattr(torchvision.models, f"resnet{depth}")(weights=None))
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    ours = network(depth=depth, res5=True)
    PointCheckpointer(ours).load(str(tmp_path / "resnet.pth"))
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 4 - 2
    with torch.no_grad():
        expected = torchvision_features(theirs, x)
        found = ours.backbone.bottom_up(x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not IMAGENET_C4.exists(), reason="the shared weights are not on this machine")
def test_imagenet_weights_without_layer4(caplog):
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.load_state_dict(torch.load(IMAGENET_C4, weights_only=True), strict=False)
    ours = network()
    with caplog.at_level(logging.WARNING):
        PointCheckpointer(ours).load(str(IMAGENET_C4))
    assert not caplog.records, "nothing is missing from a network up to res4"
    x = torch.rand(1, 3, 64, 64) * 4 - 2
    with torch.no_grad():
        expected = torchvision_features(theirs, x)
        for name, value in ours.backbone.bottom_up(x).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


def test_missing_stage_is_named(tmp_path, caplog):
    weights = torchvision.models.resnet18(weights=None).state_dict()
    weights = {k: v for k, v in weights.items() if not k.startswith(("layer4", "fc"))}
    torch.save(weights, tmp_path / "c4.pth")
    with caplog.at_level(logging.WARNING):
        PointCheckpointer(network(res5=True)).load(str(tmp_path / "c4.pth"))
    assert [r for r in caplog.records if "res5" in r.message and "res4" not in r.message]


def test_unused_stage_and_wrappers(tmp_path):
    weights = torchvision.models.resnet18(weights=None).state_dict()
    wrapped = {"state_dict": {f"module.{key}": value for key, value in weights.items()}}
    torch.save(wrapped, tmp_path / "full.pth")
    model = network()
    PointCheckpointer(model).load(str(tmp_path / "full.pth"))
    torch.testing.assert_close(
        model.backbone.bottom_up.res4[1].conv2.weight, weights["layer3.1.conv2.weight"]
    )


@pytest.mark.parametrize("file_depth, model_depth", [(50, 18), (18, 34), (34, 18), (18, 50)])
def test_backbone_of_another_depth(tmp_path, file_depth, model_depth):
    weights = getattr(torchvision.models, f"resnet{file_depth}")(weights=None).state_dict()
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth.*(another architecture|another depth)"):
        PointCheckpointer(network(depth=model_depth)).load(str(tmp_path / "w.pth"))


def test_weights_of_another_network(tmp_path):
    PointCheckpointer(network("P2PNet"), str(tmp_path)).save("p2p")
    with pytest.raises(InputError, match="another architecture.*CPRNet"):
        PointCheckpointer(network("CPRNet")).load(str(tmp_path / "p2p.pth"))
    torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), tmp_path / "m.pth")
    with pytest.raises(InputError, match="none of its weights"):
        PointCheckpointer(network()).load(str(tmp_path / "m.pth"))


def test_other_number_of_classes(tmp_path):
    PointCheckpointer(build_model(tiny_cfg("CPRNet", num_classes=3)), str(tmp_path)).save("w")
    with pytest.raises(InputError, match=r"cls_score.*shape \(3, 32, 1, 1\).*\(2, 32, 1, 1\)"):
        PointCheckpointer(build_model(tiny_cfg("CPRNet"))).load(str(tmp_path / "w.pth"))


def test_backbone_alone_is_not_enough_for_evaluation(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    with pytest.raises(InputError, match="holds a backbone only"):
        PointCheckpointer(network(), require_all=True).load(str(tmp_path / "r18.pth"))


def test_round_trip_is_plain(tmp_path):
    model = network(norm="GN")

    class Counter:
        def state_dict(self):
            return {"iteration": np.int64(7), "lr": np.float32(0.5), "values": np.arange(3.0)}

        def load_state_dict(self, state):
            self.state = state

    metadata = {"class_names": ["a", "b"], "category_ids": [3, 7]}
    PointCheckpointer(model, str(tmp_path), metadata=metadata, counter=Counter()).save(
        "model", iteration=np.int64(3)
    )
    assert (tmp_path / "last_checkpoint").read_text() == "model.pth"
    data = torch.load(tmp_path / "model.pth", weights_only=True)
    assert type(data["iteration"]) is int and data["counter"]["iteration"] == 7

    other, counter = network(norm="GN"), Counter()
    rest = PointCheckpointer(other, counter=counter).load(str(tmp_path / "model.pth"))
    assert rest["metadata"] == metadata
    assert counter.state["lr"] == 0.5
    for (key, value), (_, expected) in zip(
        other.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert torch.equal(value, expected), key


def test_empty_path_keeps_random_weights():
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    PointCheckpointer(model).load("")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["none.pth", "none.pkl", "folder/none.pth"])
def test_absent_file(tmp_path, name):
    with pytest.raises(InputError, match=r'none\.p.*MODEL\.WEIGHTS ""'):
        PointCheckpointer(network()).load(str(tmp_path / name))


class Evil:
    def __reduce__(self):
        return os.system, ("touch was_run",)


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"model": Evil()}, id="runs code"),
        pytest.param([1, 2, 3], id="a list"),
        pytest.param({"a": 1}, id="no tensors"),
        pytest.param({}, id="empty"),
        pytest.param({"model": {"w": "text"}}, id="a text as weight"),
        pytest.param(InputError("x"), id="another class"),
    ],
)
def test_pickle_that_is_no_checkpoint(tmp_path, monkeypatch, suffix, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=rf"bad\.{suffix}"):
        PointCheckpointer(network()).load(str(path))
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_damaged_file(tmp_path, suffix, keep):
    path = tmp_path / f"cut.{suffix}"
    weights = torchvision.models.resnet18(weights=None).state_dict()
    if suffix == "pth":
        torch.save(weights, path)
    else:
        path.write_bytes(pickle.dumps({key: value.numpy() for key, value in weights.items()}))
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(InputError, match=rf"cut\.{suffix}"):
        PointCheckpointer(network()).load(str(path))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_model_zoo_pickle_of_torchvision(tmp_path, protocol):
    """Detectron2's R-50.pkl of torchvision: its own names, numpy arrays, and an author."""
    weights = torchvision.models.resnet18(weights=None).state_dict()
    renamed = OrderedDict(
        (key, value.numpy())
        for key, value in from_torchvision(weights).items()
        if not key.endswith("num_batches_tracked")
    )
    renamed["stem.fc.weight"] = weights["fc.weight"].numpy()
    content = {"model": renamed, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    model = network()
    PointCheckpointer(model).load(str(tmp_path / "R-18.pkl"))
    torch.testing.assert_close(
        model.backbone.bottom_up.res3[0].shortcut.weight, weights["layer2.0.downsample.0.weight"]
    )


def test_caffe2_pickle(tmp_path):
    """Detectron's names; its norms are a scale and a shift."""
    model = network(depth=50)
    names = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    content, generator = {}, np.random.default_rng(0)
    for key, value in model.backbone.bottom_up.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            continue
        parts = key.split(".")
        if parts[0] == "stem":
            name = "conv1_w" if "norm" not in parts else f"res_conv1_bn_{parts[-1]}"
        else:
            name = f"{parts[0]}_{parts[1]}_{names[parts[2]]}"
            name += f"_bn_{parts[-1]}" if "norm" in parts else "_w"
        name = name.replace("bn_weight", "bn_s").replace("bn_bias", "bn_b")
        content[name] = generator.normal(size=value.shape).astype(np.float32)
    content["conv1_b"] = np.zeros(64, np.float32)
    content["fc1000_w"] = np.zeros((1000, 2048), np.float32)
    content["conv1_w_momentum"] = np.zeros(3, np.float32)
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": content}, protocol=2))
    PointCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    bottom_up = model.backbone.bottom_up
    np.testing.assert_array_equal(
        bottom_up.res3[2].conv2.weight.detach(), content["res3_2_branch2b_w"]
    )
    np.testing.assert_array_equal(
        bottom_up.res2[0].shortcut.norm.bias, content["res2_0_branch1_bn_b"]
    )
    assert bool((bottom_up.res2[0].shortcut.norm.running_var == 1).all())


def test_from_torchvision_names():
    weights = torchvision.models.resnet18(weights=None).state_dict()
    assert is_torchvision_resnet(weights)
    renamed = from_torchvision(weights)
    assert not is_torchvision_resnet(renamed)
    for name in (
        "stem.conv1.weight",
        "stem.conv1.norm.running_var",
        "res2.0.conv1.weight",
        "res5.1.conv2.norm.bias",
        "res3.0.shortcut.weight",
        "res3.0.shortcut.norm.weight",
    ):
        assert name in renamed
    assert not any(key.startswith("fc") for key in renamed)
