"""Whatever stands in a file, every reader reads or refuses it; nothing else is written or hangs.

Good files of each format are spoilt: bytes put in and taken out, words replaced by ones that hurt,
parts of a JSON replaced by anything, encodings, line ends and case changed, parts repeated.
Archives, links and files of 10 GB are in test_importers_import.py, bombs beside each format.
"""

import copy
import json
import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpr.data.importers import FORMATS
from cpr.data.importers.import_points import import_points
from cpr.data.point_json import find_problems, save_points
from cpr_deploy.files import InputError
from foreign_files import (
    coco,
    cvat,
    label_studio,
    labelme,
    shanghaitech,
    voc,
    write_files,
    write_images,
)

POINT = {"x": 25, "y": 10, "width": 0.5, "keypointlabels": ["seal"]}
RECTANGLE = {"x": 50, "y": 20, "width": 25, "height": 10, "rotation": 30}
BOX = '<box label="seal" xtl="1" ytl="2" xbr="9" ybr="8" rotation="30"/>'
CLICK = '<points label="seal" points="1,2"><attribute name="annotation_id">4</attribute></points>'
OUTLINE = '<polygon label="bird" points="1,2;3,4;5,1"/>'

# Format -> the files that are spoilt, the first one most often, beside good ones.
GOOD = {
    "csv": {
        "c.csv": "file_name,x,y,class,annotation_id,image_id\na.png,1,2,seal,4,7\na.png,3,4,b,,7\n"
    },
    "cvat": {"c.xml": cvat(CLICK + BOX + OUTLINE, labels=("seal", "bird"))},
    "label-studio": {
        "c.json": [
            *label_studio(POINT),
            *label_studio(
                RECTANGLE | {"rectanglelabels": ["b"]}, "rectanglelabels", "dot.png", (1, 1)
            ),
        ]
    },
    "labelme": {
        "a.json": labelme("point", [[1, 2]]),
        "b.json": labelme("polygon", [[0, 0], [1, 0], [0, 1]], "dot.png", (1, 1)),
    },
    "coco": {
        "c.json": coco({"keypoints": [1, 2, 2, 3, 4, 1], "bbox": [1, 2, 3, 4], "ignore": 0})
    },
    "yolo": {
        "a.txt": "0 0.5 0.5 0.2 0.2\n1 .1 .2 .1 .1 0.9\n",
        "data.yaml": "path: .\nnc: 2\nnames:\n  0: seal\n  1: 'bird'  # small\n",
    },
    "voc": {"a.xml": voc((1, 2, 9, 8), more="<difficult>0</difficult>")},
    "dota": {"a.txt": "imagesource:x\ngsd:0.1\n1 2 9 2 9 8 1 8 plane 0\n1 2 9 2 9 8 1 8 ship 1\n"},
    "crowd-mat": {
        "GT_a.mat": shanghaitech([(1, 2), (3, 4)], compressed=False),
        "GT_dot.mat": shanghaitech([(1, 1)]),
    },
}  # fmt: skip

