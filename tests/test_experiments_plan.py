import dataclasses
import json
import os
import shutil
import sys
from types import SimpleNamespace

import pytest

from cpr.experiments.data import ExperimentData
from cpr.experiments.plan import slug
from cpr.experiments.run import Request, plan_tables, prepare, run_steps
from cpr.refiners import REFINER, Refiner
from cpr.scheduler import Step, step_record
from cpr_deploy.files import InputError
from scenes import write_scenes
from tool_runner import ROOT


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Made images as a data set with a held-out part."""
    folder = tmp_path_factory.mktemp("data")
    train, images = write_scenes(folder, name="train", clicks=False)
    val, _ = write_scenes(folder, name="val", seed=1, clicks=False)
    return ExperimentData("made", train, val, images, images)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "r18.pth"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def request_for(tmp_path, weights):
    def make(**changes):
        return Request(
            **{"output": tmp_path / "out", "weights": [str(weights)], "device": "cpu", **changes}
        )

    return make


def planned(request, data, tables, seeds=1):
    experiment = prepare(request, data, ROOT)
    plan, rows = plan_tables(experiment, tables, seeds)
    return {step.name: step for step in plan.steps}, rows, experiment


def test_what_rows_have_in_common_is_done_once(request_for, data):
    steps, rows, _ = planned(request_for(), data, ["1", "4c", "4d"], seeds=2)
    trainings = [name for name in steps if steps[name].iterations]
    # Table 4c: one CPRNet, five refinements, five localizers, one of which Table 1 has.
    assert sum("cprnet" in name and "p2pnet" not in name for name in trainings) == 2
    # Per seed: CPRNet, RepPoints (a row and the baseline of self-refinement), P2PNet on clicks,
    # self-refined, refined and centre points, and on four refinements with a constraint less.
    assert len(trainings) == 2 * (1 + 1 + 4 + 4)
    assert {row.key: len(row.runs) for row in rows["4d"]} == dict.fromkeys(
        ("coarse", "cpr", "centre"), 2
    )
    by_key = {row.key: row for row in rows["1"]}
    assert by_key["cpr"].runs[0].points == rows["4d"][1].runs[0].points
    assert by_key["cpr"].runs[0].points != by_key["cpr"].runs[1].points


def test_steps_only_read_what_earlier_steps_write(request_for, data):
    steps, _, experiment = planned(request_for(), data, ["1", "2", "3", "4a", "5c", "choices"])
    prepared = {experiment.data.train, experiment.data.val, experiment.curve}
    for step in steps.values():
        todo, before = list(step.after), set()
        while todo:
            name = todo.pop()
            before.add(name)
            todo += steps[name].after
        for path in step.inputs:
            if path not in prepared:
                assert any(path in steps[name].outputs for name in before), (step.name, path)


def test_the_held_out_part_is_only_scored(request_for, data):
    steps, _, experiment = planned(request_for(), data, ["1", "3"])
    for step in steps.values():
        if str(experiment.data.val) in " ".join(step.command):
            at = step.command.index("DATASETS.TEST")
            assert str(experiment.data.val) in step.command[at + 1]
            rest = [*step.command[:at], *step.command[at + 2 :]]
            assert not any(str(experiment.data.val) in word for word in rest)
            assert "cprnet" not in step.name.split("-")[1].split("_")[0]


def test_localizers_of_a_table_differ_in_their_points_only(request_for, data):
    steps, _, _ = planned(request_for(), data, ["4d"])
    commands = []
    for points in ("coarse", "centre", "cpr_cprnet"):
        command = " ".join(steps[f"seed0-p2pnet_{points}"].command)
        commands.append(command.replace(points, "POINTS"))
    assert commands[0] == commands[1] == commands[2]


def test_seeds_change_clicks_and_trainings(request_for, data):
    steps, _, _ = planned(request_for(), data, ["4d"], seeds=2)
    for seed in range(2):
        clicks = steps[f"seed{seed}-coarse"].command
        assert clicks[clicks.index("--seed") + 1] == str(seed)
        training = steps[f"seed{seed}-cprnet"].command
        assert training[training.index("SEED") + 1] == str(seed)


def test_identity_is_what_is_trained_not_where(request_for, data, tmp_path):
    first, _, _ = planned(request_for(), data, ["4d"])
    second, _, experiment = planned(request_for(output=tmp_path / "other"), data, ["4d"])
    assert {n: s.identity for n, s in first.items()} == {n: s.identity for n, s in second.items()}
    on_gpu = dataclasses.replace(experiment, device="cuda")
    plan, _ = plan_tables(on_gpu, ["4d"], 1)
    assert {s.name: s.identity for s in plan.steps} == {n: s.identity for n, s in second.items()}
    longer, _, _ = planned(request_for(output=tmp_path / "longer", schedule=2.0), data, ["4d"])
    changed = {name for name in first if longer[name].identity != first[name].identity}
    assert {"seed0-cprnet", "seed0-p2pnet_coarse"} <= changed
    assert "seed0-coarse" not in changed


def test_another_experiment_does_not_go_into_the_folder(request_for, data):
    prepare(request_for(), data, ROOT)
    prepare(request_for(), data, ROOT)
    with pytest.raises(InputError, match=r"settings: .*Give the same ones.*--output"):
        prepare(request_for(object_size=30.0), data, ROOT)
    with pytest.raises(InputError, match=r"classes: \['class0', 'class1'\] there, \['class0'\]"):
        prepare(request_for(classes=["class0"]), data, ROOT)
    with pytest.raises(InputError, match="train_images: 4 there, 2 now"):
        prepare(request_for(train_images=2), data, ROOT)
    with pytest.raises(InputError, match="options"):
        prepare(request_for(options=["SOLVER.BASE_LR", "0.1"]), data, ROOT)


def test_a_folder_of_others_is_left_alone(request_for, data, tmp_path):
    theirs = tmp_path / "out" / "data" / "train.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(InputError, match="no experiment's folder"):
        prepare(request_for(), data, ROOT)
    assert theirs.read_text() == "mine"


def test_data_files_that_were_not_written_yet_are(request_for, data):
    experiment = prepare(request_for(), data, ROOT)
    before = experiment.curve.read_bytes()
    experiment.curve.unlink()
    prepare(request_for(), data, ROOT)
    assert experiment.curve.read_bytes() == before


def test_parts_must_fit_each_other(request_for, data, tmp_path):
    val = json.loads(data.val.read_text())
    val["categories"][0]["id"] = 99
    for annotation in val["annotations"]:
        annotation["category_id"] = 7
    other = tmp_path / "val.json"
    other.write_text(json.dumps(val))
    with pytest.raises(InputError, match="its categories differ"):
        prepare(request_for(), dataclasses.replace(data, val=other), ROOT)
    val = json.loads(data.val.read_text())
    val["images"][0]["file_name"] = "gone.png"
    other.write_text(json.dumps(val))
    # Before the trainings, not after them.
    with pytest.raises(InputError, match=r"gone\.png: no such image"):
        prepare(request_for(), dataclasses.replace(data, val=other), ROOT)


def test_flat_boxes_are_left_out(request_for, data, tmp_path):
    """COCO's train2017 has two boxes of height 0."""
    train = json.loads(data.train.read_text())
    train["annotations"][0]["bbox"][3] = 0.0
    other = tmp_path / "train.json"
    other.write_text(json.dumps(train))
    experiment = prepare(request_for(), dataclasses.replace(data, train=other), ROOT)
    kept = json.loads(experiment.data.train.read_text())["annotations"]
    assert [a["id"] for a in kept] == [a["id"] for a in train["annotations"][1:]]


