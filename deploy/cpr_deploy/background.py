"""A thread that does jobs in order, so that the one that runs the network need not wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

# Seconds between looks at whether the thread is still there.
_TICK = 0.2


class Background:
    """Does jobs one after the other in a thread of its own.

    Args:
        room: how many may wait.
        drop: when as many wait, leave further ones out instead of waiting.

    The first error of a job ends the thread and reaches the caller with the next `put`, `check` or
    `close`.
    """

    def __init__(self, name: str, *, room: int = 2, drop: bool = False):
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(room)
        self._drop = drop
        self._error: BaseException | None = None
        self._closed = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Callable[[], None]) -> None:
        """Has `job` done later."""
        self.check()
        if self._drop and self._jobs.full():
            self.dropped += 1
            return
        self._enqueue(job)

    def check(self) -> None:
        """Raises the error that has ended the thread, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Waits for all jobs."""
        if not self._closed:
            self._closed = True
            self._enqueue(None)
            self._thread.join()
            self.check()

    def _enqueue(self, job: Callable[[], None] | None) -> None:
        while self._thread.is_alive():
            try:
                self._jobs.put(job, timeout=_TICK)
                return
            except queue.Full:
                continue
        self.check()

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
        except BaseException as error:
            self._error = error
