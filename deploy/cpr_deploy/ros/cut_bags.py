"""What is left in a bag that was cut off: its messages from the beginning on.

Intact files are read by `rosbags`. Formats: https://mcap.dev/spec, and the tables of rosbag2.
"""

from __future__ import annotations

import contextlib
import io
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

from cpr_deploy.files import InputError

MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 3, 4, 5, 6, 15
# A record above is damage: no message is as large.
MAX_RECORD = 1 << 31


class Channel(NamedTuple):
    """schema: the name of the message's type; definition: its text, in `encoding`."""

    topic: str
    schema: str
    encoding: str
    definition: str
    message_encoding: str


class Cut(Exception):
    """The file ends, or is damaged, here."""


def scan_mcap(path: Path) -> Iterator[tuple[Channel, int, bytes]]:
    """Channel, log time (ns) and bytes of each message, in the order of the file.

    Raises:
        Cut: at the place where the file breaks off, after all messages before it.
        InputError: not an MCAP file at all.
    """
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise InputError(f"{path}: does not begin as an MCAP file does. Give a bag of ROS 2.")
        scan = _Scan()
        while True:
            start = file.tell()
            try:
                kind, length = _head(file)
                if kind == _DATA_END:
                    return
                body = file.read(length)
                yield from scan.messages(kind, body)
                if len(body) < length:
                    raise EOFError("the file ends")
            except (EOFError, struct.error, ValueError, LookupError) as error:
                raise Cut(f"{error or 'the file ends'} at byte {start:,}") from None


class _Scan:
    def __init__(self):
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._channels: dict[int, Channel] = {}

    def messages(self, kind: int, body: bytes) -> Iterator[tuple[Channel, int, bytes]]:
        """The messages of a record: itself, or those of a chunk by time, as far as it goes."""
        if kind == _CHUNK:
            found: list[tuple[Channel, int, bytes]] = []
            try:
                found.extend(self._chunk(body))
            finally:
                yield from sorted(found, key=lambda message: message[1])
        elif kind == _MESSAGE:
            number, _, log_time, _ = struct.unpack_from("<HIQQ", body)
            yield self._channels[number], log_time, body[22:]
        else:
            self._note(kind, io.BytesIO(body))

    def _note(self, kind: int, body: io.BytesIO) -> None:
        if kind == _SCHEMA:
            (number,) = struct.unpack("<H", body.read(2))
            self._schemas[number] = (_text(body), _text(body), _text(body))
        elif kind == _CHANNEL:
            number, schema = struct.unpack("<HH", body.read(4))
            topic, encoding = _text(body), _text(body)
            self._channels[number] = Channel(topic, *self._schemas[schema], encoding)

    def _chunk(self, body: bytes) -> Iterator[tuple[Channel, int, bytes]]:
        file = io.BytesIO(body)
        _, _, size, crc = struct.unpack("<QQQI", file.read(28))
        compression = _text(file)
        _exactly(file, 8)
        data = _unpacked(file.read(), compression)
        if len(data) == size and crc and crc32(data) != crc:
            raise ValueError("a damaged chunk")
        records = io.BytesIO(data)
        while records.tell() < len(data):
            kind, length = _head(records)
            yield from self.messages(kind, _exactly(records, length))


def _head(file: BinaryIO) -> tuple[int, int]:
    """The kind of a record, and its length."""
    kind, length = struct.unpack("<BQ", _exactly(file, 9))
    if not kind or length > MAX_RECORD:
        raise ValueError("a damaged record")
    return kind, length


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError("the file ends")
    return data


def _text(file: io.BytesIO) -> str:
    (length,) = struct.unpack("<I", file.read(4))
    return _exactly(file, length).decode()


def _unpacked(data: bytes, compression: str) -> bytes:
    """As much as there is, by the libraries that `rosbags` brings along."""
    if not compression:
        return data
    if compression not in ("lz4", "zstd"):
        raise ValueError(f"a chunk of unknown compression {compression!r}")
    try:
        if compression == "lz4":
            import lz4.frame

            return lz4.frame.LZ4FrameDecompressor().decompress(data)
        return _zstd_decompressor().decompress(data)
    except Exception as error:  # both have errors of their own
        raise ValueError(f"a damaged chunk ({error})") from None


def _zstd_decompressor() -> Any:
    try:
        from compression import zstd
    except ModuleNotFoundError:  # before Python 3.14
        from backports import zstd
    return zstd.ZstdDecompressor()


def scan_db3(path: Path) -> Iterator[tuple[Channel, int, bytes]]:
    """As `scan_mcap`, of an sqlite3 file, in the order of writing."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        ) as base:
            # So that a file with fewer pages than its header says is opened; nothing is written.
            base.execute("PRAGMA writable_schema = ON")
            base.execute("PRAGMA trusted_schema = OFF")
            base.text_factory = lambda data: data.decode(errors="replace")
            topics = {
                number: Channel(name, kind, "", "", "cdr")
                for number, name, kind in base.execute("SELECT id, name, type FROM topics")
            }
            rows = base.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY rowid")
            for number, time, data in rows:
                yield topics[number], int(time), bytes(data)
    except (sqlite3.Error, LookupError, TypeError, ValueError) as error:
        raise Cut(str(error)) from None
