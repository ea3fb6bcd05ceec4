"""A map as one HTML file that needs no network: graticule, flight, what was seen, finds.

Data go in as JSON in a script element that no browser runs, and the page's script writes them as
text, never as HTML. Its Content-Security-Policy allows that script and style by their hashes and
nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from cpr_deploy.files import write_text

from ..codes import REASONS, GeoRefusal
from .report import Report

_FIND_KEYS = (
    *("id", "name", "class_name", "score", "latitude", "longitude", "altitude"),
    *("altitude_reference", "altitude_msl", "altitude_ellipsoid", "semi_major", "semi_minor"),
    *("azimuth", "time", "pts", "count", "stream", "source", "file", "frame", "distance"),
)


def write_html(path: str | os.PathLike, report: Report) -> None:
    folder = resources.files(__package__).joinpath("map")
    template, style, script = (
        folder.joinpath(name).read_text(encoding="utf-8")
        for name in ("page.html", "page.css", "page.js")
    )
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}';"
        " base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": escape(report.title),
        "style": style,
        "data": _json(_data(report)),
        "script": script,
    }
    # One pass: what is put in is not looked at again.
    write_text(path, re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template))


def _data(report: Report) -> dict[str, Any]:
    return {
        "title": report.title,
        "finds": [
            {key: find[key] for key in _FIND_KEYS if find.get(key) is not None}
            for find in report.finds
        ],
        "lines": [np.round(line[:, :2], 7).tolist() for line in report.lines],
        "footprints": [np.round(outline, 7).tolist() for outline in report.footprints],
        "refusals": [
            {"code": code, "reason": REASONS[GeoRefusal(code)], "count": count}
            for code, count in sorted(report.refusals.items(), key=lambda item: -item[1])
        ],
        "frames": report.frames,
        "positions": report.positions,
    }


def _json(value: Any) -> str:
    """JSON for a script element, which ends at the first `</script` and knows `<!--`."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    """A source of a Content-Security-Policy: exactly this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
