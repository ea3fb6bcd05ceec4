#!/usr/bin/env python
"""Speed and memory of the point evaluator against a plain loop over the detections.

600 images x 55 boxes x 100 detections, one class, 7 size ranges x 3 tau by default. The plain loop
is the obvious form of the same rule (one detection after the other, numpy over the boxes of its
image); it runs on a part of the images and is scaled up. Both run on one core:

    OMP_NUM_THREADS=1 python benchmarks/benchmark_evaluator.py
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

TARGET_SECONDS = 1.5
TARGET_MB = 500


def make_scene(num_images: int, num_boxes: int, num_dets: int, seed: int = 0):
    """Small objects on 1920 x 1080 px; one noisy detection per object, the others at random."""
    import numpy as np

    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image_id in range(num_images):
        sides = np.exp(rng.normal(np.log(20), 0.5, (num_boxes, 2)))
        centres = rng.uniform(0, [1920, 1080], (num_boxes, 2))
        for box in np.concatenate([centres - sides / 2, sides], axis=1).tolist():
            record = {"id": len(annotations), "image_id": image_id, "category_id": 1, "bbox": box}
            annotations.append({**record, "ignore": int(rng.random() < 0.05), "iscrowd": 0})
        near = min(num_boxes, num_dets)
        noise = rng.normal(0, 0.4, (near, 2)) * sides[:near]
        far = rng.uniform(0, [1920, 1080], (num_dets - near, 2))
        points = np.concatenate([centres[:near] + noise, far]).tolist()
        scores = np.concatenate([rng.beta(4, 2, near), rng.beta(2, 4, num_dets - near)]).tolist()
        detections += [
            {"image_id": image_id, "category_id": 1, "point": point, "score": score}
            for point, score in zip(points, scores, strict=True)
        ]
    ground_truth = {
        "images": [{"id": i, "width": 1920, "height": 1080} for i in range(num_images)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }
    return ground_truth, detections


def evaluate_by_loops(ground_truth, detections, taus, size_ranges) -> dict:
    """AP by (range, tau), one detection after the other."""
    import numpy as np

    boxes_of: dict = {}
    for annotation in ground_truth["annotations"]:
        boxes_of.setdefault(annotation["image_id"], []).append(annotation)
    dets_of: dict = {}
    for detection in detections:
        dets_of.setdefault(detection["image_id"], []).append(detection)
    result = {}
    for name, (low, high) in size_ranges.items():
        for tau in taus:
            outcomes, num_objects = [], 0
            for image in ground_truth["images"]:
                records = boxes_of.get(image["id"], [])
                boxes = np.array([record["bbox"] for record in records]).reshape(-1, 4)
                size = np.sqrt(boxes[:, 2] * boxes[:, 3])
                ignored = np.array([record["ignore"] for record in records], dtype=bool)
                regular = ~ignored & (low <= size) & (size < high)
                free = regular.copy()
                num_objects += int(regular.sum())
                for det in sorted(dets_of.get(image["id"], []), key=lambda d: -d["score"]):
                    offset = np.array(det["point"]) - boxes[:, :2] - boxes[:, 2:] / 2
                    distance = np.hypot(*(offset / boxes[:, 2:]).T)
                    candidates = np.where(free, distance, np.inf)
                    nearest = int(candidates.argmin()) if len(candidates) else -1
                    if nearest >= 0 and candidates[nearest] <= tau:
                        free[nearest] = False
                        outcomes.append((det["score"], True))
                    elif not (distance[~regular] <= tau).any():
                        outcomes.append((det["score"], False))
            outcomes.sort(key=lambda outcome: -outcome[0])
            hits = np.array([hit for _, hit in outcomes], dtype=bool)
            precision = hits.cumsum() / np.arange(1, len(hits) + 1)
            recall = hits.cumsum(dtype=np.float32) / np.float32(max(num_objects, 1))
            reached = np.searchsorted(recall.astype(float), np.arange(101) * 0.01)
            values = np.append(precision, 0.0)[reached]
            result[name, str(tau)] = float(values.mean()) if num_objects else None
    return result


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--boxes", type=int, default=55, help="per image")
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--size-ranges", choices=("coco", "tiny"), default="tiny")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest run counts")
    parser.add_argument(
        "--loop-images", type=int, default=20, help="images of the plain loop, 0 leaves it out"
    )
    parser.add_argument("--output", help="JSON file to write")
    args = parser.parse_args()

    from cpr.evaluation.point_ap import SIZE_RANGES, bootstrap_interval, evaluate_points
    from cpr_deploy.files import write_json

    taus = (0.5, 1.0, 2.0)
    ground_truth, detections = make_scene(args.images, args.boxes, args.detections)
    before = peak_mb()
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        evaluate_points(ground_truth, detections, taus=taus, size_ranges=args.size_ranges)
        seconds.append(time.perf_counter() - start)
    result = {
        "images": args.images,
        "boxes": args.boxes,
        "detections": args.detections,
        "size_ranges": len(SIZE_RANGES[args.size_ranges]),
        "taus": len(taus),
        "seconds": min(seconds),
        "peak_mb": peak_mb(),
        "peak_mb_before": before,
    }
    start = time.perf_counter()
    bootstrap_interval(ground_truth, detections, size_ranges=args.size_ranges)
    result["bootstrap_200_seconds"] = time.perf_counter() - start

    if args.loop_images:
        part = min(args.loop_images, args.images)
        small = make_scene(part, args.boxes, args.detections)
        ranges = SIZE_RANGES[args.size_ranges]
        start = time.perf_counter()
        by_loops = evaluate_by_loops(*small, taus, ranges)
        result["loop_seconds"] = (time.perf_counter() - start) * args.images / part
        result["ratio"] = result["loop_seconds"] / result["seconds"]
        metrics = evaluate_points(*small, taus=taus, size_ranges=ranges)["AP"]
        result["largest_difference"] = max(
            abs(value - metrics[name][tau])
            for (name, tau), value in by_loops.items()
            if value is not None
        )
    print(json.dumps(result, indent=1))
    reached = result["seconds"] <= TARGET_SECONDS and result["peak_mb"] <= TARGET_MB
    print(f"target of {TARGET_SECONDS} s and {TARGET_MB} MB: {'reached' if reached else 'missed'}")
    if args.output:
        write_json(args.output, result, indent=1)
    return 0 if reached else 1


if __name__ == "__main__":
    from cpr_deploy.files import run_main

    raise SystemExit(run_main(main))
