"""Crowd-counting .mat files: written by scipy, read by our own reader, with limits."""

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from cpr.data.importers import mat_file
from cpr.data.importers.mat_file import read_variables
from cpr.data.importers.records import Conventions
from cpr_deploy.files import InputError
from foreign_files import read, rows, shanghaitech, write_files, write_images

POINTS = [(1, 1), (40, 30), (12.25, 7.5)]


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path, {"images/../IMG_1.jpg": (40, 30), "IMG_2.jpg": (40, 30)})


def imported(folder, files, **settings):
    write_files(folder / "ground_truth", files)
    return read(folder / "ground_truth", "crowd-mat", folder / "images", **settings)


def mat(variables, **settings):
    file = io.BytesIO()
    scipy.io.savemat(file, variables, **settings)
    return file.getvalue()


def test_shanghaitech(folder):
    files = {"GT_IMG_1.mat": shanghaitech(POINTS), "GT_IMG_2.mat": shanghaitech([])}
    dataset = imported(folder, files).dataset
    # MATLAB's (1, 1) is the centre of the first pixel, its (40, 30) of the last one.
    assert rows(dataset) == [
        ("IMG_1.jpg", "person", [0.5, 0.5], None),
        ("IMG_1.jpg", "person", [39.5, 29.5], None),
        ("IMG_1.jpg", "person", [11.75, 7.0], None),
    ]
    assert [i["file_name"] for i in dataset["images"]] == ["IMG_1.jpg", "IMG_2.jpg"]
    corner = imported(folder, files, conventions=Conventions()).dataset
    assert corner["annotations"][2]["point"] == [12.25, 7.5]


def test_points_of_other_sets(folder):
    """UCF's annPoints; a struct without a cell around it; images in a folder beside."""
    write_images(folder, {"images/IMG_1.jpg": (40, 30)})
    files = {"IMG_2_ann.mat": mat({"annPoints": np.array(POINTS)})}
    assert [p for _, _, p, _ in rows(imported(folder, files).dataset)][2] == [11.75, 7.0]
    plain = {"image_info": {"location": np.array(POINTS[:1]), "number": 1}}
    (folder / "ground_truth" / "IMG_2_ann.mat").unlink()
    write_files(folder, {"ground_truth/GT_IMG_2.mat": mat(plain)})
    assert len(imported(folder, {}).dataset["annotations"]) == 1


@pytest.mark.parametrize("compressed", [False, True])
def test_the_reader_agrees_with_scipy(tmp_path, compressed):
    rng = np.random.default_rng(0)
    types = ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
    arrays = {f"{t}_{n}": rng.integers(0, 99, (n, 3)).astype(t) for t in types for n in (0, 1, 5)}
    cell = np.empty((2, 2), dtype=object)
    cell[0, 0], cell[1, 0], cell[0, 1], cell[1, 1] = 1.0, np.ones((2, 2)), "text", cell[:1, :1]
    struct_array = np.zeros((1, 2), dtype=[("a", "O"), ("long_name", "O")])
    struct_array[0, 0], struct_array[0, 1] = (1.0, np.arange(6).reshape(2, 3)), (2.0, "b")
    others = {"cell": cell, "records": struct_array, "name": "text", "flag": np.array([[True]])}
    path = tmp_path / "a.mat"
    path.write_bytes(mat(arrays | others, do_compression=compressed))
    found, expected = read_variables(path), scipy.io.loadmat(path)
    for name in arrays:
        assert found[name].dtype == np.float64
        assert np.array_equal(found[name], expected[name]), name
    values = found["cell"]
    assert values[0] == 1 and np.array_equal(values[1], np.ones((2, 2))) and values[2] is None
    assert values[3][0] == 1
    assert [set(record) for record in found["records"]] == [{"a", "long_name"}] * 2
    assert np.array_equal(found["records"][0]["long_name"], np.arange(6).reshape(2, 3))
    assert found["records"][1]["a"] == 2 and found["name"] is None and found["flag"] == 1


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 2), max_size=20))
def test_numbers_come_back_exactly(tmp_path_factory, points):
    path = tmp_path_factory.getbasetemp() / "p.mat"
    path.write_bytes(shanghaitech(points))
    found = read_variables(path)["image_info"][0][0]["location"]
    assert np.array_equal(found, np.reshape(points, (-1, 2)))


def test_a_file_of_a_big_endian_machine(tmp_path):
    """By hand: one variable `p` of 1 x 2 doubles, 3 and 4.5."""

    def element(kind, content):
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    matrix = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 1, 2))
    matrix += struct.pack(">HH", 1, 1) + b"p\0\0\0" + element(9, struct.pack(">dd", 3, 4.5))
    data = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + element(14, matrix)
    (tmp_path / "a.mat").write_bytes(data)
    assert read_variables(tmp_path / "a.mat")["p"].tolist() == [[3, 4.5]]


BAD = {
    "outside": (shanghaitech([(41, 1)]), "lies outside IMG_1.jpg"),
    "nan": (shanghaitech([(np.nan, 1)]), "is no pixel"),
    "infinite": (shanghaitech([(np.inf, 1)]), "is no pixel"),
    "columns": (mat({"annPoints": np.ones((4, 3))}), "of two columns"),
    "text": (mat({"annPoints": "text"}), "holds neither image_info.location nor annPoints"),
    "other": (mat({"x": 1}), "holds neither image_info.location nor annPoints"),
    "no location": (mat({"image_info": {"number": 3}}), "holds neither"),
    "empty": (b"", "is not a MAT-file of version 5"),
    "text file": (b"hello" * 99, "is not a MAT-file of version 5"),
    "version 4": (mat({"annPoints": np.ones((4, 2))}, format="4"), "is not a MAT-file of version"),
    "version 7.3": (b"MATLAB 7.3 MAT-file".ljust(512), "Save it with -v7 in MATLAB"),
    "cut": (shanghaitech(POINTS)[:-20], "is a damaged MAT-file (it ends early)"),
}


