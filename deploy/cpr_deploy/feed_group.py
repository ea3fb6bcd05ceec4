"""The feeds of all sources of one run: started together, served in turn, ended together."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from cpr_deploy.feed import FeedSettings, StreamFeed, WaitingFrame
from cpr_deploy.files import InputError
from cpr_deploy.sources import SourceSpec
from cpr_deploy.stream_health import StreamEvent

# Seconds that a file, or anything else that is not live, may take to open.
OPEN_TIMEOUT = 60.0


class FeedGroup:
    """Starts a `StreamFeed` per source; use as a context manager.

    Entering waits until the files among the sources are open: InputError if one cannot be. Live
    sources may come later. Leaving ends all decoder processes.
    """

    def __init__(self, specs: Sequence[SourceSpec], settings: FeedSettings | None = None):
        if sum(spec.kind == "stdin" for spec in specs) > 1:
            raise InputError("standard input can be only one of the sources.")
        self._wake = threading.Condition(threading.RLock())
        settings = settings or FeedSettings()
        self.feeds = [StreamFeed(spec, settings, self._wake) for spec in specs]
        self.stopping = threading.Event()

    def __enter__(self) -> FeedGroup:
        for feed in self.feeds:
            feed.start()
        try:
            self._wait_until_open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_until_open(self) -> None:
        end = time.monotonic() + OPEN_TIMEOUT
        for feed in self.feeds:
            if feed.live and feed.spec.kind != "file":
                continue
            while not feed.opened.wait(0.1) and not self.stopping.is_set():
                if time.monotonic() > end:
                    raise InputError(f"{feed.name}: could not be opened in {OPEN_TIMEOUT:.0f} s.")
            if feed.refused is not None:
                raise InputError(feed.refused)

    def __exit__(self, *_: object) -> None:
        for feed in self.feeds:
            feed.stop()
        for feed in self.feeds:
            feed.join()
            feed.discard()

    def stop(self) -> None:
        """Asks for the end; safe in a signal handler."""
        self.stopping.set()

    @property
    def finished(self) -> bool:
        return all(feed.finished for feed in self.feeds)

    def take(self, timeout: float) -> list[tuple[StreamFeed, StreamEvent | WaitingFrame]]:
        """Waits until there is something, `timeout` seconds at most. Events and at most one frame
        of each feed, so that no stream starves another."""
        with self._wake:
            if not any(feed.waiting for feed in self.feeds):
                self._wake.wait(timeout)
            return [(feed, item) for feed in self.feeds for item in feed.take()]

    def check(self) -> None:
        """RuntimeError unless decoded = processed + dropped + skipped + in flight, everywhere."""
        for feed in self.feeds:
            feed.check()
