"""Shows that a step never waits for the device."""

import contextlib

import pytest
import torch

HOST_COPIES = ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero", "cpu", "numpy")


@contextlib.contextmanager
def refused(monkeypatch):
    """Within, calls that copy a tensor to the host fail; on the CPU too."""

    def refuse(self, *args, **kwargs):
        raise AssertionError("host sync in the training forward")

    with monkeypatch.context() as patch:
        for name in HOST_COPIES:
            patch.setattr(torch.Tensor, name, refuse)
        yield


@contextlib.contextmanager
def refused_on_gpu():
    """Within, CUDA itself refuses to synchronise."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def need_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
