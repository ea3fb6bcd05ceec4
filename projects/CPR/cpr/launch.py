"""Several processes for training: NCCL on GPUs, gloo on CPUs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import torch
import torch.distributed
import torch.multiprocessing
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cpr_deploy.files import InputError, explain


def choose_device(name: str) -> str:
    """The device that a --device of "auto", "cpu" or "cuda" means here.

    Raises:
        InputError: another name, or a GPU that is not there.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: use auto, cpu or cuda.")
    if name == "cuda" and not available:
        raise InputError("--device cuda: torch finds no GPU. Use --device cpu.")
    return name


def create_ddp_model(model: nn.Module, device: str) -> nn.Module:
    """`model`, or its DistributedDataParallel if there is more than one process; also on CPU."""
    if comm.get_world_size() == 1:
        return model
    device_ids = [comm.get_local_rank()] if device.startswith("cuda") else None
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)


def launch(
    main: Callable[..., object],
    args: tuple,
    *,
    device: str,
    num_processes: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> None:
    """Runs `main(*args)` in `num_processes` processes on each of `num_machines` machines.

    Detectron2's launcher takes NCCL whenever the machine has a GPU; here the backend follows
    `device`: NCCL for "cuda", gloo for "cpu".

    Raises:
        InputError: of `main` in any process, and for its OSErrors that a user can mend (no
            permission, disk full); SystemExit with its exit code if one exits.
    """
    world_size = num_processes * num_machines
    if num_processes < 1 or not 0 <= machine_rank < num_machines:
        raise InputError("--num-gpus must be at least 1, --machine-rank in [0, --num-machines).")
    if device.startswith("cuda") and num_processes > torch.cuda.device_count():
        raise InputError(
            f"--num-gpus {num_processes}, but this machine has {torch.cuda.device_count()}."
        )
    if world_size == 1:
        main(*args)
        return
    if dist_url == "auto":
        if num_machines > 1:
            raise InputError("--dist-url tcp://HOST:PORT of machine 0 is needed for many machines.")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    errors = torch.multiprocessing.get_context("spawn").SimpleQueue()
    rank0 = machine_rank * num_processes
    context = torch.multiprocessing.start_processes(
        _worker,
        nprocs=num_processes,
        args=(main, args, device, num_processes, world_size, rank0, dist_url, errors),
        join=False,
    )
    try:
        while not context.join():
            pass
    except torch.multiprocessing.ProcessExitedException as error:
        if not errors.empty():
            raise InputError(errors.get()) from None
        raise SystemExit(error.exit_code or 1) from None
    finally:
        # After Ctrl-C, which may have reached this process only.
        for process in context.processes:
            if process.is_alive():
                process.terminate()


def _worker(
    local_rank: int,
    main: Callable[..., object],
    args: tuple,
    device: str,
    num_processes: int,
    world_size: int,
    rank0: int,
    dist_url: str,
    errors,
) -> None:
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // num_processes))
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=dist_url,
        world_size=world_size,
        rank=rank0 + local_rank,
    )
    comm.create_local_process_group(num_processes)
    comm.synchronize()
    try:
        main(*args)
    except (InputError, OSError) as error:
        reason = explain(error)
        if reason is None:
            raise
        errors.put(reason)
        raise SystemExit(2) from None
    torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
