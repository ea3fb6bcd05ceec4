#!/usr/bin/env python
"""Positions on the Earth of 1,000 points, against the inference of a realtime model, on one core.

Inference at 1280x720 and positions take turns in one run, so that a change of the machine's speed
hits all alike; the processor's time counts, of one thread. Also what a usual frame of a stream
costs (its pose between two samples, 10 points, records, finds), and an elevation model of 4 million
cells. Without --model: the realtime head on ResNet-18 with random weights (speed does not depend on
them).

Exit code 1 if a target is missed: 1,000 points below 5 ms on level ground, a usual frame below 10 %
of the inference.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from cpr_deploy.files import run_main, write_json

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

HEIGHT, WIDTH = 720, 1280
TARGET_MS = 5.0
TARGET_SHARE = 0.1
# Frames in each turn.
FRAMES = 20
LEVEL = ("level, plain lens", "level, distorted lens")
USUAL = "usual frame"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="FILE.onnx", help="measure against this one")
    parser.add_argument("--points", type=int, default=1000, help="a frame (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns (%(default)s)")
    parser.add_argument("--output", metavar="FILE.json", help="also write the figures here")
    return parser.parse_args()


def write_hills(path: Path) -> None:
    """An elevation model of 2,000 x 2,000 cells of about 10 m around 54 N 12 E."""
    import numpy as np
    import rasterio

    y, x = np.mgrid[:2000, :2000]
    hills = 15 * np.sin(x / 9.0) * np.cos(y / 7.0)
    with rasterio.open(
        path, "w", driver="GTiff", width=2000, height=2000, count=1, dtype="float32",
        crs="EPSG:4326", transform=rasterio.Affine(1.5e-4, 0, 11.85, 0, -9e-5, 54.09),
    ) as file:  # fmt: skip
        file.write(hills.astype(np.float32), 1)


def cases(points: int, folder: Path) -> dict:
    """Name -> what to time."""
    import numpy as np

    from cpr_deploy.camera import CameraModel
    from cpr_deploy.geo import attitude
    from cpr_deploy.geo.finds import FindBook
    from cpr_deploy.geo.flight_path import FlightPath, Pose
    from cpr_deploy.geo.georeferencer import GeoReferencer, Sigmas
    from cpr_deploy.geo.ground import ElevationModel, LevelGround
    from cpr_deploy.geo.poses import FlightPoses
    from cpr_deploy.geo.survey import Survey
    from cpr_deploy.geo.telemetry import from_rows

    rng = np.random.default_rng(0)
    xy = rng.uniform([0, 0], [WIDTH, HEIGHT], (points, 2))
    k = [[950.0, 0, 639.5], [0, 950, 359.5], [0, 0, 1]]
    plain = CameraModel(WIDTH, HEIGHT, k, "none")
    distorted = CameraModel(WIDTH, HEIGHT, k, "plumb_bob", (-0.1, 0.02, 1e-3, 1e-3, 0.0))
    turned = attitude.rotation_of(np.array([30.0, -50, 2])) @ attitude.BODY_FROM_OPTICAL
    pose = Pose(54.0, 12.0, 120.0, turned)
    sea = LevelGround(0, "msl")
    write_hills(folder / "hills.tif")
    hills = ElevationModel(folder / "hills.tif")

    def located(camera, ground):
        referencer = GeoReferencer(camera, ground, sigmas=Sigmas(tilt=0.2))
        assert not any(referencer.locate(xy, pose).codes)
        return lambda: referencer.locate(xy, pose)

    rows = [
        {"time": t / 10, "latitude": 54 + t * 1e-6, "longitude": 12.0, "altitude_msl": 120.0,
         "gimbal_yaw": t % 360, "gimbal_pitch": -70.0}
        for t in range(6000)
    ]  # fmt: skip
    path = FlightPath(from_rows("flight", "video", rows, gimbal_absolute=True), "msl")
    survey = Survey(GeoReferencer(distorted, sea), FlightPoses(path), FindBook(5.0))
    seen = [
        {"x": x, "y": y, "score": 0.9, "label": 0, "class_name": "person"}
        for x, y in xy[:10].tolist()
    ]
    clock = iter(range(10**9))

    def usual():
        frame = next(clock)
        record = {"type": "frame", "source": "a", "frame": frame, "pts": frame / 25 % 590}
        return list(survey.add({**record, "points": seen}))

    return {
        LEVEL[0]: located(plain, sea),
        LEVEL[1]: located(distorted, sea),
        "elevation model": located(distorted, hills),
        USUAL: usual,
    }


def main() -> int:
    args = parse_args()

    import numpy as np

    from cpr_deploy.point_localizer import PointLocalizer
    from cpr_deploy.timing import machine

    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if model is None:
            from benchmark_onnx import build

            _, model = build("realtime", Path(folder))
        localizer = PointLocalizer(model, threads=1, resize="none")
        timed = cases(args.points, Path(folder))
    functions = [("inference", lambda: localizer(image), 1)]
    functions += [(name, function, FRAMES) for name, function in timed.items()]
    times = {name: [] for name, _, _ in functions}
    for number in range(args.rounds + 1):
        for name, function, count in functions:
            begin = time.process_time()
            for _ in range(count):
                function()
            if number:  # the first turn warms up
                times[name].append((time.process_time() - begin) / count)
    ms = {name: 1e3 * statistics.median(own) for name, own in times.items()}
    figures = {
        "points": args.points,
        "ms": ms,
        "share_of_inference": {name: ms[name] / ms["inference"] for name in timed},
        "machine": machine(),
    }
    print(f"inference at {WIDTH}x{HEIGHT}, one thread: {ms['inference']:.0f} ms")
    for name, share in figures["share_of_inference"].items():
        count = 10 if name == USUAL else args.points
        print(f"{name}, {count} points: {ms[name]:.2f} ms, {share:.2%} of the inference")
    if args.output:
        write_json(args.output, figures, indent=1)
    missed = [name for name in LEVEL if ms[name] > TARGET_MS]
    missed += [USUAL] if figures["share_of_inference"][USUAL] > TARGET_SHARE else []
    for name in missed:
        print(f"missed: {name}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
