"""Bad input to every script: one line that names the file, the record and the fix, exit code 2, no
traceback, nothing half written. A row of a table per kind of bad input, a column per script."""

import contextlib
import errno
import json
import pickle
import resource
import shutil
import tempfile

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_localizer
from cpr.checkpoint import PointCheckpointer
from cpr.engine import build_cfg, build_network
from scenes import edit_json, tiny_opts, write_scenes
from tool_runner import ROOT, run_script

pytestmark = pytest.mark.onnx

CONFIGS = {name: ROOT / "configs" / f"Base-{name}.yaml" for name in ("CPRNet", "P2PNet")}
CLASSES = tiny_localizer.CLASS_NAMES
OLD = "what an earlier run wrote"


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """A data set, predictions, a checkpoint of each network, an ONNX file: all good."""
    folder = tmp_path_factory.mktemp("assets")
    annotations, images = write_scenes(folder, images=3, num_classes=3)

    def finish(dataset):
        for category, name in zip(dataset["categories"], CLASSES, strict=True):
            category["name"] = name
        for image in dataset["images"]:  # also JPEG, which some readers fill up when cut
            name = image["file_name"].replace(".png", ".jpg")
            Image.open(images / image["file_name"]).save(images / name)
            (images / image["file_name"]).unlink()
            image["file_name"] = name
        keys = ("image_id", "category_id", "point")
        found = [{**{k: a[k] for k in keys}, "score": 0.5} for a in dataset["annotations"]]
        (folder / "det.json").write_text(json.dumps(found))

    edit_json(annotations, finish)
    metadata = {"class_names": list(CLASSES), "category_ids": [3, 7, 12]}
    for name, config in CONFIGS.items():
        model = build_network(build_cfg(config, tiny_opts(name.upper(), num_classes=3)))
        PointCheckpointer(model, str(folder), metadata=metadata).save(name)
    (folder / "model.onnx").write_bytes(tiny_localizer.exported_bytes())
    return folder


@pytest.fixture
def data(assets, tmp_path):
    """A data set that a test may spoil; the networks are links to files that it may not."""
    folder = tmp_path / "data"
    (folder / "out").mkdir(parents=True)
    shutil.copytree(assets / "images", folder / "images")
    for path in assets.glob("*.json"):
        shutil.copy(path, folder)
    for name in ("CPRNet.pth", "P2PNet.pth", "model.onnx"):
        (folder / name).symlink_to(assets / name)
    return folder


def network(data, architecture):
    return ["--config-file", CONFIGS[architecture], "--weights", data / f"{architecture}.pth"]


def training(data, architecture):
    spec = f"points:{data / 'scenes.json'}@{data / 'images'}"
    opts = tiny_opts(architecture.upper(), num_classes=3, **{"SOLVER.MAX_ITER": 2})
    opts += ["DATASETS.TRAIN", spec, "DATASETS.TEST", spec]
    folder = ["OUTPUT_DIR", data / "out" / "run"]
    return ["tools/train_net.py", "--config-file", CONFIGS[architecture], *opts, *folder]


def commands(data):
    """Name -> the words of a command that works as long as nothing is spoilt."""
    given = ["--annotations", data / "scenes.json"]
    images = ["--image-root", data / "images"]
    out = data / "out"
    options = {name: tiny_opts(name.upper(), num_classes=3) for name in CONFIGS}
    return {
        "coarse": ["tools/prepare_points.py", "coarse", *given, "--output", out / "o.json"],
        "check": ["tools/prepare_points.py", "check", *given, *images],
        "refine": ["tools/refine_points.py", *network(data, "CPRNet"), *given, *images]
        + ["--output", out / "o.json", *options["CPRNet"]],
        "predict": ["tools/predict_points.py", *network(data, "P2PNet"), *given, *images]
        + ["--output", out / "o.json", *options["P2PNet"]],
        "predict_onnx": ["tools/predict_points.py", "--model", data / "model.onnx", *given]
        + [*images, "--output", out / "o.json"],
        "evaluate": ["tools/evaluate_points.py", *given, "--predictions", data / "det.json"]
        + ["--output", out / "o.json"],
        "visualize": ["tools/visualize_points.py", *given, *images, "--crops"]
        + ["--predictions", data / "det.json", "--output", out / "pictures"],
        "train_cprnet": training(data, "CPRNet"),
        "train_p2pnet": training(data, "P2PNet"),
        "export": ["deploy/export_onnx.py", "--exporter", "legacy", *network(data, "P2PNet")]
        + ["--output", out / "o.onnx", *options["P2PNet"]],
        "video": ["deploy/video.py", "--model", data / "model.onnx", "--source", data / "images"]
        + ["--output", out / "o.mp4", "--points", out / "o.jsonl"],
    }


