"""From points on an image and a depth image to pick targets in the robot's base frame.

The depth image must be aligned to the image that the points were found on, and the camera's numbers
be those of that image. Positions are in m.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from cpr_deploy.camera import CameraModel
from cpr_deploy.files import InputError
from cpr_deploy.model_spec import FLAG_NOT_FINITE
from cpr_deploy.picking.interior import interior_points
from cpr_deploy.picking.results import PickResult, PickTarget, Refusal, RefusalCode
from cpr_deploy.picking.settings import MAX_AHEAD, PickSettings
from cpr_deploy.picking.surface import Surfaces, find_surfaces
from cpr_deploy.picking.unchanged import ROW_STEP, Unchanged
from cpr_deploy.transforms import Transform

__all__ = ["PickResult", "PickSettings", "PickTarget", "PointPicker", "Refusal", "RefusalCode"]

UNITS = {"mm": 1e-3, "m": 1.0}


class PointPicker:
    """Turns the points of each frame into targets and refusals.

    Args:
        camera: of the image that the points are on.
        base_from_camera: the camera's pose, of a camera that stands still.
        settings: the limits.
        hand_from_camera: instead of `base_from_camera`, of a camera on the arm: its pose in the
            frame whose pose is given with each frame.
        frame_id: name of the base frame, for the targets.

    It remembers the last frames, for `stable_frames` and `frozen_after`: use one picker per camera,
    from one thread.
    """

    def __init__(
        self,
        camera: CameraModel,
        base_from_camera: Transform | None = None,
        settings: PickSettings | None = None,
        *,
        hand_from_camera: Transform | None = None,
        frame_id: str = "base",
    ):
        if (base_from_camera is None) == (hand_from_camera is None):
            raise InputError(
                "base_from_camera, hand_from_camera: give one of them, the first for a camera that"
                " stands still, the second for a camera on the arm."
            )
        self.camera = camera
        self.settings = settings or PickSettings()
        self.frame_id = frame_id
        self._base_from_camera = base_from_camera
        self._hand_from_camera = hand_from_camera
        self._history: deque[tuple[float, np.ndarray]] = deque()
        self._unchanged = Unchanged()
        self._last_stamp = -np.inf

    def pick(
        self,
        points: Sequence[Mapping[str, Any]],
        depth: np.ndarray,
        *,
        stamp: float,
        now: float,
        depth_unit: str | float,
        base_from_hand: Transform | None = None,
        frozen: bool = False,
        flags: int = 0,
    ) -> PickResult:
        """Targets of one frame, first choice first, and a refusal for each other point.

        Args:
            points: as in the stream records: x, y (px), score, label, class_name, maybe track_id.
            depth: (H, W) uint16 or float, of the camera's size: distance along the optical axis; 0,
                negative, NaN and infinity are no depth.
            stamp: when the frame was taken; now: the present; both seconds on the same clock.
            depth_unit: "mm", "m", or metres per unit (RealSense's depth scale).
            base_from_hand: the arm's pose when the frame was taken, for a camera on the arm. None
                refuses all points: it is not known.
            frozen: the source of the image repeats itself.
            flags: of the points' frame, as in `PointResult`: if nothing is known of it, nothing is
                picked.

        Raises:
            InputError: a depth image of another size, type or unit than said, points or times that
                are no numbers, or `base_from_hand` for a camera that stands still.
        """
        unit = self._check_depth(depth, depth_unit)
        if not (np.isfinite(stamp) and np.isfinite(now)):
            raise InputError(f"stamp {stamp}, now {now}: finite seconds are needed.")
        if base_from_hand is not None and self._hand_from_camera is None:
            raise InputError(
                "base_from_hand: this camera stands still. Give PointPicker hand_from_camera if it"
                " is on the arm."
            )
        items = [_Item.read(point, index) for index, point in enumerate(points)]
        frame_refusal = self._frame_refusal(depth, stamp, now, base_from_hand, frozen, flags)
        if frame_refusal:
            self._history.clear()
            refusals = [_refusal(*frame_refusal, stamp, item) for item in items]
            if not items:
                refusals = [Refusal(*frame_refusal, stamp)]
            return PickResult(stamp, [], refusals, live=False)
        base_from_camera = self._base_from_camera
        if base_from_camera is None:
            base_from_camera = base_from_hand @ self._hand_from_camera
        return self._pick(items, depth, unit, stamp, base_from_camera)

    def _check_depth(self, depth: np.ndarray, depth_unit: str | float) -> float:
        """Metres per unit."""
        if not isinstance(depth, np.ndarray) or depth.ndim != 2:
            what = f"shape {depth.shape}" if isinstance(depth, np.ndarray) else f"{type(depth)}"
            raise InputError(f"depth: has {what}; an array (height, width) is needed.")
        if depth.dtype != np.uint16 and depth.dtype not in (np.float32, np.float64):
            raise InputError(
                f"depth: has values of {depth.dtype}; uint16, float32 or float64 is needed. An"
                " 8-bit image is a picture of depth, not depth."
            )
        height, width = depth.shape
        if (width, height) != (self.camera.width, self.camera.height):
            raise InputError(
                f"depth: is {width}x{height} px, the camera {self.camera.width}x"
                f"{self.camera.height}. Align depth to the colour image, and use the colour"
                " camera's numbers at this resolution."
            )
        unit = UNITS.get(depth_unit) if isinstance(depth_unit, str) else depth_unit
        if not isinstance(unit, int | float) or isinstance(unit, bool) or not 0 < unit < np.inf:
            raise InputError(
                f"depth_unit {depth_unit!r}: 'mm', 'm' or metres per unit, above 0, is needed."
            )
        if depth.dtype == np.uint16 and unit == 1:
            raise InputError(
                "depth_unit 'm': of whole numbers there would be no depth but whole metres. 16-bit"
                " depth is in 'mm', or of the scale that the camera tells."
            )
        return float(unit)

    def _frame_refusal(
        self,
        depth: np.ndarray,
        stamp: float,
        now: float,
        base_from_hand: Transform | None,
        frozen: bool,
        flags: int,
    ) -> tuple[RefusalCode, str] | None:
        same_for = self._same_for(depth, stamp)
        age = now - stamp
        if age > self.settings.max_age:
            return RefusalCode.STALE, f"the frame is {age:.2f} s old"
        if age < -MAX_AHEAD:
            return RefusalCode.STALE, f"the frame is {-age:.2f} s ahead of the clock"
        if frozen:
            return RefusalCode.FROZEN, "the image repeats itself"
        if same_for >= self.settings.frozen_after:
            return RefusalCode.FROZEN, f"the very same depth image for {same_for:.1f} s"
        if flags & FLAG_NOT_FINITE:
            return RefusalCode.NO_RESULT, "the network gave numbers that are not finite"
        if self._base_from_camera is None and base_from_hand is None:
            return RefusalCode.NO_TRANSFORM, "the arm's pose at this time is not known"
        return None

    def _same_for(self, depth: np.ndarray, stamp: float) -> float:
        """Seconds for which the depth image has not changed; one without any depth never counts."""
        same_for = stamp - self._unchanged.since(depth, stamp)
        return same_for if same_for and np.nan_to_num(depth[::ROW_STEP]).any() else 0.0

    def _pick(
        self,
        items: list[_Item],
        depth: np.ndarray,
        unit: float,
        stamp: float,
        base_from_camera: Transform,
    ) -> PickResult:
        settings, camera = self.settings, self.camera
        found = np.array([(item.x, item.y) for item in items]).reshape(-1, 2)
        from_edge = np.minimum(found, [camera.width, camera.height] - found).min(axis=1)
        aims = np.clip(found, 0, [camera.width, camera.height])
        surfaces = find_surfaces(depth, unit, aims, camera, settings)
        positions = base_from_camera.apply(surfaces.ray * surfaces.z[:, None])
        located = surfaces.solid & (from_edge >= settings.border)
        # Of the detected points: the most interior one may change with each frame's holes.
        sightings = self._sightings(positions, located, stamp)
        if settings.aim == "interior":
            aims, surfaces = self._move_inside(depth, unit, aims, surfaces)
            positions = base_from_camera.apply(surfaces.ray * surfaces.z[:, None])
        refused = _Refused(len(items))
        refused.add(
            from_edge < settings.border,
            RefusalCode.NEAR_BORDER,
            lambda i: f"{from_edge[i]:.1f} px from the image's border, {settings.border:g} needed",
        )
        self._refuse_surfaces(refused, surfaces)
        refused.add(
            ~settings.workspace.contains(positions),
            RefusalCode.OUTSIDE_WORKSPACE,
            lambda i: f"{np.round(positions[i], 3).tolist()} m is outside of the workspace",
        )
        refused.add(
            sightings < settings.stable_frames,
            RefusalCode.UNSTABLE,
            lambda i: f"at this place in {sightings[i]} of {settings.stable_frames} frames",
        )
        refusals = {
            i: _refusal(*why, stamp, items[i]) for i, why in enumerate(refused.reasons) if why
        }
        targets = {
            i: target
            for i, target in enumerate(
                self._targets(items, aims, surfaces, positions, located, stamp, base_from_camera)
            )
            if i not in refusals
        }
        chosen = self._choose(targets, refusals, items)
        return PickResult(stamp, chosen, [refusals[i] for i in sorted(refusals)])

    def _move_inside(
        self, depth: np.ndarray, unit: float, xy: np.ndarray, surfaces: Surfaces
    ) -> tuple[np.ndarray, Surfaces]:
        """Points and surfaces at the most interior places, where those are of the same surface."""
        settings = self.settings
        moved = interior_points(depth, unit, xy, surfaces, settings)
        there = find_surfaces(depth, unit, moved, self.camera, settings)
        with np.errstate(invalid="ignore", divide="ignore"):
            # The plane here must lead there, and the one there lead back: beside an edge one of
            # them may be tilted by what lies beyond. Half a tolerance, as it is followed far.
            apart = 1 / there.z - 1 / surfaces.z
            limit = 0.5 * settings.edge_tolerance(surfaces.z) / surfaces.z**2
            same = there.solid & surfaces.solid
            for slope in (surfaces.slope, there.slope):
                same &= np.abs(apart - ((moved - xy) * slope).sum(axis=1)) < limit
        return np.where(same[:, None], moved, xy), surfaces.replaced(there, same)

    def _refuse_surfaces(self, refused: _Refused, surfaces: Surfaces) -> None:
        settings = self.settings
        z = surfaces.z
        refused.add(
            np.isnan(surfaces.ray[:, 0]),
            RefusalCode.NO_RAY,
            lambda i: "the camera's distortion has no inverse here",
        )
        refused.add(
            surfaces.few,
            RefusalCode.TOO_FEW_VALID,
            lambda i: "too few valid depths at the point",
        )
        refused.add(
            surfaces.edge,
            RefusalCode.DEPTH_EDGE,
            lambda i: "more than one surface at the point",
        )
        with np.errstate(invalid="ignore"):
            near_or_far = ~((z >= settings.min_range) & (z <= settings.max_range))
            cosine = (surfaces.normal * surfaces.ray).sum(axis=1)
            cosine /= np.linalg.norm(surfaces.ray, axis=1)
            angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        refused.add(
            near_or_far,
            RefusalCode.OUT_OF_RANGE,
            lambda i: f"depth {z[i]:.3f} m, {settings.min_range:g} to {settings.max_range:g} m",
        )
        refused.add(
            ~(angle <= settings.max_incidence),
            RefusalCode.TOO_STEEP,
            lambda i: f"the surface is seen at {angle[i]:.0f} degrees from its normal",
        )

    def _sightings(self, positions: np.ndarray, located: np.ndarray, stamp: float) -> np.ndarray:
        """In how many frames in a row each point was, this one included; (N,) int."""
        if stamp < self._last_stamp:
            self._history.clear()  # a recording that begins anew
        elif stamp == self._last_stamp and self._history:
            self._history.pop()  # the same frame again is no new evidence
        self._last_stamp = stamp
        count = np.ones(len(positions), int)
        standing, later = located.copy(), stamp
        for earlier, places in reversed(self._history):
            if later - earlier > self.settings.stable_gap or not len(places):
                break
            if standing.any():
                apart = cdist(positions[standing], places).min(axis=1)
                standing[standing] = apart <= self.settings.stable_radius
            count += standing
            later = earlier
        self._history.append((stamp, positions[located]))
        while len(self._history) >= max(2, self.settings.stable_frames):
            self._history.popleft()
        return count

    def _targets(
        self,
        items: list[_Item],
        aims: np.ndarray,
        surfaces: Surfaces,
        positions: np.ndarray,
        located: np.ndarray,
        stamp: float,
        base_from_camera: Transform,
    ) -> list[PickTarget]:
        settings, rotation = self.settings, base_from_camera.rotation
        approach = surfaces.normal @ rotation.T
        ray, along = surfaces.ray, surfaces.along
        covariance = settings.pixel_sigma**2 * (along @ along.transpose(0, 2, 1))
        covariance += (surfaces.sigma**2)[:, None, None] * (ray[:, :, None] * ray[:, None])
        covariance += settings.calibration_sigma**2 * np.eye(3)
        covariance = rotation @ covariance @ rotation.T
        clearance = _clearances(positions, located)
        return [
            PickTarget(
                id=f"{stamp:.6f}-{index}",
                stamp=stamp,
                frame_id=self.frame_id,
                position=positions[index],
                approach=approach[index],
                covariance=covariance[index],
                confidence=float(item.score * surfaces.share[index]),
                score=item.score,
                label=item.label,
                class_name=item.class_name,
                image_point=tuple(aims[index].tolist()),
                detected_point=(item.x, item.y),
                depth=float(surfaces.z[index]),
                clearance=float(clearance[index]),
                track_id=item.track_id,
            )
            for index, item in enumerate(items)
        ]

    def _choose(
        self, targets: dict[int, PickTarget], refusals: dict[int, Refusal], items: list[_Item]
    ) -> list[PickTarget]:
        """Targets in order; those too close to an earlier one go to `refusals`."""
        ordered = sorted(targets, key=lambda i: self._key(targets[i]))
        if not ordered:
            return []
        apart = _distances(np.array([targets[i].position for i in ordered]))
        near = apart < self.settings.min_separation
        crowded, chosen = near.any(axis=1), []
        for place, index in enumerate(ordered):
            earlier = [other for other in chosen if near[place, other]] if crowded[place] else []
            if earlier:
                why = f"{apart[place, earlier].min():.3f} m from a target that comes before it"
                code, stamp = RefusalCode.TOO_CLOSE, targets[index].stamp
                refusals[index] = _refusal(code, why, stamp, items[index])
            else:
                chosen.append(place)
        return [targets[ordered[place]] for place in chosen]

    def _key(self, target: PickTarget) -> float:
        """Smallest first."""
        order = self.settings.order
        if callable(order):
            return order(target)
        if order == "distance":
            return float(np.linalg.norm(target.position - self.settings.reach_from))
        return -(target.clearance if order == "clearance" else target.score)


@dataclasses.dataclass(frozen=True)
class _Item:
    """A point of a stream record."""

    x: float
    y: float
    score: float
    label: int
    class_name: str
    track_id: int | None

    @staticmethod
    def read(point: Mapping[str, Any], index: int) -> _Item:
        try:
            x, y, score = (float(point[name]) for name in ("x", "y", "score"))
            if math.isfinite(x) and math.isfinite(y) and math.isfinite(score):
                label, class_name = int(point.get("label", 0)), str(point.get("class_name", ""))
                return _Item(x, y, score, label, class_name, point.get("track_id"))
        except (AttributeError, KeyError, TypeError, ValueError):
            pass
        raise InputError(f"points[{index}]: is {point!r}; finite x, y (px) and score are needed.")


class _Refused:
    """The first reason against each point."""

    def __init__(self, count: int):
        self.reasons: list[tuple[RefusalCode, str] | None] = [None] * count

    def add(self, mask: np.ndarray, code: RefusalCode, reason) -> None:
        for index in np.flatnonzero(mask):
            if self.reasons[index] is None:
                self.reasons[index] = (code, reason(index))


def _refusal(code: RefusalCode, reason: str, stamp: float, item: _Item) -> Refusal:
    return Refusal(
        code=code,
        reason=reason,
        stamp=stamp,
        image_point=(item.x, item.y),
        score=item.score,
        label=item.label,
        class_name=item.class_name,
        track_id=item.track_id,
    )


def _clearances(positions: np.ndarray, located: np.ndarray) -> np.ndarray:
    """Distance of each located point to the nearest other one, else infinity."""
    clearance = np.full(len(positions), np.inf)
    if np.count_nonzero(located) > 1:
        clearance[located] = _distances(positions[located]).min(axis=1)
    return clearance


def _distances(positions: np.ndarray) -> np.ndarray:
    """(N, N) between all, infinity to itself."""
    apart = cdist(positions, positions)
    np.fill_diagonal(apart, np.inf)
    return apart
