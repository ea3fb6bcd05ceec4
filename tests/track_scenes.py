"""Scenes of points whose identities are known, and motmetrics as judge of tracks."""

from __future__ import annotations

import dataclasses

import motmetrics
import numpy as np

from cpr_deploy.point_localizer import PointResult
from cpr_deploy.tracking.settings import TrackSettings
from cpr_deploy.tracking.tracker import PointTracker

SIZE = 20.0
FPS = 25.0


@dataclasses.dataclass
class Scene:
    """ids: per frame (N,); points: per frame (N, 2) px."""

    ids: list[np.ndarray]
    points: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    def results(self, *, miss=0.0, noise=0.0, score=0.9, seed=0) -> list[PointResult]:
        """What a localizer finds, in random order: a share `miss` is not found."""
        rng = np.random.default_rng(seed)
        found = []
        for points in self.points:
            kept = rng.permutation(np.flatnonzero(rng.random(len(points)) >= miss))
            noisy = points[kept] + noise * rng.normal(size=(len(kept), 2))
            found.append(result(noisy, score=score))
        return found


def result(points, *, score=0.9, labels=None) -> PointResult:
    points = np.asarray(points, np.float64).reshape(-1, 2)
    labels = np.zeros(len(points), np.int64) if labels is None else np.asarray(labels, np.int64)
    return PointResult(points, np.full(len(points), score), labels, 0)


def straight_scene(starts, velocities, frames, *, fps=FPS) -> Scene:
    """Objects from `starts` (N, 2) px with `velocities` (N, 2) px a second."""
    starts, velocities = np.asarray(starts, float), np.asarray(velocities, float)
    ids = np.arange(1, len(starts) + 1)
    points = [starts + velocities * index / fps for index in range(frames)]
    return Scene([ids] * frames, points)


def crowd(count, frames, *, size=(1280, 720), speed=30.0, apart=25.0, seed=0) -> Scene:
    """Objects on a jittered grid, at least about `apart` px from each other, walking about."""
    rng = np.random.default_rng(seed)
    columns = int(np.ceil(np.sqrt(count * size[0] / size[1])))
    rows = -(-count // columns)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)[
        :count
    ]
    steps = np.array([size[0] / columns, size[1] / rows])
    starts = (grid + 0.5) * steps + rng.uniform(-0.5, 0.5, (count, 2)) * (steps - apart)
    return straight_scene(starts, rng.normal(size=(count, 2)) * speed, frames)


def track(results, *, motions=None, fps=FPS, **settings):
    """The `FrameTracks` of each frame."""
    tracker = PointTracker(TrackSettings(**{"size": SIZE, **settings}), classes=2)
    motions = motions or [None] * len(results)
    return [
        tracker.update(found, index / fps, motion=motion)
        for index, (found, motion) in enumerate(zip(results, motions, strict=True))
    ]


def judge(scene: Scene, tracks, *, within=SIZE / 2) -> dict[str, float]:
    """motmetrics' figures; tracks that were seen, matched within so many px."""
    events = motmetrics.MOTAccumulator(auto_id=True)
    for ids, points, frame in zip(scene.ids, scene.points, tracks, strict=True):
        seen = frame.missed == 0
        distance = np.linalg.norm(points[:, None] - frame.positions[None, seen], axis=2)
        distance[distance > within] = np.nan
        events.update(ids.tolist(), frame.ids[seen].tolist(), distance)
    names = ["mota", "idf1", "num_switches", "num_misses", "num_false_positives"]
    row = motmetrics.metrics.create().compute(events, metrics=names, name="x").iloc[0]
    return {key: float(value) for key, value in row.items()}


def number_of_ids(tracks) -> int:
    return len(set(np.concatenate([frame.ids for frame in tracks]).tolist()))
