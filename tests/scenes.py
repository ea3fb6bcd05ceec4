"""Synthetic scenes: ellipses of a colour per class on a textured background, with COCO boxes."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ((220, 60, 50), (60, 90, 220), (240, 200, 60), (70, 190, 90))
# Original ids are not contiguous on purpose.
CATEGORY_IDS = (3, 7, 12, 40)


def draw_scene(rng, size, num_objects, num_classes):
    """(H, W, 3) uint8 RGB image and its [(class, [x, y, w, h])]; `size` = (width, height)."""
    width, height = size
    ys, xs = np.mgrid[:height, :width] + 0.5
    waves = np.sin(xs * rng.uniform(0.1, 0.5)) * np.cos(ys * rng.uniform(0.1, 0.5))
    image = 110 + 20 * waves[..., None] + rng.normal(0, 8, (height, width, 3))
    objects = []
    for _ in range(num_objects):
        label = int(rng.integers(num_classes))
        rx, ry = rng.uniform(0.06, 0.12, 2) * min(size)
        cx, cy = rng.uniform(rx, width - rx), rng.uniform(ry, height - ry)
        inside = ((xs - cx) / rx) ** 2 + ((ys - cy) / ry) ** 2 <= 1
        image[inside] = COLOURS[label] + rng.normal(0, 8, (int(inside.sum()), 3))
        objects.append((label, [float(v) for v in (cx - rx, cy - ry, 2 * rx, 2 * ry)]))
    return image.clip(0, 255).astype(np.uint8), objects


def write_scenes(
    folder,
    *,
    images=4,
    size=(64, 64),
    objects=(2, 5),
    num_classes=2,
    seed=0,
    clicks=True,
    name="scenes",
):
    """Writes PNGs to folder/images and a point JSON; returns (JSON path, image folder).

    Clicks are off the box centre, at the same relative place in the box's right lower quarter or
    around it. The first annotation of a class id is CATEGORY_IDS[class].
    """
    rng = np.random.default_rng(seed)
    folder = Path(folder)
    image_root = folder / "images"
    image_root.mkdir(parents=True, exist_ok=True)
    dataset = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": CATEGORY_IDS[label], "name": f"class{label}"} for label in range(num_classes)
        ],
    }
    for index in range(images):
        image, drawn = draw_scene(rng, size, int(rng.integers(*objects)), num_classes)
        record = {
            "id": 10 + index,
            "file_name": f"{name}{index}.png",
            "width": size[0],
            "height": size[1],
        }
        Image.fromarray(image).save(image_root / record["file_name"])
        dataset["images"].append(record)
        for label, (x, y, w, h) in drawn:
            annotation = {
                "id": 100 + len(dataset["annotations"]),
                "image_id": record["id"],
                "category_id": CATEGORY_IDS[label],
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
            }
            if clicks:
                fx, fy = rng.uniform(0.3, 0.9, 2)
                annotation["point"] = [x + fx * w, y + fy * h]
            dataset["annotations"].append(annotation)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(dataset))
    return path, image_root


def edit_json(path, change):
    """Applies `change(dataset)` to the JSON file `path`, in place."""
    dataset = json.loads(path.read_text())
    change(dataset)
    path.write_text(json.dumps(dataset))


def tiny_opts(architecture, *, num_classes=2, **overrides):
    """KEY VALUE options of a network that trains in milliseconds; see `tiny_models.tiny_cfg`."""
    opts = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.BACKBONE.FREEZE_AT": "0",
        "MODEL.RESNETS.DEPTH": "18",
        "MODEL.RESNETS.RES2_OUT_CHANNELS": "64",
        "MODEL.RESNETS.NORM": "GN",
        "MODEL.RESNETS.OUT_FEATURES": "['res2','res3']",
        "MODEL.FPN.IN_FEATURES": "['res2','res3']",
        "MODEL.FPN.OUT_CHANNELS": "32",
        f"MODEL.{architecture}.NUM_CLASSES": str(num_classes),
        f"MODEL.{architecture}.IN_FEATURE": "p2",
        f"MODEL.{architecture}.NUM_CONVS": "1",
        f"MODEL.{architecture}.CONV_DIM": "32",
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MAX_SIZE_TRAIN": "64",
        "INPUT.MIN_SIZE_TEST": "64",
        "INPUT.MAX_SIZE_TEST": "64",
        "INPUT.RANDOM_FLIP": "none",
        "DATALOADER.NUM_WORKERS": "0",
        "SOLVER.IMS_PER_BATCH": "2",
        "SOLVER.MAX_ITER": "3",
        "SOLVER.STEPS": "()",
        "SOLVER.WARMUP_ITERS": "0",
        "SEED": "1",
    }
    if architecture == "CPRNET":
        opts["MODEL.CPRNET.RADIUS"] = "2"
    opts.update({key: str(value) for key, value in overrides.items()})
    return [item for pair in opts.items() for item in pair]
