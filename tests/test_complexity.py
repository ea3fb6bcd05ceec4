"""Multiply-accumulates against figures worked out by hand and counted elsewhere."""

import json
import subprocess
import sys

import pytest

from cpr.complexity import count_work
from cpr.export import load_localizer
from tiny_localizer import ROOT, environment

CONFIGS = ROOT / "configs"
# At 1920x1088, counted layer by layer by another program; GMAC.
ELSEWHERE = {
    "SeaPerson/p2pnet_r50_fpn_p2_6e.yaml": 880,
    "Realtime/p2pnet_r50_fpn256_p2_6e.yaml": 571,
    "Realtime/p2pnet_r50_fpn128-two-towers_p2_6e.yaml": 274,
    "Realtime/p2pnet_r50_fpn256_p3-four-references_6e.yaml": 274,
    "Realtime/p2pnet_r50_fpn128_p2_6e.yaml": 236,
    "Realtime/p2pnet_r50c4_fpn64_p2_6e.yaml": 155,
    "Realtime/p2pnet_r18_fpn128_p2_6e.yaml": 135,
}


def work_of(name, size=(1088, 1920), *options):
    model, _, _ = load_localizer(CONFIGS / name, None, list(options))
    return count_work(model, size)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_figures_counted_elsewhere(name):
    assert work_of(name).macs / 1e9 == pytest.approx(ELSEWHERE[name], rel=0.006)


def test_resnet_50_at_224_is_the_published_figure():
    # 4.09 GMAC, of which the classifier (2048 x 1000) is not in a localizer.
    work = work_of("Realtime/p2pnet_r50_fpn128_p2_6e.yaml", (224, 224))
    assert work.backbone_macs / 1e9 == pytest.approx(4.09 - 0.002, abs=0.005)


def test_head_and_neck_by_hand():
    work = work_of("Realtime/p2pnet_r18c4_fpn128_p2_6e.yaml", (64, 96))
    cells = 16 * 24
    laterals = cells * 64 * 128 + cells // 4 * 128 * 128 + cells // 16 * 256 * 128
    assert work.neck_macs == laterals + cells * 9 * 128 * 128
    assert work.head_macs == cells * 9 * 128 * (2 * 128 + 1 + 2)


def test_parameters_are_those_of_the_folded_network():
    # A tower conv of 64 x 64 x 9 with its folded bias; outputs of 1 + 2 channels.
    paper = work_of("Realtime/p2pnet_r50c4_fpn64_p2_6e.yaml", (64, 64))
    deeper = work_of(
        "Realtime/p2pnet_r50c4_fpn64_p2_6e.yaml", (64, 64), "MODEL.P2PNET.NUM_CONVS", "3"
    )
    assert deeper.parameters - paper.parameters == 64 * 64 * 9 + 64


def test_script_writes_the_same_figures(tmp_path):
    config = CONFIGS / "Realtime" / "p2pnet_r18_fpn128_p2_6e.yaml"
    output = tmp_path / "work.json"
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "tools" / "count_work.py"), "--config-file", str(config)),
            *("--size", "64x96", "--output", str(output)),
        ],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(output.read_text())["configurations"].values()
    assert row["macs"] == work_of("Realtime/p2pnet_r18_fpn128_p2_6e.yaml", (64, 96)).macs
    assert "r18_fpn128" in done.stdout
