"""The camera's pose at a frame's time, between the samples of its telemetry.

Positions are interpolated in Earth-centred coordinates, attitudes along the shortest rotation, both
only over gaps below a limit. What cannot be told is refused with a code, never guessed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cpr_deploy.files import InputError

from . import attitude, earth
from .codes import GeoRefusal
from .telemetry import GIMBAL, PLATFORM, POSITION, Telemetry

# A pose serves for so long before the first sample and after the last, s.
MAX_HELD = 0.1
REFERENCES = ("takeoff", "msl", "ellipsoid")
_FIELDS = {
    "takeoff": "altitude_relative",
    "msl": "altitude_msl",
    "ellipsoid": "altitude_ellipsoid",
}


@dataclasses.dataclass(frozen=True)
class Heights:
    """How altitudes are turned into each other, and which of the telemetry's is taken.

    source: one of `REFERENCES`, or None: the ground's own if the telemetry has it, else one that
    can be converted. takeoff: altitude of the take-off point, m above mean sea level. undulation:
    height of the geoid above the ellipsoid at the flight, m, taken as constant there.
    """

    source: str | None = None
    takeoff: float | None = None
    undulation: float | None = None

    def convert(self, altitude, reference: str, to: str):
        """Altitudes (m) above `reference` as above `to`; None if what that needs is not known."""
        if reference == to:
            return altitude
        above_sea = {
            "msl": 0.0,
            "takeoff": self.takeoff,
            "ellipsoid": None if self.undulation is None else -self.undulation,
        }
        if above_sea[reference] is None or above_sea[to] is None:
            return None
        return altitude + above_sea[reference] - above_sea[to]


@dataclasses.dataclass(frozen=True, eq=False)
class Pose:
    """Where a camera was and how it looked.

    latitude, longitude: degrees. altitude: m above the path's reference. ned_from_camera (3, 3):
    rotation from the optical frame (x right, y down, z forward) to north, east, down.
    """

    latitude: float
    longitude: float
    altitude: float
    ned_from_camera: np.ndarray

    def angles(self) -> np.ndarray:
        """Yaw, pitch, roll of the camera, degrees."""
        return attitude.angles_of(self.ned_from_camera @ attitude.BODY_FROM_OPTICAL.T)


@dataclasses.dataclass(frozen=True)
class PathSettings:
    """How a path is made of samples.

    max_gap: s between samples that may still be interpolated. gimbal: "absolute" (its angles are
    against north and the horizon), "relative" (against the platform) or None: as the telemetry
    says. fixed: angles (`gimbal_pitch`, ...), degrees, that replace the telemetry's.
    """

    max_gap: float = 2.0
    gimbal: str | None = None
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)


class FlightPath:
    """Poses over time.

    Args:
        telemetry: the samples.
        reference: what the ground's altitude is measured from, one of `REFERENCES`; poses get
            their altitude in it.
        heights: see there.

    Raises:
        InputError: the telemetry lacks positions, angles or usable altitudes altogether.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        reference: str,
        heights: Heights | None = None,
        settings: PathSettings | None = None,
    ):
        self.reference = reference
        self.heights = heights or Heights()
        self._settings = settings or PathSettings()
        self.clock = telemetry.clock
        self.name = telemetry.name
        columns = {
            **telemetry.columns,
            **{
                field: np.full(len(telemetry), float(value))
                for field, value in self._settings.fixed.items()
            },
        }
        kept, self._jumps = _monotonic(telemetry.time, telemetry.name)
        self._all = telemetry.time[kept]
        columns = {field: values[kept] for field, values in columns.items()}
        if not telemetry.has(POSITION):
            raise InputError(
                f"{telemetry.name}: no sample knows its position (latitude and longitude are absent"
                " or 0). Was the receiver without a fix?"
            )
        self._place(columns)
        self._lift(columns)
        self._turn(columns, telemetry.gimbal_absolute)

    def _place(self, columns: Mapping[str, np.ndarray]) -> None:
        good = np.isfinite([columns[field] for field in POSITION]).all(axis=0)
        self._place_times = self._all[good]
        self._places = earth.to_ecef(columns["latitude"][good], columns["longitude"][good], 0.0)

    def _lift(self, columns: Mapping[str, np.ndarray]) -> None:
        source = self.heights.source
        order = [source] if source else [self.reference, *REFERENCES]
        # A take-off altitude is given to be used: the barometer's heights are the better ones.
        if not source and self.heights.takeoff is not None:
            order.insert(0, "takeoff")
        for kind in order:
            values = columns[_FIELDS[kind]]
            if source and not np.isfinite(values).any():
                values = columns["altitude"]
            converted = self.heights.convert(values, kind, self.reference)
            if converted is not None and np.isfinite(converted).any():
                good = np.isfinite(converted)
                self._altitude_times, self._altitudes = self._all[good], converted[good]
                return
        raise InputError(f"{self.name}: {self._no_altitude(columns, source)}")

    def _no_altitude(self, columns: Mapping[str, np.ndarray], source: str | None) -> str:
        has = [kind for kind in REFERENCES if np.isfinite(columns[_FIELDS[kind]]).any()]
        undeclared = np.isfinite(columns["altitude"]).any()
        if source and source not in has and not undeclared:
            return f"has no altitude above {source}; it has {' and '.join(has) or 'none'}."
        if not has and undeclared and not source:
            return (
                "has one altitude and does not say from where it counts (this differs by model)."
                " Declare it: --altitude takeoff, msl or ellipsoid."
            )
        if not has and not undeclared:
            return "has no altitude."
        pair = {source or has[0], self.reference}
        fixes = []
        if "takeoff" in pair:
            fixes.append("--takeoff-altitude M (of the take-off point, above mean sea level)")
        if "ellipsoid" in pair:
            fixes.append("--geoid M (height of the geoid above the ellipsoid there)")
        return (
            f"its altitudes count from {source or ' and '.join(has)}, the ground's from"
            f" {self.reference}. Give {' and '.join(fixes)}."
        )

    def _turn(self, columns: Mapping[str, np.ndarray], gimbal_absolute: bool) -> None:
        if self._settings.gimbal is not None:
            gimbal_absolute = self._settings.gimbal == "absolute"
        gimbal = _angles(columns, GIMBAL)
        good = np.isfinite(gimbal).all(axis=1)
        if not gimbal_absolute:
            platform = _angles(columns, PLATFORM)
            good &= np.isfinite(platform).all(axis=1)
        if not good.any():
            needed = [*GIMBAL[:2], *(() if gimbal_absolute else PLATFORM[:2])]
            missing = [field for field in needed if not np.isfinite(columns[field]).any()]
            raise InputError(
                f"{self.name}: does not tell where the camera looked (no {', '.join(missing)})."
                " Give constants for what is missing, as in --gimbal-pitch -90 --gimbal-yaw 0; a"
                " camera fixed to the platform has --gimbal relative."
            )
        turned = attitude.rotation_of(gimbal[good])
        if not gimbal_absolute:
            turned = attitude.rotation_of(platform[good]) @ turned
        self._turn_times, self._turns = self._all[good], turned @ attitude.BODY_FROM_OPTICAL

    @property
    def span(self) -> tuple[float, float]:
        """First and last time of a position, s."""
        return float(self._place_times[0]), float(self._place_times[-1])

    @property
    def end(self) -> float:
        """Time of the last sample, whatever it holds, s."""
        return float(self._all[-1])

    def line(self) -> np.ndarray:
        """(N, 4): latitude, longitude, altitude (NaN where not known) and time of all positions."""
        latitude, longitude, _ = earth.to_geodetic(self._places)
        altitude = np.interp(self._place_times, self._altitude_times, self._altitudes)
        return np.column_stack([latitude, longitude, altitude, self._place_times])

    def at(self, times: Sequence[float]) -> list[Pose | GeoRefusal]:
        """The pose at each time (s of the telemetry's clock), or why there is none."""
        times = np.asarray(times, float)
        results: list[Pose | GeoRefusal | None] = [None] * len(times)
        tracks = [
            (self._place_times, GeoRefusal.NO_FIX),
            (self._altitude_times, GeoRefusal.NO_ALTITUDE),
            (self._turn_times, GeoRefusal.NO_ATTITUDE),
        ]
        found = []
        for known, code in tracks:
            left, share, trouble = self._bracket(known, times, code)
            found.append((left, np.minimum(left + 1, len(known) - 1), share))
            for index, problem in enumerate(trouble):
                results[index] = results[index] or problem
        (a, b, share), (low, high, rise), (first, second, turn) = found
        ecef = self._places[a] * (1 - share)[:, None] + self._places[b] * share[:, None]
        latitude, longitude, _ = earth.to_geodetic(ecef)
        altitude = self._altitudes[low] * (1 - rise) + self._altitudes[high] * rise
        turned = attitude.between(self._turns[first], self._turns[second], turn)
        return [
            problem or Pose(float(latitude[i]), float(longitude[i]), float(altitude[i]), turned[i])
            for i, problem in enumerate(results)
        ]

    def _bracket(
        self, known: np.ndarray, times: np.ndarray, absent: GeoRefusal
    ) -> tuple[np.ndarray, np.ndarray, list[GeoRefusal | None]]:
        """For each time: the sample before it, the share of the way to the next, and trouble.

        `absent` is the code where samples are there, but without these values.
        """
        left = np.clip(np.searchsorted(known, times, "right") - 1, 0, max(len(known) - 2, 0))
        right = np.minimum(left + 1, len(known) - 1)
        width = known[right] - known[left]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(width > 0, (times - known[left]) / width, 0.0)
        # A last frame is shown for as long as the others: one usual interval beyond the end, with
        # the last pose. At a sample a second that would be metres behind.
        usual = float(np.median(np.diff(self._all))) if len(self._all) > 1 else 0.0
        usual = min(usual, self._settings.max_gap, MAX_HELD) + 1e-6
        beyond = np.maximum(self._all[0] - times, times - self._all[-1])
        inside = (share >= 0) & (share <= 1)
        nearest = np.minimum(np.abs(times - known[left]), np.abs(times - known[right]))
        trouble: list[GeoRefusal | None] = []
        for i, time in enumerate(times):
            if not np.isfinite(time):
                trouble.append(GeoRefusal.NO_TIME)
            elif beyond[i] > usual:
                trouble.append(GeoRefusal.OUTSIDE_TELEMETRY)
            elif any(first <= time <= last for first, last in self._jumps):
                trouble.append(GeoRefusal.TIME_JUMP)
            elif not (
                inside[i]
                and width[i] <= self._settings.max_gap
                or nearest[i] <= (1e-9 if inside[i] else usual)
            ):
                trouble.append(absent if self._has_samples(time) else GeoRefusal.GAP)
            else:
                trouble.append(None)
        return left, np.clip(np.nan_to_num(share), 0, 1), trouble

    def _has_samples(self, time: float) -> bool:
        """Whether there are samples about this time, whatever they hold."""
        right = int(np.searchsorted(self._all, time))
        left = max(right - 1, 0)
        right = min(right, len(self._all) - 1)
        width = self._all[right] - self._all[left]
        return self._all[right] == time or width <= self._settings.max_gap


def _angles(columns: Mapping[str, np.ndarray], fields: Sequence[str]) -> np.ndarray:
    """(N, 3) yaw, pitch, roll; a roll that nobody tells is 0, as gimbals hold it."""
    angles = np.column_stack([columns[field] for field in fields])
    if not np.isfinite(angles[:, 2]).any():
        angles[:, 2] = 0.0
    return angles


def _monotonic(time: np.ndarray, name: str) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Which samples have a clear place in time, and the intervals that were passed twice.

    Of samples with one and the same time (a clock of whole seconds) the first is kept.
    """
    back = np.flatnonzero(np.diff(time) < 0)
    highest = np.maximum.accumulate(time)
    jumps = [(float(time[i + 1]), float(highest[i])) for i in back]
    kept = np.ones(len(time), bool)
    for first, last in jumps:
        kept &= (time < first) | (time > last)
    order = np.argsort(time, kind="stable")
    order = order[kept[order]]
    if not len(order):
        raise InputError(f"{name}: its clock only runs backwards. Check the time column.")
    return order[np.diff(time[order], prepend=-np.inf) > 0], jumps
