"""GPX 1.1 for receivers and plotters: finds as way-points, the flight as a track."""

from __future__ import annotations

import os
from xml.etree import ElementTree

import numpy as np

from cpr_deploy.files import write_text

from ..finds import utc_text
from .report import Report, summary
from .xml_text import add, document


def write_gpx(path: str | os.PathLike, report: Report) -> None:
    """Writes way-points and a track. Elevations are there where they are above mean sea level."""
    root = ElementTree.Element(
        "gpx",
        version="1.1",
        creator="CPR point localization",
        xmlns="http://www.topografix.com/GPX/1/1",
    )
    add(add(root, "metadata"), "name", report.title)
    for find in report.finds:
        point = _point(root, "wpt", find["latitude"], find["longitude"])
        if "altitude_msl" in find:
            add(point, "ele", f"{find['altitude_msl']:.2f}")
        if find.get("time"):
            add(point, "time", find["time"])
        add(point, "name", find["name"])
        add(point, "desc", summary(find))
        add(point, "type", find["class_name"])
    if report.lines:
        track = add(root, "trk")
        add(track, "name", "Flight")
        for line in report.lines:
            segment = add(track, "trkseg")
            for latitude, longitude, altitude, time in line:
                point = _point(segment, "trkpt", latitude, longitude)
                if report.reference == "msl" and np.isfinite(altitude):
                    add(point, "ele", f"{altitude:.2f}")
                if report.line_utc and np.isfinite(time):
                    add(point, "time", utc_text(time))
    write_text(path, document(root))


def _point(parent: ElementTree.Element, tag: str, latitude: float, longitude: float):
    return add(parent, tag, lat=f"{latitude:.8f}", lon=f"{longitude:.8f}")
