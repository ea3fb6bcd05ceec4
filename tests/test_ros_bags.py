"""Bags that are whole, cut, damaged or none; other programs' readers and writers beside ours."""

import os
import sqlite3
import struct

import lz4.frame
import mcap.writer
import numpy as np
import pytest
from backports import zstd
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from mcap_ros2.writer import Writer as OtherWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from cpr_deploy.files import InputError
from cpr_deploy.ros import messages
from cpr_deploy.ros.bags import BagCut, BagReader, BagWriter
from cpr_deploy.ros.typestore import from_cdr, to_cdr, typestore

POINT = "geometry_msgs/msg/PointStamped"
KINDS = ("bag.mcap", "bag.db3", "bag")
COUNT = 5000  # of a chunk
START = 1_700_000_000_000_000_000


def point(number):
    return messages.point(START + number, "base", (number, 2.0, 3.0))


def write(path, count=50, size=0):
    with BagWriter(path) as bag:
        bag.add_topic("/empty", "geometry_msgs/msg/PoseArray")
        for number in range(count):
            bag.write("/point", START + number, point(number))
            if size:
                bag.write("/text", START + number, messages.string("x" * size))
    return path


def read(path, topics=None):
    """The numbers of the points, and where the bag broke off."""
    found, error = [], ""
    with BagReader(path) as bag:
        try:
            for message in bag.messages(topics or {"/point": POINT}):
                found.append(int(from_cdr(message.data, message.type, "x").point.x))
                assert message.time == START + found[-1] and message.topic == "/point"
        except BagCut as cut:
            error = str(cut)
    return found, error


@pytest.mark.parametrize("name", KINDS)
def test_round_trip(tmp_path, name):
    path = write(tmp_path / name)
    assert read(path) == (list(range(50)), "")
    with BagReader(path) as bag:
        assert bag.topics == {"/point": POINT, "/empty": "geometry_msgs/msg/PoseArray"}
    assert os.listdir(tmp_path) == [name]
    if name != "bag":
        write(path, 3)  # in place of the old one
        assert read(path)[0] == [0, 1, 2]
    else:
        with pytest.raises(InputError, match="bag: exists"):
            write(path)


