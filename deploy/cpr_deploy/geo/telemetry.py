"""Telemetry: where a platform and its camera were, sample by sample, as a file tells it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cpr_deploy.files import InputError

POSITION = ("latitude", "longitude")
# What an altitude is measured from: the take-off point, mean sea level (the geoid), the WGS 84
# ellipsoid; `altitude` is one whose file does not say.
ALTITUDES = ("altitude_relative", "altitude_msl", "altitude_ellipsoid", "altitude")
PLATFORM = ("platform_yaw", "platform_pitch", "platform_roll")
GIMBAL = ("gimbal_yaw", "gimbal_pitch", "gimbal_roll")
FIELDS = (*POSITION, *ALTITUDES, *PLATFORM, *GIMBAL)
# How far beyond 90 and 360 degrees rounding may lead.
_SLACK = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Telemetry:
    """Samples in the order of their source.

    name: the source, for messages. clock: what `time` (N,) s counts from: "video" (the first frame;
    the presentation times of the video) or "utc" (1970). columns: field of `FIELDS` -> (N,)
    float64, degrees or m, NaN where a sample has none. gimbal_absolute: whether the gimbal's angles
    are against north and the horizon (DJI, Autel, Parrot), or against the platform (MISB ST 0601).
    damaged: samples that were left out because they could not be read.

    Raises:
        InputError: a field out of its range, with the sample's number.
    """

    name: str
    clock: str
    time: np.ndarray
    columns: Mapping[str, np.ndarray]
    gimbal_absolute: bool
    damaged: int = 0

    def __post_init__(self):
        for field, limit in (("latitude", 90), ("longitude", 360)):
            values = self.columns[field]
            wrong = np.flatnonzero(np.abs(values) > limit + _SLACK)
            if len(wrong):
                raise InputError(
                    f"{self.name}: sample {wrong[0] + 1} has {field} {values[wrong[0]]:g}. Degrees"
                    f" between -{limit} and {limit} are needed; check the columns' order and unit."
                )

    def __len__(self) -> int:
        return len(self.time)

    def has(self, fields: Sequence[str]) -> bool:
        """Whether some sample has all of these."""
        return bool(np.isfinite([self.columns[field] for field in fields]).all(axis=0).any())


def from_rows(
    name: str,
    clock: str,
    rows: Sequence[Mapping[str, float]],
    *,
    gimbal_absolute: bool,
    damaged: int = 0,
) -> Telemetry:
    """Telemetry of samples with `time` and some of `FIELDS`.

    A position of exactly 0, 0 is what receivers write who do not know it: no fix.

    Raises:
        InputError: there is no sample.
    """
    if not rows:
        raise InputError(
            f"{name}: holds no telemetry that is known here. deploy/POSITIONS.md lists what is."
        )
    columns = {field: np.array([row.get(field, np.nan) for row in rows]) for field in FIELDS}
    lost = (columns["latitude"] == 0) & (columns["longitude"] == 0)
    for field in POSITION:
        columns[field][lost] = np.nan
    time = np.array([row["time"] for row in rows], float)
    return Telemetry(name, clock, time, columns, gimbal_absolute, damaged)
