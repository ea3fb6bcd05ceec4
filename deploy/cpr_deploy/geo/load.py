"""Telemetry from whatever file holds it, and poses of a folder of stills."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from cpr_deploy.files import InputError

from .dji_srt import read_srt
from .klv import read_klv
from .stills import read_still
from .telemetry import Telemetry, from_rows
from .telemetry_csv import CsvTelemetry
from .video_tracks import read_video

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
_VIDEO = (".mp4", ".mov", ".mkv", ".m4v", ".ts", ".m2ts", ".mpg", ".mpeg")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
# Of stills as samples: so far apart that nothing is between them.
STILL_STEP = 1e6


def load_telemetry(
    path: str | Path, columns: Mapping[str, str] | None = None, unit: str = "s"
) -> Telemetry:
    """Telemetry of a file, by its suffix. columns, unit: of tables, see `CsvTelemetry`.

    Raises:
        InputError: no such file, an unknown kind of file, or one without telemetry.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the path of the telemetry.")
    suffix = path.suffix.lower()
    if suffix in CSV_SUFFIXES:
        return CsvTelemetry(path, columns, unit, grows=False).telemetry()
    if columns:
        raise InputError(f"{path}: --columns are for tables (CSV) only.")
    if suffix == ".srt":
        return read_srt(path)
    if suffix in (".klv", ".bin"):
        return read_klv(path)
    if suffix in _VIDEO:
        return read_video(path)
    raise InputError(
        f"{path}: telemetry is read from .srt (DJI), .csv, .klv (MISB ST 0601) and from videos that"
        f" have it inside ({', '.join(_VIDEO)})."
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Stills:
    """telemetry: a sample an image, `STILL_STEP` s apart, in the order of `found`, which has what
    `read_still` found by file name relative to `folder`."""

    folder: Path
    telemetry: Telemetry
    found: Mapping[str, Mapping[str, float]]


def load_stills(folder: str | Path) -> Stills:
    """Where the images of a folder were taken.

    Raises:
        InputError: no folder, no images, or none with a position.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Give the folder of the stills.")
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not names:
        raise InputError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    found = {name: read_still(folder / name) for name in names}
    rows = [{**row, "time": index * STILL_STEP} for index, row in enumerate(found.values())]
    telemetry = from_rows(str(folder), "still", rows, gimbal_absolute=True)
    return Stills(folder, telemetry, found)
