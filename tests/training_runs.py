"""Trainings in this process, and whether two of them are the same."""

import math

import torch

from cpr import engine


def train(args):
    """Trains as tools/train_net.py does; the losses of all iterations and the final weights."""
    trainer = engine.Trainer(engine.setup(args))
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    return losses, trainer.model.state_dict()


def assert_same(one, two):
    """Two results of `train` are equal bit for bit."""
    assert one[0] == two[0]
    assert all(math.isfinite(loss) and loss > 0 for loss in one[0])
    for key, value in one[1].items():
        assert torch.equal(value, two[1][key]), key
