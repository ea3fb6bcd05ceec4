"""Training and evaluation on top of Detectron2's trainer: config, processes, hooks, checkpoints."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import re
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import (
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    default_setup,
    hooks,
    train_loop,
)
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

import cpr.modeling  # noqa: F401  registers the meta-architectures
from cpr_deploy.files import InputError, check_output_folder, explain

from .checkpoint import PointCheckpointer
from .config import add_cpr_config
from .data.box_mapper import build_mapper
from .data.dataset_mapper import plain_worker_errors, without_worker
from .data.datasets import ensure_registered, is_spec, parse_spec
from .evaluation.evaluators import (
    PointEvaluator,
    RefinementEvaluator,
    check_box_settings,
    check_point_settings,
)
from .hooks import RSV_CURVE, Diagnostics, RSVCurve
from .launch import create_ddp_model, launch
from .solver import build_optimizer

__all__ = ["Trainer", "build_cfg", "build_optimizer", "launch", "run", "setup"]

logger = logging.getLogger(__name__)

# MODEL.DEVICE when neither the config file nor the command line sets it.
AUTO_DEVICE = "auto"


def build_cfg(
    config_file: str | os.PathLike = "",
    opts: list[str] | tuple[str, ...] = (),
    *,
    extend: Callable[[CfgNode], None] | None = None,
) -> CfgNode:
    """The full config: defaults, then `config_file`, then `opts` (KEY VALUE KEY VALUE ...).

    `extend` adds keys to the defaults, in place.

    MODEL.DEVICE is "cuda" if there is a GPU, else "cpu", unless it is set. MODEL.WEIGHTS is None
    unless it is set; Detectron2's default "" would start from random weights without a word.

    Raises:
        InputError: no such file, bad YAML, unknown key, value of another type, no such device.
    """
    cfg = get_cfg()
    add_cpr_config(cfg)
    if extend is not None:
        extend(cfg)
    cfg.MODEL.DEVICE = AUTO_DEVICE
    cfg.MODEL.WEIGHTS = None
    if config_file and not Path(config_file).is_file():
        raise InputError(f"{config_file}: no such config file. Check the path.")
    try:
        if config_file:
            cfg.merge_from_file(str(config_file), allow_unsafe=False)
        cfg.merge_from_list(_with_tuples(opts))
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename}: no such config file. Check the _BASE_ of {config_file}."
        ) from None
    except RecursionError:
        raise InputError(f"{config_file}: its _BASE_ leads back to itself. Correct it.") from None
    except UnicodeDecodeError:
        raise InputError(
            f"{config_file}: is not text, so no YAML config. Check the path."
        ) from None
    except yaml.YAMLError as error:
        text = " ".join(str(error).split())
        raise InputError(f"{config_file}: not a valid YAML config: {text}") from None
    except (TypeError, AttributeError):
        raise InputError(f"{config_file}: is empty or holds no keys. Give a config file.") from None
    except (KeyError, ValueError, AssertionError) as error:
        raise InputError(
            f"config {config_file or 'options'}: {_first(error)}. Keys and their types are in"
            " cpr/config.py and Detectron2's config reference; options are KEY VALUE pairs."
        ) from None
    if cfg.MODEL.DEVICE == AUTO_DEVICE:
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", cfg.MODEL.DEVICE):
        raise InputError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}: use cpu or cuda.")
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("MODEL.DEVICE is cuda, but torch finds no GPU. Set MODEL.DEVICE cpu.")
    return cfg


def build_network(cfg: CfgNode) -> nn.Module:
    """The network of a config; InputError if the config describes none."""
    try:
        return build_model(cfg)
    except InputError:
        raise  # names its own key
    except (KeyError, ValueError, AssertionError) as error:
        raise InputError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}: no such network can be built"
            f" ({type(error).__name__}: {_first(error)}). Correct that key of the config."
        ) from error


def _first(error: Exception) -> object:
    """What a KeyError or the like says, without the quotes around it."""
    return error.args[0] if error.args else error


def _with_tuples(opts: Iterable[str]) -> list:
    """A single data set may be given as it is, without the brackets of a tuple."""
    opts = list(opts)
    return [
        (value,) if key in ("DATASETS.TRAIN", "DATASETS.TEST") and is_spec(str(value)) else value
        for key, value in zip(["", *opts], opts, strict=False)
    ]


def setup(args: argparse.Namespace) -> CfgNode:
    """Config, log files, seeds and data sets of a run; see `tools/train_net.py` for `args`."""
    cfg = build_cfg(args.config_file, args.opts)
    _check_complete(cfg, resume=args.resume, eval_only=args.eval_only)
    check_point_settings(cfg.TEST.POINTS)
    check_box_settings(cfg)
    check_output_folder(cfg.OUTPUT_DIR)
    # A log file that cannot be written must not drown the reason in tracebacks.
    logging.raiseExceptions = False
    logging.getLogger(train_loop.__name__).addFilter(_plain_failure)
    for name in ("cpr", "cpr_deploy"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    ensure_registered(cfg, train=not args.eval_only)
    cfg.freeze()
    with _naming(cfg.OUTPUT_DIR):
        default_setup(cfg, args)
    logger.info("Running on %s", cfg.MODEL.DEVICE)
    return cfg


def _check_complete(cfg: CfgNode, *, resume: bool, eval_only: bool) -> None:
    """InputError if the config leaves out what only the user can know: weights and test data."""
    resumable = resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file()
    if cfg.MODEL.WEIGHTS is None and not resumable:
        what = "the trained network" if eval_only else "ImageNet weights of the backbone"
        raise InputError(
            f"MODEL.WEIGHTS is not set: give the file of {what} (a path or detectron2://...)."
            ' MODEL.WEIGHTS "" asks for random weights.'
        )
    if eval_only and not cfg.DATASETS.TEST:
        raise InputError(
            "DATASETS.TEST is empty: name the data to evaluate on, for example"
            " DATASETS.TEST points:annotations.json@images"
        )


@contextlib.contextmanager
def _naming(folder: str) -> Iterator[None]:
    """Errors of writing, such as a full disk, often do not say where; inside they name `folder`."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or folder
        raise


