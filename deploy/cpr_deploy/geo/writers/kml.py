"""KML 2.2 for Google Earth and others."""

from __future__ import annotations

import os
from xml.etree import ElementTree

import numpy as np

from cpr_deploy.files import write_text

from .report import Report, ellipse_of, summary
from .shapes import cut_line, cut_polygon
from .xml_text import add, document

_NAMESPACE = "http://www.opengis.net/kml/2.2"
# Colours are alpha, blue, green, red.
_STYLES = {
    "find": {"IconStyle": {"color": "ff1a6bff", "scale": "1.1"}},
    "ellipse": {
        "LineStyle": {"color": "ff1a6bff", "width": "2"},
        "PolyStyle": {"color": "331a6bff"},
    },
    "flight": {"LineStyle": {"color": "ffe0a020", "width": "3"}},
    "footprint": {
        "LineStyle": {"color": "66ffffff", "width": "1"},
        "PolyStyle": {"color": "18ffffff"},
    },
}


def write_kml(path: str | os.PathLike, report: Report) -> None:
    """Writes folders of finds, ellipses, footprints and the flight, all on the ground."""
    root = ElementTree.Element("kml", xmlns=_NAMESPACE)
    top = add(root, "Document")
    add(top, "name", report.title)
    for name, parts in _STYLES.items():
        style = add(top, "Style", id=name)
        for part, values in parts.items():
            element = add(style, part)
            for key, value in values.items():
                add(element, key, value)
    finds = _folder(top, "Finds")
    for find in report.finds:
        place = _placemark(finds, find["name"], "find")
        add(place, "description", summary(find))
        if find.get("time"):
            add(add(place, "TimeStamp"), "when", find["time"])
        _data(place, find)
        _coordinates(add(place, "Point"), np.array([[find["longitude"], find["latitude"]]]))
        _in_order(place)
    ellipses = _folder(top, "95 % ellipses")
    for find in report.finds:
        _polygons(_placemark(ellipses, find["name"], "ellipse"), ellipse_of(find))
    seen = _folder(top, "Seen")
    for outline in report.footprints:
        _polygons(_placemark(seen, "", "footprint"), outline[:, ::-1])
    flight = _folder(top, "Flight")
    for line in report.lines:
        shape = add(_placemark(flight, "", "flight"), "MultiGeometry")
        for part in cut_line(line[:, [1, 0]]):
            element = add(shape, "LineString")
            add(element, "tessellate", "1")
            _coordinates(element, part)
    write_text(path, document(root))


def _folder(parent: ElementTree.Element, name: str) -> ElementTree.Element:
    folder = add(parent, "Folder")
    add(folder, "name", name)
    return folder


def _placemark(parent: ElementTree.Element, name: str, style: str) -> ElementTree.Element:
    place = add(parent, "Placemark")
    if name:
        add(place, "name", name)
    add(place, "styleUrl", f"#{style}")
    return place


def _in_order(place: ElementTree.Element) -> None:
    """The schema wants the children of a placemark in this order."""
    order = ["name", "description", "TimeStamp", "styleUrl", "ExtendedData", "Point"]
    place[:] = sorted(place, key=lambda child: order.index(child.tag))


def _data(place: ElementTree.Element, find) -> None:
    data = add(place, "ExtendedData")
    for key, value in find.items():
        if value is not None:
            add(add(data, "Data", name=key), "value", str(value))


def _polygons(place: ElementTree.Element, ring: np.ndarray) -> None:
    shape = add(place, "MultiGeometry")
    for part in cut_polygon(ring):
        polygon = add(shape, "Polygon")
        add(polygon, "tessellate", "1")
        _coordinates(add(add(polygon, "outerBoundaryIs"), "LinearRing"), part)


def _coordinates(element: ElementTree.Element, points: np.ndarray) -> None:
    add(element, "coordinates", " ".join(f"{x:.8f},{y:.8f}" for x, y in points))