# All that read annotations do so by one function; what it refuses is tried with the quick ones.
QUICK = "coarse evaluate visualize"
READS_POINTS = "coarse refine predict predict_onnx evaluate visualize train_cprnet train_p2pnet"
READS_IMAGES = "refine predict predict_onnx visualize train_cprnet train_p2pnet"
WRITES_FILE = "coarse refine predict predict_onnx evaluate export video"


def replace(words, option, value):
    words = list(words)
    words[words.index(option) + 1] = value
    return words


def everything_in(folder):
    """Relative path -> content of each file, or the time of its last change if it is large."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder): path.read_bytes() if stat.st_size < 1e5 else stat.st_mtime_ns
        for path, stat in ((path, path.stat()) for path in files)
    }


def run(words, capsys):
    """(exit code, last line of stderr, all that was shown)."""
    capsys.readouterr()
    try:
        code = run_script(*words)
    except SystemExit as stop:  # argparse
        code = stop.code
    shown = capsys.readouterr()
    return code, (shown.err.strip().splitlines() or [""])[-1], shown.out + shown.err


def fails(data, words, message, capsys):
    """The command ends with code 2 and a line that holds `message`, and leaves all as it was."""
    for name in ("o.json", "o.onnx", "o.mp4", "o.jsonl"):
        (data / "out" / name).write_text(OLD)
    before = everything_in(data)
    code, line, shown = run(words, capsys)
    assert code == 2, shown[-2000:]
    assert line.startswith("error: ") and message in line
    assert "Traceback" not in shown
    # A training's folder may hold its log and its config, but no weights.
    after = {
        path: content
        for path, content in everything_in(data).items()
        if path.parts[:2] != ("out", "run") or path.suffix == ".pth"
    }
    assert after == before
    return line


def columns(rows):
    """Rows (id, message, change, scripts) -> a parameter for each script of each row."""
    return [
        pytest.param(change, message, script, id=f"{name}-{script}")
        for name, message, change, scripts in rows
        for script in scripts.split()
    ]


def text(change):
    """Spoils the annotation file's text."""

    def spoil(data):
        path = data / "scenes.json"
        path.write_bytes(change(path.read_text()))

    return spoil


def record(change):
    """Spoils the annotation file: change(dataset, first annotation, first image)."""

    def spoil(data):
        edit_json(data / "scenes.json", lambda d: change(d, d["annotations"][0], d["images"][0]))

    return spoil


def point(*xy):
    return record(lambda d, a, i: a.update(point=list(xy)))


def test_all_scripts_work_on_good_input(data, capsys):
    for name, words in commands(data).items():
        if name == "export":
            continue  # takes long: tests/test_export.py
        code, _, shown = run(words, capsys)
        assert code == 0, f"{name}: {shown[-2000:]}"


# --- annotation files -----------------------------------------------------------------------------

