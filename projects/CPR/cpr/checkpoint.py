"""Loading and saving weights: safely, and with every misfit named.

Files that load: checkpoints of this project, Detectron2's model zoo (.pkl, also by
`detectron2://`), ImageNet weights of torchvision's ResNets. No file can run code: torch files are
read with weights_only, pickles with an unpickler that knows nothing but containers and arrays.
"""

from __future__ import annotations

import _codecs
import collections
import importlib
import io
import logging
import pickle
import re
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from torch import nn

from cpr_deploy.files import InputError, atomic_path, write_text

logger = logging.getLogger(__name__)

# The parts of a Detectron2 ResNet, in the order of the network.
STAGES = ("stem", "res2", "res3", "res4", "res5")
# What only a classifier has.
CLASSIFIER_PREFIXES = ("fc.", "linear.", "fc1000.", "stem.fc.")
# Constants from the config, absent in files of others.
CONFIG_BUFFERS = ("pixel_mean", "pixel_std")


class PointCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer that loads safely and refuses weights that do not fit.

    A file either holds a backbone alone (ImageNet weights), or a whole model. Of a backbone, whole
    stages may be missing (a warning names them) or be unused; a whole model must fit exactly.

    Args:
        model: the network; saved and loaded.
        save_dir: folder for checkpoints.
        require_all: refuse a file that holds a backbone only, because the rest of the network
            would be random: for evaluation, prediction, refinement and export.
        metadata: plain lists, numbers and strings, saved with the model as "metadata". The trainer
            stores class_names and category_ids there. `load` returns it with what else is in the
            file.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        require_all: bool = False,
        metadata: dict | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.require_all = require_all
        self.metadata = metadata or {}
        self._path = ""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict:
        """Loads `path`, "" leaves the model as it is.

        Raises:
            InputError: no such file, not a checkpoint, weights of another architecture.
        """
        self._path = path
        try:
            rest = super().load(path, *args, **kwargs)
            if self.require_all:
                _check_metadata(rest.get("metadata"), path)
            return rest
        except InputError:
            raise
        except (OSError, AssertionError) as error:
            advice = (
                "Give the checkpoint that training has written (model_final.pth)."
                if self.require_all
                else 'Check MODEL.WEIGHTS; MODEL.WEIGHTS "" starts from random weights.'
            )
            raise InputError(f"{path}: the weights cannot be read ({error}). {advice}") from None
        finally:
            self._parsed_url_during_load = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes `save_dir`/`name`.pth atomically, as plain tensors and Python numbers."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        for key, checkpointable in self.checkpointables.items():
            data[key] = checkpointable.state_dict()
        data.update(kwargs)
        data["metadata"] = self.metadata
        path = f"{self.save_dir}/{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        # Through memory: on a full disk torch.save raises a RuntimeError about positions.
        buffer = io.BytesIO()
        torch.save(_plain(data), buffer)
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Notes the file that --resume goes on from, atomically."""
        write_text(f"{self.save_dir}/last_checkpoint", last_filename_basename)

    def _load_file(self, filename: str) -> dict:
        if filename.endswith(".pkl"):
            return self._read_pickle(filename)
        try:
            loaded = torch.load(filename, map_location="cpu", weights_only=True)
        except (FileNotFoundError, PermissionError, MemoryError):
            raise
        except Exception as error:  # a damaged file can raise anything
            raise InputError(
                f"{self._path}: not a checkpoint that can be loaded safely: {_refusal(error)}. Give"
                " a .pth file that holds tensors only, or copy the file again."
            ) from None
        if isinstance(loaded, dict):
            # The names that torchvision's references, Detectron2 and pycls use.
            for key in ("model", "state_dict", "model_state"):
                if isinstance(loaded.get(key), dict):
                    loaded["model"] = loaded[key]
                    break
            else:
                loaded = {"model": loaded}
        _check_state_dict(loaded["model"] if isinstance(loaded, dict) else loaded, self._path)
        loaded["model"] = dict(loaded["model"])
        return loaded

    def _read_pickle(self, filename: str) -> dict:
        with open(filename, "rb") as file:
            try:
                data = _ArrayUnpickler(file, encoding="latin1").load()
            except InputError as error:
                raise InputError(f"{self._path}: {error}") from None
            except Exception as error:  # a damaged pickle can raise anything
                raise InputError(
                    f"{self._path}: not a readable .pkl checkpoint ({type(error).__name__}:"
                    f" {error}). Copy it again."
                ) from None
        if isinstance(data, dict) and "model" in data:
            author, weights = data.get("__author__", "Caffe2"), data["model"]
        else:
            author, weights = "Caffe2", data
            if isinstance(data, dict) and isinstance(data.get("blobs"), dict):
                weights = data["blobs"]
        if isinstance(weights, dict):
            weights = {k: v for k, v in weights.items() if not str(k).endswith("_momentum")}
        _check_state_dict(weights, self._path)
        return {"model": weights, "__author__": author, "matching_heuristics": True}

    def _load_model(self, checkpoint: dict) -> Any:
        weights = checkpoint["model"]
        self._convert_ndarray_to_tensor(weights)
        if all(key.startswith("module.") for key in weights):
            weights = {key.removeprefix("module."): value for key, value in weights.items()}
        if checkpoint.pop("matching_heuristics", False) and checkpoint["__author__"] == "Caffe2":
            weights = _from_caffe2(weights)
        if is_torchvision_resnet(weights):
            weights = from_torchvision(weights)
            logger.info("%s: names converted from torchvision's", self._path)
        prefix = backbone_prefix(self.model)
        if any(key.split(".")[0] in STAGES for key in weights):
            weights = {
                prefix + key: value
                for key, value in weights.items()
                if not key.startswith(CLASSIFIER_PREFIXES)
            }
        checkpoint["model"] = self._fit(weights, prefix)
        return super()._load_model(checkpoint)

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Nothing: `_fit` has said all there is to say."""

    def _fit(self, weights: dict, prefix: str) -> dict:
        """Checks `weights` against the model and returns those that the model has."""
        own = {
            key: value
            for key, value in self.model.state_dict().items()
            if key not in CONFIG_BUFFERS
        }
        # torchvision and plain batch norms count batches, frozen ones do not.
        weights = {
            key: value
            for key, value in weights.items()
            if key not in CONFIG_BUFFERS and (key in own or not key.endswith("num_batches_tracked"))
        }
        advice = (
            "These are weights of another architecture: give weights of the configured model"
            f" ({type(self.model).__name__}), or change the config to theirs."
        )
        for key, value in weights.items():
            if key in own and tuple(own[key].shape) != tuple(value.shape):
                raise InputError(
                    f"{self._path}: {key} has the shape {tuple(value.shape)}, the model's has"
                    f" {tuple(own[key].shape)}. {advice}"
                )
        for key, value in weights.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise InputError(
                    f"{self._path}: {key} holds NaN or infinity, so the training that wrote it had"
                    " diverged. Train again with a lower SOLVER.BASE_LR, or give an earlier file."
                )
        if not own.keys() & weights.keys():
            raise InputError(
                f"{self._path}: none of its weights ({_some(weights)}) is in the model. {advice}"
            )

        backbone_only = all(key.startswith(prefix) for key in weights)
        missing = sorted(own.keys() - weights.keys())
        unexpected = sorted(weights.keys() - own.keys())
        if not backbone_only:
            if unexpected or missing:
                raise InputError(
                    f"{self._path}: does not fit; missing in the file: {_some(missing)}; not in the"
                    f" model: {_some(unexpected)}. {advice}"
                )
            return weights
        if self.require_all and any(not key.startswith(prefix) for key in own):
            raise InputError(
                f"{self._path}: holds a backbone only, so the head would be random. Give the"
                " checkpoint that training has written (model_final.pth)."
            )

        def stage(key: str) -> str:
            return key.removeprefix(prefix).split(".")[0]

        own_stages = {stage(key) for key in own if key.startswith(prefix)}
        file_stages = {stage(key) for key in weights}
        misfits = [key for key in unexpected if stage(key) in own_stages]
        misfits += [key for key in missing if key.startswith(prefix) and stage(key) in file_stages]
        if misfits:
            raise InputError(
                f"{self._path}: a backbone of another depth or kind; misfits: {_some(misfits)}."
                f" {advice}"
            )
        absent = [name for name in STAGES if name in own_stages - file_stages]
        if absent:
            logger.warning(
                "%s: has no weights for the backbone's %s, which start at random values",
                self._path,
                ", ".join(absent),
            )
        unused = [name for name in STAGES if name in file_stages - own_stages]
        if unused:
            logger.info("%s: %s not used by this model", self._path, ", ".join(unused))
        logger.info("%s: backbone weights loaded; the other layers start at random", self._path)
        return {key: value for key, value in weights.items() if key in own}


