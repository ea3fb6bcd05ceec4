"""Finds as CSV, a row each."""

from __future__ import annotations

import csv
import io
import os

from cpr_deploy.files import write_text

from .report import Report

COLUMNS = (
    *("id", "name", "class_name", "score", "latitude", "longitude"),
    *("altitude", "altitude_reference", "altitude_msl", "altitude_ellipsoid"),
    *("semi_major", "semi_minor", "azimuth", "sigma_altitude", "distance"),
    *("time", "last_time", "pts", "last_pts", "count", "last_latitude", "last_longitude"),
    *("stream", "source", "file", "frame", "x", "y", "track_id"),
)


def write_csv(path: str | os.PathLike, report: Report) -> None:
    text = io.StringIO(newline="")
    rows = csv.DictWriter(text, COLUMNS, extrasaction="ignore", restval="")
    rows.writeheader()
    rows.writerows({key: _cell(value) for key, value in find.items()} for find in report.finds)
    write_text(path, text.getvalue())


def _cell(value):
    """A spreadsheet would calculate text that begins so."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value