def _plain_failure(record: logging.LogRecord) -> bool:
    """Detectron2 logs what stops a training with a traceback; bad input gets a line instead."""
    error = record.exc_info[1] if record.exc_info else None
    reason = None if error is None else explain(error)
    if reason is not None:
        record.msg, record.args = f"The training stops: {without_worker(reason)}", ()
        record.exc_info = None
    return True


def class_metadata(cfg: CfgNode) -> dict:
    """{"class_names", "category_ids"} of a registered data set of `cfg`; {} without one."""
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(name)
        if hasattr(metadata, "category_ids"):
            return {
                "class_names": list(metadata.thing_classes),
                "category_ids": list(metadata.category_ids),
            }
    return {}


def check_classes(trained: dict, found: dict, source: object) -> None:
    """InputError if a network was trained on other classes than those of a data set.

    Args:
        trained, found: {"class_names", ...} of a checkpoint and of the data, in the order of the
            labels; without class names nothing is known, and nothing checked.
        source: where the data come from, for the error.
    """
    one, two = trained.get("class_names"), found.get("class_names")
    if one and two and list(one) != list(two):
        raise InputError(
            f"{source}: its classes, by category id, are {', '.join(two)}; the network was trained"
            f" on {', '.join(one)}. Give data with the same classes in the same order."
        )


class ResumableSampler(TrainingSampler):
    """Detectron2's endless shuffled stream, entered after `start` images (of all ranks)."""

    def __init__(self, size: int, *, seed: int | None, start: int) -> None:
        super().__init__(size, seed=seed)
        self._start = start

    def _infinite_indices(self) -> Iterator[int]:
        return itertools.islice(super()._infinite_indices(), self._start, None)