# What is wrong, what the line must name, how to spoil the file, and the scripts that must tell.
ANNOTATIONS = [
    ("nan", "annotations[0] (id 100).point[0] is NaN", point(float("nan"), 1), READS_POINTS),
    (
        "1e999",
        "annotation id 100",
        text(lambda t: t.replace('"point": [', '"point": [1e999, 3], "x": [', 1).encode()),
        QUICK,
    ),
    ("negative", "annotation id 100", point(-1, 1), QUICK),
    ("huge", "annotation id 100", point(1e300, 1), QUICK),
    ("outside its image", "lies outside its image 10", point(64.5, 1), READS_POINTS),
    (
        "unknown category",
        "annotation id 100 (annotation 0 from 0): category_id 99",
        record(lambda d, a, i: a.update(category_id=99)),
        READS_POINTS,
    ),
    (
        "unknown image",
        "annotation id 100 (annotation 0 from 0): image_id 99",
        record(lambda d, a, i: a.update(image_id=99)),
        QUICK,
    ),
    (
        "duplicate annotation id",
        "annotation id 101 (annotation 1 from 0): the id is used twice",
        record(lambda d, a, i: a.update(id=101)),
        QUICK,
    ),
    (
        "duplicate image id",
        "image id 10 (image 1 from 0): the id is used twice",
        record(lambda d, a, i: d["images"][1].update(id=10)),
        QUICK,
    ),
    (
        "neither point nor box",
        "annotation id 100",
        record(lambda d, a, i: (a.pop("point"), a.pop("bbox"))),
        "coarse refine evaluate visualize train_cprnet train_p2pnet",
    ),
    (
        "no click",
        "has no point. Click it",
        record(lambda d, a, i: a.pop("point")),
        "refine train_cprnet train_p2pnet",
    ),
    (
        "a box missing in the test data",
        "annotation id 100 (annotation 0 from 0): has no bbox",
        record(lambda d, a, i: a.pop("bbox")),
        "evaluate train_p2pnet",
    ),
    (
        "no objects",
        "no object",
        record(lambda d, a, i: d.update(annotations=[])),
        "coarse refine evaluate train_cprnet train_p2pnet",
    ),
    (
        "no images",
        "images: is empty",
        record(lambda d, a, i: d.update(images=[], annotations=[])),
        QUICK,
    ),
    (
        "path traversal",
        "image id 10 (image 0 from 0): file_name '../../a.png' leads out of the image folder",
        record(lambda d, a, i: i.update(file_name="../../a.png")),
        READS_POINTS,
    ),
    (
        "broken file name",
        "holds control characters",
        record(lambda d, a, i: i.update(file_name="a\0\ud800.png")),
        QUICK,
    ),
    (
        "no width",
        "width 0 is not a positive whole number",
        record(lambda d, a, i: i.update(width=0)),
        QUICK,
    ),
    (
        "absurd height",
        "height 1000000000.0 is more than 1000000 px",
        record(lambda d, a, i: i.update(height=1e9)),
        QUICK,
    ),
    (
        "id as text",
        "category 0 (from 0): id '3' is not a whole number",
        record(lambda d, a, i: d["categories"][0].update(id="3")),
        QUICK,
    ),
    (
        "id as fraction",
        "image 0 (from 0): id 10.0 is not a whole number",
        record(lambda d, a, i: i.update(id=10.0)),
        QUICK,
    ),
    (
        "id true",
        "annotation 0 (from 0): id True is not a whole number",
        record(lambda d, a, i: a.update(id=True)),
        QUICK,
    ),
    (
        "class name twice",
        "the name 'person' is used twice",
        record(lambda d, a, i: d["categories"][0].update(name="person")),
        QUICK,
    ),
    (
        "no annotations list",
        "has no list 'annotations'",
        record(lambda d, a, i: d.pop("annotations")),
        QUICK,
    ),
    (
        "images not a list",
        "has no list 'images'",
        record(lambda d, a, i: d.update(images={"10": i})),
        QUICK,
    ),
    ("cut in the middle", "seems cut", text(lambda t: t[: len(t) // 2].encode()), READS_POINTS),
    ("deep nesting", "nested too deeply", text(lambda t: b"[" * 100_000), QUICK),
    ("not UTF-8", "not UTF-8", text(lambda t: t.encode("utf-16")), QUICK),
    ("missing", "no such file", lambda data: (data / "scenes.json").unlink(), READS_POINTS),
    (
        "a mask that would fill the memory",
        "annotation id 100: the segmentation is not",
        record(lambda d, a, i: a.update(segmentation=[[0, 0, 1e300, 0, 9, 9]])),
        "coarse",
    ),
    (
        "a box that would fill the memory",
        "annotation id 100: the segmentation is not",
        record(lambda d, a, i: a.update(segmentation=[[0, 0, 9, 0, 9, 9]], bbox=[0, 0, 1e7, 1e7])),
        "coarse",
    ),
    (
        "run lengths of another size",
        "annotation id 100: the segmentation is not",
        record(lambda d, a, i: a.update(segmentation={"size": [64, 64], "counts": [10**9]})),
        "coarse",
    ),
    (
        "classes of another network",
        "NUM_CLASSES",
        record(lambda d, a, i: d["categories"].append({"id": 99, "name": "z"})),
        "refine predict train_cprnet train_p2pnet",
    ),
]


@pytest.mark.parametrize(("change", "message", "script"), columns(ANNOTATIONS))
def test_annotations(data, capsys, change, message, script):
    change(data)
    assert "scenes.json" in fails(data, commands(data)[script], message, capsys)


CHECKED = [row[:3] for row in ANNOTATIONS if row[3] in (QUICK, READS_POINTS)]


@pytest.mark.parametrize(("name", "message", "change"), CHECKED)
def test_check_reports_the_same(data, capsys, name, message, change):
    """`prepare_points check` reads on: 1 for problems in the data, 2 for what is no JSON."""
    change(data)
    code, line, shown = run(commands(data)["check"], capsys)
    assert "Traceback" not in shown
    assert message in shown and code in (1, 2)
    assert line.startswith("error: ") == (code == 2)


def test_a_class_without_objects_is_an_ordinary_input(data, capsys):
    edit_json(
        data / "scenes.json", lambda d: [a.update(category_id=3) for a in d["annotations"]] and None
    )
    shutil.copy(data / "scenes.json", data / "given.json")
    for name in READS_POINTS.split():
        code, _, shown = run(commands(data)[name], capsys)
        assert code == 0, f"{name}: {shown[-2000:]}"
    metrics_of = run([*commands(data)["evaluate"], "--per-class"], capsys)
    assert metrics_of[0] == 0 and "class 'person' has no objects" in metrics_of[2]


def test_no_objects_where_none_are_needed(data, capsys):
    edit_json(data / "scenes.json", lambda d: d.update(annotations=[]))
    for name in ("predict", "predict_onnx", "visualize"):
        assert run(commands(data)[name], capsys)[0] == 0, name


# --- images ---------------------------------------------------------------------------------------


def image(change):
    def spoil(data):
        change(data / "images" / "scenes1.jpg")

    return spoil


IMAGES = [
    ("missing", "image id 11", image(lambda p: p.unlink()), READS_IMAGES),
    (
        "truncated",
        "cannot be read as an image (image file is truncated",
        image(lambda p: p.write_bytes(p.read_bytes()[:1200])),
        READS_IMAGES,
    ),
    ("empty", "is not an image", image(lambda p: p.write_bytes(b"")), READS_IMAGES),
    (
        "another size",
        "the image is 64x60 (width x height), the annotation file says 64x64",
        image(lambda p: Image.new("RGB", (64, 60)).save(p)),
        READS_IMAGES,
    ),
]


@pytest.mark.parametrize(("change", "message", "script"), columns(IMAGES))
def test_images(data, capsys, change, message, script):
    change(data)
    if script == "visualize":
        # The pictures of the images before a damaged one are whole, so they may stay.
        first = data / "out" / "pictures" / "00000_scenes0.png"
        code, line, shown = run(commands(data)[script], capsys)
        assert code == 2 and message in line and "Traceback" not in shown
        assert [p for p in (data / "out").rglob("*") if p.is_file() and p != first] == []
    else:
        line = fails(data, commands(data)[script], message, capsys)
    assert "scenes1.jpg" in line


@pytest.mark.parametrize("script", [*READS_IMAGES.split(), "check"])
def test_image_folder_missing(data, capsys, script):
    shutil.rmtree(data / "images")
    line = fails(data, commands(data)[script], "no such image folder", capsys)
    assert str(data / "images") in line


def test_a_folder_with_a_damaged_image(data, capsys):
    path = data / "images" / "scenes1.jpg"
    path.write_bytes(path.read_bytes()[:1200])
    words = ["tools/predict_points.py", "--model", data / "model.onnx", "--images", path.parent]
    fails(data, [*words, "--output", data / "out" / "o.json"], "scenes1.jpg", capsys)
    # A stream goes on after it, keeps what is good and says so.
    code, line, _ = run(commands(data)["video"], capsys)
    kinds = [json.loads(line)["type"] for line in (data / "out" / "o.jsonl").open()]
    assert code == 1 and "scenes1.jpg" in line and kinds == ["frame", "error", "frame", "end"]


# --- predictions ----------------------------------------------------------------------------------


def prediction(**change):
    def spoil(data):
        found = json.loads((data / "det.json").read_text())
        found[0].update(change)
        (data / "det.json").write_text(json.dumps(found))

    return spoil


def predictions(content):
    return lambda data: (data / "det.json").write_text(content)


PREDICTIONS = [
    ("unknown image", "detection 0 (from 0): image_id 99", prediction(image_id=99)),
    ("unknown category", "detection 0 (from 0): category_id 99", prediction(category_id=99)),
    ("image id true", "detection 0 (from 0): image_id True", prediction(image_id=True)),
    ("nan", "[0].score is NaN", prediction(score=float("nan"))),
    ("no point", "detection 0 (from 0): point None", prediction(point=None)),
    ("huge", "detection 0 (from 0): point", prediction(point=[1e300, 0])),
    ("cut", "seems cut", predictions('[{"image_id": 1')),
    ("swapped", "annotations and predictions swapped", predictions('{"images": []}')),
    ("missing", "no such file", lambda data: (data / "det.json").unlink()),
]


@pytest.mark.parametrize(
    ("change", "message", "script"), columns([(*row, "evaluate visualize") for row in PREDICTIONS])
)
def test_predictions(data, capsys, change, message, script):
    change(data)
    assert "det.json" in fails(data, commands(data)[script], message, capsys)


# --- weights --------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return tempfile.mkdtemp, ("evil",)


def spoilt_weights(path):
    checkpoint = torch.load(path, weights_only=True)
    for value in checkpoint["model"].values():
        value.mul_(float("nan"))
    torch.save(checkpoint, path)


def no_metadata_lists(path):
    torch.save({**torch.load(path, weights_only=True), "metadata": "none"}, path)


# Each gets the path of the checkpoint that the script will load.
WEIGHTS = [
    ("missing", "weights.pth", lambda p: p.unlink()),
    ("text", "not a checkpoint", lambda p: p.write_text("hello")),
    ("cut", "is cut off or damaged", lambda p: p.write_bytes(p.read_bytes()[:50_000])),
    ("a pickle", "not a checkpoint", lambda p: p.write_bytes(pickle.dumps({"model": Evil()}))),
    ("code", "tempfile.mkdtemp, and nothing", lambda p: torch.save({"model": Evil()}, p)),
    ("diverged", "holds NaN or infinity", spoilt_weights),
    ("no lists", "its metadata are not lists", no_metadata_lists),
]
LOADERS = {"refine": "CPRNet", "predict": "P2PNet", "export": "P2PNet", "evaluation": "P2PNet"}


def with_weights(data, script, path):
    if script == "evaluation":
        words = [*training(data, "P2PNet"), "MODEL.WEIGHTS", path]
        return [words[0], "--eval-only", *words[1:]]
    return replace(commands(data)[script], "--weights", path)


@pytest.mark.parametrize(
    ("change", "message", "script"), columns([(*row, " ".join(LOADERS)) for row in WEIGHTS])
)
def test_weights(data, capsys, monkeypatch, change, message, script):
    path = data / "weights.pth"
    shutil.copy(data / f"{LOADERS[script]}.pth", path)
    change(path)
    ran = []
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *_: ran.append(1))
    assert "weights.pth" in fails(data, with_weights(data, script, path), message, capsys)
    assert not ran, "loading must not run what a file holds"


@pytest.mark.parametrize("script", LOADERS)
def test_weights_of_another_architecture(data, capsys, script):
    other = "P2PNet" if LOADERS[script] == "CPRNet" else "CPRNet"
    words = with_weights(data, script, data / f"{other}.pth")
    fails(data, words, f"weights of the configured model ({LOADERS[script]})", capsys)


@pytest.mark.parametrize("script", LOADERS)
def test_pkl_that_is_no_checkpoint(data, capsys, script):
    path = data / "R-18.pkl"
    path.write_bytes(pickle.dumps({"model": Evil()}))
    line = fails(data, with_weights(data, script, path), "tempfile.mkdtemp", capsys)
    assert "R-18.pkl" in line and "nothing of it was run" in line


# --- configs --------------------------------------------------------------------------------------

# Texts with keys of the model stand on top of the config that the script needs.
CONFIG_FILES = [
    ("missing", "no such config file", None),
    ("unknown key", "MODEL.NOTHING", "MODEL: {NOTHING: 1}"),
    ("not YAML", "not a valid YAML", "MODEL: ["),
    ("no keys", "holds no keys", "hello"),
    ("a wrong base", "nowhere.yaml: no such config file", "_BASE_: nowhere.yaml"),
    ("its own base", "leads back to itself", "_BASE_: config.yaml"),
    ("binary", "is not text", b"\x80\x02\xff"),
    ("impossible network", "IN_FEATURE is 'p9'", "MODEL: {P2PNET: {IN_FEATURE: p9}}"),
]


@pytest.mark.parametrize(
    ("content", "message", "script"),
    columns([(*row, "predict export train_p2pnet") for row in CONFIG_FILES]),
)
def test_config_files(data, capsys, content, message, script):
    path = data / "config.yaml"
    words = replace(commands(data)[script], "--config-file", path)
    at = words.index("MODEL.P2PNET.IN_FEATURE")
    del words[at : at + 2]  # so that the file decides
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        base = f"_BASE_: {CONFIGS['P2PNet']}\n" if "P2PNET" in content else ""
        path.write_text(f"{base}{content}\n")
    fails(data, words, message, capsys)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.NOTHING", "1", "MODEL.NOTHING"),
        ("MODEL.DEVICE", "banana", "MODEL.DEVICE is 'banana'"),
        ("MODEL.BACKBONE.NAME", "banana", "banana"),
        ("INPUT.MIN_SIZE_TEST", "-5", "INPUT.MIN_SIZE_TEST"),
    ],
)
def test_config_options(data, capsys, key, value, message):
    for script in ("refine", "predict", "train_cprnet"):
        words = [*commands(data)[script], key, value]
        if key.endswith("TEST") and script.startswith("train"):
            words += ["TEST.EVAL_PERIOD", "1"]
        fails(data, words, message, capsys)


