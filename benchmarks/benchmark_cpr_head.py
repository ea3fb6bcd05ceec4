"""What the point part of CPRNet costs: everything after the tower against the whole step.

The point part is sampled from K-channel logit maps (fc(bilinear(F, p)) = bilinear(conv1x1(F), p)).
Side by side in one run: the same losses computed the direct way, by gathering the 256-channel
feature of every bag point and cell and applying the linear layers to it.

Exit code 1 if a target is missed with the first of --classes: the share of the step, and the ratio
to the direct way.
"""

import argparse
import time


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4, help="batch size")
    parser.add_argument("--size", type=int, default=640, help="height and width, px")
    parser.add_argument("--stride", type=int, default=4, choices=(4, 8))
    parser.add_argument("--objects", type=int, default=300, help="objects per image")
    parser.add_argument("--radius", type=int, default=5)
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 15, 80])
    parser.add_argument("--depth", type=int, default=50, help="ResNet depth of the whole step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--skip-step", action="store_true", help="leave the whole step out")
    parser.add_argument("--max-share", type=float, default=0.1, help="of the step, at most")
    parser.add_argument("--min-ratio", type=float, default=20.0, help="to the direct way, at least")
    parser.add_argument("--output", "--json", help="write the figures as JSON")
    return parser.parse_args()


def main():
    args = parse_args()
    import torch
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.structures import Instances

    import cpr.modeling  # noqa: F401 (registers the meta-architectures)
    from cpr.config import add_cpr_config
    from cpr.modeling.inputs import batch_targets, padded_sizes, to_device
    from cpr.modeling.losses import cpr_losses
    from cpr.modeling.point_sampling import inside, negative_mask, point_bags, sample_maps
    from cpr_deploy.files import write_json

    if args.threads:
        torch.set_num_threads(args.threads)

    def median_seconds(function):
        times = []
        for _ in range(args.repeats + 1):
            _synchronize(torch, args.device)
            start = time.perf_counter()
            function()
            _synchronize(torch, args.device)
            times.append(time.perf_counter() - start)
        return sorted(times[1:])[len(times[1:]) // 2]

    def branches(head):
        return [*head.cls_score.parameters(), *head.ins_score.parameters()]

    def sampling_seconds(model, maps, targets):
        """Bilinear sampling of `maps` at all bag points, forward and backward."""
        maps = maps.detach().requires_grad_()
        bags = point_bags(targets.points, model.offsets, model.stride)

        def sample():
            values = sample_maps(maps, bags, targets.batch_index, targets.counts, model.stride, 0.5)
            torch.autograd.grad(values.sum(), [maps])

        return median_seconds(sample)

    def build(num_classes):
        cfg = get_cfg()
        add_cpr_config(cfg)
        stages = ["res2", "res3", "res4", "res5"][0 if args.stride == 4 else 1 :]
        options = {
            "MODEL.META_ARCHITECTURE": "CPRNet",
            "MODEL.DEVICE": args.device,
            "MODEL.BACKBONE.NAME": "build_resnet_fpn_single_level_backbone",
            "MODEL.RESNETS.DEPTH": args.depth,
            "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if args.depth < 50 else 256,
            "MODEL.RESNETS.OUT_FEATURES": stages,
            "MODEL.FPN.IN_FEATURES": stages,
            "MODEL.FPN.NORM": "GN",
            "MODEL.CPRNET.NUM_CLASSES": num_classes,
            "MODEL.CPRNET.IN_FEATURE": "p2" if args.stride == 4 else "p3",
            "MODEL.CPRNET.RADIUS": args.radius,
        }
        cfg.merge_from_list([item for pair in options.items() for item in pair])
        return build_model(cfg)

    torch.manual_seed(0)
    inputs = []
    for _ in range(args.images):
        instances = Instances((args.size, args.size))
        instances.gt_points = torch.rand(args.objects, 2) * args.size
        instances.gt_classes = torch.zeros(args.objects, dtype=torch.long)
        image = torch.randint(0, 256, (3, args.size, args.size), dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances})

    rows = []
    for num_classes in args.classes:
        for item in inputs:
            item["instances"].gt_classes = torch.randint(num_classes, (args.objects,))
        model = build(num_classes)
        images = model.batch_images(inputs)
        targets = batch_targets(inputs, model.device)
        cells = args.size // args.stride
        feature = torch.randn(args.images, 256, cells, cells, device=model.device).requires_grad_()
        head = model.head

        def point_part(model=model, head=head, feature=feature, images=images, targets=targets):
            losses = model.losses(head.logits(feature), images, targets)
            torch.autograd.grad(sum(losses.values()), [feature, *branches(head)])

        def direct(model=model, head=head, feature=feature, images=images, targets=targets):
            """The same losses from 256-channel features per bag point."""
            sizes = to_device(padded_sizes(images.image_sizes, 32), torch.float32, model.device)
            bags = point_bags(targets.points, model.offsets, model.stride)
            features = sample_maps(
                feature, bags, targets.batch_index, targets.counts, model.stride, 0.5
            )
            linear = torch.nn.functional.linear
            cls_weight, ins_weight = (
                head.cls_score.weight[..., 0, 0],
                head.ins_score.weight[..., 0, 0],
            )
            cells_logits = linear(feature.permute(0, 2, 3, 1), cls_weight, head.cls_score.bias)
            mask = negative_mask(
                targets.points,
                targets.labels,
                targets.batch_index,
                sizes,
                num_classes=model.num_classes,
                radius=model.radius,
                stride=model.stride,
                map_size=tuple(feature.shape[2:]),
            )
            losses = cpr_losses(
                linear(features, cls_weight, head.cls_score.bias),
                linear(features, ins_weight, head.ins_score.bias),
                inside(bags, sizes[targets.batch_index][:, None]),
                targets.labels,
                cells_logits,
                mask.permute(0, 2, 3, 1),
                weights=model.loss_weights,
                gamma=model.gamma,
            )
            torch.autograd.grad(sum(losses.values()), [feature, *branches(head)])

        def step(model=model):
            sum(model(inputs).values()).backward()

        row = {
            "classes": num_classes,
            "point_part_s": median_seconds(point_part),
            "gather_features_s": median_seconds(direct),
        }
        row["gather_over_point_part"] = row["gather_features_s"] / row["point_part_s"]
        row["sample_logits_s"] = sampling_seconds(model, head.logits(feature), targets)
        row["sample_features_s"] = sampling_seconds(model, feature, targets)
        row["features_over_logits"] = row["sample_features_s"] / row["sample_logits_s"]
        if not args.skip_step:
            row["step_s"] = median_seconds(step)
            row["point_part_share"] = row["point_part_s"] / row["step_s"]
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    if args.output:
        write_json(args.output, {"settings": vars(args), "rows": rows}, indent=1)
    first = rows[0]
    good = first["gather_over_point_part"] >= args.min_ratio
    good &= first.get("point_part_share", 0.0) <= args.max_share
    return 0 if good else 1


def _synchronize(torch, device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    from cpr_deploy.files import run_main

    raise SystemExit(run_main(main))