class Trainer(DefaultTrainer):
    """Trains CPRNet or a localizer as a config says; see `DefaultTrainer` for its use.

    Beyond Detectron2's trainer: point mapper and evaluators, Adam and AdamW, clipping of the whole
    model's gradient, several CPU processes, resuming in the middle of the stream of images,
    the networks' diagnostics in the event storage, and the RSV curve of Fig. 6.

    Attributes:
        num_images: images in DATASETS.TRAIN that are trained on; an epoch.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # Not DefaultTrainer's: it wraps the model for GPUs only and loads weights leniently.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        _check_batch(cfg)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        images = training_images(cfg)
        self.num_images = len(images)
        data_loader = self.build_train_loader(cfg, images=images)
        model = create_ddp_model(model, cfg.MODEL.DEVICE)
        trainer_class = SimpleTrainer
        if cfg.SOLVER.AMP.ENABLED:
            if cfg.MODEL.DEVICE.startswith("cuda"):
                trainer_class = AMPTrainer
            else:
                _autocast_on_cpu(model)
        self._trainer = trainer_class(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = PointCheckpointer(
            model, cfg.OUTPUT_DIR, metadata=class_metadata(cfg), trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """As Detectron2; a resumed run also goes on with the images that come next."""
        super().resume_or_load(resume)
        if self.start_iter:
            logger.info("Resuming after iteration %d", self.start_iter)
            seen = self.start_iter * self.cfg.SOLVER.IMS_PER_BATCH
            self._trainer.reset_data_loader(lambda: self.build_train_loader(self.cfg, start=seen))

    def build_hooks(self) -> list[HookBase | None]:
        ret = super().build_hooks()
        ours: list[HookBase] = [Diagnostics()]
        if self.cfg.MODEL.META_ARCHITECTURE == "CPRNet" and comm.is_main_process():
            folder = inference_dir(self.cfg, next(iter(self.cfg.DATASETS.TEST), ""))
            ours.append(RSVCurve(self.cfg.OUTPUT_DIR, folder / "refined.json"))
        # Before the writers, which come last on the main process.
        at = len(ret) - 1 if isinstance(ret[-1], hooks.PeriodicWriter) else len(ret)
        return [*ret[:at], *ours, *ret[at:]]

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = build_network(cfg)
        logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(
        cls, cfg: CfgNode, *, images: list[dict] | None = None, start: int = 0
    ) -> Iterable:
        """The endless loader of training batches; `start` images (of all ranks) are skipped."""
        if images is None:
            images = training_images(cfg)
        sampler = None
        if cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler":
            seed = cfg.SEED if cfg.SEED >= 0 else None
            sampler = ResumableSampler(len(images), seed=seed, start=start)
        mapper = build_mapper(cfg, is_train=True)
        return build_detection_train_loader(cfg, mapper=mapper, dataset=images, sampler=sampler)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable:
        mapper = build_mapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """RSV for CPRNet, mAP for the localizers."""
        evaluator = (
            RefinementEvaluator if cfg.MODEL.META_ARCHITECTURE == "CPRNet" else PointEvaluator
        )
        return evaluator(cfg, dataset_name, output_dir=inference_dir(cfg, dataset_name))


def training_images(cfg: CfgNode) -> list[dict]:
    """The dataset dicts of DATASETS.TRAIN, without images that have no object if so configured."""
    try:
        return get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    except AssertionError as error:
        raise InputError(f"DATASETS.TRAIN: {error}") from None


def inference_dir(cfg: CfgNode, dataset_name: str) -> Path:
    """Where the evaluation of a data set writes: OUTPUT_DIR/inference[/index_name]."""
    folder = Path(cfg.OUTPUT_DIR) / "inference"
    names = list(cfg.DATASETS.TEST)
    if len(names) < 2:
        return folder
    stem = parse_spec(dataset_name)[0] if is_spec(dataset_name) else dataset_name
    return folder / f"{names.index(dataset_name)}_{Path(stem).stem}"


def _autocast_on_cpu(model: nn.Module) -> None:
    """Mixed precision for training on a CPU; Detectron2's is for GPUs only.

    bfloat16 needs no loss scaling, and pays on CPUs with instructions for it (avx512_bf16, amx).
    """
    forward = model.forward

    def forward_with_autocast(batched_inputs: list[dict]) -> dict | list[dict]:
        with torch.autocast("cpu", torch.bfloat16, enabled=model.training):
            return forward(batched_inputs)

    model.forward = forward_with_autocast


def run(args: argparse.Namespace) -> dict:
    """Trains, or evaluates with `args.eval_only`; says at the end what was written where.

    Returns:
        the evaluation results of the main process, a nested dict of floats.
    """
    cfg = setup(args)
    with plain_worker_errors(), _naming(cfg.OUTPUT_DIR):
        results = _evaluate(cfg, args.resume) if args.eval_only else _train(cfg, args.resume)
    if comm.is_main_process():
        logger.info("Finished. %s", _written(cfg, args.eval_only))
    return results


def _train(cfg: CfgNode, resume: bool) -> dict:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return getattr(trainer, "_last_eval_results", {})


def _evaluate(cfg: CfgNode, resume: bool) -> dict:
    model = Trainer.build_model(cfg)
    checkpointer = PointCheckpointer(model, cfg.OUTPUT_DIR, require_all=True)
    if not (cfg.MODEL.WEIGHTS or (resume and checkpointer.has_checkpoint())):
        logger.warning("MODEL.WEIGHTS is empty: evaluating random weights")
    loaded = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    check_classes(loaded.get("metadata", {}), class_metadata(cfg), "DATASETS.TEST")
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def _written(cfg: CfgNode, eval_only: bool) -> str:
    folder = Path(cfg.OUTPUT_DIR)
    candidates = [("evaluation", folder / "inference")] if cfg.DATASETS.TEST else []
    if not eval_only:
        candidates = [
            ("weights", folder / "model_final.pth"),
            ("training log", folder / "metrics.json"),
            ("RSV curve", folder / RSV_CURVE),
            *candidates,
        ]
    return "; ".join(f"{what}: {path}" for what, path in candidates if path.exists())


def _check_batch(cfg: CfgNode) -> None:
    batch, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    if batch < 1 or batch % processes:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH is {batch}: it must be a multiple of the {processes} processes."
        )
