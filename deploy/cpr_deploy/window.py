"""A window that shows the newest annotated frame of each stream (OpenCV)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import cv2
import numpy as np

from cpr_deploy.files import InputError

_ESCAPE = 27


class Window:
    """A window of one stream; `stop` is called when it is closed, or q or Esc is pressed in it."""

    def __init__(self, title: str, stop: Callable[[], None]):
        # Without a display OpenCV would end the whole program.
        if sys.platform.startswith("linux") and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            raise InputError("--view: there is no display. Use --web PORT, or set DISPLAY.")
        self._title = title
        self._stop = stop
        self._shown = False
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error:
            raise InputError("--view: this OpenCV has no windows. Use --web PORT.") from None

    def write(self, image: np.ndarray, seconds: float | None) -> None:
        if self._shown and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
            self._stop()
            return
        cv2.imshow(self._title, image)
        self._shown = True
        if cv2.waitKey(1) & 0xFF in (ord("q"), _ESCAPE):
            self._stop()

    def close(self) -> None:
        if self._shown:
            cv2.destroyWindow(self._title)