def is_torchvision_resnet(weights: dict) -> bool:
    """Whether the names are those of a torchvision ResNet."""
    return "conv1.weight" in weights and any(key.startswith("layer1.") for key in weights)


def from_torchvision(weights: dict) -> dict:
    """Renames the weights of a torchvision ResNet to those of Detectron2's; drops the classifier.

    conv1 -> stem.conv1, bn1 -> stem.conv1.norm, layerN -> res(N+1), bnI -> convI.norm,
    downsample.0 -> shortcut, downsample.1 -> shortcut.norm.
    """
    rules = (
        (r"^(conv1|bn1)\.", r"stem.\1."),
        (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
        (r"\bbn(\d)\.", r"conv\1.norm."),
        (r"\bdownsample\.0\.", "shortcut."),
        (r"\bdownsample\.1\.", "shortcut.norm."),
    )
    renamed = {}
    for key, value in weights.items():
        if key.startswith("fc."):
            continue
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def backbone_prefix(model: nn.Module) -> str:
    """What comes before "stem.conv1.weight" in the names of the model's weights."""
    for key in model.state_dict():
        if key.endswith("stem.conv1.weight"):
            return key.removesuffix("stem.conv1.weight")
    return "backbone."


def _from_caffe2(weights: dict) -> dict:
    """Detectron2's names for a Caffe2 ResNet, whose norms are a scale and a shift only."""
    weights = dict(convert_c2_detectron_names(weights)[0])
    weights.pop("stem.conv1.bias", None)  # Detectron2's stem has none either
    for key in [key for key in weights if key.endswith("norm.weight")]:
        norm = key.removesuffix("weight")
        weights.setdefault(norm + "running_mean", torch.zeros_like(weights[key]))
        weights.setdefault(norm + "running_var", torch.ones_like(weights[key]))
    return weights


def _check_state_dict(weights: Any, path: str) -> None:
    if not isinstance(weights, dict) or not weights:
        raise InputError(
            f"{path}: holds {type(weights).__name__}, not the weights of a network. Give a"
            " checkpoint."
        )
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, (torch.Tensor, np.ndarray)):
            raise InputError(
                f"{path}: {key!r} is {type(value).__name__}, not a tensor: this is no checkpoint."
                " Give the file that training has written."
            )


