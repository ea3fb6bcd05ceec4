#!/usr/bin/env python
"""Time and memory of the steps from annotations to training, on made-up sets of full size.

    OMP_NUM_THREADS=1 python benchmarks/benchmark_data_prep.py --set seaperson
    OMP_NUM_THREADS=1 python benchmarks/benchmark_data_prep.py --set coco

seaperson: 12,000 frames, 620,000 clicks: import from CSV, check (no image is opened), tile, load
for training. coco: 118,000 images, 860,000 objects with polygons: check, clicks in boxes, load.
Each step is a process of its own, as on the command line; making the data does not count. With
--masks coco's clicks are also drawn from the polygons, which has a target of its own (5,000/s).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"seaperson": (12_000, 620_000), "coco": (118_000, 860_000)}
TARGETS = {"seaperson": (60, 2.0), "coco": (90, 4.0)}  # seconds of all steps, GiB of each
FRAME = (1920, 1080)
PHOTO = (640, 480)
CORNERS = 24  # of a polygon, so that a file has as many numbers as COCO's


def make_images(folder: Path, number: int, size: tuple[int, int]) -> list[dict]:
    """`number` names of one black image, and their records."""
    from PIL import Image

    folder.mkdir(parents=True)
    for index in range(number):
        # File systems bound the names of a file, ext4 to 65,000.
        first = folder / f"{index - index % 50_000}.png"
        if index % 50_000 == 0:
            Image.new("RGB", size).save(first)
        else:
            os.link(first, folder / f"{index}.png")
    width, height = size
    return [
        {"id": i, "file_name": f"{i}.png", "width": width, "height": height} for i in range(number)
    ]


def make_clicks(folder: Path, images: int, annotations: int) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    make_images(folder / "images", images, FRAME)
    points = (rng.random((annotations, 2)) * FRAME).round(2)
    with open(folder / "clicks.csv", "w", encoding="utf-8") as file:
        file.write("file_name,x,y\n")
        for number, (x, y) in zip(rng.integers(0, images, annotations), points, strict=True):
            file.write(f"{number}.png,{x},{y}\n")


def make_coco(folder: Path, images: int, annotations: int) -> None:
    import numpy as np

    from cpr.data.point_json import save_points

    rng = np.random.default_rng(0)
    records = make_images(folder / "images", images, PHOTO)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 0.5 + 0.5
    objects = []
    for index in range(annotations):
        w, h = rng.uniform(4, 200, 2).round(2)
        x, y = (rng.random(2) * (PHOTO[0] - w, PHOTO[1] - h)).round(2)
        polygon = (circle * (w, h) + (x, y)).round(2).ravel().tolist()
        objects.append(
            {
                "id": index + 1,
                "image_id": int(rng.integers(images)),
                "category_id": int(rng.integers(1, 81)),
                "bbox": [float(v) for v in (x, y, w, h)],
                "area": round(float(w * h) * 0.78, 2),
                "iscrowd": 0,
                "segmentation": [polygon],
            }
        )
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    save_points(
        folder / "gt.json", {"images": records, "annotations": objects, "categories": categories}
    )


def steps_of(name: str, folder: Path, masks: bool) -> dict[str, list[str]]:
    """Step -> command."""
    tool = [sys.executable, str(ROOT / "tools" / "prepare_points.py")]
    load = [sys.executable, __file__, "--load", str(folder / "images"), "--annotations"]

    def files(**paths: str) -> list[str]:
        return [
            text
            for key, value in paths.items()
            for text in ("--" + key.replace("_", "-"), str(folder / value))
        ]

    if name == "seaperson":
        imported = files(input="clicks.csv", image_root="images", output="clicks.json")
        return {
            "import": [*tool, "import", "--format", "csv", *imported],
            "check": [*tool, "check", *files(annotations="clicks.json")],
            "tile": [*tool, "tile", *files(annotations="clicks.json", output="tiles.json")],
            "load": [*load, str(folder / "tiles.json")],
        }
    coarse = [*tool, "coarse", *files(annotations="gt.json"), "--source"]
    steps = {
        "check": [*tool, "check", *files(annotations="gt.json")],
        "coarse": [*coarse, "box", *files(output="coarse.json")],
        "load": [*load, str(folder / "coarse.json")],
    }
    if masks:
        steps["masks"] = [*coarse, "mask", *files(output="masks.json")]
    return steps


def run_step(command: list[str], log: Path) -> tuple[float, float]:
    """Seconds and peak memory (GiB) of a process; SystemExit if it fails."""
    start = time.perf_counter()
    with open(log, "w", encoding="utf-8") as file:
        # `check` reports clicks at one place as errors: exit code 1.
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), stream) for stream in (1, 2)]
        child = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    return seconds, usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def load(annotations: str, images: str) -> int:
    """What a training does before its first iteration."""
    from cpr.data.datasets import load_dataset, to_dataset_dicts

    dicts = to_dataset_dicts(load_dataset(annotations), images)
    print(len(dicts), sum(len(d["annotations"]) for d in dicts))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=tuple(SIZES), default="seaperson")
    parser.add_argument("--scale", type=float, default=1.0, help="so much of the full size")
    parser.add_argument("--masks", action="store_true", help="coco: clicks from polygons too")
    parser.add_argument("--folder", help="for the made-up data, which is then kept")
    parser.add_argument("--output", help="JSON file to write")
    parser.add_argument("--load", metavar="IMAGES", help=argparse.SUPPRESS)
    parser.add_argument("--annotations", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        return load(args.annotations, args.load)
    if not 0 < args.scale <= 10:
        parser.error("--scale must be above 0 and at most 10")

    from cpr_deploy.files import write_json

    images, annotations = (max(1, round(n * args.scale)) for n in SIZES[args.set])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        if not (folder / "images").exists():
            make = make_clicks if args.set == "seaperson" else make_coco
            make(folder, images, annotations)
        result: dict = {"set": args.set, "images": images, "annotations": annotations, "steps": {}}
        for name, command in steps_of(args.set, folder, args.masks).items():
            seconds, memory = run_step(command, folder / f"{name}.log")
            result["steps"][name] = {"seconds": seconds, "gib": memory}
            print(f"{name:8} {seconds:7.1f} s {memory:6.2f} GiB", flush=True)
    counted = [step for name, step in result["steps"].items() if name != "masks"]
    result["seconds"] = sum(step["seconds"] for step in counted)
    result["gib"] = max(step["gib"] for step in counted)
    if "masks" in result["steps"]:
        result["masks_per_second"] = annotations / result["steps"]["masks"]["seconds"]
    print(json.dumps({key: value for key, value in result.items() if key != "steps"}))
    limit, memory_limit = TARGETS[args.set]
    met = result["seconds"] <= limit and result["gib"] <= memory_limit
    print(f"target of {limit} s and {memory_limit} GiB: {'met' if met else 'missed'}")
    if args.output:
        write_json(args.output, result, indent=1)
    return 0 if met else 1


if __name__ == "__main__":
    from cpr_deploy.files import run_main

    raise SystemExit(run_main(main))