def test_rows_that_are_the_standard_share_its_steps(request_for, data):
    steps, rows, experiment = planned(request_for(), data, ["1", "4b", "4e", "5c"])
    assert experiment.settings.level == "p2"
    cprnets = {run.rsv_curve.parent.name for row in rows["4b"] for run in row.runs}
    assert "cprnet" in cprnets and len(cprnets) == len(rows["4b"])
    standard = next(row for row in rows["1"] if row.key == "cpr").runs[0]
    assert rows["4e"][0].runs[0].points == standard.points
    same = [row.key for row in rows["5c"] if row.runs[0].points == standard.points]
    assert same == ["delta1_0.10", "delta2_0.50"]
    identities = [(s.identity, *s.inputs) for s in steps.values() if s.iterations]
    assert len(set(identities)) == len(identities)


def test_a_row_is_what_it_says_whatever_the_command_line(request_for, data):
    steps, rows, _ = planned(request_for(options=["MODEL.CPRNET.U0", "5"]), data, ["5b"])
    for row in rows["5b"]:
        command = steps[f"seed0-{row.runs[0].rsv_curve.parent.name}"].command
        last = len(command) - command[::-1].index("MODEL.CPRNET.U0")
        assert f"u0 = {command[last]}" == row.label


def test_processes_are_passed_on(request_for, data):
    steps, _, _ = planned(request_for(num_gpus=4), data, ["4d"])
    command = " ".join(steps["seed0-cprnet"].command)
    assert "--num-gpus 4" in command


