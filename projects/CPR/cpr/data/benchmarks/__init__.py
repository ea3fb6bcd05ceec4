"""The paper's data sets in the layout that the other tools read.

`tools/prepare_points.py benchmark NAME` makes a folder of

    annotations/train.json, val.json, test.json: boxes; of DOTA and SeaPerson, one record a tile
    annotations/train_coarse.json: the training part with clicks, each object in one tile
    annotations/full/train.json, ...: of DOTA and SeaPerson, one record an image
    images: the images, or links to their folders (images/train, images/val)

Below $DETECTRON2_DATASETS (`datasets` if that is not set) such a folder also has names for
DATASETS.TRAIN and DATASETS.TEST: dota_train, dota_train_coarse, dota_val and so on.
"""

from __future__ import annotations

import os
from pathlib import Path

BENCHMARKS = {
    "coco": "COCO 2017: instances_*.json and the folders train2017 and val2017",
    "dota": "DOTA-v1.0: train and val with images and labelTxt; tiles of 1,024 px, overlap 200",
    "seaperson": "SeaPerson or TinyPerson: annotations and images; tiles of 640 px, overlap 100",
}


def find_spec(name: str, root: str | os.PathLike | None = None) -> str | None:
    """The "points:annotations.json@images" that a name such as "dota_val" stands for.

    Args:
        name: a benchmark's name, "_", and the name of a file in its `annotations`.
        root: folder of the benchmarks' folders; None: $DETECTRON2_DATASETS, or `datasets`.

    Returns:
        None if `name` is no such name or there is no such file.
    """
    benchmark, _, part = name.partition("_")
    if benchmark not in BENCHMARKS or not part.isidentifier():
        return None
    folder = Path(root or os.environ.get("DETECTRON2_DATASETS", "datasets")) / benchmark
    annotations = folder / "annotations" / f"{part}.json"
    if not annotations.is_file():
        return None
    images = folder / "images"
    if (images / "train").is_dir() and (images / "val").is_dir():
        images /= part.partition("_")[0]
    return f"points:{annotations}@{images}"
