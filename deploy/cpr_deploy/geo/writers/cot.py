"""Cursor on Target: finds as events for ATAK, WinTAK and other clients, in a file or by UDP."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from cpr_deploy.files import InputError, write_text

from ..finds import utc_text
from ..georeferencer import ELLIPSE_95
from .report import Report, summary
from .xml_text import add

# What the format writes for a number that is not known.
UNKNOWN = "9999999.0"
# "Unknown, on the ground"; how: measured in a picture (mensurated).
_TYPE, _HOW = "a-u-G", "m-i"
STALE_AFTER = 3600.0
# A find that is seen in every frame is sent once a second.
_MIN_INTERVAL = 1.0
# Hops of multicast packets: this network only.
_HOPS = 1
# What one UDP packet holds without being cut on common networks.
MAX_PACKET = 1400


def new_run() -> str:
    """Begins the uids of a run, so that those of two runs differ."""
    return f"cpr-{uuid.uuid4().hex[:12]}"


def cot_event(find: Mapping[str, Any], run: str, now: float) -> str:
    """A find as one event, without XML declaration. `now`: s since 1970.

    `ce` is one sigma of the longer axis of the ellipse and `le` one sigma of the altitude, as the
    schema says; `hae`, the height above the ellipsoid, is 9999999 where it is not known. The place
    of a find with a track is where it was last: it may move.
    """
    place = "last_" if "track_id" in find else ""
    event = ElementTree.Element(
        "event",
        version="2.0",
        uid=f"{run}-{find['id']}",
        type=_TYPE,
        how=_HOW,
        time=utc_text(now),
        start=find.get("time") or utc_text(now),
        stale=utc_text(now + STALE_AFTER),
    )
    height = find.get("altitude_ellipsoid")
    add(
        event,
        "point",
        lat=f"{find[f'{place}latitude']:.8f}",
        lon=f"{find[f'{place}longitude']:.8f}",
        hae=UNKNOWN if height is None else f"{height:.2f}",
        ce=f"{find['semi_major'] / ELLIPSE_95:.2f}",
        le=UNKNOWN if height is None else f"{find['sigma_altitude']:.2f}",
    )
    detail = add(event, "detail")
    add(detail, "contact", callsign=find["name"][:100])
    add(detail, "remarks", summary(find)[:500])
    return ElementTree.tostring(event, "unicode")


def write_cot(path: str | os.PathLike, report: Report, run: str) -> None:
    """Writes an event a line, as a TAK server takes them one after another."""
    now = time.time()
    write_text(path, "".join(cot_event(find, run, now) + "\n" for find in report.finds))


class CotSink:
    """Sends finds to udp://host:port as they are found; the host may be a multicast group.

    What cannot be sent is counted in `failed`, with the last error in `error`; a network that is
    down must not stop a search.

    Raises:
        InputError: no such address.
    """

    def __init__(self, address: str, run: str):
        parts = urlsplit(address)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if parts.scheme != "udp" or not host or not port or parts.path not in ("", "/"):
            raise InputError(
                f"--cot {address}: udp://HOST:PORT is needed, as udp://239.2.3.1:6969."
            )
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise InputError(f"--cot {address}: {error}. Check the name of the host.") from None
        family, _, _, _, self._to = found[0]
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        if ipaddress.ip_address(self._to[0].partition("%")[0]).is_multicast:
            if family == socket.AF_INET6:
                level, option = socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS
            else:
                level, option = socket.IPPROTO_IP, socket.IP_MULTICAST_TTL
            self._socket.setsockopt(level, option, _HOPS)
        self._run = run
        self._last: dict[int, float] = {}
        self.sent = self.failed = 0
        self.error = ""

    def send(self, find: Mapping[str, Any]) -> None:
        """Sends a find that is new, or was last sent a second ago or earlier."""
        clock = time.monotonic()
        if clock - self._last.get(find["id"], -_MIN_INTERVAL) < _MIN_INTERVAL:
            return
        self._last[find["id"]] = clock
        data = cot_event(find, self._run, time.time()).encode()
        try:
            if len(data) > MAX_PACKET:
                raise OSError(f"an event of {len(data)} bytes is too long for a packet")
            self._socket.sendto(data, self._to)
            self.sent += 1
        except OSError as error:
            self.failed += 1
            self.error = str(error)

    def close(self) -> None:
        self._socket.close()
