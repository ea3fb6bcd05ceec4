#!/usr/bin/env python
"""A clip through the full frame, through our tiles and through SAHI: speed and accuracy.

    python benchmarks/compare_tiling.py --config-file output/p2pnet/config.yaml \\
        --weights output/p2pnet/model_final.pth --clip vtest.avi --boxes vtest_boxes.json \\
        --frames 540:791 --output tiling.json --markdown tiling.md

--boxes holds the true boxes of each frame of the clip: {"frames": [{"boxes": [{"bbox": [x, y, w,
h]}, ...]}, ...]}, px. --frames must not have been trained on. The model has one class.

Scenes: `plain`, the clip as it is; `enlarged`, each frame made larger; `mosaic`, many frames side
by side in one picture, each as small as the network sees it: a large picture with small objects,
as from an aircraft. Each model gets the objects at the size that it was trained on (INPUT.SCALE of
its config, divided by what the scene has changed), so that the ways differ in tiling only.

Ways: the full frame; tiles with the runtime's merge; SAHI around the same localizer, once as it
comes (with its pass over the whole frame) and once without that pass and with the model's own NMS;
and, with --box-config-file and --box-weights, a box detector trained on the same images, by full
frame and through SAHI as it comes (eager, in torch). The ways take turns on each frame, which lies
in memory. SAHI (0.12) is needed for this comparison only: `pip install sahi`.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpr_deploy.files import InputError, check_outputs, run_main, write_json, write_text

if TYPE_CHECKING:
    import numpy as np
    from tiling_scenes import Scene
    from tiling_ways import Found, Way

TAUS = (0.5, 1.0)
# Points scored in a picture: all that any way gives.
SCORED_POINTS = 100_000
SCENES = ("plain", "enlarged", "mosaic")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="of the P2PNet")
    add("--weights", required=True, metavar="FILE.pth", help="of the P2PNet")
    add("--box-config-file", metavar="FILE", help="of a box detector trained by tools/train_net.py")
    add("--box-weights", metavar="FILE.pth", help="of the box detector")
    add("--clip", required=True, metavar="FILE", help="video or folder of images")
    add("--boxes", required=True, metavar="FILE.json", help="true boxes of its frames")
    add("--frames", default="0:", metavar="A:B", help="from A to before B (default: all)")
    add("--every", type=int, default=1, metavar="N", help="take each N-th of them (%(default)s)")
    add("--scenes", nargs="+", choices=SCENES, default=list(SCENES), help="(default: all)")
    add("--enlarge", type=float, default=2.5, metavar="X", help="of enlarged (%(default)s)")
    add("--mosaic", type=int, default=5, metavar="N", help="N x N frames (%(default)s)")
    add("--tile", type=int, default=640, metavar="PX", help="side of the tiles (%(default)s)")
    add("--overlap", type=int, default=100, metavar="PX", help="of tiles (%(default)s)")
    add("--threads", type=int, default=1, metavar="N", help="of all networks (%(default)s)")
    add("--no-sahi", action="store_true", help="compare without SAHI")
    add("--output", metavar="FILE.json", help="also write all figures here")
    add("--markdown", metavar="FILE.md", help="also write the table here")
    return parser.parse_args()


def compare(scene: Scene, ways: dict[str, Way]) -> dict[str, Any]:
    """Speed and accuracy of each way on all pictures of a scene; the ways take turns."""
    import numpy as np

    from cpr.evaluation.point_ap import evaluate_points

    truth: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1}]}
    truth["categories"][0]["name"] = "object"
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    found: dict[str, list[dict]] = {name: [] for name in names}
    flagged = dict.fromkeys(names, 0)
    for name in names:
        ways[name](scene.picture(0)[0])
    for index in range(scene.count):
        image, boxes = scene.picture(index)
        height, width = image.shape[:2]
        truth["images"].append(
            {"id": index, "file_name": str(index), "height": height, "width": width}
        )
        for box in boxes.tolist():
            record = {"id": len(truth["annotations"]) + 1, "image_id": index, "category_id": 1}
            truth["annotations"].append({**record, "bbox": box, "area": box[2] * box[3]})
        for place in range(len(names)):
            name = names[(place + index) % len(names)]
            begin = time.perf_counter()
            result = ways[name](image)
            seconds[name].append(time.perf_counter() - begin)
            flagged[name] += result.flags != 0
            found[name] += [
                {"image_id": index, "category_id": 1, "point": point, "score": score}
                for point, score in zip(
                    np.asarray(result.points, float).tolist(),
                    np.asarray(result.scores, float).tolist(),
                    strict=True,
                )
            ]
    rows = []
    for name in names:
        metrics = evaluate_points(truth, found[name], taus=TAUS, max_dets=SCORED_POINTS)
        rows.append(
            {
                "way": name,
                "fps": scene.count / sum(seconds[name]),
                "p50_ms": 1e3 * float(np.median(seconds[name])),
                "p95_ms": 1e3 * float(np.percentile(seconds[name], 95)),
                "AP": metrics["AP"]["all"],
                "points": len(found[name]) / scene.count,
                "flagged": flagged[name],
            }
        )
    return {
        "scene": scene.label,
        "height": height,
        "width": width,
        "pictures": scene.count,
        "objects": len(truth["annotations"]),
        "rows": rows,
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The figures as one Markdown table."""
    taus = [str(tau) for tau in TAUS]
    lines = [
        "| scene | way | frames/s | of the full frame's | ms, p50 / p95 | "
        + " | ".join(f"mAP tau {tau}" for tau in taus)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(taus),
    ]
    for result in results:
        scene = f"{result['scene']}, {result['width']}x{result['height']}"
        scene += f", {result['pictures']} pictures, {result['objects']} objects"
        first = result["rows"][0]["fps"]
        for row in result["rows"]:
            aps = [row["AP"][tau] for tau in taus]
            cells = [
                *(scene, row["way"], f"{row['fps']:.2f}", f"{row['fps'] / first:.2f}"),
                f"{row['p50_ms']:.0f} / {row['p95_ms']:.0f}",
                *("-" if ap is None else f"{100 * ap:.1f}" for ap in aps),
            ]
            lines.append("| " + " | ".join(cells) + " |")
            scene = ""
    return "\n".join(lines) + "\n"


