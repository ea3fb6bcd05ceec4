#!/usr/bin/env python
"""Runs a table of the paper on a data set: clicks, CPRNet, refinement, localizers, scores, report.

    python tools/run_experiments.py --table 1 --dataset elephant_seals --seeds 3 \\
        --weights resnet18.pth
    python tools/run_experiments.py --suggest --dataset elephant_seals

NAME is a folder, or a name below $DETECTRON2_DATASETS, with annotations/train.json,
annotations/val.json and images; or a COCO data set that Detectron2 knows as NAME_train and
NAME_val. A run that was stopped goes on where it was; tables of one output folder share what they
have in common. Tables: 1 to 5c are the paper's; choices, pseudo, detectors and realtime are
described in MODEL_ZOO.md.
"""

import argparse
import logging
import os
import shlex
import signal
import sys
from pathlib import Path

from cpr_deploy.files import run_main

ROOT = Path(__file__).resolve().parents[1]
TABLES = (
    *("1", "2", "3", "4a", "4b", "4c", "4d", "4e", "5a", "5b", "5c"),
    *("choices", "pseudo", "detectors", "realtime"),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", nargs="+", choices=TABLES, metavar="TABLE", help=", ".join(TABLES))
    what.add_argument(
        "--suggest", action="store_true", help="only print settings that fit the data set"
    )
    parser.add_argument("--dataset", required=True, metavar="NAME", help="see above")
    parser.add_argument("--seeds", type=int, default=1, help="clicks and trainings, from seed 0 on")
    parser.add_argument("--output", type=Path, help="default: output/experiments/NAME")
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[DEPTH=]FILE",
        help="ImageNet weights of the backbone, or random; for the rows of table 4e once more for"
        " each depth",
    )
    parser.add_argument(
        "--recipe", default="SmallSets", help="SmallSets (fits any set), COCO, DOTA or SeaPerson"
    )
    parser.add_argument("--classes", help="use these classes only: a,b,c")
    parser.add_argument("--top-classes", type=int, metavar="N", help="the N most frequent classes")
    parser.add_argument("--train-images", type=int, metavar="N", help="train on so many images")
    parser.add_argument("--object-size", type=float, metavar="PX", help="of a typical object")
    parser.add_argument(
        "--boxes", type=int, default=20, metavar="N", help="boxes to learn that size from; 0: none"
    )
    parser.add_argument(
        "--working-size", type=float, default=24.0, metavar="PX", help="objects in the network"
    )
    parser.add_argument(
        "--schedule", type=float, default=1.0, metavar="X", help="times as many iterations"
    )
    parser.add_argument(
        "--refiner",
        action="append",
        default=[],
        metavar="NAME[=CONFIG]",
        help="add a row for a refiner of your own, with its config if it has one",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="Python module that registers refiners; it is imported, so it must be trusted",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--parallel",
        type=int,
        metavar="N",
        help="trainings at a time; default: one a CPU as far as memory allows, on a GPU one",
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="of each training")
    parser.add_argument(
        "--list", action="store_true", help="print the commands, run nothing and write nothing"
    )
    parser.add_argument("--report-only", action="store_true", help="of what is there; run nothing")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys of all trainings"
    )
    args = parser.parse_args()
    if args.seeds < 1 or args.num_gpus < 1 or not 0 < args.schedule < 1000:
        parser.error("--seeds, --num-gpus and --schedule must be above 0")
    if args.parallel is not None and args.parallel < 1:
        parser.error("--parallel must be above 0")
    return args


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from cpr.experiments.data import find_data
    from cpr.experiments.recipes import find_recipe
    from cpr.experiments.run import (
        Request,
        format_settings,
        plan_tables,
        prepare,
        run_steps,
        suggest,
        write_reports,
    )
    from cpr.refiners.registry import import_plugins
    from cpr.scheduler import StepFailed

    request = Request(
        output=args.output,
        recipe=args.recipe,
        weights=args.weights,
        classes=[name.strip() for name in args.classes.split(",")] if args.classes else (),
        top_classes=args.top_classes,
        train_images=args.train_images,
        object_size=args.object_size,
        boxes=args.boxes,
        working_size=args.working_size,
        schedule=args.schedule,
        device=args.device,
        options=args.opts,
        num_gpus=args.num_gpus,
        refiners=args.refiner,
        plugins=args.plugin,
    )
    if args.plugin:
        sys.path.append(os.getcwd())
        import_plugins(args.plugin)
    data = find_data(args.dataset)
    if args.suggest:
        print(format_settings(suggest(request, data), find_recipe("SmallSets", ROOT / "configs")))
        return 0
    # Stopped politely (timeout, a container's end) it ends as with Ctrl-C, which a shell may have
    # switched off for what it runs in the background.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    experiment = prepare(
        request,
        data,
        ROOT,
        write=not (args.list or args.report_only),
        must_exist=args.report_only,
    )
    plan, tables = plan_tables(experiment, args.table, args.seeds, request.extra_rows())
    if args.list:
        for step in plan.steps:
            print(f"{step.name}: {shlex.join(step.command)}")
        return 0

    missing = [row for rows in tables.values() for row in rows if row.missing]
    for row in missing:
        print(f"not run: {row.label} ({row.missing})", file=sys.stderr)
    command = shlex.join(["python", "tools/run_experiments.py", *sys.argv[1:]])
    stopped = None
    try:
        if not args.report_only:
            run_steps(experiment, plan, args.parallel)
    except StepFailed as error:
        print(f"error: {error}", file=sys.stderr)
        missing.append(error)
    except KeyboardInterrupt as error:
        stopped = error
    # Also of what was done before a step failed or the run was stopped.
    for folder in write_reports(experiment, tables, args.seeds, command):
        print((folder / "table.md").read_text(encoding="utf-8"))
        print(f"report: {folder / 'report.html'}")
    if stopped is not None:
        raise stopped
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
