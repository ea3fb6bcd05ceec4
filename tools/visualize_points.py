#!/usr/bin/env python
"""Draws points on their images: green clicks, red semantic points, yellow refined points, and
predictions in the colour of their class (cyan if there is one class).

    python tools/visualize_points.py --annotations refined.json --image-root images --output out
    python tools/visualize_points.py --annotations val.json --predictions det.json \\
        --image-root images --output out --score-thresh 0.3

With predictions, each picture shows the annotations on the left and the predictions on the right.
`--crops` adds crops.png, a sheet of single objects, enlarged.
"""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

from cpr_deploy.files import InputError, atomic_path, check_output_folder, run_main

CROPS_ON_SHEET = 24


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, required=True, help="point JSON")
    parser.add_argument("--image-root", type=Path, required=True, help="folder of its images")
    parser.add_argument("--predictions", type=Path, help="detections JSON")
    parser.add_argument(
        "--refined", type=Path, help="point JSON of refine_points.py, matched by annotation id"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--max-images", type=int, help="draw only the first N images")
    parser.add_argument("--crops", action="store_true", help="also draw single objects")
    parser.add_argument(
        "--boxes", action=argparse.BooleanOptionalAction, default=True, help="draw boxes"
    )
    parser.add_argument(
        "--score-thresh", type=float, default=0.3, help="leave weaker predictions out"
    )
    args = parser.parse_args()
    if args.max_images is not None and args.max_images < 1:
        parser.error("--max-images must be at least 1")
    if not math.isfinite(args.score_thresh):
        parser.error("--score-thresh must be a finite number")
    return args


def main() -> int:
    args = parse_args()
    check_output_folder(args.output, [args.image_root])

    from tqdm import tqdm

    from cpr.data.image_folder import read_recorded
    from cpr.data.point_json import (
        category_index,
        check_image_root,
        image_path,
        is_ignored,
        load_detections,
        load_points,
    )
    from cpr.visualization.annotations import draw_annotations, draw_detections, object_crop
    from cpr.visualization.draw import encode_image, montage, side_by_side

    dataset = load_points(args.annotations, may_be_empty=True)
    if args.refined:
        refined = load_points(args.refined, may_be_empty=True)
        dataset = merge_refined(dataset, refined, args.refined)
    check_image_root(args.image_root)
    predictions = load_detections(args.predictions, dataset) if args.predictions else None
    labels = category_index(dataset)

    annotations_of = group_by_image(dataset["annotations"])
    # Strong predictions are drawn last, on top of weak ones.
    ranked = sorted(predictions or [], key=lambda detection: detection["score"])
    predictions_of = group_by_image(d for d in ranked if d["score"] >= args.score_thresh)

    sheet, captions = [], []
    images = dataset["images"][: args.max_images]
    for record in images:
        image_path(args.image_root, record)  # a missing one is told before any picture is written
    for index, record in enumerate(tqdm(images, desc="drawing", unit="image", disable=None)):
        image = read_recorded(args.image_root, record)
        annotations = annotations_of.get(record["id"], [])
        picture = draw_annotations(image, annotations, boxes=args.boxes)
        if predictions is not None:
            found = predictions_of.get(record["id"], [])
            below = annotations if args.boxes else ()
            right = draw_detections(image, found, labels, annotations=below)
            names = ["annotations", f"predictions, score >= {args.score_thresh:g}"]
            picture = side_by_side([picture, right], names)
        # The number keeps apart images of one name in different folders.
        name = f"{index:05d}_{Path(record['file_name']).stem}.png"
        write_bytes(args.output / name, encode_image(picture))
        if args.crops:
            for annotation in annotations:
                if len(sheet) >= CROPS_ON_SHEET:
                    break
                if not is_ignored(annotation):
                    sheet.append(object_crop(image, annotation))
                    captions.append(f"{annotation['id']}")
    if sheet:
        write_bytes(args.output / "crops.png", encode_image(montage(sheet, captions, columns=6)))
    extra = " and crops.png" if sheet else ""
    print(f"wrote {len(images)} pictures{extra} to {args.output}")
    return 0


def merge_refined(dataset: dict, refined: dict, source: Path) -> dict:
    """`dataset` with the refined points, and what belongs to them, of the annotations in both."""
    by_id = {annotation["id"]: annotation for annotation in refined["annotations"]}
    merged, hits = [], 0
    for annotation in dataset["annotations"]:
        other = by_id.get(annotation["id"], {})
        if "coarse_point" in other:
            hits += 1
            keys = ("coarse_point", "point", "semantic_points", "refined", "refine_score")
            annotation = {**annotation, **{key: other[key] for key in keys if key in other}}
        merged.append(annotation)
    if not hits:
        raise InputError(
            f"{source}: no annotation has a `coarse_point` and an id of the annotations file. Give"
            " the output of tools/refine_points.py for the same data."
        )
    return {**dataset, "annotations": merged}


def group_by_image(records: Iterable[dict]) -> dict[int, list[dict]]:
    """Image id -> its records, in their order."""
    groups: dict[int, list[dict]] = {}
    for record in records:
        groups.setdefault(record["image_id"], []).append(record)
    return groups


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