WORDS = [
    "0", "1", "-1", "-0", "1e999", "-1e999", "NaN", "nan", "Infinity", "1_0", "١", "0.5.5", "0x1",
    "9" * 25, "0" * 80, "null", "true", "[]", "{}", '""', '"', "'", "<", ">", "&", "&amp;", "&x;",
    "<!DOCTYPE", "<![CDATA[", "]]>", "<a>", "</a>", "../", "..", "/", "\\", "C:\\a.png", "a.png",
    "/etc/passwd", "dot.png", "A.PNG", "seal", "Seal", "SEAL", "é", "😀", "\x00", "\x1b", "\ufeff",
    "\u2028", "\uffff", ",", ";", ":", "#", "-", "|", "*", "!", "%", " ", "\n", "id", "x,y",
    "point", "1,2;3,4", "points", "box", "bbox", "image", "ignore", "annotation_id", "keypoints",
    "names:", "{0:", "a}", "[a]",
]  # fmt: skip
CHUNKS = st.sampled_from([word.encode() for word in WORDS]) | st.binary(max_size=6)
CHUNKS |= st.sampled_from([b"\xff\xfe", b"\xef\xbb\xbf", b"\xff" * 8, bytes(8), b"PK\x03\x04"])
CHUNKS |= st.sampled_from([b"[" * 3000, b'{"a":' * 3000, b"<a>" * 300, b"9" * 5000])

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
LEAVES |= st.sampled_from(WORDS) | st.integers(2**53 - 2, 2**70) | st.integers(-3, 12)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value, path=()):
    """The paths of everything in a JSON value."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@st.composite
def spoilt_json(draw, content):
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from([p for p in places(content) if p] or [(0,)]))
        target = content
        for key in path:
            target = target[key]
        if draw(st.integers(0, 3)) == 0 and isinstance(target, dict):
            target[draw(st.sampled_from(["id", "point", "size", "x", "result"]))] = draw(VALUES)
        elif isinstance(target, (dict, list)) and len(target):
            target[last] = draw(VALUES)
    return json.dumps(content).encode()


@st.composite
def spoilt_words(draw, content):
    parts = re.split(r"(\w[\w.]*)", content.decode("latin-1"))
    for _ in range(draw(st.integers(1, 4))):
        parts[draw(st.integers(0, len(parts) - 1))] = draw(st.sampled_from(WORDS))
    return "".join(parts).encode("utf-8", "replace")


@st.composite
def spoilt_bytes(draw, content):
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        removed = draw(st.integers(0, 4) | st.integers(0, len(content)))
        content = content[:start] + draw(CHUNKS) + content[start + removed :]
    return content


def twice(content, draw):
    """A part of the file once more: records and ids that are there twice."""
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    return content[:end] + content[start:]


# What happens to whole files on their way: encodings, byte order marks, case, other separators of
# folders and lines, records twice, copies that are not finished.
CHANGES = [
    lambda content, draw: content.decode("latin-1").encode(draw(st.sampled_from(ENCODINGS))),
    lambda content, draw: draw(st.sampled_from(MARKS)) + content,
    lambda content, draw: content.swapcase(),
    lambda content, draw: content.replace(b"/", b"\\"),
    lambda content, draw: content.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\r", b""]))),
    lambda content, draw: content + bytes(draw(st.integers(1, 200))),
    twice,
]
ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "cp037", "utf-8-sig"]
MARKS = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"PK\x03\x04", b"\x1f\x8b"]


@st.composite
def spoilt_whole(draw, content):
    for change in draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=2)):
        content = change(content, draw)
    return content


@st.composite
def spoilt(draw, file_format):
    """(name, bytes) of a spoilt file of a format."""
    names = list(GOOD[file_format])
    name = names[0] if draw(st.integers(0, 3)) else draw(st.sampled_from(names))
    content = GOOD[file_format][name]
    if isinstance(content, (dict, list)):
        if draw(st.integers(0, 3)):
            return name, draw(spoilt_json(content))
        content = json.dumps(content)
    content = content if isinstance(content, bytes) else content.encode()
    kinds = [spoilt_bytes, spoilt_whole]
    if not name.endswith(".mat"):
        kinds.append(spoilt_words)
    return name, draw(draw(st.sampled_from(kinds))(content))


def fuzz(folder, file_format, examples):
    """Tries that many spoilt files of a format."""
    write_images(folder, {"a.png": (40, 30), "dot.png": (1, 1)})
    entry = FORMATS[file_format]
    source = folder / "in"
    output = folder / "out.json"
    files = GOOD[file_format]
    write_files(source, files)
    expected = sorted(p for p in folder.rglob("*") if p.is_file())
    taken = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=spoilt(file_format), skip_bad=st.booleans(), rooted=st.booleans())
    def run(case, skip_bad, rooted):
        name, content = case
        (source / name).write_bytes(content)
        root = folder / "images" if rooted or not entry.has_sizes else None
        path = source if entry.file_per_image else source / name
        begin = time.perf_counter()
        try:
            result = import_points(path, root, file_format=file_format, skip_bad=skip_bad)
            assert not [p for p in find_problems(result.dataset, require="any") if p.is_error]
            assert skip_bad or not result.skipped
            save_points(output, result.dataset)
        except InputError as error:
            text = str(error)
            assert str(folder) in text and len(text) < 2000
        finally:
            taken.append(time.perf_counter() - begin)
            write_files(source, {name: files[name]})
            output.unlink(missing_ok=True)
        assert sorted(p for p in folder.rglob("*") if p.is_file()) == expected

    run()
    assert max(taken) < 10, "one file took seconds"


@pytest.mark.parametrize("file_format", FORMATS)
def test_spoilt_files(tmp_path, file_format):
    """2,000 files of all formats together."""
    fuzz(tmp_path, file_format, 2_000 // len(FORMATS) + 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("file_format", FORMATS)
def test_very_many_spoilt_files(tmp_path, file_format):
    """100,000 files of all formats together."""
    fuzz(tmp_path, file_format, 100_000 // len(FORMATS) + 1)


def test_the_good_files_are_good(tmp_path):
    """What is spoilt would be read to its end."""
    write_images(tmp_path, {"a.png": (40, 30), "dot.png": (1, 1)})
    assert set(GOOD) == set(FORMATS)
    for file_format, files in GOOD.items():
        folder = tmp_path / file_format
        write_files(folder, files)
        path = folder if FORMATS[file_format].file_per_image else folder / next(iter(files))
        conventions = None
        if file_format == "coco":
            from cpr.data.importers.records import Conventions

            conventions = Conventions("centre", keypoint="mean")
        result = import_points(
            path, tmp_path / "images", file_format=file_format, conventions=conventions
        )
        assert result.dataset["annotations"] and not result.skipped
