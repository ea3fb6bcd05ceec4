"""Refiners: what moves coarse clicks towards their objects. Importing this registers ours.

Neither torch nor Detectron2 is imported before a refiner is built.
"""

from . import builtin
from .registry import REFINER, Refiner, get_refiner, refiner_names

__all__ = ["REFINER", "Refiner", "builtin", "get_refiner", "refiner_names"]
