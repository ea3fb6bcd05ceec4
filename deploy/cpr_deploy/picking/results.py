"""What comes out of a frame: targets in the robot's base frame, and a refusal of each other one."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import numpy as np


class RefusalCode(enum.StrEnum):
    """Why there is no target. PICKING.md says for each what to do."""

    # Of a whole frame.
    STALE = "stale"
    FROZEN = "frozen"
    NO_RESULT = "no_result"
    NO_TRANSFORM = "no_transform"
    UNSYNCHRONISED = "unsynchronised"
    # Of a point.
    NEAR_BORDER = "near_border"
    NO_RAY = "no_ray"
    TOO_FEW_VALID = "too_few_valid"
    DEPTH_EDGE = "depth_edge"
    OUT_OF_RANGE = "out_of_range"
    TOO_STEEP = "too_steep"
    OUTSIDE_WORKSPACE = "outside_workspace"
    UNSTABLE = "unstable"
    TOO_CLOSE = "too_close"
    # Of a request to the queue.
    NO_TARGET = "no_target"
    ALL_TAKEN = "all_taken"
    ARM_BUSY = "arm_busy"
    UNKNOWN_ID = "unknown_id"


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A point, a frame or a request that gives no target. `reason` is for people.

    image_point: px of the image, None where a whole frame or a request is refused.
    """

    code: RefusalCode
    reason: str
    stamp: float | None = None
    image_point: tuple[float, float] | None = None
    score: float | None = None
    label: int | None = None
    class_name: str = ""
    track_id: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values; what is None or empty is left out."""
        fields = {"code": str(self.code), "reason": self.reason, "stamp": self.stamp}
        fields["image_point"] = None if self.image_point is None else list(self.image_point)
        for name in ("score", "label", "class_name", "track_id"):
            fields[name] = getattr(self, name)
        return {name: value for name, value in fields.items() if value not in (None, "")}


@dataclasses.dataclass(frozen=True, eq=False)
class PickTarget:
    """A place to reach for.

    id: unique, also over restarts. stamp: seconds since 1970 when the image was taken. frame_id:
    the base frame, in which are position (3,), m; approach (3,), unit length, along the surface's
    normal *into* the surface; covariance (3, 3) of the position, m^2. confidence: 0 to 1.
    image_point: px of the image where the target is; detected_point: where the point was, which
    differs if the aim is "interior". depth: along the optical axis, m. clearance: distance to the
    nearest other point of the frame, m, inf if it is alone.
    """

    id: str
    stamp: float
    frame_id: str
    position: np.ndarray
    approach: np.ndarray
    covariance: np.ndarray
    confidence: float
    score: float
    label: int
    class_name: str
    image_point: tuple[float, float]
    detected_point: tuple[float, float]
    depth: float
    clearance: float
    track_id: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values: lengths to 1 um, directions and shares to 1e-6; an infinite clearance and a
        missing track_id are left out."""
        fields = {
            "id": self.id,
            "stamp": round(self.stamp, 6),
            "frame_id": self.frame_id,
            "position": np.round(self.position, 6).tolist(),
            "approach": np.round(self.approach, 6).tolist(),
            "covariance": self.covariance.tolist(),
            "confidence": round(self.confidence, 6),
            "score": round(self.score, 6),
            "label": self.label,
            "class_name": self.class_name,
            "image_point": [round(value, 3) for value in self.image_point],
            "detected_point": [round(value, 3) for value in self.detected_point],
            "depth": round(self.depth, 6),
        }
        if np.isfinite(self.clearance):
            fields["clearance"] = round(self.clearance, 6)
        if self.track_id is not None:
            fields["track_id"] = self.track_id
        return fields


@dataclasses.dataclass(frozen=True)
class PickResult:
    """Targets of one frame, first choice first, and refusals: every point is in one of the lists.

    live: the frame is fresh. If not there are no targets, and a refusal also of a frame without
    points.
    """

    stamp: float
    targets: list[PickTarget]
    refusals: list[Refusal]
    live: bool = True

    def to_dict(self) -> dict[str, Any]:
        return {
            "stamp": round(self.stamp, 6),
            "live": self.live,
            "targets": [target.to_dict() for target in self.targets],
            "refusals": [refusal.to_dict() for refusal in self.refusals],
        }
