"""Configurations that experiments start from, and what a data set's settings change in them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode

from cpr_deploy.files import InputError, file_sha256

from ..architectures import classes_key
from ..engine import build_cfg
from .settings import Settings

# Backbone's random start: nothing is pretrained, so there are no statistics to freeze.
RANDOM = "random"
RANDOM_KEYS = {
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "SOLVER.BACKBONE_MULTIPLIER": 1.0,
}
# Keys that say where and on what, not what is trained.
_WHEREABOUTS = ("OUTPUT_DIR", "MODEL.DEVICE", "MODEL.WEIGHTS", "DATASETS", "DATALOADER.NUM_WORKERS")


@dataclass(frozen=True)
class Recipe:
    """A config file for each meta-architecture.

    Attributes:
        adapts: True: scale, R and schedule come from the data set's settings. False: the files are
            the recipe of a benchmark, to the letter.
    """

    name: str
    configs: Mapping[str, Path]
    adapts: bool

    def config(self, architecture: str) -> Path:
        """InputError if the recipe lacks the file."""
        path = self.configs.get(architecture)
        if path is None or not path.is_file():
            raise InputError(
                f"recipe {self.name} has no configuration of {architecture}"
                f" ({path or 'not planned'}). Choose another --recipe or --table."
            )
        return path


def find_recipe(name: str, configs: Path) -> Recipe:
    """The recipe called `name`, from the repository's `configs` folder."""
    if name == "SmallSets":
        stems = {
            "CPRNet": "CPRNet",
            "P2PNet": "P2PNet",
            "RetinaNet": "RetinaNet",
            "GeneralizedRCNN": "FasterRCNN",
            "RepPoints": "RepPoints",
        }
        paths = {key: configs / name / f"Base-{stem}-R18C4.yaml" for key, stem in stems.items()}
        return Recipe(name, paths, adapts=True)
    patterns = {
        "CPRNet": "cprnet_r50_*",
        "P2PNet": "p2pnet_r50_*",
        "RetinaNet": "retinanet_r50_*",
        "GeneralizedRCNN": "faster_rcnn_r50_*",
        "RepPoints": "reppoints_r50_*",
    }
    found = {
        key: list((configs / name).glob(f"{pattern}.yaml")) for key, pattern in patterns.items()
    }
    if not found["CPRNet"]:
        known = sorted(path.parent.name for path in configs.glob("*/cprnet_r50_*.yaml"))
        raise InputError(f"--recipe {name}: unknown. Known: SmallSets, {', '.join(known)}.")
    # SeaPerson has two schedules of P2PNet, 12 epochs on clicks and 6 on refined points; here all
    # rows of a table get one, the longer.
    longest = {key: max(paths, key=_epochs) for key, paths in found.items() if paths}
    return Recipe(name, longest, adapts=False)


def _epochs(path: Path) -> int:
    """12 of p2pnet_r50_fpn_p2_12e.yaml."""
    return int(path.stem.rpartition("_")[2].removesuffix("e"))


def settings_keys(settings: Settings, architecture: str) -> dict[str, object]:
    """What the settings of a data set say to a network, as KEY -> value."""
    keys: dict[str, object] = {"INPUT.SCALE": settings.scale}
    if settings.crop:
        keys["INPUT.CROP.ENABLED"] = True
        keys["INPUT.CROP.TYPE"] = "absolute"
        keys["INPUT.CROP.SIZE"] = [settings.crop, settings.crop]
    iterations = settings.localizer_iterations
    if architecture == "CPRNet":
        iterations = settings.cprnet_iterations
        keys["MODEL.CPRNET.RADIUS"] = settings.radius
    elif architecture == "P2PNet":
        keys["MODEL.P2PNET.NMS_SIZE"] = settings.nms_size
        keys["MODEL.P2PNET.NMS_IOU"] = 0.2
        keys["MODEL.P2PNET.MAX_DETS"] = settings.max_dets
        keys["MODEL.P2PNET.PRE_NMS_TOPK"] = max(1000, 2 * settings.max_dets)
    else:
        keys["MODEL.PSEUDO_BOX.SIZE"] = settings.pseudo_box
        if architecture == "RepPoints":
            keys["MODEL.REPPOINTS.MAX_DETS"] = settings.max_dets
        else:
            keys["TEST.DETECTIONS_PER_IMAGE"] = settings.max_dets
        if settings.max_dets > 250:
            # As many candidates for crowded images as P2PNet has.
            key = {
                "RepPoints": "MODEL.REPPOINTS.PRE_NMS_TOPK",
                "RetinaNet": "MODEL.RETINANET.TOPK_CANDIDATES_TEST",
                "GeneralizedRCNN": "MODEL.RPN.POST_NMS_TOPK_TEST",
            }[architecture]
            keys[key] = max(1000, 2 * settings.max_dets)
    keys["SOLVER.MAX_ITER"] = iterations
    keys[classes_key(architecture)] = settings.num_classes
    return keys


def level_keys(config: Path, level: str, architecture: str) -> dict[str, object]:
    """A single-level network on another FPN level: the stages from that level to the top one."""
    top = leaves(config, ())["MODEL.RESNETS.OUT_FEATURES"][-1]
    stages = [f"res{i}" for i in range(int(level[1:]), int(top[3:]) + 1)]
    return {
        "MODEL.RESNETS.OUT_FEATURES": stages,
        "MODEL.FPN.IN_FEATURES": stages,
        f"MODEL.{architecture.upper()}.IN_FEATURE": level,
    }


def depth_keys(depth: int) -> dict[str, object]:
    """A ResNet of another depth."""
    return {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if depth < 50 else 256,
    }


def as_options(keys: Mapping[str, object]) -> list[str]:
    """KEY -> value as the words of a command line."""
    return [word for key, value in keys.items() for word in (key, str(value))]


def describe_config(config: Path, options: list[str]) -> str:
    """What a training is, whatever its paths and device: its keys that differ from the defaults.

    Keys that are added later with the old behaviour as their default change nothing.
    """
    default = leaves("", ())
    changed = {
        key: repr(value)
        for key, value in leaves(config, options).items()
        if not key.startswith(_WHEREABOUTS) and default.get(key) != value
    }
    return json.dumps(changed, sort_keys=True)


def leaves(config: Path | str, options: Sequence[str]) -> Mapping[str, object]:
    """The whole config as KEY -> value. Read-only."""
    return _cached_leaves(config, tuple(options))


@functools.cache
def _cached_leaves(config: Path | str, options: tuple[str, ...]) -> Mapping[str, object]:
    # The rows of a table ask for the same few configs again and again.
    return _leaves(build_cfg(config, [*options, "MODEL.DEVICE", "cpu"]))


def _leaves(node: CfgNode, prefix: str = "") -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            result.update(_leaves(value, f"{prefix}{key}."))
        else:
            result[prefix + key] = value
    return result


@functools.cache
def weights_identity(weights: str) -> str:
    """What stands for weights: the hash of a file, else the word or address itself."""
    return file_sha256(weights) if Path(weights).is_file() else weights
