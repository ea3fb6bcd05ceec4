"""Point JSON -> file of another tool -> point JSON: ids, classes and points are those before."""

import json
import random
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpr.data.exporters.export_points import export_points
from cpr.data.importers.import_points import import_points
from cpr.data.point_json import find_problems, load_points
from cpr_deploy.files import name_problem

TOLERANCE = 1e-3  # px

# Formats that have an importer too; whether they keep the ids of classes.
FORMATS = {"csv": False, "cvat": False, "label-studio": False, "coco": True}
# Names as people give them: letters of any script, signs that mean something in XML, CSV, JSON,
# YAML or addresses, spaces within.
SIGNS = string.ascii_letters + string.digits + "_-+.,;:<>&'\"#%?=@!()[]{}~$*|é海ß😀"
WORDS = st.text(SIGNS, min_size=1, max_size=8)
CLASS_NAMES = st.lists(WORDS, min_size=1, max_size=2).map(" ".join)
FILE_NAMES = (
    st.lists(WORDS.filter(lambda word: word != "."), min_size=1, max_size=2)
    .map(lambda parts: "/".join(parts) + ".png")
    .filter(lambda name: name_problem(name) is None)  # "..", or like the drive of Windows
)
IDS = st.integers(0, 2**53) | st.integers(0, 99)


@st.composite
def datasets(draw):
    """Valid point JSONs with at least one click."""
    names = draw(st.lists(CLASS_NAMES, min_size=1, max_size=4, unique=True))
    files = draw(st.lists(FILE_NAMES, min_size=1, max_size=4, unique=True))
    image_ids = draw(st.lists(IDS, min_size=len(files), max_size=len(files), unique=True))
    sides = st.integers(1, 5000)
    images = [
        {"id": number, "file_name": file, "width": draw(sides), "height": draw(sides)}
        for number, file in zip(image_ids, files, strict=True)
    ]
    class_ids = draw(st.lists(IDS, min_size=len(names), max_size=len(names), unique=True))
    categories = [
        {"id": number, "name": name} for number, name in zip(class_ids, names, strict=True)
    ]
    annotations = []
    for number in draw(st.lists(IDS, min_size=1, max_size=8, unique=True)):
        image = draw(st.sampled_from(images))
        share = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])
        annotations.append(
            {
                "id": number,
                "image_id": image["id"],
                "category_id": draw(st.sampled_from(class_ids)),
                "point": [draw(share) * image["width"], draw(share) * image["height"]],
            }
        )
    return {"images": images, "categories": categories, "annotations": annotations}


def clicks(dataset):
    """id -> (file name, id of the image, class, point)."""
    images = {image["id"]: image for image in dataset["images"]}
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    return {
        a["id"]: (images[a["image_id"]]["file_name"], a["image_id"], names[a["category_id"]])
        for a in dataset["annotations"]
    }


def assert_same(before, after):
    assert not [p for p in find_problems(after, require="point") if p.is_error]
    assert clicks(after) == clicks(before)
    points = {a["id"]: a["point"] for a in after["annotations"]}
    for annotation in before["annotations"]:
        assert points[annotation["id"]] == pytest.approx(annotation["point"], abs=TOLERANCE)
    sizes = {i["file_name"]: (i["id"], i["width"], i["height"]) for i in before["images"]}
    assert {i["file_name"]: (i["id"], i["width"], i["height"]) for i in after["images"]} == sizes


