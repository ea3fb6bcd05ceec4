"""Annotated video sent to a network address (RTMP, RTSP, UDP, SRT), without ever waiting for it.

Connecting and sending can hang in FFmpeg, with the interpreter's lock held. So a process of its own
(`push_child`) does that, fed with raw frames through a pipe.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import struct
import subprocess
import sys
import threading
import time

import numpy as np

from cpr_deploy.addresses import push_format, redacted
from cpr_deploy.decoder import child_environment

logger = logging.getLogger(__name__)

# Height, width, seconds; then the pixels.
FRAME_HEADER = struct.Struct("<IId")
# Frames that wait; seconds between tries after a failure; seconds for the end.
_QUEUED = 2
_WAITS = (1.0, 30.0)
_CLOSE = 2.0


class VideoPusher:
    """Sends frames to `url`; whoever receives may be slow, or go and come back: frames that cannot
    be sent are left out and counted in `dropped`, and the address is opened again."""

    def __init__(self, url: str):
        push_format(url)
        self.name = redacted(url)
        self._url = url
        self.dropped = 0
        self._queue: queue.Queue[tuple[np.ndarray, float]] = queue.Queue(_QUEUED)
        self._stop = threading.Event()
        self._process: subprocess.Popen | None = None
        self._thread = threading.Thread(target=self._run, name=f"push to {self.name}", daemon=True)
        self._thread.start()

    def write(self, image: np.ndarray, seconds: float | None) -> None:
        """Hands over a (height, width, 3) uint8 BGR frame shown at `seconds`; never waits."""
        try:
            self._queue.put_nowait((image, seconds or 0.0))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Sends what has been handed over, for two seconds at most."""
        end = time.monotonic() + _CLOSE
        self._stop.set()
        self._thread.join(timeout=_CLOSE)
        process = self._process
        if process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))
        process.kill()  # this also ends a write to it
        process.wait()
        self._thread.join()
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _run(self) -> None:
        wait = _WAITS[0]
        while not self._stop.is_set():
            begin = time.monotonic()
            with contextlib.suppress(OSError):  # the process is gone, and has told why
                self._send_all()
            if self._stop.is_set():
                return
            if time.monotonic() - begin > _WAITS[1]:
                wait = _WAITS[0]
            logger.warning("%s: sending has ended; again in %.0f s", self.name, wait)
            self._stop.wait(wait)
            wait = min(2 * wait, _WAITS[1])

    def _send_all(self) -> None:
        item = self._next()
        if item is None:
            return
        self._process = process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cpr_deploy.push_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=child_environment(),
            start_new_session=True,
        )
        try:
            # Not on the command line: it may hold a password.
            process.stdin.write(json.dumps({"url": self._url}).encode() + b"\n")
            while item is not None:
                image, seconds = item
                process.stdin.write(FRAME_HEADER.pack(*image.shape[:2], seconds))
                process.stdin.write(np.ascontiguousarray(image).data)
                process.stdin.flush()
                item = self._next()
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            if not self._stop.is_set():
                process.kill()
                process.wait()

    def _next(self) -> tuple[np.ndarray, float] | None:
        while True:
            try:
                return self._queue.get(timeout=0.1)
            except queue.Empty:
                if self._stop.is_set():
                    return None