@pytest.mark.parametrize(("content", "text"), BAD.values(), ids=BAD)
def test_a_bad_file_is_named(folder, content, text):
    with pytest.raises(InputError, match="ground_truth: 'GT_IMG_1.mat'") as caught:
        imported(folder, {"GT_IMG_1.mat": content})
    assert text in str(caught.value)
    files = {"GT_IMG_2.mat": shanghaitech(POINTS)}
    result = imported(folder, files, skip_bad=True)
    assert len(result.dataset["annotations"]) == 3 and text in result.skipped[0].text


def damaged(change):
    """A plain file with bytes replaced at the first place where they stand."""
    data = mat({"annPoints": np.arange(8.0).reshape(4, 2)})
    old, new = change
    assert old in data[128:]
    return data[:128] + data[128:].replace(old, new, 1)


SIZES = struct.pack("<ii", 4, 2)
DAMAGED = {
    "more numbers than bytes": (SIZES, struct.pack("<ii", 4, 2**30)),
    "numbers missing": (SIZES, struct.pack("<ii", 4, 3)),
    "negative": (SIZES, struct.pack("<ii", -4, -2)),
    "a cell of numbers": (struct.pack("<II", 6, 0), struct.pack("<II", 1, 0)),
    "a struct of numbers": (struct.pack("<II", 6, 0), struct.pack("<II", 2, 0)),
    "an element of another type": (struct.pack("<II", 9, 64), struct.pack("<II", 99, 64)),
    "a long element": (struct.pack("<II", 9, 64), struct.pack("<II", 9, 2**31)),
}


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED)
def test_sizes_that_a_file_claims_are_not_believed(tmp_path, change):
    (tmp_path / "a.mat").write_bytes(damaged(change))
    with pytest.raises(InputError, match="is a damaged MAT-file"):
        read_variables(tmp_path / "a.mat")


def test_a_small_file_that_unpacks_to_a_large_one(tmp_path, monkeypatch):
    header = mat({})[:128]
    packed = zlib.compress(bytes(1 << 22))
    (tmp_path / "a.mat").write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    monkeypatch.setattr(mat_file, "MAX_UNPACKED_BYTES", 1 << 20)
    with pytest.raises(InputError, match=f"more than {1 << 20} bytes when unpacked"):
        read_variables(tmp_path / "a.mat")
    # Also after a variable that uses up all that is allowed: flags, size, name, 8 + N bytes.
    content = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, 1, (1 << 20) - 56)
    content += b"\x01\x00\x01\x00x\0\0\0" + struct.pack("<II", 1, (1 << 20) - 56)
    full = struct.pack("<II", 14, (1 << 20) - 8) + content + bytes((1 << 20) - 56)
    assert len(full) == 1 << 20
    first = zlib.compress(full)
    data = header + struct.pack("<II", 15, len(first)) + first
    (tmp_path / "b.mat").write_bytes(data)
    assert read_variables(tmp_path / "b.mat")["x"].shape == (1, (1 << 20) - 56)
    (tmp_path / "b.mat").write_bytes(data + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(InputError, match="bytes when unpacked"):
        read_variables(tmp_path / "b.mat")
    monkeypatch.setattr(mat_file, "MAX_BYTES", 200)
    with pytest.raises(InputError, match="more than 200 bytes"):
        read_variables(tmp_path / "a.mat")


def test_very_many_empty_arrays(tmp_path):
    """A cell of a million arrays of no bytes packs to a few hundred bytes."""

    def element(kind, content):
        return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)

    matrix = element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<ii", 1, 10**6))
    matrix += element(1, b"x") + struct.pack("<II", 14, 0) * 10**6
    packed = zlib.compress(element(14, matrix))
    path = tmp_path / "a.mat"
    path.write_bytes(mat({})[:128] + struct.pack("<II", 15, len(packed)) + packed)
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match="more than 100000 arrays"):
        read_variables(path)


def test_cells_in_cells_in_cells(tmp_path):
    value = np.array([[1.0]])
    for _ in range(20):
        cell = np.empty((1, 1), dtype=object)
        cell[0, 0] = value
        value = cell
    (tmp_path / "a.mat").write_bytes(mat({"x": value}))
    with pytest.raises(InputError, match="nested deeper than"):
        read_variables(tmp_path / "a.mat")


def test_a_struct_without_fields(tmp_path):
    """As MATLAB's struct() may be; among 100,000 spoilt files the fuzz test found it."""

    def element(kind, content):
        return struct.pack("<II", kind, len(content)) + content.ljust(-(-len(content) // 8) * 8)

    parts = [(6, struct.pack("<II", 2, 0)), (5, struct.pack("<ii", 1, 2)), (1, b"image_info")]
    parts += [(5, struct.pack("<i", 32)), (1, b"")]
    matrix = b"".join(element(*part) for part in parts)
    path = tmp_path / "a.mat"
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + element(14, matrix))
    theirs = scipy.io.loadmat(path)["image_info"]
    assert theirs.shape == (1, 2) and not theirs.dtype.names
    assert read_variables(path) == {"image_info": [{}, {}]}