@pytest.mark.parametrize("file_format", FORMATS)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(dataset=datasets())
def test_round_trip(tmp_path_factory, file_format, dataset):
    folder = tmp_path_factory.getbasetemp()
    source, path = folder / "points.json", folder / "exported"
    source.write_text(json.dumps(dataset), encoding="utf-8")
    export_points(source, path, file_format=file_format)
    original = None
    if file_format == "csv":
        # A table knows no sizes: they come from a data set of the same images without objects.
        original = folder / "images.json"
        original.write_text(json.dumps({**dataset, "annotations": []}), encoding="utf-8")
    after = import_points(path, file_format=file_format, original=original).dataset
    assert_same(dataset, after)
    listed = [category["name"] for category in after["categories"]]
    if file_format == "label-studio":  # its tasks list no classes
        assert listed == sorted({name for _, _, name in clicks(dataset).values()})
    else:
        assert listed == [category["name"] for category in dataset["categories"]]
    if FORMATS[file_format] or original:
        assert after["categories"] == dataset["categories"]
    # With the original beside it, all is as it was.
    after = import_points(path, file_format=file_format, original=source).dataset
    assert_same(dataset, after)
    assert after["categories"] == dataset["categories"]


@pytest.mark.parametrize("file_format", ["cvat", "label-studio", "coco"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(dataset=datasets(), seed=st.integers(0, 2**32))
def test_round_trip_of_boxes_and_regions(tmp_path_factory, file_format, dataset, seed):
    rng = random.Random(seed)
    images = {image["id"]: image for image in dataset["images"]}
    for annotation in dataset["annotations"][1:]:
        image = images[annotation["image_id"]]
        del annotation["point"]
        x, y = rng.uniform(0, image["width"] / 2), rng.uniform(0, image["height"] / 2)
        annotation["bbox"] = [x, y, image["width"] - x, rng.uniform(0.01, image["height"])]
        if rng.random() < 0.5:
            annotation["ignore"] = 1
    folder = tmp_path_factory.getbasetemp()
    source, path = folder / "points.json", folder / "exported"
    source.write_text(json.dumps(dataset), encoding="utf-8")
    export_points(source, path, file_format=file_format)
    after = import_points(path, file_format=file_format).dataset
    assert clicks(after) == clicks(dataset)
    found = {a["id"]: a for a in after["annotations"]}
    for annotation in dataset["annotations"]:
        other = found[annotation["id"]]
        assert other.get("ignore", 0) == annotation.get("ignore", 0)
        if "bbox" in annotation:
            assert other["bbox"] == pytest.approx(annotation["bbox"], abs=TOLERANCE)


def test_one_pixel_there_and_back(tmp_path):
    """The centre of the only pixel, its corners, exactly."""
    for point in ([0.5, 0.5], [0.0, 0.0], [1.0, 1.0]):
        dataset = {
            "images": [{"id": 1, "file_name": "dot.png", "width": 1, "height": 1}],
            "categories": [{"id": 1, "name": "seal"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "point": point}],
        }
        source = tmp_path / "points.json"
        source.write_text(json.dumps(dataset), encoding="utf-8")
        for file_format in FORMATS:
            export_points(source, tmp_path / "exported", file_format=file_format)
            after = import_points(
                tmp_path / "exported", file_format=file_format, original=source
            ).dataset
            assert after["annotations"][0]["point"] == point, file_format


def test_refined_points_keep_what_they_carry(tmp_path):
    """A refined file to CVAT and back: clicks, scores and boxes are those of the original."""
    dataset = {
        "images": [{"id": 4, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 6, "name": "seal"}],
        "annotations": [
            {"id": 9, "image_id": 4, "category_id": 6, "point": [3.25, 4.5], "refined": True,
             "coarse_point": [1, 2], "refine_score": 0.25, "bbox": [1, 1, 9, 9]},
        ],
    }  # fmt: skip
    source = tmp_path / "refined.json"
    source.write_text(json.dumps(dataset), encoding="utf-8")
    for file_format in FORMATS:
        export_points(source, tmp_path / "exported", file_format=file_format)
        back = import_points(tmp_path / "exported", file_format=file_format, original=source)
        if file_format == "coco":  # what readers of COCO want of every object
            (annotation,) = back.dataset["annotations"]
            assert (annotation.pop("area"), annotation.pop("iscrowd")) == (81, 0)
        (tmp_path / "back.json").write_text(json.dumps(back.dataset))
        assert load_points(tmp_path / "back.json") == dataset, file_format
