"""DJI's subtitles: a cue for each second or frame with the flight's data as text.

There is no standard; firmware differs by model. Layouts that are read (all others: InputError):

- brackets: `[latitude: 55.1] [longitude: 11.2] [rel_alt: 30.1 abs_alt: 61.0] [gb_yaw: -67.6
  gb_pitch: -30.0 gb_roll: 0.0]`; older ones `[latitude : ..] [longtitude : ..] [altitude: ..]`;
  enterprise models also `[Drone: Yaw:-62.1, Pitch:2.7, Roll:1.6]` and `[Gimbal: ...]`;
- lines: `F/2.8, SS 206, ISO 150, EV 0, GPS (lon, lat, satellites), D 2.80m, H 12.0m, ..., F.PRY
  (pitch, roll, yaw), G.PRY (pitch, roll, yaw)`; with RTK `RTK (lon, lat, n)`;
- the oldest: `GPS(lon,lat,satellites) BAROMETER:1.9`, and of some Matrice `GPS(lat,lon,0.0M)
  BAROMETER:0.3M`: there the third number has a unit, and the order is the other.

Altitudes: rel_alt, H and BAROMETER are above the take-off point; abs_alt is above sea level (by
GNSS and barometer, often off by tens of metres); a lone `altitude` means one or the other by model
and must be declared. Gimbal angles are against north and the horizon.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cpr_deploy.files import InputError

from .telemetry import Telemetry, from_rows

MAX_FILE_BYTES = 1 << 30
_NUMBER = r"([-+]?\d+(?:\.\d+)?)"
_CUE = re.compile(r"(\d+):(\d\d):(\d\d)[,.](\d{1,3})\s*-->")
_TAGS = re.compile(r"<[^<>]*>")
_KEY = re.compile(
    rf"(?<![\w.])(latitude|long(?:t)?itude|rel_alt|abs_alt|altitude|gb_(?:yaw|pitch|roll))\s*:\s*{_NUMBER}"
)
_GROUP = re.compile(
    rf"(drone|gimbal)\s*:\s*yaw:\s*{_NUMBER},\s*pitch:\s*{_NUMBER},\s*roll:\s*{_NUMBER}"
)
_PLACE = re.compile(rf"(?:gps|rtk)\s*\(\s*{_NUMBER},\s*{_NUMBER},\s*{_NUMBER}\s*(m?)\s*\)")
_HEIGHT = re.compile(rf"(?:\bh\s+{_NUMBER}\s*m\b|barometer\s*:\s*{_NUMBER})")
_ANGLES = re.compile(rf"([fg])\.pry\s*\(\s*{_NUMBER}°?,\s*{_NUMBER}°?,\s*{_NUMBER}°?\s*\)")
_FIELDS = {
    "latitude": "latitude",
    "longitude": "longitude",
    "longtitude": "longitude",  # as older firmware spells it
    "rel_alt": "altitude_relative",
    "abs_alt": "altitude_msl",
    "altitude": "altitude",
    "gb_yaw": "gimbal_yaw",
    "gb_pitch": "gimbal_pitch",
    "gb_roll": "gimbal_roll",
}


def parse_cue(text: str) -> dict[str, float]:
    """The fields of `telemetry.FIELDS` in one cue's text; empty if it holds no position."""
    text = _TAGS.sub(" ", text).lower()
    row = {_FIELDS[key]: float(value) for key, value in _KEY.findall(text)}
    for group, *angles in _GROUP.findall(text):
        frame = "platform" if group == "drone" else "gimbal"
        for axis, value in zip(("yaw", "pitch", "roll"), angles, strict=True):
            row[f"{frame}_{axis}"] = float(value)
    for frame, *angles in _ANGLES.findall(text):
        for axis, value in zip(("pitch", "roll", "yaw"), angles, strict=True):
            row[f"{'platform' if frame == 'f' else 'gimbal'}_{axis}"] = float(value)
    place = _PLACE.search(text)
    if place and "latitude" not in row:
        first, second, _, unit = place.groups()
        longitude, latitude = (second, first) if unit else (first, second)
        row |= {"latitude": float(latitude), "longitude": float(longitude)}
        height = _HEIGHT.search(text)
        if height:
            row["altitude_relative"] = float(height[1] or height[2])
    return row if {"latitude", "longitude"} <= row.keys() else {}


def from_cues(cues: Iterable[tuple[float, str]], name: str) -> Telemetry:
    """Telemetry of (seconds, text) pairs. A cue that cannot be read is counted as damaged."""
    rows, damaged = [], 0
    for seconds, text in cues:
        row = parse_cue(text)
        if row:
            rows.append({"time": seconds, **row})
        else:
            damaged += bool(text.strip())
    return from_rows(name, "video", rows, gimbal_absolute=True, damaged=damaged)


def read_srt(path: Path) -> Telemetry:
    """Reads a subtitle file beside a video.

    Raises:
        InputError: no subtitles, or none with a position.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{path}: is too large for subtitles.")
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    starts = list(_CUE.finditer(text))
    cues = []
    for start, following in zip(starts, [*starts, None][1:], strict=True):
        end = following.start() if following else len(text)
        body = text[text.find("\n", start.end()) + 1 : end]
        if following:
            body = re.sub(r"\s\d+\s*$", "", body)  # the next cue's number
        hours, minutes, seconds, milliseconds = start.groups()
        time = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
        cues.append((time + int(milliseconds.ljust(3, "0")) / 1000, body))
    return from_cues(cues, str(path))