def _check_metadata(metadata: Any, path: str) -> None:
    """InputError if what the file says about its classes has another form than `save` writes."""
    if metadata is None:
        return
    forms = (("class_names", str), ("category_ids", int))
    good = isinstance(metadata, dict) and all(
        isinstance(metadata.get(key, []), (list, tuple))
        and all(isinstance(item, kind) for item in metadata.get(key, []))
        for key, kind in forms
    )
    if not good:
        raise InputError(
            f"{path}: its metadata are not lists of class_names and category_ids. Give a checkpoint"
            " that this project's training has written."
        )


def _refusal(error: Exception) -> str:
    """Why torch does not load a file, without its advice to load it unsafely."""
    text = str(error)
    unsafe = re.search(r"GLOBAL (\S+)", text)
    if unsafe:
        return f"it refers to {unsafe[1]}, and nothing of it was run"
    return "it is no torch file, or is cut off or damaged"


def _some(keys: Any, count: int = 3) -> str:
    keys = list(keys)
    rest = f" and {len(keys) - count} more" if len(keys) > count else ""
    return (", ".join(keys[:count]) or "nothing") + rest


def _plain(value: Any) -> Any:
    """`value` with numpy scalars and arrays replaced, so that weights_only can load it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise InputError(f"uses the encoding {encoding!r}: this is no checkpoint.")
    return _codecs.encode(text, encoding)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles containers, numbers, strings and numpy arrays; refuses everything else."""

    NUMPY_NAMES = {"_reconstruct", "scalar", "ndarray", "dtype", "_frombuffer"}
    NUMPY_MODULES = {
        "numpy",
        "numpy.core.multiarray",
        "numpy._core.multiarray",
        "numpy.core.numeric",
        "numpy._core.numeric",
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if module in self.NUMPY_MODULES and name in self.NUMPY_NAMES:
            return getattr(
                importlib.import_module(module.replace("numpy.core", "numpy._core")), name
            )
        raise InputError(
            f"refers to {module}.{name}, which no checkpoint needs; nothing of it was run. Do not"
            " trust this file; get the weights from their source again."
        )
