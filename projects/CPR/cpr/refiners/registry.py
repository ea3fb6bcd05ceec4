"""The registry of refiners, and what a refiner is."""

from __future__ import annotations

import abc
import importlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from fvcore.common.registry import Registry

from cpr_deploy.files import InputError

if TYPE_CHECKING:
    from detectron2.config import CfgNode


class RefinerRegistry(Registry):
    """fvcore's registry, whose entries may have a short name: `@REFINER.register("cpr")`."""

    def register(self, obj: Any = None) -> Any:
        if not isinstance(obj, str):
            return super().register(obj)

        def register(refiner: type) -> type:
            self._do_register(obj, refiner)
            return refiner

        return register


REFINER = RefinerRegistry("REFINER")
REFINER.__doc__ = """Refiners by name, subclasses of `Refiner`; see the README of this folder."""


class Refiner(abc.ABC):
    """Moves the clicks of a data set.

    Before a refiner is built, its config and data have been checked: every object has a click, and
    the configured network has as many classes as the data.

    Args:
        cfg: full config; that of its network if it needs one.
        weights: checkpoint of the trained network, "" if it needs none.
        semantic_points: also return the points that each refined one is the mean of.
    """

    # Whether it works with a trained network: then a config file and weights must be given.
    needs_network: ClassVar[bool] = True

    def __init__(
        self, cfg: CfgNode, weights: str | os.PathLike = "", *, semantic_points: bool = False
    ) -> None:
        self.cfg = cfg
        self.weights = weights
        self.semantic_points = semantic_points
        # {"class_names", "category_ids"} that its network was trained on; {}: not known. The data
        # are checked against it.
        self.trained: dict = {}

    @staticmethod  # noqa: B027  not abstract: most have no keys of their own
    def add_config(cfg: CfgNode) -> None:
        """Adds keys of its own to a config, in place, before config file and options are read."""

    @abc.abstractmethod
    def refine(self, dataset: dict, images: list[dict]) -> list[dict]:
        """The refined points of all objects.

        Args:
            dataset: the point JSON. Read-only.
            images: its images and objects as `datasets.to_dataset_dicts` returns them, with
                contiguous classes. Read-only.

        Returns:
            a dict per object that is not ignored: "id" of the annotation, "coarse_point" and
            "point" (x, y; original px), "score" (0 to 1), "refined" (False: it keeps its click);
            optionally "semantic_points" (S, 2) and what else `evaluators.refinements_of` has.
        """


def refiner_names() -> list[str]:
    """The names of all that are registered, sorted."""
    return sorted(name for name, _ in REFINER)


def get_refiner(name: str) -> type[Refiner]:
    """The class registered as `name`; InputError that lists the known ones if there is none."""
    if name not in REFINER:
        raise InputError(
            f"refiner {name!r}: there is none of this name. Use one of"
            f" {', '.join(refiner_names())}, or name the module that registers it (--plugin)."
        )
    return REFINER.get(name)


def import_plugins(modules: Iterable[str]) -> None:
    """Imports modules that register refiners, by name.

    Raises:
        InputError: there is no such module.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except (ModuleNotFoundError, TypeError, ValueError) as error:
            # Another name: the module is there, but something that it imports is not.
            if isinstance(error, ModuleNotFoundError) and not _is_part(error.name, module):
                raise
            raise InputError(
                f"plugin {module!r}: no such Python module. Give its dotted name without .py, and"
                " run in its folder, put that folder on PYTHONPATH, or install it."
            ) from None


def _is_part(name: str | None, module: str) -> bool:
    """Whether `name` is `module` or a package that it lies in."""
    return f"{module}.".startswith(f"{name}.")
