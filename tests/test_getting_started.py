"""Every command of GETTING_STARTED.md, in its order, on made images and with short trainings."""

import csv
import json
import re
import shlex

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from scenes import draw_scene
from tool_runner import ROOT, run_script

pytestmark = pytest.mark.onnx

PAGE = (ROOT / "GETTING_STARTED.md").read_text(encoding="utf-8")
CLASSES = ("seal", "bird")
# Of the trainings only: the page says what to put there for real ones.
SHORT = {"SOLVER.MAX_ITER": "2", "SOLVER.IMS_PER_BATCH": "2", "MODEL.DEVICE": "cpu"}


def commands() -> list[list[str]]:
    """The words of each indented command of the page, without `python`."""
    text = PAGE.replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^ {4}(python .*)$", text, re.MULTILINE)]


def numbered() -> list[str]:
    """The script of each command that the page numbers, with its sub-command."""
    steps = re.split(r"^\*\*(\d+)\. ", PAGE, flags=re.MULTILINE)[1:]
    assert [int(number) for number in steps[::2]] == list(range(1, len(steps) // 2 + 1))
    return [
        " ".join(re.search(r"^ {4}python (\S+) (\w+)?", text, re.MULTILINE).groups(default=""))
        for text in steps[1::2]
    ]


def test_there_are_ten():
    assert [step.strip() for step in numbered()] == [
        "tools/prepare_points.py import",
        "tools/prepare_points.py check",
        "tools/prepare_points.py split",
        "tools/run_experiments.py",
        "tools/train_net.py",
        "tools/refine_points.py",
        "tools/visualize_points.py",
        "tools/train_net.py",
        "tools/evaluate_points.py",
        "deploy/export_onnx.py",
    ]


def make_beach(folder):
    """Ten images in two folders, a table of clicks on them, and weights of torchvision's form."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(10):
        name = f"flight{index % 2}/{index:04d}.jpg"
        image, objects = draw_scene(rng, (96, 80), 4, len(CLASSES))
        path = folder / "beach" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=95)
        for label, (x, y, w, h) in objects:
            fx, fy = rng.uniform(0.25, 0.75, 2)
            rows.append([name, round(x + fx * w, 2), round(y + fy * h, 2), CLASSES[label]])
    with open(folder / "beach" / "clicks.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file_name", "x", "y", "class"], *rows])
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18-f37072fd.pth")
    for name in ("tools", "deploy", "configs"):
        (folder / name).symlink_to(ROOT / name)


def suggested(printed: str) -> dict[str, dict[str, str]]:
    """Network -> its KEY VALUE pairs, of what --suggest prints."""
    blocks = re.split(r"^(\w+) \(on .*$", printed, flags=re.MULTILINE)[1:]
    return {
        network: dict(re.findall(r"^ +([A-Z][\w.]+) (.+)$", text, re.MULTILINE))
        for network, text in zip(blocks[::2], blocks[1::2], strict=True)
    }


def with_suggestion(words: list[str], keys: dict[str, str]) -> list[str]:
    """The command with the printed pairs in place of those of the page, and made short."""
    start = next(i for i, word in enumerate(words) if word.startswith("DATASETS."))
    pairs = dict(zip(words[start::2], words[start + 1 :: 2], strict=True))
    shown = set(pairs) - {"DATASETS.TRAIN", "DATASETS.TEST", "MODEL.WEIGHTS", "OUTPUT_DIR"}
    assert shown and shown <= set(keys), "the page shows keys that --suggest does not print"
    pairs |= {key: shlex.split(value)[0] for key, value in keys.items()}
    pairs |= SHORT
    return words[:start] + [word for pair in pairs.items() for word in pair]


def test_every_command_runs(tmp_path, monkeypatch, capsys):
    make_beach(tmp_path)
    monkeypatch.chdir(tmp_path)
    keys: dict[str, dict[str, str]] = {}
    trained = []
    for script, *words in commands():
        if script == "tools/train_net.py":
            network = ("CPRNet", "P2PNet")[len(trained)]
            assert network in " ".join(words)
            words = with_suggestion(words, keys[network])
            trained.append(network)
        code = run_script(script, *words)
        captured = capsys.readouterr()
        assert code == 0, f"{script} {shlex.join(words)}\n{captured.err[-2000:]}"
        if "--suggest" in words:
            keys = suggested(captured.out)
            assert keys["CPRNet"]["MODEL.CPRNET.NUM_CLASSES"] == "2"

    check_files(tmp_path)


def check_files(folder):
    """What the commands have written belongs together."""
    clicks, train, val, refined = (
        json.loads((folder / "beach" / name).read_text())
        for name in (
            "clicks.json",
            "annotations/train.json",
            "annotations/val.json",
            "refined.json",
        )
    )
    assert (len(clicks["images"]), len(clicks["annotations"])) == (10, 40)
    assert (len(train["images"]), len(val["images"])) == (8, 2)
    assert [a["coarse_point"] for a in refined["annotations"]] == [
        a["point"] for a in train["annotations"]
    ]
    output = folder / "output" / "beach"
    for name in ("pictures/crops.png", "beach.onnx", "points.mp4"):
        assert (output / name).stat().st_size
    frames = [json.loads(line) for line in (output / "points.jsonl").read_text().splitlines()]
    assert len([frame for frame in frames if "points" in frame]) == 5


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(configs/[\w/.-]+yaml)`", PAGE))))
def test_configurations_for_random_weights_exist(path):
    assert (ROOT / path).is_file()
