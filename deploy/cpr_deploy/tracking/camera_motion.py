"""How the picture moved from one frame to the next: sparse optical flow on a small grey picture,
and the homography that most of it agrees with."""

from __future__ import annotations

import cv2
import numpy as np

# Longer side of the small picture, px.
_SIDE = 240
_CORNERS = 150
# Of corners: quality over that of the best one; px between them, so that no object has them all.
_QUALITY = 0.002
_APART = 12
# Share of the picture that must be free of objects for them to be left out.
_FREE = 0.3
# Corners that must agree, in number and share, before a motion is believed.
_AGREE = 12
_SHARE = 0.4
# Px of the small picture that a corner may be off.
_TOLERANCE = 1.0
# Change of area from one frame to the next, at most.
_ZOOM = 2.0


def transform(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 2) px moved by a (3, 3) homography."""
    moved = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ homography.T
    return moved[:, :2] / moved[:, 2:]


def jacobians(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 2, 2): what `homography` does to small steps from each of (N, 2) points."""
    weight = points @ homography[2, :2] + homography[2, 2]
    moved = transform(homography, points)
    rows = homography[:2, :2][None] - moved[:, :, None] * homography[2, :2][None, None]
    return rows / weight[:, None, None]


class CameraMotion:
    """Watches the frames of one stream."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forgets the last frame."""
        self._last: np.ndarray | None = None

    def update(
        self, image: np.ndarray, *, objects: np.ndarray | None = None, size: float = 0.0
    ) -> np.ndarray | None:
        """(3, 3) from px of the last frame to px of `image`, (H, W, 3) uint8 BGR.

        objects: (N, 2) px of the last frame, `size` px wide, which may move by themselves: what is
        there is not looked at, unless that leaves too little.

        None where that cannot be told: the first frame, another size, a cut, a picture without
        texture.
        """
        height, width = image.shape[:2]
        shrink = max(1, round(max(height, width) / _SIDE))
        # Whole blocks of pixels: quick, and every small pixel stands for the same area.
        small = image[: height // shrink * shrink, : width // shrink * shrink]
        if shrink > 1:
            sides = (width // shrink, height // shrink)
            small = cv2.resize(small, sides, interpolation=cv2.INTER_AREA)
        small = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        last, self._last = self._last, small
        if last is None or last.shape != small.shape:
            return None
        found = _homography(last, small, _mask(small.shape, objects, size, shrink))
        if found is None:
            return None
        # OpenCV puts the centre of the first small pixel at 0, we at 0.5.
        to_small = np.array([[1 / shrink, 0, -0.5], [0, 1 / shrink, -0.5], [0, 0, 1]])
        return np.linalg.inv(to_small) @ found @ to_small


def _mask(
    shape: tuple[int, int], objects: np.ndarray | None, size: float, shrink: int
) -> np.ndarray | None:
    if objects is None or not len(objects):
        return None
    mask = np.full(shape, 255, np.uint8)
    radius = max(1, round(0.75 * size / shrink))
    for x, y in np.floor(objects / shrink).astype(int).tolist():
        cv2.circle(mask, (x, y), radius, 0, -1)
    return mask if mask.mean() > 255 * _FREE else None


def _homography(last: np.ndarray, now: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
    corners = cv2.goodFeaturesToTrack(last, _CORNERS, _QUALITY, _APART, mask=mask)
    if corners is None or len(corners) < _AGREE:
        return None
    found = _fit(last, now, corners, corners)
    if found is None:
        # A jump beyond what flow can follow: begin where the pictures as a whole fit best.
        window = cv2.createHanningWindow(last.shape[::-1], cv2.CV_32F)
        shift, _ = cv2.phaseCorrelate(last.astype(np.float32), now.astype(np.float32), window)
        found = _fit(last, now, corners, corners + np.array(shift, np.float32))
    return found


def _fit(
    last: np.ndarray, now: np.ndarray, corners: np.ndarray, guess: np.ndarray
) -> np.ndarray | None:
    """(3, 3) that most corners follow, whose places in `now` are looked for from `guess` on."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        last,
        now,
        corners,
        guess.copy(),
        winSize=(15, 15),
        maxLevel=2,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    found = found[:, 0] == 1
    if found.sum() < _AGREE:
        return None
    start, end = corners[found], moved[found]
    homography, agree = cv2.findHomography(start, end, cv2.USAC_MAGSAC, _TOLERANCE)
    if homography is None or agree.sum() < max(_AGREE, _SHARE * len(start)):
        return None
    height, width = now.shape
    edge = np.array([[0, 0], [width, 0], [width, height], [0, height], [width / 2, height / 2]])
    weight = edge @ homography[2, :2] + homography[2, 2]
    if (weight <= 0).any():
        return None
    area = np.linalg.det(jacobians(homography, edge.astype(float)))
    return homography if ((area > 1 / _ZOOM) & (area < _ZOOM)).all() else None