# --- ONNX files and videos ------------------------------------------------------------------------


def foreign(path):
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph), path)


def external(path):
    import onnx

    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=64)


MODELS = [
    ("missing", "no such file", lambda p: p.unlink()),
    ("not ours", "is not a point localizer of this project", foreign),
    ("external data", "keeps its weights in other files", external),
    ("cut", "is not a whole ONNX file", lambda p: p.write_bytes(p.read_bytes()[:9999])),
    ("a checkpoint", "is not a whole ONNX", lambda p: shutil.copy(p.parent / "P2PNet.pth", p)),
]


@pytest.mark.parametrize(
    ("change", "message", "script"), columns([(*row, "predict_onnx video") for row in MODELS])
)
def test_onnx_files(data, capsys, change, message, script):
    path = data / "spoilt.onnx"
    shutil.copy(data / "model.onnx", path)
    change(path)
    words = replace(commands(data)[script], "--model", path)
    assert "spoilt.onnx" in fails(data, words, message, capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file or folder"), (b"hello", "cannot be opened as video")],
)
def test_videos_that_cannot_be_read(data, capsys, content, message):
    """A video that ends in the middle of a frame: tests/test_video.py."""
    path = data / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    words = replace(commands(data)["video"], "--source", path)
    assert "clip.mp4" in fails(data, words, message, capsys)


