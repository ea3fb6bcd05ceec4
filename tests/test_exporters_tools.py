"""Exported files in the tools' own libraries: what they read is in tests/data/tools, and tried.

`exported/` there holds our files, `<library>-<version>/read.json` what each library reads of them.
"""

import json

import pytest

from cpr.data.exporters.export_points import export_points
from test_importers_tools import MODULES, TOOLS, stored, write

SEAL, BIRD = [3.25, 4.5], [8, 6, 12, 15]
CORNERS = [8, 6, 20, 21]
# What each library must have read.
EXPECTED = {
    "datumaro": {
        "cvat": [
            ["a", "bbox", "bird", CORNERS],
            ["a", "points", "seal", SEAL],
            ["dot", "points", "bird", [0.5, 0.5]],
        ],
        # COCO's keypoints are pixel indices; a box without an area is that of a click without one,
        # an absent keypoint (0, 0) that of a box without a click.
        "coco": [
            ["a", "bbox", "bird", CORNERS],
            ["a", "bbox", "seal", [*SEAL, *SEAL]],
            ["a", "points", "bird", [0, 0]],
            ["a", "points", "seal", [2.75, 4]],
            ["dot", "bbox", "bird", [0.5, 0.5, 0.5, 0.5]],
            ["dot", "points", "bird", [0, 0]],
        ],
    },
    "label-studio-sdk": {
        "boxes": [BIRD],
        "percent": [
            ["a.png", "seal", [100 * 3.25 / 40, 100 * 4.5 / 30]],
            ["dot.png", "bird", [50, 50]],
        ],
    },
    "supervision": {
        "points": [["a.png", "seal", 9, SEAL], ["dot.png", "bird", 10, [0.5, 0.5]]],
        "boxes": [["a.png", "bird", 11, CORNERS]],
    },
}


@pytest.fixture
def exported(tmp_path):
    write.export_all(tmp_path / "exported")
    return tmp_path / "exported"


@pytest.mark.parametrize("file_format", write.EXPORTED)
def test_exports_are_those_that_the_libraries_have_read(exported, file_format):
    """If not, run tests/data/tools/write.py with the libraries."""
    name = write.EXPORTED[file_format]
    assert (exported / name).read_text() == (TOOLS / "exported" / name).read_text()


@pytest.mark.parametrize("library", write.READERS)
def test_what_the_libraries_have_read(library):
    assert json.loads((stored(library) / "read.json").read_text()) == EXPECTED[library]


@pytest.mark.parametrize("library", write.READERS)
def test_what_the_libraries_read(exported, library):
    pytest.importorskip(MODULES[library], reason=f"pip install {library}", exc_type=ImportError)
    assert json.loads(json.dumps(write.READERS[library](exported))) == EXPECTED[library]


def test_keypoints_by_pycocotools(exported):
    """Our COCO export is read by the library that everyone uses, and means the same there."""
    from pycocotools.coco import COCO

    coco = COCO(str(exported / write.EXPORTED["coco"]))
    (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=[4], catIds=[6]))
    # COCO's keypoint of x = 3.25, y = 4.5: half a pixel less.
    assert annotation["keypoints"] == [2.75, 4, 2]
    assert coco.loadCats(6)[0]["keypoints"] == ["point"]


def test_keypoints_are_scored_by_pycocotools(exported):
    """COCOeval needs an area, a box and iscrowd of every object, also of those without a click."""
    import numpy as np
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    path = exported / write.EXPORTED["coco"]
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["area"] = 100  # of a click there is none to measure distances by
    path.write_text(json.dumps(content))
    truth = COCO(str(path))
    found = [
        {"image_id": 4, "category_id": 6, "keypoints": [2.75, 4, 2], "score": 0.9},
        {"image_id": 5, "category_id": 3, "keypoints": [0, 0, 2], "score": 0.8},
    ]
    scores = COCOeval(truth, truth.loadRes(found), "keypoints")
    scores.params.kpt_oks_sigmas = np.array([0.1])
    # Neither of COCO's size ranges begins at 100 px of area.
    scores.params.areaRng, scores.params.areaRngLbl = [[0, 1e10]], ["all"]
    scores.evaluate()
    scores.accumulate()
    precision = scores.eval["precision"]
    assert (precision > -1).any() and precision[precision > -1] == pytest.approx(1)


def test_samples_in_fiftyone(tmp_path):
    fo = pytest.importorskip("fiftyone", reason="fiftyone is not installed (pip install fiftyone)")
    source = tmp_path / "points.json"
    source.write_text(json.dumps(write.DATASET))
    export_points(source, tmp_path / "samples.json", file_format="fiftyone", prefix="/data/")
    content = json.loads((tmp_path / "samples.json").read_text())
    sample = fo.Sample.from_dict(content["samples"][0])
    (keypoint,) = sample["points"].keypoints
    assert keypoint.label == "seal" and keypoint.points[0] == pytest.approx([3.25 / 40, 4.5 / 30])
    (detection,) = sample["boxes"].detections
    assert detection.bounding_box == pytest.approx([0.2, 0.2, 0.3, 0.5])
    assert detection["annotation_id"] == 11
