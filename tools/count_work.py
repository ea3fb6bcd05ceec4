#!/usr/bin/env python
"""Counts the multiply-accumulates and parameters of P2PNet configurations, without weights or GPU.

python tools/count_work.py --config-file configs/Realtime/*.yaml --size 1088x1920
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cpr_deploy.files import InputError, run_main, write_json


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file", required=True, nargs="+", metavar="FILE", help="configs of P2PNets"
    )
    parser.add_argument(
        "--size", default="1088x1920", metavar="HxW", help="of the input (default: %(default)s)"
    )
    parser.add_argument("--output", metavar="FILE.json", help="also write the figures here")
    parser.add_argument(
        "--opts", nargs="*", default=[], metavar="KEY VALUE", help="config options for all"
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        height, width = (int(side) for side in args.size.lower().split("x"))
    except ValueError:
        raise InputError(f"--size {args.size}: HEIGHTxWIDTH is needed, e.g. 1088x1920.") from None
    if min(height, width) < 32 or height % 32 or width % 32:
        raise InputError(f"--size {args.size}: height and width must be multiples of 32.")

    from cpr.complexity import count_work
    from cpr.export import load_localizer

    rows = {}
    print(f"GMAC at {width}x{height}; parameters in millions, norms folded")
    print(f"{'configuration':52}{'ResNet':>9}{'FPN':>9}{'head':>9}{'all':>9}{'params':>9}")
    for file in args.config_file:
        if Path(file).name.startswith("Base-") and len(args.config_file) > 1:
            continue
        model, _, _ = load_localizer(file, None, args.opts)
        work = count_work(model, (height, width))
        rows[file] = {
            "backbone_macs": work.backbone_macs,
            "neck_macs": work.neck_macs,
            "head_macs": work.head_macs,
            "macs": work.macs,
            "parameters": work.parameters,
        }
        parts = (work.backbone_macs, work.neck_macs, work.head_macs, work.macs)
        cells = "".join(f"{part / 1e9:9.1f}" for part in parts)
        name = "/".join(Path(file).parts[-2:]).removesuffix(".yaml")
        print(f"{name:52}{cells}{work.parameters / 1e6:9.2f}", flush=True)
    if args.output:
        write_json(args.output, {"size": [height, width], "configurations": rows}, indent=1)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
