"""P2P label assignment: speed of the default against the reference, and how far they agree.

The reference is the official rule, k rounds of one-to-one matching of all references and objects
(scipy). The default is the candidate-based auction on the device. Both are timed in this run, costs
included. Agreement is the share of the reference's (location, object) pairs that the default finds
too: on synthetic predictions as of a converged network, or on those of a trained model.
"""

import argparse
import time


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=160, help="side of the feature map")
    parser.add_argument("--per-cell", type=int, default=4, help="references per cell")
    parser.add_argument("--stride", type=int, default=4, help="px per cell")
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--topk", type=int, default=5, help="positives per object")
    parser.add_argument("--radius", type=int, default=8, help="candidate radius, cells")
    parser.add_argument("--repeats", type=int, default=5, help="of the default; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="of the default; the reference is CPU code")
    parser.add_argument("--config-file", help="of a trained P2PNet, for agreement on real images")
    parser.add_argument("--weights")
    parser.add_argument("--annotations", help="point JSON")
    parser.add_argument("--image-root")
    parser.add_argument("--max-images", type=int, default=20)
    parser.add_argument("--min-ratio", type=float, default=30.0, help="exit code 1 below it")
    parser.add_argument("--min-agreement", type=float, default=0.98, help="exit code 1 below it")
    parser.add_argument("--output", help="write the figures as JSON")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config options of the model"
    )
    args = parser.parse_args()
    model = (args.config_file, args.weights, args.annotations, args.image_root)
    if any(model) and not all(model):
        parser.error("--config-file, --weights, --annotations and --image-root go together")
    return args


def main():
    args = parse_args()
    import torch

    from cpr.modeling.matcher import (
        CostSettings,
        candidate_topk_assign,
        hungarian_topk_assign,
    )
    from cpr.modeling.reference_grid import ReferenceGrid
    from cpr_deploy.files import write_json

    torch.set_num_threads(args.threads)
    cost = CostSettings()
    grid = ReferenceGrid(
        height=args.cells,
        width=args.cells,
        stride=args.stride,
        offset=0.5,
        points_per_cell=args.per_cell,
    )
    rows = []

    def report(row):
        rows.append(row)
        texts = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        print("  ".join(texts), flush=True)

    def synthetic(name, spread, seed):
        scene = converged_scene(torch, grid, args.objects, spread, seed)
        start = time.perf_counter()
        reference = hungarian_topk_assign(*scene, k=args.topk, cost=cost)
        reference_s = time.perf_counter() - start
        on_device = [x.to(args.device) if torch.is_tensor(x) else x for x in scene]
        times = []
        for _ in range(args.repeats + 1):
            synchronize(torch, args.device)
            start = time.perf_counter()
            default = candidate_topk_assign(
                *on_device, k=args.topk, cost=cost, grid=grid, radius=args.radius
            )
            synchronize(torch, args.device)
            times.append(time.perf_counter() - start)
        default_s = sorted(times[1:])[args.repeats // 2]
        report(
            {
                "predictions": name,
                "references": grid.num_points,
                "objects": args.objects,
                "reference_s": reference_s,
                "default_s": default_s,
                "ratio": reference_s / default_s,
                **agreement(reference, default.cpu()),
            }
        )

    synthetic("converged, even", None, 0)
    synthetic("converged, crowd", 0.15, 1)
    if args.config_file:
        report(trained_model_row(torch, args))
    if args.output:
        write_json(args.output, {"settings": vars(args), "rows": rows}, indent=1)
    good = all(row["agreement"] >= args.min_agreement for row in rows)
    good &= all(row.get("ratio", args.min_ratio) >= args.min_ratio for row in rows)
    return 0 if good else 1


def agreement(reference, default):
    """Share of the reference's (location, object) pairs that the default has too."""
    positive = reference >= 0
    same = ((reference == default) & positive).sum().item()
    total = positive.sum().item()
    return {"pairs": total, "agreement": same / total if total else 1.0}


def converged_scene(torch, grid, count, spread, seed):
    """Objects at least 6 px apart and predictions as of a trained network.

    References near an object predict its place within about half a px and a high score, those far
    away something near themselves and a low score, with a soft change between.

    Args:
        spread: standard deviation of the objects' places around the centre, in sides of the map;
            None spreads them evenly.
    """
    generator = torch.Generator().manual_seed(seed)
    side = grid.width * grid.stride
    objects = torch.zeros(0, 2)
    while len(objects) < count:
        if spread is None:
            place = torch.rand(1, 2, generator=generator) * side
        else:
            place = (0.5 + spread * torch.randn(1, 2, generator=generator)).clamp(0, 1) * side
        if not len(objects) or torch.cdist(place, objects).min() >= 6:
            objects = torch.cat([objects, place])
    references = grid.points(torch.device("cpu"))
    parts = [torch.cdist(part, objects).min(dim=1) for part in references.split(4096)]
    distance = torch.cat([part.values for part in parts]) / grid.stride
    nearest = torch.cat([part.indices for part in parts])
    noise = torch.randn(len(references), 2, generator=generator)
    pull = torch.sigmoid((2 - distance) / 0.4)[:, None]
    points = references + pull * (objects[nearest] - references)
    points = points + noise * (0.6 * pull + 0.5 * grid.stride * (1 - pull))
    logits = 6.5 * torch.sigmoid((1.5 - distance) / 0.4) - 5
    logits = logits + 0.8 * torch.randn(len(references), generator=generator)
    scores = logits.sigmoid()
    valid = torch.ones(1, len(references), dtype=torch.bool)
    labels = torch.zeros(count, dtype=torch.long)
    return scores[None, :, None], points[None], valid, objects, labels, [count]


def trained_model_row(torch, args):
    """Agreement on the predictions of a trained model, images as in inference."""
    from detectron2.modeling import build_model

    from cpr.checkpoint import PointCheckpointer
    from cpr.data.dataset_mapper import PointDatasetMapper
    from cpr.data.datasets import load_dataset, to_dataset_dicts
    from cpr.engine import build_cfg
    from cpr.modeling.inputs import batch_targets

    cfg = build_cfg(args.config_file, args.opts)
    model = build_model(cfg).eval()
    PointCheckpointer(model, require_all=True).load(args.weights)
    mapper = PointDatasetMapper(cfg, is_train=False)
    same = total = objects = 0
    records = to_dataset_dicts(load_dataset(args.annotations), args.image_root)
    for record in records[: args.max_images]:
        inputs = [mapper(record)]
        with torch.no_grad():
            images = model.batch_images(inputs)
            predictions = model.predict_maps(images.tensor)
        grid = model.reference_grid(images.tensor.shape[-2:])
        targets = batch_targets(inputs, model.device)
        valid = model.valid_references(grid, images)
        assigned = {}
        for model.assigner in ("hungarian", "topk"):
            assigned[model.assigner] = model.assign(*predictions, valid, grid, targets)
        found = agreement(assigned["hungarian"], assigned["topk"])
        same += found["agreement"] * found["pairs"]
        total += found["pairs"]
        objects += sum(targets.counts)
    return {
        "predictions": f"trained model, {min(len(records), args.max_images)} images",
        "objects": objects,
        "pairs": total,
        "agreement": same / total if total else 1.0,
    }


def synchronize(torch, device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    from cpr_deploy.files import run_main

    raise SystemExit(run_main(main))
