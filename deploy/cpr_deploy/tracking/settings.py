"""What a tracker must know about the objects. Lengths are object sizes, so that one set of numbers
serves people seen from a mast and cars seen from the air."""

from __future__ import annotations

import dataclasses
import math

from cpr_deploy.files import InputError
from cpr_deploy.model_spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class TrackSettings:
    """size: px, about the width of an object as seen from above it.

    speed: of objects, sizes per second, one sigma; a new track may move so fast. acceleration:
    sizes per second^1.5, how much a velocity wanders in a second. noise: sizes, of a point about
    its object. keep: seconds that a track lives on without a point. confirm: points, one a frame
    but for one, that make a track; before that it has no id. high_score: weaker points continue
    tracks, they do not begin any. low_score: still weaker ones do not count. camera: compensate the
    motion of the camera.
    """

    size: float
    speed: float = 3.0
    acceleration: float = 1.0
    noise: float = 0.3
    keep: float = 1.5
    confirm: int = 3
    high_score: float = 0.5
    low_score: float = 0.3
    camera: bool = True

    def __post_init__(self):
        for name in ("size", "speed", "acceleration", "noise", "keep"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InputError(f"tracking: {name} {value}: a number above 0 is needed.")
        if self.confirm < 1:
            raise InputError(f"tracking: confirm {self.confirm}: at least 1 is needed.")
        if not 0 <= self.low_score <= 1 or not 0 <= self.high_score <= 1:
            raise InputError("tracking: low_score and high_score must be from 0 to 1.")


def object_size(spec: ModelSpec) -> float | None:
    """Px of an object as the model's point NMS supposes it, or None if it has no NMS."""
    size = {"pseudo_box": spec.nms_size, "radius": 2 * spec.nms_radius}.get(spec.nms_rule, 0.0)
    return size if size > 0 else None