def test_other_readers_read_it(tmp_path):
    """The mcap library, by the index and the definitions in the file."""
    with open(write(tmp_path / "bag.mcap"), "rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        found = [message.point.x for _, _, _, message in reader.iter_decoded_messages()]
        schemas = {schema.name for schema in reader.get_summary().schemas.values()}
    assert found == list(range(50)) and schemas == {POINT, "geometry_msgs/msg/PoseArray"}
    base = sqlite3.connect(write(tmp_path / "bag.db3"))
    rows = base.execute("SELECT timestamp, data FROM messages ORDER BY timestamp").fetchall()
    assert [bytes(data) for _, data in rows] == [to_cdr(point(number)) for number in range(50)]


def write_by_another(path, count):
    text, _ = typestore().generate_msgdef(POINT, ros_version=2)
    with open(path, "wb") as file:
        writer = OtherWriter(file)
        schema = writer.register_msgdef(POINT, text)
        for number in range(count):
            stamp = {"sec": 1, "nanosec": number}
            content = {"header": {"stamp": stamp, "frame_id": "b"}, "point": {"x": number}}
            writer.write_message("/point", schema, content, START + number, START + number)
        writer.finish()
    return path


def test_other_writers_are_read(tmp_path):
    assert read(write_by_another(tmp_path / "other.mcap", 20))[0] == list(range(20))


def test_other_channels_beside(tmp_path):
    """Of types that are not known here, and not of ROS at all."""
    path = tmp_path / "mixed.mcap"
    text, _ = typestore().generate_msgdef(POINT, ros_version=2)
    with open(path, "wb") as file:
        writer = mcap.writer.Writer(file)
        writer.start("ros2")
        schemas = [("custom/msg/Odd", "ros2msg", b"strange things[9"), ("log", "jsonschema", b"{}")]
        schemas += [(POINT, "ros2msg", text.encode())]
        for number, (name, encoding, data) in enumerate(schemas):
            schema = writer.register_schema(name, encoding, data)
            topic = "/point" if name == POINT else f"/{number}"
            channel = writer.register_channel(topic, "cdr", schema)
            for time in range(START, START + 5):
                content = to_cdr(point(time - START)) if name == POINT else b"{}"
                writer.add_message(channel, time, content, time)
        writer.finish()
    assert read(path) == ([0, 1, 2, 3, 4], "")


@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_compressed_bags(tmp_path, mode, plugin):
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/point", POINT, typestore=typestore())
        for number in range(10):
            writer.write(connection, START + number, to_cdr(point(number)))
    assert read(tmp_path / "bag")[0] == list(range(10))


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_cut_bag_gives_what_is_before_the_cut(tmp_path, name, share):
    path = write(tmp_path / name, 500, size=4000)
    data = path.read_bytes()
    cut = tmp_path / f"cut{path.suffix}"
    cut.write_bytes(data[: int(share * len(data))])
    if name == "bag.db3" and share < 0.9:
        # Its table of contents may be behind the cut.
        with pytest.raises(InputError, match=r"cut.db3: cannot be read .* Copy it again"):
            read(cut)
        return
    found, error = read(cut)
    assert found == list(range(len(found)))
    assert len(found) >= (share - 0.05) * 500
    # Behind the last message of an MCAP file is only its index.
    assert error.startswith(f"{cut}: breaks off") or (len(found) == 500 and name == "bag.mcap")


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
def test_cut_chunks_of_every_compression(tmp_path, compression):
    """MCAP by hand: one chunk, cut in its middle."""

    def record(kind, body):
        return struct.pack("<BQ", kind, len(body)) + body

    def text(value):
        return struct.pack("<I", len(value)) + value.encode()

    definition, _ = typestore().generate_msgdef(POINT, ros_version=2)
    inner = record(3, struct.pack("<H", 1) + text(POINT) + text("ros2msg") + text(definition))
    inner += record(4, struct.pack("<HH", 1, 1) + text("/point") + text("cdr") + text(""))
    rng = np.random.default_rng(0)
    for number in rng.permutation(COUNT).tolist():
        noise = rng.integers(1 << 30, size=2)  # which cannot be compressed
        content = to_cdr(messages.point(START + number, "b", (number, *noise)))
        head = struct.pack("<HIQQ", 1, 0, START + number, START + number)
        inner += record(5, head + content)
    pack = {"": bytes, "lz4": lz4.frame.compress, "zstd": zstd.compress}[compression]
    packed = pack(inner)
    body = struct.pack("<QQQI", 0, 0, len(inner), 0) + text(compression)
    body += struct.pack("<Q", len(packed)) + packed
    whole = b"\x89MCAP0\r\n" + record(1, text("ros2") + text("")) + record(6, body)
    path = tmp_path / "cut.mcap"
    path.write_bytes(whole)  # without an index
    found, error = read(path)
    assert found == list(range(COUNT)) and "breaks off (the file ends" in error
    path.write_bytes(whole[: -len(packed) // 2])
    found, error = read(path)
    # Compression has blocks, of which nothing can be told before their end.
    assert found == sorted(found) and len(found) > 0.2 * COUNT and "the file ends" in error


def test_damage_in_the_middle(tmp_path):
    path = tmp_path / "bag.mcap"
    text, _ = typestore().generate_msgdef(POINT, ros_version=2)
    with open(path, "wb") as file:
        writer = mcap.writer.Writer(file, 10_000, mcap.writer.CompressionType.NONE)
        writer.start("ros2")
        schema = writer.register_schema(POINT, "ros2msg", text.encode())
        channel = writer.register_channel("/point", "cdr", schema)
        for number in range(2000):
            time = START + number
            writer.add_message(channel, time, to_cdr(point(number)), time)
        writer.finish()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found, error = read(path)
    assert found == list(range(len(found))) and 500 < len(found) < 2000
    assert "breaks off" in error


def test_any_damage_is_told(tmp_path):
    """Bytes changed anywhere: an error, a cut, or messages; never another exception."""
    path = write(tmp_path / "bag.mcap", 30)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(100):
        data = bytearray(good[: rng.integers(8, len(good))] if rng.random() < 0.3 else good)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            with BagReader(path) as bag:
                for message in bag.messages({"/point": POINT}):
                    assert isinstance(message.data, bytes)
        except (InputError, BagCut) as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("no.mcap", None, "no such bag"),
        ("empty.mcap", b"", "does not begin as an MCAP file"),
        ("text.mcap", b"hello, this is a text" * 9, "does not begin as an MCAP file"),
        ("text.db3", b"hello, this is a text" * 9, "cannot be read"),
        ("empty.db3", b"", "cannot be read"),
        ("bag.bag", b"#ROSBAG V2.0", "is no bag of ROS 2"),
    ],
)
def test_what_is_no_bag(tmp_path, name, content, text):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=text):
        read(tmp_path / name)


def test_a_folder_whose_recorder_was_killed(tmp_path):
    write(tmp_path / "bag")
    (tmp_path / "bag/metadata.yaml").unlink()
    with pytest.raises(InputError, match=r"no metadata.yaml.* Give the file in it: .*bag/bag.db3"):
        read(tmp_path / "bag")
    assert read(tmp_path / "bag/bag.db3")[0] == list(range(50))
    (tmp_path / "bag/bag.db3").unlink()
    with pytest.raises(InputError, match="or it is no bag"):
        read(tmp_path / "bag")


def test_a_failure_leaves_no_bag(tmp_path):
    for name in KINDS:
        with pytest.raises(RuntimeError), BagWriter(tmp_path / name) as bag:
            bag.write("/point", START, point(1))
            raise RuntimeError
    assert os.listdir(tmp_path) == []
    with pytest.raises(InputError, match="type foo/msg/Bar is not known"):
        with BagWriter(tmp_path / "x.mcap") as bag:
            bag.add_topic("/x", "foo/msg/Bar")
    assert os.listdir(tmp_path) == []


def test_without_rosbags(monkeypatch, tmp_path):
    import sys

    from cpr_deploy.ros.typestore import need_rosbags

    monkeypatch.setitem(sys.modules, "rosbags", None)
    with pytest.raises(InputError, match=r"cpr-point-localization\[pick\]"):
        need_rosbags()
