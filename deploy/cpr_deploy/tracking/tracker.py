"""Tracks of points: a constant-velocity Kalman filter each, all of them in arrays.

Coordinates are px of the newest frame. `camera_motion` tells how the picture moved; tracks go with
it before they meet the new points.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cpr_deploy.point_localizer import PointResult
from cpr_deploy.tracking.association import associate
from cpr_deploy.tracking.camera_motion import jacobians, transform
from cpr_deploy.tracking.settings import TrackSettings

# Seconds between frames whose times do not advance.
_SHORTEST = 1e-3
# A point is not further from where its track should be than so many sizes; of a track of one point,
# whose velocity is not known, three sigma of the speed more.
_REACH = 1.5
# A new track that misses more frames than this is forgotten.
_TENTATIVE_MISSES = 1


@dataclasses.dataclass(frozen=True)
class FrameTracks:
    """Tracks at one frame, by id.

    ids (T,) int64 from 1; positions (T, 2) px, smoothed; velocities (T, 2) px a second; labels (T,)
    by vote; scores (T,) of the newest point; ages (T,) seconds since the first point; missed (T,)
    frames since the newest point: above 0 the position is a prediction. point_ids (N,): of each
    point of the frame, 0 where it belongs to no confirmed track.
    """

    ids: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    ages: np.ndarray
    missed: np.ndarray
    point_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class PointTracker:
    """Tracks the points of one stream. Ids count up from 1 in the order of confirmation and are
    never given again, so that the highest is the number of objects so far."""

    def __init__(self, settings: TrackSettings, classes: int):
        self.settings = settings
        self._classes = classes
        self._confirmed = 0
        self.reset()

    def reset(self) -> None:
        """Ends all tracks: what comes next has nothing to do with them. Ids go on."""
        self._seconds: float | None = None
        self._position = np.zeros((0, 2))
        self._velocity = np.zeros((0, 2))
        # Of position, position with velocity, and velocity; the same for x and y.
        self._covariance = np.zeros((0, 3))
        self._votes = np.zeros((0, self._classes))
        # id (0: not confirmed), hits, frames missed
        self._state = np.zeros((0, 3), np.int64)
        # first seen, last seen, score
        self._seen = np.zeros((0, 3))

    def update(
        self, result: PointResult, seconds: float, *, motion: np.ndarray | None = None
    ) -> FrameTracks:
        """Tracks after a frame.

        Args:
            result: points of the frame.
            seconds: of the frame, on a clock that does not go back.
            motion: (3, 3) from px of the last frame to px of this one; None: the camera stood.
        """
        points = np.asarray(result.points, np.float64).reshape(-1, 2)
        labels = np.asarray(result.labels, np.int64)
        scores = np.asarray(result.scores, np.float64)
        interval = self._predict(seconds, motion)
        point_rows = np.full(len(points), -1)
        self._match(points, labels, scores, point_rows, interval)
        self._update_matched(points, labels, scores, point_rows)
        self._begin(points, labels, scores, point_rows)
        self._end(point_rows)
        return self._tracks(point_rows)

    # --- steps of a frame -------------------------------------------------------------------------

    def _predict(self, seconds: float, motion: np.ndarray | None) -> float:
        settings = self.settings
        interval = _SHORTEST
        if self._seconds is not None:
            interval = max(_SHORTEST, seconds - self._seconds)
        self._seconds = seconds if self._seconds is None else self._seconds + interval
        if not len(self._state):
            return interval
        if motion is not None:
            turn = jacobians(motion, self._position)
            self._position = transform(motion, self._position)
            self._velocity = np.einsum("nij,nj->ni", turn, self._velocity)
            self._covariance *= np.abs(np.linalg.det(turn))[:, None]
        wander = (settings.acceleration * settings.size) ** 2
        self._position = self._position + interval * self._velocity
        p, c, v = self._covariance.T
        self._covariance = np.stack(
            [
                p + 2 * interval * c + interval**2 * v + wander * interval**3 / 3,
                c + interval * v + wander * interval**2 / 2,
                v + wander * interval,
            ],
            axis=1,
        )
        return interval

    def _match(self, points, labels, scores, point_rows, interval: float) -> None:
        """Confirmed tracks choose among strong points, then weak ones; new tracks get the rest."""
        settings = self.settings
        reach = np.where(self._state[:, 1] > 1, 0.0, 3 * settings.speed * interval)
        reach = settings.size * (_REACH + reach)
        strong = scores >= settings.high_score
        weak = ~strong & (scores >= settings.low_score)
        confirmed = self._state[:, 0] > 0
        votes = self._votes.argmax(axis=1)
        free = np.ones(len(self._state), bool)
        for tracks, wanted in (
            (confirmed, strong),
            (confirmed, weak),
            (~confirmed, strong),
        ):
            rows = np.flatnonzero(tracks & free)
            columns = np.flatnonzero(wanted & (point_rows < 0))
            i, j = associate(
                self._position[rows],
                self._covariance[rows, 0] + (settings.noise * settings.size) ** 2,
                votes[rows],
                points[columns],
                labels[columns],
                reach=reach[rows],
            )
            point_rows[columns[j]] = rows[i]
            free[rows[i]] = False

    def _update_matched(self, points, labels, scores, point_rows) -> None:
        columns = np.flatnonzero(point_rows >= 0)
        rows = point_rows[columns]
        p, c, v = self._covariance[rows].T
        total = p + (self.settings.noise * self.settings.size) ** 2
        gain, gain_velocity = p / total, c / total
        step = points[columns] - self._position[rows]
        self._position[rows] += gain[:, None] * step
        self._velocity[rows] += gain_velocity[:, None] * step
        self._covariance[rows] = np.stack(
            [(1 - gain) * p, (1 - gain) * c, v - gain_velocity * c], axis=1
        )
        self._votes[rows, labels[columns]] += scores[columns]
        self._state[:, 2] += 1
        self._state[rows, 2] = 0
        self._state[rows, 1] += 1
        self._seen[rows, 1] = self._seconds
        self._seen[rows, 2] = scores[columns]
        ready = rows[(self._state[rows, 0] == 0) & (self._state[rows, 1] >= self.settings.confirm)]
        self._name(ready)

    def _name(self, rows: np.ndarray) -> None:
        rows = np.sort(rows)
        self._state[rows, 0] = self._confirmed + 1 + np.arange(len(rows))
        self._confirmed += len(rows)

    def _begin(self, points, labels, scores, point_rows) -> None:
        settings = self.settings
        new = np.flatnonzero((point_rows < 0) & (scores >= settings.high_score))
        if not len(new):
            return
        count = len(new)
        first = len(self._state)
        point_rows[new] = first + np.arange(count)
        variances = [
            (settings.noise * settings.size) ** 2,
            0,
            (settings.speed * settings.size) ** 2,
        ]
        votes = np.zeros((count, self._classes))
        votes[np.arange(count), labels[new]] = scores[new]
        seen = np.full((count, 3), self._seconds)
        seen[:, 2] = scores[new]
        self._position = np.concatenate([self._position, points[new]])
        self._velocity = np.concatenate([self._velocity, np.zeros((count, 2))])
        self._covariance = np.concatenate([self._covariance, np.tile(variances, (count, 1))])
        self._votes = np.concatenate([self._votes, votes])
        self._state = np.concatenate([self._state, np.tile([0, 1, 0], (count, 1))])
        self._seen = np.concatenate([self._seen, seen])
        if settings.confirm == 1:
            self._name(first + np.arange(count))

    def _end(self, point_rows: np.ndarray) -> None:
        state = self._state
        stay = np.where(
            state[:, 0] > 0,
            self._seconds - self._seen[:, 1] <= self.settings.keep,
            state[:, 2] <= _TENTATIVE_MISSES,
        )
        if stay.all():
            return
        places = np.cumsum(stay) - 1
        held = point_rows >= 0
        point_rows[held] = places[point_rows[held]]
        for name in ("_position", "_velocity", "_covariance", "_votes", "_state", "_seen"):
            setattr(self, name, getattr(self, name)[stay])

    def _tracks(self, point_rows: np.ndarray) -> FrameTracks:
        rows = np.flatnonzero(self._state[:, 0])
        rows = rows[np.argsort(self._state[rows, 0])]
        point_ids = np.zeros(len(point_rows), np.int64)
        held = point_rows >= 0
        point_ids[held] = self._state[point_rows[held], 0]
        return FrameTracks(
            ids=self._state[rows, 0],
            positions=self._position[rows],
            velocities=self._velocity[rows],
            labels=self._votes[rows].argmax(axis=1),
            scores=self._seen[rows, 2],
            ages=self._seconds - self._seen[rows, 0],
            missed=self._state[rows, 2],
            point_ids=point_ids,
        )
