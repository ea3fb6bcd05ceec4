#!/usr/bin/env python
"""Prepares point annotations: simulated clicks, other tools' formats, validation, division.

Examples:
    python tools/prepare_points.py coarse --annotations gt.json --output coarse.json --seed 0
    python tools/prepare_points.py import --format csv --input clicks.csv --image-root images \\
        --output clicks.json
    python tools/prepare_points.py export --format cvat --annotations refined.json \\
        --output annotations.xml
    python tools/prepare_points.py check --annotations coarse.json --image-root images \\
        --against test.json --fix clean.json
    python tools/prepare_points.py frames --source flights --output-dir footage --classes person
    python tools/prepare_points.py split --annotations clicks.json --output-dir annotations
    python tools/prepare_points.py statistics --annotations annotations/train.json \\
        annotations/val.json --output-dir statistics
    python tools/prepare_points.py tile --annotations coarse.json --output tiles.json
    python tools/prepare_points.py untile --annotations coarse.json --tiles refined_tiles.json \\
        --output refined.json
    python tools/prepare_points.py apply-review --annotations refined.json \\
        --decisions decisions.json --output reviewed.json
    python tools/prepare_points.py benchmark dota --source DOTA --output datasets/dota
"""

from __future__ import annotations

import argparse
import logging
import sys

from cpr.data.commands.benchmark import add_benchmark_parser
from cpr.data.commands.clicks import add_coarse_parser
from cpr.data.commands.division import add_split_parser
from cpr.data.commands.exchange import add_export_parser, add_import_parser
from cpr.data.commands.footage import add_deduplicate_parser, add_frames_parser
from cpr.data.commands.quality import add_check_parser
from cpr.data.commands.review import add_apply_review_parser
from cpr.data.commands.statistics import add_statistics_parser
from cpr.data.commands.tiling import add_tile_parser, add_untile_parser
from cpr_deploy.files import run_main

# Each sub-command adds its parser and names the function that runs it.
COMMANDS = (
    add_coarse_parser,
    add_import_parser,
    add_export_parser,
    add_check_parser,
    add_frames_parser,
    add_deduplicate_parser,
    add_split_parser,
    add_statistics_parser,
    add_tile_parser,
    add_untile_parser,
    add_apply_review_parser,
    add_benchmark_parser,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for add_parser in COMMANDS:
        add_parser(commands)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    return args.run(args)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