def test_data_files_hold_the_chosen_part(request_for, data):
    experiment = prepare(request_for(classes=["class1"], train_images=3), data, ROOT)
    train = json.loads(experiment.data.train.read_text())
    assert len(train["images"]) == 3
    assert {c["name"] for c in train["categories"]} == {"class1"}
    val = json.loads(experiment.data.val.read_text())
    assert len(val["images"]) == 4
    assert {a["category_id"] for a in val["annotations"]} == {train["categories"][0]["id"]}


def test_rows_without_weights_are_left_out_and_say_so(request_for, data, weights, tmp_path):
    _, rows, _ = planned(request_for(), data, ["4e"])
    by_key = {row.key: row for row in rows["4e"]}
    assert by_key["r18_r18"].runs and not by_key["r18_r18"].missing
    assert not by_key["r50_r101"].runs
    assert by_key["r50_r101"].missing == "needs ImageNet weights of R-50: --weights 50=FILE"
    both = [str(weights), f"50={shutil.copy(weights, tmp_path / 'r50.pth')}"]
    steps, rows, _ = planned(request_for(weights=both), data, ["4e"])
    by_key = {row.key: row for row in rows["4e"]}
    assert by_key["r50_r50"].runs and "R-101" in by_key["r50_r101"].missing
    command = steps["seed0-cprnet_r50"].command
    assert command[command.index("MODEL.RESNETS.DEPTH") + 1] == "50"
    assert command[command.index("MODEL.WEIGHTS") + 1].endswith("r50.pth")


def test_random_weights_are_trained_with_norms_that_learn(request_for, data):
    steps, _, _ = planned(request_for(weights=["random"]), data, ["4d"])
    command = steps["seed0-cprnet"].command
    assert command[command.index("MODEL.WEIGHTS") + 1] == ""
    assert command[command.index("MODEL.RESNETS.NORM") + 1] == "GN"


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"weights": []}, "--weights is missing.*R-18"),
        ({"weights": ["missing.pth"]}, "missing.pth is no file"),
        ({"weights": ["x=r18.pth"]}, "x=r18.pth is no file. Give FILE or DEPTH=FILE"),
        ({"recipe": "COCO", "schedule": 0.5}, "--schedule: recipe COCO fixes"),
        ({"train_images": 0}, "--train-images 0"),
        ({"top_classes": -1}, "--top-classes -1"),
        ({"recipe": "Mars"}, "--recipe Mars: unknown. Known: SmallSets, COCO"),
        ({"device": "tpu"}, "--device tpu"),
    ],
)
def test_bad_requests(request_for, data, changes, text):
    with pytest.raises(InputError, match=text):
        prepare(request_for(**changes), data, ROOT)


