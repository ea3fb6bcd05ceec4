"""The limits of picking."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from cpr_deploy.files import InputError
from cpr_deploy.picking.results import PickTarget
from cpr_deploy.picking.workspace import Workspace

AIMS = ("point", "interior")
ORDERS = ("score", "distance", "clearance")
# Patches of more px a side would cost more than a frame has time for.
MAX_RADIUS = 64
# Clocks of two machines differ by some ms; a frame from further ahead (s) shows that one is wrong.
MAX_AHEAD = 0.1

Order = str | Callable[[PickTarget], float]


@dataclasses.dataclass(frozen=True)
class PickSettings:
    """Lengths in m, times in s, angles in degrees, "px" of the colour image.

    Depth of a point: the median over the px within depth_radius (5 x 5) that lie on one surface;
    the point is refused unless nearly all of them do. normal_radius: the patch (15 x 15 px) that
    the surface's plane is fitted to. noise, noise_per_m2: the standard deviation of a depth z is
    noise + noise_per_m2 z^2 (stereo cameras; for time of flight set the second to 0). edge_step: a
    smaller step is no edge, nor is one below 4 standard deviations.

    min_range, max_range: of the depth. max_incidence: angle between line of sight and normal.
    border: px from the frame's edge. workspace: where targets may be, in the base frame.
    min_separation: of two targets; the later in order is refused. max_age: of a frame.
    frozen_after: so long the same depth image, bit by bit, is a frozen stream. stable_frames: in
    so many frames in a row, this one included, the point must be within stable_radius; 1 for
    still images and moving belts. stable_gap: frames further apart are not in a row.

    aim: "point" as detected, or "interior": the place within interior_radius px that is furthest
    from the surface's edges. order: "score" (highest first), "distance" (from reach_from, nearest
    first), "clearance" (largest first), or a function of the target, smallest first.

    pixel_sigma: of detected points, px; calibration_sigma: of the camera's pose, m, isotropic.
    Both only widen the covariance.
    """

    depth_radius: int = 2
    normal_radius: int = 7
    noise: float = 0.0005
    noise_per_m2: float = 0.002
    edge_step: float = 0.005
    min_range: float = 0.15
    max_range: float = 5.0
    max_incidence: float = 75.0
    border: float = 8.0
    workspace: Workspace = Workspace()
    min_separation: float = 0.02
    max_age: float = 0.5
    frozen_after: float = 1.0
    stable_frames: int = 3
    stable_radius: float = 0.01
    stable_gap: float = 0.5
    aim: str = "point"
    interior_radius: int = 20
    order: Order = "score"
    reach_from: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pixel_sigma: float = 1.0
    calibration_sigma: float = 0.0

    def __post_init__(self):
        for name, low in (("depth_radius", 1), ("normal_radius", 2), ("interior_radius", 2)):
            _check_whole(name, getattr(self, name), low, MAX_RADIUS)
        _check_whole("stable_frames", self.stable_frames, 1, 1000)
        positive = ("noise", "min_range", "max_age", "frozen_after", "stable_radius", "stable_gap")
        for name in positive:
            check_number(name, getattr(self, name), above=0)
        others = ("noise_per_m2", "edge_step", "border", "min_separation", "pixel_sigma")
        for name in (*others, "calibration_sigma"):
            check_number(name, getattr(self, name))
        check_number("max_range", self.max_range, above=self.min_range)
        check_number("max_incidence", self.max_incidence, above=0)
        if self.max_incidence >= 90:
            raise InputError(f"max_incidence {self.max_incidence}: below 90 degrees is needed.")
        if self.normal_radius < self.depth_radius:
            raise InputError(
                f"normal_radius {self.normal_radius}: at least depth_radius, {self.depth_radius},"
                " is needed."
            )
        if self.aim not in AIMS:
            raise InputError(f"aim {self.aim!r}: one of {', '.join(AIMS)} is needed.")
        if not callable(self.order) and self.order not in ORDERS:
            raise InputError(
                f"order {self.order!r}: one of {', '.join(ORDERS)}, or a function, is needed."
            )
        try:
            reach = tuple(float(value) for value in self.reach_from)
        except (TypeError, ValueError):
            reach = ()
        if len(reach) != 3 or not all(map(math.isfinite, reach)):
            raise InputError(f"reach_from {self.reach_from!r}: 3 numbers (m) are needed.")
        object.__setattr__(self, "reach_from", reach)

    @classmethod
    def from_dict(cls, value: Any, name: str = "settings") -> PickSettings:
        """From JSON values; `workspace` as `Workspace.from_dict`. `name` begins the errors."""
        if not isinstance(value, Mapping):
            raise InputError(f"{name}: an object with settings is needed.")
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(value).difference(known))
        if unknown:
            raise InputError(f"{name}: unknown {', '.join(unknown)}. Known: {', '.join(known)}.")
        fields = dict(value)
        try:
            if "workspace" in fields:
                fields["workspace"] = Workspace.from_dict(fields["workspace"])
            return cls(**fields)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    def depth_sigma(self, z: Any) -> Any:
        """Standard deviation of depths z, m."""
        return self.noise + self.noise_per_m2 * z * z

    def edge_tolerance(self, z: Any) -> Any:
        """Depths further from a surface are not of it, m."""
        sigmas = 4 * self.depth_sigma(z)
        return sigmas + (self.edge_step - sigmas) * (sigmas < self.edge_step)


def _check_whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} {value!r}: a whole number from {low} to {high} is needed.")


def check_number(name: str, value: Any, above: float | None = None) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or (value < 0 if above is None else value <= above):
        limit = "of at least 0" if above is None else f"above {above:g}"
        raise InputError(f"{name} {value!r}: a number {limit} is needed.")
