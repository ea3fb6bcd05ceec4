import argparse
import errno
import json
import random

import numpy as np
import pytest
import torch

from cpr import engine
from cpr.data.datasets import make_spec
from cpr_deploy.files import InputError
from scenes import edit_json, tiny_opts, write_scenes
from training_runs import assert_same, train

ARCHITECTURES = ("CPRNet", "P2PNet")

pytestmark = pytest.mark.usefixtures("at_root", "one_thread")


@pytest.fixture
def scenes(tmp_path):
    return write_scenes(tmp_path, images=4, num_classes=2)


def arguments(scenes, architecture, output, *, resume=False, eval_only=False, **overrides):
    spec = make_spec(*scenes)
    opts = tiny_opts(architecture.upper(), **overrides)
    opts += ["DATASETS.TRAIN", spec, "DATASETS.TEST", spec, "OUTPUT_DIR", str(output)]
    return argparse.Namespace(
        config_file=f"configs/Base-{architecture}.yaml",
        opts=opts,
        resume=resume,
        eval_only=eval_only,
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_seed_makes_a_run_repeatable(scenes, tmp_path, architecture, workers):
    changes = {"DATALOADER.NUM_WORKERS": workers, "INPUT.RANDOM_FLIP": "both"}
    changes["INPUT.MIN_SIZE_TRAIN"] = (48, 64)
    one = train(arguments(scenes, architecture, tmp_path / "a", **changes))
    torch.rand(3), np.random.rand(3), random.random()
    assert_same(one, train(arguments(scenes, architecture, tmp_path / "b", **changes)))
    other = train(arguments(scenes, architecture, tmp_path / "c", SEED=2, **changes))
    assert other[0] != one[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_never_sees_a_box(scenes, tmp_path, architecture):
    """Boxes of objects are scrambled; the one of an ignored annotation stays, as it is a region."""

    def ignore_one(dataset):
        dataset["annotations"][0].update(ignore=1)

    def scramble(dataset):
        boxes = [a for a in dataset["annotations"] if not a.get("ignore")]
        for annotation in boxes:
            annotation["bbox"] = [random.uniform(0, 60) for _ in range(2)] + [1.5, 99.0]
            annotation["area"] = 1.0

    edit_json(scenes[0], ignore_one)
    before = train(arguments(scenes, architecture, tmp_path / "a"))
    edit_json(scenes[0], scramble)
    assert_same(before, train(arguments(scenes, architecture, tmp_path / "b")))
    edit_json(scenes[0], lambda d: [a.pop("bbox") for a in d["annotations"][1:]])
    assert_same(before, train(arguments(scenes, architecture, tmp_path / "c")))
    edit_json(scenes[0], lambda d: d["annotations"][0].update(bbox=[0, 0, 64, 64]))
    assert train(arguments(scenes, architecture, tmp_path / "d"))[0] != before[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_resume_equals_an_uninterrupted_run(scenes, tmp_path, architecture):
    changes = {"SOLVER.IMS_PER_BATCH": 1}
    whole = train(arguments(scenes, architecture, tmp_path / "whole", **changes))
    changes["SOLVER.MAX_ITER"] = 1
    first = train(arguments(scenes, architecture, tmp_path / "parts", **changes))
    changes["SOLVER.MAX_ITER"] = 3
    rest = train(arguments(scenes, architecture, tmp_path / "parts", resume=True, **changes))
    assert_same(whole, (first[0] + rest[0], rest[1]))


def test_resume_of_a_finished_run_evaluates(scenes, tmp_path):
    engine.run(arguments(scenes, "P2PNet", tmp_path / "out"))
    assert engine.run(arguments(scenes, "P2PNet", tmp_path / "out", resume=True))["points"]


def test_cprnet_run(scenes, tmp_path, caplog):
    out = tmp_path / "out"
    results = engine.run(
        arguments(scenes, "CPRNet", out, **{"SOLVER.MAX_ITER": 4, "TEST.EVAL_PERIOD": 2})
    )
    assert "points" not in results, "CPRNet is scored by RSV, never by mAP"
    curve = json.loads((out / "rsv_curve.json").read_text())
    assert [entry["iteration"] for entry in curve] == [2, 4]
    assert [entry["epoch"] for entry in curve] == [1.0, 2.0]
    assert curve[-1]["rsv_refined"] == results["refinement"]["rsv_refined"]
    # The points of each time, for the lower half of Fig. 6.
    kept = [json.loads((out / entry["points"]).read_text()) for entry in curve]
    assert kept[-1] == json.loads((out / "inference" / "refined.json").read_text())
    assert len(kept[0]["annotations"]) == len(kept[-1]["annotations"])
    assert {"rsv_coarse", "inside_coarse", "inside_refined", "distance_refined"} <= set(curve[0])
    log = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert "refinement/rsv_refined" in log[-1]
    assert any("cpr/bag_score" in line for line in log)
    assert any(path.name.startswith("events.out.tfevents") for path in out.iterdir())
    assert (out / "inference" / "refined.json").exists()

    # A longer, resumed run goes on with the curve; a new one starts anew.
    engine.run(
        arguments(
            scenes, "CPRNet", out, resume=True, **{"SOLVER.MAX_ITER": 6, "TEST.EVAL_PERIOD": 2}
        )
    )
    curve = json.loads((out / "rsv_curve.json").read_text())
    assert [entry["iteration"] for entry in curve] == [2, 4, 6]
    engine.run(arguments(scenes, "CPRNet", out))
    curve = json.loads((out / "rsv_curve.json").read_text())
    assert [entry["iteration"] for entry in curve] == [3]


def test_eval_only_equals_the_evaluation_after_training(scenes, tmp_path):
    out = tmp_path / "out"
    changes = {"MODEL.P2PNET.SCORE_THRESH": 0.001}
    trained = engine.run(arguments(scenes, "P2PNet", out, **changes))
    changes["MODEL.WEIGHTS"] = out / "model_final.pth"
    args = arguments(scenes, "P2PNet", tmp_path / "again", eval_only=True, **changes)
    args.opts += ["DATASETS.TRAIN", "('points:gone.json@gone',)"]
    again = engine.run(args)
    assert again["points"] == pytest.approx(trained["points"], nan_ok=True)
    detections = json.loads((tmp_path / "again" / "inference" / "detections.json").read_text())
    assert detections == json.loads((out / "inference" / "detections.json").read_text())


def test_checkpoint_knows_its_classes(scenes, tmp_path):
    engine.run(arguments(scenes, "P2PNet", tmp_path / "out"))
    data = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert data["metadata"] == {"class_names": ["class0", "class1"], "category_ids": [3, 7]}
    assert data["iteration"] == 2


def test_two_test_sets(scenes, tmp_path):
    other = write_scenes(tmp_path / "other", num_classes=2, seed=5)
    args = arguments(scenes, "CPRNet", tmp_path / "out")
    args.opts += ["DATASETS.TEST", repr((make_spec(*scenes), make_spec(*other)))]
    results = engine.run(args)
    assert len(results) == 2
    for folder in ("0_scenes", "1_scenes"):
        assert (tmp_path / "out" / "inference" / folder / "refined.json").exists()
    assert len(json.loads((tmp_path / "out" / "rsv_curve.json").read_text())) == 2


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
def test_optimizers(scenes, tmp_path, optimizer):
    losses, _ = train(
        arguments(scenes, "CPRNet", tmp_path / "out", **{"SOLVER.OPTIMIZER": optimizer})
    )
    assert len(losses) == 3
    cfg = engine.build_cfg("", ["SOLVER.OPTIMIZER", optimizer, "SOLVER.WEIGHT_DECAY", 0.25])
    built = engine.build_optimizer(cfg, torch.nn.Linear(2, 2))
    assert isinstance(built, getattr(torch.optim, optimizer))
    assert all(group["weight_decay"] == 0.25 for group in built.param_groups)


def test_the_backbone_may_learn_more_slowly():
    opts = ["SOLVER.BASE_LR", 0.5, "SOLVER.BACKBONE_MULTIPLIER", 0.1]
    parts = {"bottom_up": torch.nn.Linear(2, 2), "lateral_convs": torch.nn.Linear(2, 2)}
    model = torch.nn.ModuleDict(
        {"backbone": torch.nn.ModuleDict(parts), "head": torch.nn.Linear(2, 2)}
    )
    optimizer = engine.build_optimizer(engine.build_cfg("", opts), model)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: rates[parameter] for name, parameter in model.named_parameters()}
    assert {name for name, rate in by_name.items() if rate == pytest.approx(0.05)} == {
        "backbone.bottom_up.weight",
        "backbone.bottom_up.bias",
    }
    assert sum(rate == 0.5 for rate in by_name.values()) == 4


@pytest.mark.parametrize("norm, scale", [(20.0, 0.5), (5.0, 1.0)])
def test_full_model_clipping_scales_all_gradients_together(norm, scale):
    keys = {"ENABLED": True, "CLIP_TYPE": "full_model", "CLIP_VALUE": 10.0, "NORM_TYPE": 2.0}
    opts = [item for k, v in keys.items() for item in (f"SOLVER.CLIP_GRADIENTS.{k}", v)]
    opts += ["SOLVER.BASE_LR", 1.0, "SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0]
    model = torch.nn.ModuleList([torch.nn.Linear(4, 1, bias=False) for _ in range(2)])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = engine.build_optimizer(engine.build_cfg("", opts), model)
    # 3:4:5, so that the norm of both together is `norm`.
    gradients = [torch.tensor([[0.6 * norm, 0, 0, 0]]), torch.tensor([[0, 0.8 * norm, 0, 0]])]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()
    for parameter, old, gradient in zip(model.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter, old - scale * gradient, rtol=1e-5, atol=1e-5)


def test_device_is_chosen_if_not_set(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert engine.build_cfg().MODEL.DEVICE == "cuda"
    assert engine.build_cfg("", ["MODEL.DEVICE", "cpu"]).MODEL.DEVICE == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine.build_cfg().MODEL.DEVICE == "cpu"
    with pytest.raises(InputError, match="Set MODEL.DEVICE cpu"):
        engine.build_cfg("", ["MODEL.DEVICE", "cuda"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_amp_on_a_cpu_is_for_training_only(scenes, tmp_path, architecture):
    whole, _ = train(arguments(scenes, architecture, tmp_path / "whole"))
    args = arguments(scenes, architecture, tmp_path / "mixed", **{"SOLVER.AMP.ENABLED": True})
    mixed, weights = train(args)
    assert mixed != whole and mixed == pytest.approx(whole, rel=0.02)
    args.opts += ["MODEL.WEIGHTS", str(tmp_path / "mixed" / "model_final.pth")]
    args.opts += ["OUTPUT_DIR", str(tmp_path / "again")]
    name = "detections.json" if architecture == "P2PNet" else "refined.json"
    engine.run(argparse.Namespace(**{**vars(args), "eval_only": True}))
    assert (tmp_path / "again" / "inference" / name).read_text() == (
        tmp_path / "mixed" / "inference" / name
    ).read_text()


@pytest.mark.parametrize(
    "content, opts, message",
    [
        pytest.param(None, [], "config.yaml", id="no such file"),
        pytest.param("", [], "is empty", id="empty file"),
        pytest.param("MODEL: [", [], "not a valid YAML", id="bad YAML"),
        pytest.param("MODEL:\n  MASKS: 1\n", [], "MODEL.MASKS", id="unknown key in the file"),
        pytest.param("VERSION: 2\n", ["MODEL.NOTHING", "1"], "MODEL.NOTHING", id="unknown key"),
        pytest.param("VERSION: 2\n", ["SEED"], "odd length", id="key without value"),
        pytest.param(
            "VERSION: 2\n", ["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER", id="wrong type"
        ),
        pytest.param(
            "SEED: !!python/object/apply:os.getpid []\n", [], "not a valid YAML", id="code in YAML"
        ),
    ],
)
def test_bad_config(tmp_path, content, opts, message):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        engine.build_cfg(path, opts)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"SOLVER.OPTIMIZER": "LAMB"}, "SGD, Adam, AdamW"),
        (
            {"SOLVER.CLIP_GRADIENTS.ENABLED": True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "all"},
            "full_model, norm, value",
        ),
        ({"SOLVER.IMS_PER_BATCH": 0}, "SOLVER.IMS_PER_BATCH"),
        ({"MODEL.CPRNET.NUM_CLASSES": 3}, "MODEL.CPRNET.NUM_CLASSES 2"),
        ({"TEST.POINTS.SIZE_RANGES": "cocoa"}, "TEST.POINTS: size_ranges 'cocoa'"),
        ({"TEST.POINTS.TAUS": "[0.5, -1.0]"}, "TEST.POINTS: tau"),
        ({"MODEL.WEIGHTS": "nowhere/model.pth"}, "nowhere/model.pth"),
    ],
)
def test_bad_settings_stop_before_training(scenes, tmp_path, overrides, message):
    with pytest.raises(InputError, match=message):
        engine.run(arguments(scenes, "CPRNet", tmp_path / "out", **overrides))
    assert not list(tmp_path.glob("out/*.pth"))


def without(args, key):
    at = args.opts.index(key)
    del args.opts[at : at + 2]
    return args


def test_weights_must_be_given_or_declined(scenes, tmp_path):
    """Random weights only for MODEL.WEIGHTS ""; a resumed run has its own."""
    out = tmp_path / "out"
    for eval_only in (False, True):
        args = without(arguments(scenes, "P2PNet", out, eval_only=eval_only), "MODEL.WEIGHTS")
        with pytest.raises(InputError, match="MODEL.WEIGHTS is not set"):
            engine.setup(args)
    assert not out.exists()
    engine.run(arguments(scenes, "P2PNet", out))
    args = without(arguments(scenes, "P2PNet", out, resume=True), "MODEL.WEIGHTS")
    assert engine.run(args)["points"]


def test_evaluation_on_other_classes_is_refused(scenes, tmp_path):
    out = tmp_path / "out"
    engine.run(arguments(scenes, "P2PNet", out))
    changes = {"MODEL.WEIGHTS": out / "model_final.pth"}
    assert engine.run(arguments(scenes, "P2PNet", out, eval_only=True, **changes))["points"]
    edit_json(scenes[0], lambda d: d["categories"][0].update(name="whale"))
    with pytest.raises(
        InputError, match="whale, class1; the network was trained on class0, class1"
    ):
        engine.run(arguments(scenes, "P2PNet", out, eval_only=True, **changes))


@pytest.mark.parametrize("eval_only, key", [(False, "DATASETS.TRAIN"), (True, "DATASETS.TEST")])
def test_data_sets_must_be_given(scenes, tmp_path, eval_only, key):
    args = arguments(scenes, "CPRNet", tmp_path / "out", eval_only=eval_only)
    with pytest.raises(InputError, match=f"{key} is empty: .*points:annotations.json@images"):
        engine.setup(without(args, key))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(scenes, tmp_path, workers):
    path = scenes[1] / "scenes2.png"
    path.write_bytes(path.read_bytes()[:900])
    args = arguments(scenes, "P2PNet", tmp_path / "out", **{"DATALOADER.NUM_WORKERS": workers})
    with pytest.raises(InputError, match=r"^[^\n]*scenes2\.png \(image 12\): [^\n]*$"):
        engine.run(args)


def fail_on_rank_1(value):
    if torch.distributed.get_rank() == 1:
        raise InputError(f"bad {value}")
    torch.distributed.barrier()


def deny_on_rank_1(path):
    if torch.distributed.get_rank() == 1:
        raise PermissionError(errno.EACCES, "Permission denied", path)
    torch.distributed.barrier()


def sum_over_ranks(path):
    total = torch.tensor([torch.distributed.get_rank() + 1.0])
    torch.distributed.all_reduce(total)
    if torch.distributed.get_rank() == 0:
        path.write_text(f"{torch.distributed.get_backend()} {total.item()}")


def test_launch(tmp_path):
    engine.launch(sum_over_ranks, (tmp_path / "sum",), device="cpu", num_processes=2)
    assert (tmp_path / "sum").read_text() == "gloo 3.0"
    with pytest.raises(InputError, match="^bad file$"):
        engine.launch(fail_on_rank_1, ("file",), device="cpu", num_processes=2)
    with pytest.raises(InputError, match="^out: no permission; choose a path"):
        engine.launch(deny_on_rank_1, ("out",), device="cpu", num_processes=2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_processes": 0}, "--num-gpus"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank"),
        ({"num_machines": 2}, "--dist-url"),
    ],
)
def test_launch_arguments(options, message):
    with pytest.raises(InputError, match=message):
        engine.launch(print, (), device="cpu", **options)
