"""COCO 2017 in the paper's form: its instances files, and one click in the mask of each object.

Crowds (`iscrowd`, run-length masks) are regions: they get no click and are masked out in training.
Objects whose box has a side of 0 px are left out. The short side of 400 px is a matter of the
configs (INPUT.MIN_SIZE_TRAIN), not of the files.
"""

from __future__ import annotations

from pathlib import Path

from cpr_deploy.files import check_output_folder

from .layout import Options, Prepared, find_source, link_images, read_split, with_clicks

LAYOUTS = {
    "COCO 2017": {
        "train": ("annotations/instances_train2017.json", "train2017"),
        "val": ("annotations/instances_val2017.json", "val2017"),
    },
    "annotations and images": {
        "train": ("annotations/train.json", "images"),
        "val": ("annotations/val.json", "images"),
    },
}


def prepare(source: Path, output: Path, options: Options) -> Prepared:
    """Writes annotations/{train,train_coarse,val}.json and links the images.

    Args:
        source: the folder of COCO 2017 as it is downloaded and unpacked.
        output: see `cpr.data.benchmarks`.
        options: seed, sigma, skip_bad and progress count.

    Raises:
        InputError: naming file, record and fix.
    """
    parts = find_source(source, LAYOUTS)
    check_output_folder(output, [source])
    prepared = Prepared()
    link_images({split: folder for split, (_, folder) in parts.items()}, output)
    for split, (file, _) in parts.items():
        dataset = read_split(file, prepared, skip_bad=options.skip_bad)
        path = output / "annotations" / f"{split}.json"
        prepared.write(path, dataset)
        if split == "train":
            clicks = with_clicks(dataset, file, options, source="mask")
            prepared.write(path.with_name("train_coarse.json"), clicks)
        del dataset  # the next one may need as much memory
    return prepared
