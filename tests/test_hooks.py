"""Diagnostics are read every few iterations only. The RSV curve: tests/test_engine.py."""

from types import SimpleNamespace

import torch
from detectron2.utils.events import EventStorage

from cpr.hooks import DIAGNOSTICS_PERIOD, Diagnostics


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.reads = []

    @property
    def diagnostics(self):
        self.reads.append(self.iteration)
        return {"cpr/refined": torch.tensor(0.25)}


def test_diagnostics_are_written_now_and_then():
    model, hook = Model(), Diagnostics()
    last = 3 * DIAGNOSTICS_PERIOD
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(model=model, storage=storage)
        for iteration in range(last):
            hook.trainer.iter = model.iteration = storage.iter = iteration
            hook.after_step()
    due = [0, *range(DIAGNOSTICS_PERIOD - 1, last, DIAGNOSTICS_PERIOD)]
    assert model.reads == due
    assert storage.history("cpr/refined").values() == [(0.25, iteration) for iteration in due]
    # A network without diagnostics is trained all the same.
    hook.trainer.model = torch.nn.Linear(1, 1)
    hook.after_step()
