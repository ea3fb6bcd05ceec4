#!/usr/bin/env python
"""Tracks against true ones on a film with boxes: MOTA, IDF1, identity switches, count error.

    python benchmarks/evaluate_tracks.py --film vtest.avi --boxes vtest_boxes.json --model pets.onnx

Rows, all on the same frames and judged by `motmetrics`:
- our tracker on true points (box centres), all of them and with a share left out and noise added;
- a box tracker (norfair, IoU) on true boxes;
- our tracker on the points of --model, which must not have been trained on these frames. A track is
  right within half a body width of the box centre, or, in a row of its own, inside of the box.
- the same under a shaking camera (random homographies on frames and points), with and without
  compensation.

Only tracks that have a point in the frame are judged. Count error: tracks that were named over true
ones, minus one. Needs `pip install ".[dev]"`.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable, Iterator

import numpy as np

from cpr_deploy.files import InputError, read_json, run_main, write_json

# Shakes: sigma of the shift from the still picture, px; of the turn, degrees; of the zoom.
SHAKES = {"none": (0.0, 0.0, 0.0), "5 px": (5.0, 0.2, 0.002), "15 px": (15.0, 0.5, 0.005)}
SHAKES["40 px"] = (40.0, 1.0, 0.01)


@dataclasses.dataclass
class Truth:
    """One frame: ids (N,), centres (N, 2) px, sizes (N, 2) px, all of persons in the film."""

    ids: np.ndarray
    centres: np.ndarray
    sizes: np.ndarray


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--film", required=True, metavar="FILE")
    parser.add_argument("--boxes", required=True, metavar="FILE.json", help="frames[k].boxes[i]")
    parser.add_argument(
        "--model", metavar="FILE.onnx", help="localizer (without: true points only)"
    )
    parser.add_argument("--score-thresh", type=float, help="of the localizer")
    parser.add_argument("--first", type=int, default=540, help="frame (default: %(default)s)")
    parser.add_argument("--last", type=int, default=794, help="frame (default: %(default)s)")
    parser.add_argument(
        "--size", type=float, default=35.0, metavar="PX", help="of objects (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of noise and shake (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the localizer (%(default)s)")
    parser.add_argument("--output", metavar="FILE.json", help="also write the figures here")
    return parser.parse_args()


def read_truth(path: str, first: int, last: int) -> tuple[list[Truth], float]:
    """Frames `first` to `last`, and frames a second."""
    value = read_json(path)
    frames = []
    for frame in value["frames"][first : last + 1]:
        boxes = np.array([box["bbox"] for box in frame["boxes"]], np.float64).reshape(-1, 4)
        ids = np.array([box["track"] for box in frame["boxes"]], np.int64)
        frames.append(Truth(ids, boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]))
    return frames, float(value["fps"])


def read_images(film: str, first: int, last: int) -> list[np.ndarray]:
    import contextlib

    from cpr_deploy.sources import Frame, open_source

    images = []
    with contextlib.closing(open_source(film)) as source:
        for item in source:
            if isinstance(item, Frame) and item.index >= first:
                images.append(item.image)
            if len(images) == last - first + 1:
                return images
    raise InputError(f"{film}: has no frame {last}.")


# --- points -----------------------------------------------------------------------------------


def true_points(truth: list[Truth], share: float, noise: float, seed: int) -> list:
    """Centres as a localizer would give them, without a `share` and with `noise` px."""
    from cpr_deploy.point_localizer import PointResult

    rng = np.random.default_rng(seed)
    results = []
    for frame in truth:
        points = frame.centres[rng.random(len(frame.ids)) >= share]
        points = points + noise * rng.normal(size=points.shape)
        ones = np.ones(len(points))
        results.append(PointResult(points, ones, np.zeros(len(points), np.int64), 0))
    return results


def found_points(args: argparse.Namespace, images: list[np.ndarray]) -> list:
    from cpr_deploy.point_localizer import PointLocalizer

    localizer = PointLocalizer(args.model, threads=args.threads, score_thresh=args.score_thresh)
    return [localizer(image) for image in images]


def moved(results: list, shakes: list[np.ndarray]) -> list:
    from cpr_deploy.tracking.camera_motion import transform

    return [
        dataclasses.replace(result, points=transform(shake, result.points))
        for result, shake in zip(results, shakes, strict=True)
    ]


def shake_of(count: int, size: tuple[int, int], sigmas, seed: int) -> list[np.ndarray]:
    """(3, 3) per frame, from px of the still picture (width, height) to px of the shaken one."""
    rng = np.random.default_rng(seed)
    shift, turn, zoom = sigmas
    to_centre = np.array([[1, 0, -size[0] / 2], [0, 1, -size[1] / 2], [0, 0, 1.0]])
    result = []
    for _ in range(count):
        angle, scale = np.deg2rad(turn) * rng.normal(), 1 + zoom * rng.normal()
        c, s = scale * np.cos(angle), scale * np.sin(angle)
        x, y = shift * rng.normal(size=2)
        tilt = 0.01 * zoom / size[0] * rng.normal(size=2)
        move = np.array([[c, -s, x], [s, c, y], [*tilt, 1.0]])
        result.append(np.linalg.inv(to_centre) @ move @ to_centre)
    return result


def motions(images: list[np.ndarray], shakes: list[np.ndarray]) -> list[np.ndarray | None]:
    """What the tracker's own estimate makes of shaken pictures."""
    import cv2

    from cpr_deploy.tracking.camera_motion import CameraMotion

    camera = CameraMotion()
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    result = []
    for image, shake in zip(images, shakes, strict=True):
        matrix = np.linalg.inv(half) @ shake @ half  # OpenCV: the first pixel's centre is 0
        size = image.shape[1], image.shape[0]
        result.append(camera.update(cv2.warpPerspective(image, matrix, size)))
    return result


