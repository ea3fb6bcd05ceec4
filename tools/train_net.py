#!/usr/bin/env python
"""Trains or evaluates CPRNet, P2PNet or a box detector as a config file says.

    python tools/train_net.py --config-file configs/Base-P2PNet.yaml \\
        DATASETS.TRAIN points:train.json@images DATASETS.TEST points:val.json@images \\
        MODEL.P2PNET.NUM_CLASSES 4 OUTPUT_DIR output/run \\
        MODEL.WEIGHTS detectron2://ImageNetPretrained/torchvision/R-50.pkl

Box detectors learn pseudo boxes around the points; boxes:train.json@images has them learn the true
boxes. OUTPUT_DIR then holds model_final.pth, the logs and the evaluation.
"""

import argparse

from cpr_deploy.files import run_main


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="YAML config")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS only")
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="processes per machine, also with MODEL.DEVICE cpu"
    )
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    parser.add_argument(
        "--dist-url", default="auto", help="tcp://HOST:PORT of machine 0, for many machines"
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys to change"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from cpr.engine import build_cfg, launch, run

    launch(
        run,
        (args,),
        device=build_cfg(args.config_file, args.opts).MODEL.DEVICE,
        num_processes=args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
    )


if __name__ == "__main__":
    raise SystemExit(run_main(main))
