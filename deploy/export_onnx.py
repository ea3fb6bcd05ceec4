#!/usr/bin/env python
"""Exports a trained P2PNet as a single ONNX file and proves that it equals the eager model.

Exit code: 0 written, 1 the graph differs from the eager model (nothing is written), 2 bad input.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from cpr_deploy.files import InputError, check_outputs, file_sha256, run_main

# Of --batch, --max-candidates and --nms-iterations: beyond this nothing would fit into memory.
MAX_OPTION = 100_000


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, e.g. 736x1280") from None
    return height, width


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the model")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint of a trained P2PNet")
    parser.add_argument(
        "--allow-random-weights",
        action="store_true",
        help="export without --weights, for timing and tests only",
    )
    parser.add_argument("--output", required=True, metavar="FILE.onnx", help="file to write")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--static",
        type=_size,
        metavar="HxW",
        help="one fixed input size, multiples of 32 (CUDA graphs, TensorRT)",
    )
    size.add_argument(
        "--dynamic",
        action="store_true",
        help="any size that is a multiple of 32 (default)",
    )
    parser.add_argument("--batch", type=int, help="one fixed batch size (default: any)")
    parser.add_argument("--opset", type=int, default=18, help="18 to 20 (default: %(default)s)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of the network; coordinates, inputs and outputs stay float32 (default: %(default)s)",
    )
    parser.add_argument(
        "--calibration",
        metavar="DIR",
        help="with int8: some dozens of images like those that the model will see",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="also compare the mAP by object size of fp32 and the exported file on these images",
    )
    parser.add_argument("--image-root", type=Path, metavar="DIR", help="of --annotations")
    parser.add_argument(
        "--exporter",
        choices=("dynamo", "legacy"),
        default="dynamo",
        help="legacy: TorchScript, where dynamo fails (default: %(default)s)",
    )
    parser.add_argument(
        "--max-candidates",
        type=int,
        metavar="M",
        help="(location, class) pairs that enter NMS (default: PRE_NMS_TOPK to twice that)",
    )
    parser.add_argument(
        "--nms-iterations",
        type=int,
        default=16,
        metavar="N",
        help="rounds of NMS in the graph; more where results carry flag 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--class-names", nargs="+", metavar="NAME", help="default: those in the checkpoint"
    )
    parser.add_argument(
        "--parity-images", metavar="DIR", help="images to compare on (default: synthetic ones)"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config options")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if not args.weights and not args.allow_random_weights:
        raise InputError(
            "--weights is missing: a model with random weights finds nothing. Give the checkpoint"
            " of a trained P2PNet, or --allow-random-weights for timing and tests."
        )
    check_outputs([args.output], [args.config_file, args.weights])
    if args.weights and not Path(args.weights).is_file():
        raise InputError(f"{args.weights}: no such checkpoint. Check --weights.")
    for option, value in (
        ("--batch", args.batch),
        ("--max-candidates", args.max_candidates),
        ("--nms-iterations", args.nms_iterations),
    ):
        if value is not None and not 1 <= value <= MAX_OPTION:
            raise InputError(f"{option} {value}: 1 to {MAX_OPTION} are possible.")
    if (args.precision == "int8") != (args.calibration is not None):
        raise InputError("--precision int8 and --calibration DIR belong together: give both.")
    if (args.annotations is None) != (args.image_root is None):
        raise InputError("--annotations and --image-root belong together: give both.")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")

    from cpr.export import ParityError, export_point_localizer, load_localizer
    from cpr.export_int8 import CALIBRATION_IMAGES
    from cpr_deploy.video_io import read_image_folder

    dataset = _annotations(args)
    images = read_image_folder(args.parity_images, limit=16) if args.parity_images else []
    calibration = []
    if args.calibration:
        calibration = read_image_folder(args.calibration, limit=CALIBRATION_IMAGES)
    model, cfg, metadata = load_localizer(args.config_file, args.weights, args.opts)
    names = args.class_names or metadata.get("class_names")
    if not names:
        names = [f"class_{index}" for index in range(model.num_classes)]
        print("warning: the checkpoint holds no class names; give --class-names", file=sys.stderr)
    print("exporting, and comparing with the eager model ...", file=sys.stderr)

    def export(output: Path, precision: str):
        return export_point_localizer(
            model,
            cfg,
            output,
            class_names=names,
            category_ids=metadata.get("category_ids", ()),
            static_size=args.static,
            batch=args.batch,
            exporter=args.exporter,
            opset=args.opset,
            precision=precision,
            calibration_images=calibration if precision == "int8" else (),
            max_candidates=args.max_candidates,
            nms_iterations=args.nms_iterations,
            weights_sha256=file_sha256(args.weights) if args.weights else "",
            parity_images=images,
        )

    try:
        report = export(args.output, args.precision)
        if dataset is not None:
            with tempfile.TemporaryDirectory() as folder:
                full = Path(folder) / "fp32.onnx"
                export(full, "fp32")
                _compare_accuracy(args, full, dataset)
    except ParityError as error:
        print(error, file=sys.stderr)
        print(f"error: {args.output} was not written", file=sys.stderr)
        return 1
    print(report)
    print(f"wrote {args.output} ({Path(args.output).stat().st_size / 1e6:.1f} MB)")
    if args.precision == "int8" and dataset is None:
        print(
            "warning: 8 bits cost accuracy, of tiny objects most. Measure it: --annotations gt.json"
            " --image-root DIR.",
            file=sys.stderr,
        )
    return 0


def _annotations(args: argparse.Namespace) -> dict | None:
    if args.annotations is None:
        return None
    from cpr.data.point_json import load_points
    from cpr.deployed import check_images

    dataset = load_points(args.annotations, require="box")
    check_images(dataset, args.image_root)
    return dataset


def _compare_accuracy(args: argparse.Namespace, full: Path, dataset: dict) -> None:
    """Prints the mAP by object size of the fp32 file and of the exported one."""
    from cpr.deployed import compare_precisions, losses, precision_table

    models = {"fp32": full}
    if args.precision != "fp32":
        models[args.precision] = Path(args.output)
    results = compare_precisions(models, dataset, args.annotations, args.image_root)
    print(precision_table(results))
    for line in losses(results["fp32"], results[args.precision]):
        print(f"warning: {args.precision} loses accuracy: {line}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
