"""What the class logits of P2PNet mean, which follows from the loss that trains them.

"focal" (CPR paper): one logit per class, each a yes or no by itself; the scores are sigmoids.
"cross_entropy" (original P2PNet, ICCV 2021, there with one class): the classes and, as the last
logit, "no object" exclude each other; the scores are the softmax without its last entry.
Training, assignment, detection and the exported graph all read scores through `class_scores`.
"""

from __future__ import annotations

import torch

from .require import require

CLASS_LOSSES = ("focal", "cross_entropy")


def require_class_loss(class_loss: str) -> None:
    """InputError naming the key MODEL.P2PNET.CLASS_LOSS if there is no such loss."""
    require(
        class_loss in CLASS_LOSSES, "MODEL.P2PNET.CLASS_LOSS", class_loss, f"one of {CLASS_LOSSES}"
    )


def class_scores(logits: torch.Tensor, class_loss: str) -> torch.Tensor:
    """Class logits -> scores (..., K), float32.

    Args:
        logits: (..., K) for "focal", (..., K + 1) for "cross_entropy".
        class_loss: one of CLASS_LOSSES.
    """
    if class_loss == "focal":
        return logits.float().sigmoid()
    return logits.float().softmax(dim=-1)[..., :-1]
