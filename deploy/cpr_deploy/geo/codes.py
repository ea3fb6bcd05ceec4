"""Why a point has no position."""

from __future__ import annotations

import enum


class GeoRefusal(enum.StrEnum):
    """Codes of refusals. A refusal is a result: the caller sees which point had none, and why."""

    NO_TIME = "no_time"
    OUTSIDE_TELEMETRY = "outside_telemetry"
    GAP = "gap"
    TIME_JUMP = "time_jump"
    NO_FIX = "no_fix"
    NO_ALTITUDE = "no_altitude"
    NO_ATTITUDE = "no_attitude"
    FROZEN = "frozen"
    NO_RESULT = "no_result"
    TURNED = "turned"
    OUTSIDE_IMAGE = "outside_image"
    NO_RAY = "no_ray"
    ABOVE_HORIZON = "above_horizon"
    GRAZING = "grazing"
    BEYOND_RANGE = "beyond_range"
    BELOW_GROUND = "below_ground"
    OUTSIDE_ELEVATION = "outside_elevation"


REASONS = {
    GeoRefusal.NO_TIME: "the frame has no time that the telemetry could be asked for",
    GeoRefusal.OUTSIDE_TELEMETRY: "the frame is before the telemetry begins or after it ends",
    GeoRefusal.GAP: "the telemetry has no samples close enough to the frame",
    GeoRefusal.TIME_JUMP: "the telemetry's clock jumped back here: this time came twice",
    GeoRefusal.NO_FIX: "the platform did not know its position",
    GeoRefusal.NO_ALTITUDE: "the telemetry has no altitude close to the frame",
    GeoRefusal.NO_ATTITUDE: "the telemetry has no angles of the camera close to the frame",
    GeoRefusal.FROZEN: "the picture stood still while the platform may have moved on",
    GeoRefusal.NO_RESULT: "the network gave numbers that are not finite for this frame",
    GeoRefusal.TURNED: "the picture is shown turned or mirrored (EXIF Orientation)",
    GeoRefusal.OUTSIDE_IMAGE: "the point lies outside of the camera's pictures",
    GeoRefusal.NO_RAY: "no light falls on this pixel by the camera's distortion model",
    GeoRefusal.ABOVE_HORIZON: "the line of sight does not meet the ground",
    GeoRefusal.GRAZING: "the line of sight is too flat for the attitude's error",
    GeoRefusal.BEYOND_RANGE: "the ground is met beyond the range limit",
    GeoRefusal.BELOW_GROUND: "the camera is below the ground",
    GeoRefusal.OUTSIDE_ELEVATION: "the line of sight leaves the elevation model",
}
