#!/usr/bin/env python
"""Predicts the points of objects in images, with a trained localizer or an exported ONNX model.

    python tools/predict_points.py --config-file F --weights model_final.pth \\
        --annotations val.json --image-root images --output det.json
    python tools/predict_points.py --model model.onnx --images folder --output det.json

Writes a list of {image_id, category_id, point, score}, points in px of the image. Those of a box
detector are the centres of its boxes, which each entry has as bbox [x, y, w, h]. With --images,
which knows no ids, images are numbered by name from 1 and each entry also has its file_name.
"""

import argparse
from pathlib import Path

from cpr_deploy.files import InputError, check_outputs, run_main, write_json


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE", help="config of P2PNet or a box detector")
    parser.add_argument("--weights", metavar="FILE", help="trained localizer")
    parser.add_argument("--model", metavar="FILE", help="ONNX file of deploy/export_onnx.py")
    parser.add_argument(
        "--provider",
        default="CPUExecutionProvider",
        help="of --model: cpu, cuda, tensorrt or openvino",
    )
    parser.add_argument("--images", type=Path, help="folder of images")
    parser.add_argument("--annotations", type=Path, help="point JSON that lists the images")
    parser.add_argument("--image-root", type=Path, help="folder of the images of --annotations")
    parser.add_argument("--output", required=True, type=Path, help="detections JSON")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys to change"
    )
    args = parser.parse_args()
    if (args.model is None) == (args.config_file is None or args.weights is None):
        parser.error("give either --config-file and --weights, or --model")
    if args.model is not None and args.opts:
        parser.error(f"config keys ({args.opts[0]} ...) do not apply to an exported --model")
    if (args.images is None) == (args.annotations is None or args.image_root is None):
        parser.error("give either --images, or --annotations and --image-root")
    return args


def main() -> None:
    args = parse_args()
    check_outputs([args.output], [args.annotations, args.model, args.weights, args.config_file])
    detections = predict_onnx(args) if args.model else predict_eager(args)
    if args.images:
        from cpr.data.image_folder import list_images

        names = {record["id"]: record["file_name"] for record in list_images(args.images)}
        detections = [{**d, "file_name": names[d["image_id"]]} for d in detections]
    write_json(args.output, detections)
    print(f"wrote {len(detections)} points to {args.output}")


def predict_eager(args: argparse.Namespace) -> list[dict]:
    from cpr.architectures import check_localizer, num_classes
    from cpr.data.image_folder import list_images
    from cpr.deployed import match_classes
    from cpr.engine import build_cfg
    from cpr.inference import dataset_dicts, load_model, predict

    cfg = build_cfg(args.config_file, args.opts)
    check_localizer(cfg)
    if args.annotations:
        images, classes = dataset_dicts(cfg, args.annotations, args.image_root)
    model, metadata = load_model(cfg, args.weights)
    if args.images:
        category_ids = metadata.get("category_ids")
        images = [
            {
                "file_name": str(args.images / record["file_name"]),
                "image_id": record["id"],
                "height": record["height"],
                "width": record["width"],
            }
            for record in list_images(args.images)
        ]
    else:
        ids = dict(zip(classes["class_names"], classes["category_ids"], strict=True))
        category_ids = match_classes(metadata.get("class_names") or [*ids], ids, args.annotations)
    _, classes_of_model = num_classes(cfg)
    category_ids = category_ids or numbered(classes_of_model)
    if len(category_ids) != classes_of_model:
        raise InputError(
            f"{args.weights}: names {len(category_ids)} categories for a network of"
            f" {classes_of_model} classes. Give the checkpoint of another training."
        )
    return predict(model, cfg, images, category_ids)


def predict_onnx(args: argparse.Namespace) -> list[dict]:
    from tqdm import tqdm

    from cpr.data.image_folder import list_images
    from cpr.data.point_json import load_points
    from cpr.deployed import category_numbers, check_images, match_classes, predict
    from cpr_deploy.point_localizer import PointLocalizer

    localizer = PointLocalizer(args.model, providers=[args.provider])
    if args.annotations:
        dataset, folder = load_points(args.annotations, require=None), args.image_root
        check_images(dataset, folder)
        records = dataset["images"]
        category_ids = match_classes(
            localizer.class_names, category_numbers(dataset), args.annotations
        )
    else:
        records, folder = list_images(args.images), args.images
        category_ids = localizer.spec.category_ids or numbered(len(localizer.class_names))
    progress = tqdm(records, desc="predicting", unit="image", disable=None)
    return predict(localizer, progress, folder, category_ids)


def numbered(count: int) -> list[int]:
    """Category ids where nobody has stored any: 1, 2, ..."""
    return list(range(1, count + 1))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
