"""What a training step is made of: network, assignment, waiting for data; and its peak memory.

Trains for some iterations, as tools/train_net.py would. Exit code 1 if assignment and data loading
together take more than --max-share of a step, or if the memory exceeds --max-memory.

    python benchmarks/benchmark_training.py \\
        --config-file configs/SmallSets/Base-P2PNet-R18C4.yaml DATASETS.TRAIN \\
        points:centre.json@images MODEL.P2PNET.NUM_CLASSES 4 INPUT.MIN_SIZE_TRAIN "(512,)" \\
        MODEL.WEIGHTS resnet18.pth
"""

import argparse
import resource
import statistics
import tempfile
import time


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--skip", type=int, default=5, help="iterations that are not counted")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--max-share", type=float, default=0.15, help="of a step, at most")
    parser.add_argument("--max-memory", type=float, default=6.0, help="GiB, at most")
    parser.add_argument("--output", "--json", help="write the figures as JSON")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser.parse_args()


def main():
    args = parse_args()
    import torch
    from detectron2.utils.events import EventStorage

    from cpr.data.datasets import ensure_registered
    from cpr.engine import Trainer, build_cfg
    from cpr_deploy.files import write_json

    if args.threads:
        torch.set_num_threads(args.threads)
    cfg = build_cfg(args.config_file, [*args.opts, "DATASETS.TEST", "()"])
    cfg.SOLVER.MAX_ITER = args.iterations
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda")

    def now():
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        cfg.OUTPUT_DIR = folder
        ensure_registered(cfg)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        seconds = {"assignment": [0.0], "step": [], "data": []}
        model = trainer.model
        if hasattr(model, "assign"):
            assign = model.assign

            def timed_assign(*arguments):
                start = now()
                result = assign(*arguments)
                seconds["assignment"][-1] += now() - start
                return result

            model.assign = timed_assign
        trainer.iter = trainer.start_iter = 0
        with EventStorage(0) as storage:
            trainer.storage = trainer._trainer.storage = storage
            trainer._trainer.iter = 0
            for _ in range(args.iterations):
                start = now()
                trainer._trainer.run_step()
                seconds["step"].append(now() - start)
                seconds["assignment"].append(0.0)
                # Detectron2 measures how long it waited for the batch.
                seconds["data"].append(storage.latest()["data_time"][0])
                storage.step()
                trainer._trainer.iter += 1

    medians = {
        name: statistics.median(values[args.skip : args.iterations])
        for name, values in seconds.items()
    }
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if on_gpu:
        memory = torch.cuda.max_memory_allocated() / 2**30
    share = (medians["assignment"] + medians["data"]) / medians["step"]
    print(f"step {medians['step']:.3f} s, of it")
    for name in ("assignment", "data"):
        part = medians[name]
        print(f"  {name:10} {part:.4f} s  {100 * part / medians['step']:5.1f} %")
    print(f"peak memory {memory:.2f} GiB {'of the GPU' if on_gpu else 'of the process'}")
    good = share <= args.max_share and memory <= args.max_memory
    print(f"target: at most {100 * args.max_share:g} % and {args.max_memory:g} GiB:", end=" ")
    print("met" if good else "missed")
    if args.output:
        write_json(args.output, {**medians, "share": share, "memory_gib": memory}, indent=1)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
