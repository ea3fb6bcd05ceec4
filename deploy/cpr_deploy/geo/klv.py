"""MISB ST 0601: the UAS datalink local set, as KLV packets in a file or a transport stream.

Own reader of the few tags that positions need: the one library for it in Python (klvdata 0.0.3) had
its last release in 2019. Packets with a wrong checksum are left out and counted.

Angles of the sensor are against the platform: the camera's attitude is the platform's (heading,
pitch, roll) followed by the sensor's (azimuth, elevation, roll).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from cpr_deploy.files import InputError

from .telemetry import Telemetry, from_rows

KEY = bytes.fromhex("060e2b34020b01010e01030101000000")
MAX_FILE_BYTES = 1 << 30
_CHECKSUM, _TIME = 1, 2
# Tag -> field, type, what the lowest and the highest code stand for. Signed codes are symmetric;
# the one below the lowest means that there is no value.
_TAGS = {
    5: ("platform_yaw", ">H", 0, 360),
    6: ("platform_pitch", ">h", -20, 20),
    7: ("platform_roll", ">h", -50, 50),
    13: ("latitude", ">i", -90, 90),
    14: ("longitude", ">i", -180, 180),
    15: ("altitude_msl", ">H", -900, 19000),
    18: ("gimbal_yaw", ">I", 0, 360),
    19: ("gimbal_pitch", ">i", -180, 180),
    20: ("gimbal_roll", ">I", 0, 360),
    75: ("altitude_ellipsoid", ">H", -900, 19000),
    90: ("platform_pitch", ">i", -90, 90),
    91: ("platform_roll", ">i", -90, 90),
}


def checksum(packet: bytes) -> int:
    """The 16-bit sum of a packet up to its checksum's value: even bytes count 256 times."""
    return (256 * sum(packet[0::2]) + sum(packet[1::2])) & 0xFFFF


def parse_packet(packet: bytes) -> dict[str, float] | None:
    """`time` (s since 1970) and the fields of one packet; None if it is damaged.

    `packet` begins with the key and ends with the checksum.
    """
    try:
        length, start = _length(packet, len(KEY))
        end = start + length
        if not packet.startswith(KEY) or end > len(packet):
            return None
        row: dict[str, float] = {}
        wide = set()
        verified = False
        while start < end:
            tag, start = _tag(packet, start)
            size, start = _length(packet, start)
            value = packet[start : start + size]
            start += size
            if start > end:
                return None
            if tag == _CHECKSUM:
                verified = struct.unpack(">H", value)[0] == checksum(packet[: start - 2])
            elif tag == _TIME:
                row["time"] = struct.unpack(">Q", value)[0] / 1e6
            elif tag in _TAGS:
                field, *scale = _TAGS[tag]
                number = _value(value, *scale)
                # The full-range pitch and roll (90, 91) stand above the short ones.
                if number is not None and field not in wide:
                    row[field] = number
                    if tag in (90, 91):
                        wide.add(field)
    except (struct.error, IndexError):
        return None
    return row if verified and "time" in row else None


def _value(data: bytes, kind: str, low: float, high: float) -> float | None:
    (code,) = struct.unpack(kind, data)
    bits = 8 * len(data)
    if kind[1].isupper():
        return low + (high - low) * code / (2**bits - 1)
    if code == -(2 ** (bits - 1)):
        return None
    return high * code / (2 ** (bits - 1) - 1)


def _tag(data: bytes, start: int) -> tuple[int, int]:
    """A BER-OID number and where it ends."""
    tag = 0
    while True:
        byte = data[start]
        start += 1
        tag = tag << 7 | byte & 0x7F
        if byte < 0x80:
            return tag, start


def _length(data: bytes, start: int) -> tuple[int, int]:
    """A BER length and where it ends."""
    first = data[start]
    start += 1
    if first < 0x80:
        return first, start
    count = first & 0x7F
    if not 1 <= count <= 4 or start + count > len(data):
        raise IndexError("a length that is cut")
    return int.from_bytes(data[start : start + count], "big"), start + count


def packets(data: bytes) -> Iterator[bytes]:
    """The packets in a stream of bytes, which may have anything between them."""
    start = data.find(KEY)
    while start >= 0:
        try:
            length, body = _length(data, start + len(KEY))
        except IndexError:
            return
        following = data.find(KEY, start + len(KEY))
        # A damaged length must not swallow the packets after it.
        end = body + length if following < 0 else min(body + length, following)
        yield data[start:end]
        start = following


def read_klv(path: Path) -> Telemetry:
    """Reads a file of KLV packets; times are UTC.

    Raises:
        InputError: the file has no whole packet of ST 0601.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{path}: is too large for KLV alone. Cut it to the flight.")
    found = [parse_packet(packet) for packet in packets(path.read_bytes())]
    rows = [row for row in found if row is not None]
    return from_rows(str(path), "utc", rows, gimbal_absolute=False, damaged=len(found) - len(rows))