# --- trackers: each yields (ids, points or boxes) per frame -----------------------------------


def point_tracks(results: list, size: float, fps: float, motion=None) -> Iterator[tuple]:
    from cpr_deploy.tracking.settings import TrackSettings
    from cpr_deploy.tracking.tracker import PointTracker

    tracker = PointTracker(TrackSettings(size), classes=1)
    for index, result in enumerate(results):
        move = None if motion is None else motion[index]
        tracks = tracker.update(result, index / fps, motion=move)
        seen = tracks.missed == 0
        yield tracks.ids[seen], tracks.positions[seen]


def box_tracks(truth: list[Truth]) -> Iterator[tuple]:
    """norfair on true boxes by IoU; points are the centres of its estimates."""
    import norfair

    logging.getLogger("norfair").setLevel(logging.ERROR)
    tracker = norfair.Tracker("iou", 0.7, initialization_delay=2)
    for frame in truth:
        corners = np.stack(
            [frame.centres - frame.sizes / 2, frame.centres + frame.sizes / 2], axis=1
        )
        objects = tracker.update([norfair.Detection(box) for box in corners])
        objects = [item for item in objects if item.live_points.any()]
        centres = np.array([item.estimate.mean(axis=0) for item in objects]).reshape(-1, 2)
        yield np.array([item.id for item in objects], np.int64), centres


# --- judgement ----------------------------------------------------------------------------------


def half_width(truth: Truth, points: np.ndarray) -> np.ndarray:
    """(true, tracks): distance over half a body width."""
    steps = truth.centres[:, None] - points[None]
    return np.linalg.norm(steps, axis=2) / (truth.sizes[:, None, 0] / 2)


def inside(truth: Truth, points: np.ndarray) -> np.ndarray:
    """(true, tracks): distance over half the box, of the worse side."""
    steps = np.abs(truth.centres[:, None] - points[None])
    return (steps / (truth.sizes[:, None] / 2)).max(axis=2)


def judge(truth: list[Truth], tracks: Iterator[tuple], distance: Callable = half_width) -> dict:
    import motmetrics

    events = motmetrics.MOTAccumulator(auto_id=True)
    named = set()
    for frame, (ids, points) in zip(truth, tracks, strict=True):
        table = distance(frame, points) if len(ids) else np.zeros((len(frame.ids), 0))
        table[table > 1] = np.nan
        events.update(frame.ids.tolist(), ids.tolist(), table)
        named.update(ids.tolist())
    wanted = ["mota", "idf1", "num_switches", "num_misses", "num_false_positives"]
    values = motmetrics.metrics.create().compute(events, metrics=wanted, name="row").iloc[0]
    people = len(set(np.concatenate([frame.ids for frame in truth]).tolist()))
    return {
        "MOTA": round(float(values["mota"]), 4),
        "IDF1": round(float(values["idf1"]), 4),
        "switches": int(values["num_switches"]),
        "misses": int(values["num_misses"]),
        "false": int(values["num_false_positives"]),
        "objects": len(named),
        "true_objects": people,
        "count_error": round(len(named) / people - 1, 4),
    }


def mean_of(rows: list[dict]) -> dict:
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}


def shaken_truth(truth: list[Truth], shakes: list[np.ndarray]) -> list[Truth]:
    from cpr_deploy.tracking.camera_motion import transform

    return [
        Truth(frame.ids, transform(shake, frame.centres), frame.sizes)
        for frame, shake in zip(truth, shakes, strict=True)
    ]


def main() -> int:
    args = parse_args()
    truth, fps = read_truth(args.boxes, args.first, args.last)
    images = read_images(args.film, args.first, args.last)
    size = images[0].shape[1], images[0].shape[0]
    rows = {}

    def tell(name: str, row: dict) -> None:
        rows[name] = row
        print(f"{name:58}", " ".join(f"{key} {value:g}" for key, value in row.items()), flush=True)

    def on(results: list) -> Iterator[tuple]:
        return point_tracks(results, args.size, fps)

    seeds = range(args.seeds)
    tell("true points", judge(truth, on(true_points(truth, 0.0, 0.0, 0))))
    for share, noise in ((0.2, 2.0), (0.4, 3.0)):
        name = f"true points, {share:.0%} left out, noise {noise:g} px"
        parts = [judge(truth, on(true_points(truth, share, noise, seed))) for seed in seeds]
        tell(name, mean_of(parts))
    tell("true boxes, box tracker (IoU)", judge(truth, box_tracks(truth)))
    sources = {"true points": [true_points(truth, 0.2, 2.0, seed) for seed in seeds]}
    if args.model:
        found = found_points(args, images)
        tell("localizer, within half a body width", judge(truth, on(found)))
        tell("localizer, inside the box", judge(truth, on(found), inside))
        sources["localizer"] = [found] * args.seeds
    for shake, sigmas in SHAKES.items():
        shakes = [shake_of(len(truth), size, sigmas, seed) for seed in seeds]
        estimates = [motions(images, of_seed) for of_seed in shakes]
        for source, results in sources.items():
            distance = inside if source == "localizer" else half_width
            for compensated in (False, True):
                parts = [
                    judge(
                        shaken_truth(truth, shakes[seed]),
                        point_tracks(
                            moved(results[seed], shakes[seed]),
                            args.size,
                            fps,
                            estimates[seed] if compensated else None,
                        ),
                        distance,
                    )
                    for seed in seeds
                ]
                what = "compensated" if compensated else "not compensated"
                tell(f"{source}, shake {shake}, {what}", mean_of(parts))
    if args.output:
        settings = {key: value for key, value in vars(args).items() if key != "output"}
        write_json(args.output, {"rows": rows, "settings": settings}, indent=1)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
