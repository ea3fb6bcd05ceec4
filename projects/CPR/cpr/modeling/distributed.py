"""Sums over the processes of a distributed run, for the normalisers of the losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed

from .require import require


def all_rank_sum(value: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Sums `value` over all ranks, without gradient and without a host sync.

    DistributedDataParallel averages gradients over ranks. A loss that is a sum divided by the
    `all_rank_sum` of its normaliser, times the number of ranks, therefore has the gradient that a
    single process with all the images would have.

    Args:
        value: tensor of any shape, on the device of the process group's backend.

    Returns:
        the sum (a new tensor like `value`, detached) and the number of ranks. Without an
        initialised process group: `value` detached, and 1.
    """
    value = value.detach()
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value, 1
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value, torch.distributed.get_world_size()


def count_normalizer(
    mode: str, *, key: str = "LOSS_NORMALIZER"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The divisor that a loss takes for its count (objects, positives), never below 1.

    Args:
        mode: "global", the count of all ranks over the number of ranks (N processes equal one), or
            "local", the count of this process (official code).
        key: where in the config `mode` comes from, for errors.
    """
    require(mode in ("global", "local"), key, mode, "'global' or 'local'")

    def normalize(count: torch.Tensor) -> torch.Tensor:
        total, ranks = all_rank_sum(count) if mode == "global" else (count.detach(), 1)
        return total.clamp(min=1) / ranks

    return normalize