def test_a_benchmark_s_recipe_is_taken_to_the_letter(request_for, data, weights):
    request = request_for(recipe="COCO", weights=[str(weights)])
    steps, _, _ = planned(request, data, ["1"])
    command = " ".join(steps["seed0-cprnet"].command)
    assert "configs/COCO/cprnet_r50_fpn_p3_12e.yaml" in command
    assert "INPUT.SCALE" not in command and "SOLVER.MAX_ITER" not in command
    assert steps["seed0-cprnet"].iterations == 21996


def test_slugs():
    assert slug("cprnet") == "cprnet"
    assert slug("cprnet", "p3", None, **{"A.B.RADIUS": 8, "A.REGION": "rect/angle"}) == (
        "cprnet_p3_radius=8_region=rect_angle"
    )


@pytest.fixture
def own_refiners():
    class Still(Refiner):
        needs_network = False

        def refine(self, dataset, images):
            raise NotImplementedError

    class Learned(Still):
        needs_network = True

    for name, refiner in (("still", Still), ("learned", Learned)):
        REFINER.register(name)(refiner)
    yield
    for name in ("still", "learned"):
        REFINER._obj_map.pop(name)


def test_a_refiner_of_one_s_own_is_a_row(request_for, data, own_refiners, tmp_path):
    config = tmp_path / "still.yaml"
    config.write_text("TEST: {STILL: 3}")
    network = tmp_path / "network.yaml"
    network.write_text(f"_BASE_: {ROOT / 'configs' / 'SmallSets' / 'Base-CPRNet-R18C4.yaml'}")
    request = request_for(refiners=[f"still={config}", f"learned={network}"], plugins=["mine"])
    experiment = prepare(request, data, ROOT)
    plan, rows = plan_tables(experiment, ["4d"], 1, request.extra_rows())
    steps = {step.name: step for step in plan.steps}
    assert [row.key for row in rows["4d"]] == ["coarse", "cpr", "centre", "still", "learned"]

    still = steps["seed0-still_still"]
    command = " ".join(still.command)
    assert "--refiner still --plugin mine" in command and str(config) in command
    assert "--weights" not in command and still.after == ["seed0-coarse"]
    trained = steps["seed0-learned_network"]
    assert trained.iterations == experiment.settings.cprnet_iterations
    refined = steps["seed0-learned_learned_network"]
    assert trained.outputs[0] in refined.inputs and refined.after == [trained.name]
    assert steps["seed0-p2pnet_learned_learned_network"].after == [refined.name]


def test_bad_refiners(request_for, data, own_refiners):
    with pytest.raises(InputError, match="refiner 'magic': there is none"):
        request_for(refiners=["magic"]).extra_rows()
    with pytest.raises(InputError, match=r"missing\.yaml is no file"):
        request_for(refiners=["still=missing.yaml"]).extra_rows()
    request = request_for(refiners=["learned"])
    experiment = prepare(request, data, ROOT)
    _, rows = plan_tables(experiment, ["4d"], 1, request.extra_rows())
    assert "--refiner learned=CONFIG" in rows["4d"][-1].missing


@pytest.mark.parametrize("inherited", [None, "lib"])
def test_steps_are_run_with_our_packages(request_for, data, tmp_path, monkeypatch, inherited):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if inherited:
        monkeypatch.setenv("PYTHONPATH", inherited)
    experiment = prepare(request_for(), data, ROOT)
    output = tmp_path / "environment.json"
    code = (
        "import cpr, cpr_deploy, json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    )
    step = Step("look", [sys.executable, "-c", code, str(output)], outputs=[output])
    run_steps(experiment, SimpleNamespace(steps=[step]), parallel=1)
    environment = json.loads(output.read_text())
    paths = environment["PYTHONPATH"].split(os.pathsep)
    assert all(os.path.isabs(path) and len(path) > 1 for path in paths)
    assert (os.path.abspath("lib") in paths) == bool(inherited)
    assert int(environment["OMP_NUM_THREADS"]) >= 1
    assert step_record(experiment.output, "look").keys() >= {"seconds", "machine", "date"}