def check(args: argparse.Namespace) -> None:
    if (args.box_config_file is None) != (args.box_weights is None):
        raise InputError("--box-config-file and --box-weights belong together: give both.")
    for option, value, least in (
        ("--every", args.every, 1),
        ("--mosaic", args.mosaic, 1),
        ("--threads", args.threads, 1),
        ("--tile", args.tile, 1),
    ):
        if value < least:
            raise InputError(f"{option} {value}: at least {least} is needed.")
    if not 0 <= args.overlap < args.tile:
        raise InputError(
            f"--tile {args.tile} --overlap {args.overlap}: 0 <= overlap < tile is needed."
        )
    if not 0.1 <= args.enlarge <= 10:
        raise InputError(f"--enlarge {args.enlarge}: 0.1 to 10 are possible.")
    inputs = [args.config_file, args.weights, args.clip, args.boxes]
    check_outputs([args.output, args.markdown], inputs)
    if not args.no_sahi and importlib.util.find_spec("sahi") is None:
        raise InputError(
            "SAHI is not installed. Install it (pip install sahi), or compare without it:"
            " --no-sahi."
        )


def export(args: argparse.Namespace, scene: Scene, path: Path, *, in_tiles: bool) -> None:
    """The localizer as an ONNX file for the pictures of a scene, or for tiles of them."""
    from tiling_ways import scene_options

    from cpr.engine import build_cfg
    from cpr.export import export_point_localizer, load_localizer

    options = scene_options(build_cfg(args.config_file, []), scene, in_tiles=in_tiles)
    model, cfg, _ = load_localizer(args.config_file, args.weights, options)
    if model.num_classes != 1:
        raise InputError(
            f"{args.config_file}: has {model.num_classes} classes, --boxes has one. Give a model of"
            " one class."
        )
    report = export_point_localizer(model, cfg, path, class_names=["object"])
    print(f"{scene.label}: {report}", flush=True)


def make_ways(args: argparse.Namespace, scene: Scene, folder: Path) -> dict[str, Way]:
    """What is compared on a scene: name -> way. Models are exported into `folder`."""
    from tiling_ways import box_detector_way, localizer_way, sahi_way

    from cpr_deploy.point_localizer import PointLocalizer
    from cpr_deploy.regions import RegionLocalizer

    localizers = []
    for in_tiles in (False, True):
        path = folder / f"{in_tiles}.onnx"
        export(args, scene, path, in_tiles=in_tiles)
        localizers.append(PointLocalizer(path, threads=args.threads))
    spec = localizers[0].spec
    side = spec.nms_size if spec.nms_rule == "pseudo_box" else spec.nms_radius
    full, tile = (localizer_way(localizer, side) for localizer in localizers)
    size = f"{args.tile}/{args.overlap}"
    grid = {"tile": args.tile, "overlap": args.overlap}
    ways = {
        "full frame": full,
        f"tiles {size}": localizer_way(RegionLocalizer(localizers[1], **grid), side),
    }
    if not args.no_sahi:

        def either(image: np.ndarray) -> Found:
            return (tile if max(image.shape[:2]) <= args.tile else full)(image)

        ways[f"SAHI {size} as it comes"] = sahi_way(either, **grid, threshold=spec.score_thresh)
        ways[f"SAHI {size}, tiles only, the model's NMS"] = sahi_way(
            tile,
            **grid,
            threshold=spec.score_thresh,
            perform_standard_pred=False,
            postprocess_type="NMS",
            postprocess_match_metric="IOU",
            postprocess_match_threshold=spec.nms_iou,
        )
    if args.box_config_file:
        boxes = box_detector_way(args.box_config_file, args.box_weights, scene)
        ways["box detector, full frame"] = boxes
        if not args.no_sahi:
            ways[f"box detector in SAHI {size}"] = sahi_way(
                boxes, **grid, threshold=spec.score_thresh
            )
    return ways


def main() -> int:
    args = parse_args()
    check(args)

    import torch
    from tiling_scenes import make_scene, read_clip
    from tiling_ways import input_scale

    from cpr.engine import build_cfg
    from cpr_deploy.timing import machine

    torch.set_num_threads(args.threads)
    cell_scale = input_scale(build_cfg(args.config_file, []), args.config_file)
    frames, boxes = read_clip(args.clip, args.boxes, args.frames, args.every)
    results = []
    for label in args.scenes:
        scene = make_scene(
            *(label, frames, boxes),
            enlarge=args.enlarge,
            mosaic=args.mosaic,
            cell_scale=cell_scale,
        )
        with tempfile.TemporaryDirectory() as folder:
            results.append(compare(scene, make_ways(args, scene, Path(folder))))
    text = table(results)
    print(text, end="")
    if args.markdown:
        write_text(args.markdown, text)
    if args.output:
        settings = {"torch": torch.__version__, **machine()}
        if not args.no_sahi:
            settings["sahi"] = metadata.version("sahi")
        write_json(
            args.output, {"scenes": results, "settings": {**vars(args), **settings}}, indent=1
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
