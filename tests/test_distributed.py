"""Normalisers over ranks: two processes have the gradient of one."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cpr.modeling.distributed import all_rank_sum, count_normalizer

COUNTS = (6.0, 2.0)
SUMS = (30.0, 5.0)


def test_one_process():
    value = torch.tensor(3.0, requires_grad=True)
    total, ranks = all_rank_sum(value)
    assert (total.item(), ranks, total.requires_grad) == (3.0, 1, False)
    for mode in ("global", "local"):
        assert count_normalizer(mode)(torch.tensor(3.0)) == 3
        assert count_normalizer(mode)(torch.tensor(0.0)) == 1


def test_unknown_mode_is_named():
    with pytest.raises(ValueError, match="'mean'"):
        count_normalizer("mean")


def _rank(rank, port, results):
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(COUNTS)
    )
    count = torch.tensor(COUNTS[rank])
    total, ranks = all_rank_sum(count)
    assert (total.item(), ranks, count.item()) == (sum(COUNTS), 2, COUNTS[rank])
    for mode in ("global", "local"):
        loss = SUMS[rank] / count_normalizer(mode)(count)
        dist.all_reduce(loss)
        results[mode] = loss.item() / ranks
    dist.destroy_process_group()


def test_two_processes_equal_one():
    """DistributedDataParallel averages; the average of both losses is that of a single process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_rank, (port, results), nprocs=len(COUNTS))
        assert results["global"] == pytest.approx(sum(SUMS) / sum(COUNTS))
        assert results["local"] == pytest.approx((30 / 6 + 5 / 2) / 2)
