"""Recorded messages: rosbag2 folders (sqlite3, MCAP), single .db3 and .mcap files (`rosbags`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cpr_deploy.files import InputError
from cpr_deploy.ros.cut_bags import Cut, scan_db3, scan_mcap
from cpr_deploy.ros.messages import Message
from cpr_deploy.ros.typestore import check_definition, need_rosbags, to_cdr, typestore

_SUFFIXES = (".mcap", ".db3")


class Recorded(NamedTuple):
    """time: when it was recorded, ns; data: its bytes (CDR)."""

    topic: str
    type: str
    time: int
    data: bytes


class BagCut(Exception):
    """The bag breaks off here; what was before has been given."""


class BagReader:
    """An open bag. topics: name -> type, of all in it. Use it as a context.

    Raises:
        InputError: there is no such bag, it is none, or it cannot be read at all.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.topics: dict[str, str] = {}
        self._reader: Any = None
        # Why the file must be read from its beginning.
        self._fault = ""

    def __enter__(self) -> BagReader:
        need_rosbags()
        from rosbags.rosbag2 import Reader

        path = self.path
        if not path.exists():
            raise InputError(f"{path}: no such bag. Check the path.")
        if path.is_dir() and not (path / "metadata.yaml").exists():
            files = sorted(file.name for file in path.iterdir() if file.suffix in _SUFFIXES)
            raise InputError(
                f"{path}: has no metadata.yaml, so its recorder was killed, or it is no bag."
                + (f" Give the file in it: {path / files[0]}." if files else "")
            )
        if path.is_file() and path.suffix not in _SUFFIXES:
            raise InputError(f"{path}: is no bag of ROS 2: a folder, .mcap or .db3 is needed.")
        try:
            self._reader = Reader(path)
            self._reader.open()
            connections = self._reader.connections
        except Exception as error:  # rosbags lets errors of damaged files through as they are
            self._reader = None
            if path.is_dir():
                raise InputError(
                    f"{path}: cannot be read ({_told(error)}). Give the file in it, which is read"
                    " up to where it breaks off, or copy it again."
                ) from None
            self._fault = _told(error)
            self.topics = self._scan_topics()
            return self
        for connection in connections:
            name = f"{path}: {connection.topic}"
            if connection.msgtype in typestore().types:
                check_definition(connection.msgtype, connection.msgdef, name)
            self.topics[connection.topic] = connection.msgtype
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.close()

    def messages(self, topics: Mapping[str, str]) -> Iterator[Recorded]:
        """The messages of `topics` (name -> type), in the order of time.

        Raises:
            BagCut: after the last message before the place where the bag breaks off.
        """
        if self._reader is None:
            yield from self._scan(topics)
            return
        chosen = [c for c in self._reader.connections if topics.get(c.topic) == c.msgtype]
        if not chosen:
            return
        found = self._reader.messages(chosen)
        while True:
            try:
                connection, time, data = next(found)
            except StopIteration:
                return
            except Exception as error:  # of sqlite3, of lz4, of zstd: whatever is damaged
                raise BagCut(f"{self.path}: breaks off ({_told(error)})") from None
            yield Recorded(connection.topic, connection.msgtype, time, bytes(data))

    def _scan_topics(self) -> dict[str, str]:
        topics: dict[str, str] = {}
        with contextlib.suppress(BagCut):
            for message in self._scan(None):
                topics[message.topic] = message.type
        if not topics:
            raise InputError(
                f"{self.path}: cannot be read ({self._fault}), and has no message at its beginning."
                " Copy it again."
            )
        return topics

    def _scan(self, topics: Mapping[str, str] | None) -> Iterator[Recorded]:
        from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

        kinds = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}
        checked = set()
        scan = scan_mcap if self.path.suffix == ".mcap" else scan_db3
        try:
            for channel, time, data in scan(self.path):
                if topics is not None and topics.get(channel.topic) != channel.schema:
                    continue
                if channel not in checked and channel.schema in typestore().types:
                    kind = kinds.get(channel.encoding, MessageDefinitionFormat.NONE)
                    definition = MessageDefinition(kind, channel.definition)
                    check_definition(channel.schema, definition, f"{self.path}: {channel.topic}")
                checked.add(channel)
                yield Recorded(channel.topic, channel.schema, time, data)
        except Cut as error:
            raise BagCut(f"{self.path}: breaks off ({error})") from None
        # All messages of an MCAP file were there: its index is damaged, or it has other channels
        # than of ROS beside them.
        if self.path.suffix != ".mcap":
            raise BagCut(f"{self.path}: is damaged ({self._fault})")


class BagWriter:
    """Writes messages to a new bag: a file where `path` ends in .mcap or .db3, else a folder
    (sqlite3). It appears when the context ends well.

    Raises:
        InputError: a folder of that name exists.
    """

    def __init__(self, path: str | os.PathLike):
        need_rosbags()
        from rosbags.rosbag2 import StoragePlugin, Writer

        self.path = Path(path)
        check_bag_output(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(
            tempfile.mkdtemp(prefix=f".{self.path.stem[:40]}-", dir=self.path.parent)
        )
        plugin = StoragePlugin.MCAP if self.path.suffix == ".mcap" else StoragePlugin.SQLITE3
        # From version 9 on qualities of service are written in another way.
        self._writer = Writer(self._folder / self.path.stem, version=8, storage_plugin=plugin)
        self._connections: dict[tuple[str, str], Any] = {}

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def add_topic(self, topic: str, type_name: str) -> None:
        """Makes a topic known even if no message comes."""
        key = (topic, type_name)
        if key not in self._connections:
            store = typestore() if type_name in typestore().types else None
            if store is None:
                raise InputError(f"{topic}: type {type_name} is not known here.")
            self._connections[key] = self._writer.add_connection(topic, type_name, typestore=store)

    def write(self, topic: str, time: int, message: Message) -> None:
        """time: of recording, ns."""
        self.copy(Recorded(topic, message.type, time, to_cdr(message)))

    def copy(self, message: Recorded) -> None:
        """Writes a message of another bag as it is."""
        self.add_topic(message.topic, message.type)
        connection = self._connections[message.topic, message.type]
        self._writer.write(connection, message.time, message.data)

    def __exit__(self, kind: Any, *error: object) -> None:
        try:
            self._writer.__exit__(kind, *error)
            if kind is None:
                made = self._folder / self.path.stem
                if self.path.suffix in _SUFFIXES:
                    os.replace(made / f"{self.path.stem}{self.path.suffix}", self.path)
                else:
                    os.replace(made, self.path)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


def check_bag_output(path: str | os.PathLike) -> None:
    """InputError unless a bag can be written there."""
    path = Path(path)
    if path.suffix not in _SUFFIXES and path.exists():
        raise InputError(f"{path}: exists. Give another name for the bag, or remove it.")


def _told(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