@pytest.mark.parametrize("kept", [0.005, 0.01, 0.02, 0.3, 0.9])
def test_video_cut_anywhere(data, capsys, kept):
    """Either it cannot be opened, or what was whole is kept and the exit code is 1."""
    import av

    path = data / "clip.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=25, width=96, height=64, pix_fmt="yuv420p")
        for seed in range(6):
            picture = tiny_localizer.scene(64, 96, seed=seed)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    words = replace(commands(data)["video"], "--source", path)
    code, line, shown = run(words, capsys)
    assert line.startswith("error: ") and "clip.mp4" in line and "cut off" in line
    assert "Traceback" not in shown
    if code == 1:
        frames = [json.loads(text)["type"] for text in (data / "out" / "o.jsonl").open()]
        assert frames[-2:] == ["error", "end"]
    else:
        assert code == 2 and everything_in(data / "out") == {}


# --- outputs --------------------------------------------------------------------------------------

LIMIT = 1  # bytes; every output is larger


@contextlib.contextmanager
def full_disk(limit=LIMIT):
    """Inside, the kernel refuses to write files of this process beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("script", WRITES_FILE.split())
def test_full_disk_while_writing(data, capsys, script):
    words = commands(data)[script]
    for name in ("o.json", "o.onnx", "o.mp4", "o.jsonl"):
        (data / "out" / name).write_text(OLD)
    with full_disk():
        code, line, shown = run(words, capsys)
    assert code == 2 and "Traceback" not in shown
    assert line.startswith(f"error: {data / 'out'}") and "choose another output folder" in line
    assert set(everything_in(data / "out").values()) == {OLD.encode()}, "old files, no other"


def test_full_disk_while_drawing(data, capsys):
    with full_disk():
        code, line, _ = run(commands(data)["visualize"], capsys)
    assert code == 2 and "00000_scenes0.png: " in line
    assert everything_in(data / "out") == {}


def test_full_disk_while_training(data, capsys):
    """The checkpoint does not fit; the one of an earlier run stays."""
    weights = data / "out" / "run" / "model_final.pth"
    weights.parent.mkdir()
    weights.write_text(OLD)
    with full_disk(400_000):
        code, line, shown = run(commands(data)["train_p2pnet"], capsys)
    assert code == 2 and f"{weights}: " in line and "Traceback" not in shown
    assert weights.read_text() == OLD
    assert not list(weights.parent.glob(".*")) and not list(weights.parent.glob("last*"))


@pytest.mark.parametrize("script", [*WRITES_FILE.split(), "visualize", "train_p2pnet"])
def test_no_permission_is_told_before_the_work(data, capsys, monkeypatch, script):
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("os.mkdir", lambda *_: pytest.fail("must not be reached"))
    fails(data, commands(data)[script], "no permission to write in", capsys)


@pytest.mark.parametrize("script", WRITES_FILE.replace("export ", "").split())
def test_no_permission_while_writing(data, capsys, monkeypatch, script):
    """Where the system says no only when it is tried."""
    real = tempfile.mkstemp

    def denied(*args, dir=None, **settings):
        if str(dir).endswith("out"):
            raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/.o-12345")
        return real(*args, dir=dir, **settings)

    monkeypatch.setattr(tempfile, "mkstemp", denied)
    line = fails(data, commands(data)[script], "no permission; choose a path", capsys)
    assert line.startswith(f"error: {data / 'out' / 'o.'}")


@pytest.mark.parametrize("script", WRITES_FILE.split())
def test_output_that_is_a_folder_or_below_a_file(data, capsys, script):
    words, suffix = commands(data)[script], ".mp4" if script == "video" else ".json"
    (data / f"folder{suffix}").mkdir()
    folder = replace(words, "--output", data / f"folder{suffix}")
    fails(data, folder, f"folder{suffix}: is a folder or a device", capsys)
    below = replace(words, "--output", data / "det.json" / f"x{suffix}")
    fails(data, below, "det.json is a file, not a folder", capsys)


INPUT_OPTIONS = [
    ("coarse", "--annotations"),
    ("refine", "--annotations"),
    ("refine", "--weights"),
    ("predict", "--weights"),
    ("predict_onnx", "--annotations"),
    ("predict_onnx", "--model"),
    ("evaluate", "--annotations"),
    ("evaluate", "--predictions"),
    ("visualize", "--image-root"),
    ("export", "--weights"),
    ("video", "--model"),
]


@pytest.mark.parametrize(("script", "option"), INPUT_OPTIONS)
def test_output_equal_to_an_input(data, capsys, script, option):
    words = commands(data)[script]
    same = words[words.index(option) + 1]
    output = same.parent / "." / same.name
    if script == "video":
        words = replace(words, "--points", output)
    else:
        words = replace(words, "--output", output)
    fails(data, words, f"{same}: is read by this command", capsys)


def test_two_outputs_of_one_name(data, capsys):
    words = [*commands(data)["refine"]]
    words[1:1] = ["--report", data / "out" / "o.json"]
    fails(data, words, "is given for two outputs", capsys)


@pytest.mark.parametrize("where", ["is a file", "below a file"])
def test_training_folder(data, capsys, where):
    folder = data / "det.json" if where == "is a file" else data / "det.json" / "run"
    words = replace(commands(data)["train_cprnet"], "OUTPUT_DIR", folder)
    fails(data, words, "det.json is a file, not a folder", capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "det.json"], "where a folder is needed"),
        (["--output", "images", "--fresh"], "is not the output of a demo"),
    ],
)
def test_demo_folder(data, capsys, monkeypatch, words, message):
    monkeypatch.chdir(data)
    fails(data, ["tools/demo.py", "--device", "cpu", *words], message, capsys)


# --- interruption ---------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["predict", "refine", "predict_onnx", "train_p2pnet"])
def test_interrupted_work_leaves_nothing(data, capsys, monkeypatch, script):
    """Ctrl-C at the second image."""
    count = iter(range(100))

    def interrupted(image, *_):
        if next(count):
            raise KeyboardInterrupt
        return image

    monkeypatch.setattr("cpr.data.dataset_mapper.check_size", interrupted)
    monkeypatch.setattr("cpr.data.image_folder.check_size", interrupted)
    code, line, shown = run(commands(data)[script], capsys)
    assert code == 130 and line == "interrupted" and "Traceback" not in shown
    left = [p.name for p in (data / "out").rglob("*") if p.is_file()]
    assert not [name for name in left if name.startswith(("o.", ".")) or name.endswith(".pth")]


def test_interrupted_video_is_whole(data, capsys, monkeypatch):
    """What was processed before Ctrl-C is kept, as files that can be read."""
    import av

    from cpr_deploy.point_localizer import PointLocalizer

    count, real = iter(range(100)), PointLocalizer.__call__

    def interrupted(self, *args, **settings):
        if next(count) == 2:
            raise KeyboardInterrupt
        return real(self, *args, **settings)

    monkeypatch.setattr(PointLocalizer, "__call__", interrupted)
    code, _, _ = run(commands(data)["video"], capsys)
    assert code == 130
    with av.open(str(data / "out" / "o.mp4")) as container:
        assert len(list(container.decode(video=0))) == 2
    kinds = [json.loads(line)["type"] for line in (data / "out" / "o.jsonl").open()]
    assert kinds == ["frame", "frame", "end"]
    assert np.all([p.name.startswith("o.") for p in (data / "out").iterdir()])
