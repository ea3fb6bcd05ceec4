"""One stream's way from its decoder process to us: mailbox, watchdog, reconnecting.

A thread per stream reads what its decoder process says. Frames wait in a mailbox until the one
thread that runs the network takes them. In mode "every" nothing is lost: the decoder waits when its
slots are full. In mode "latest" the mailbox holds the newest frame only, so that results never lag
behind. Whatever befalls one stream, the others do not notice.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
from collections import deque

from cpr_deploy.decoder import SLOTS, Decoder, DecoderError
from cpr_deploy.files import InputError
from cpr_deploy.sources import Frame, SourceSpec
from cpr_deploy.stream_counts import StreamCounts
from cpr_deploy.stream_health import HealthSettings, StreamEvent, StreamHealth

logger = logging.getLogger(__name__)

MODES = ("every", "latest")
# Seconds between looks at the clock.
_TICK = 0.1


@dataclasses.dataclass(frozen=True)
class FeedSettings:
    """mode: "every", "latest" or None (latest for live sources). attempts: how often in a row a
    lost live source is opened again (None: for ever). Waits before: first_wait seconds, doubled up
    to longest_wait, less up to a half at random, so that many streams of one server do not come
    back at once; from the start again after stable_after seconds of frames."""

    mode: str | None = None
    attempts: int | None = None
    first_wait: float = 1.0
    longest_wait: float = 30.0
    stable_after: float = 10.0
    health: HealthSettings = dataclasses.field(default_factory=HealthSettings)

    def __post_init__(self):
        if self.mode not in (None, *MODES):
            raise InputError(f"mode {self.mode}: one of {', '.join(MODES)} is needed.")
        if self.attempts is not None and self.attempts < 0:
            raise InputError(f"{self.attempts} attempts to reconnect: 0 or more are needed.")


@dataclasses.dataclass
class WaitingFrame:
    """A frame in its decoder's slot. index: of the stream, over all times it was opened; dropped:
    frames lost just before it."""

    index: int
    dropped: int
    frozen: bool
    message: dict
    decoder: Decoder

    def take(self) -> Frame:
        """Copies the frame out. DecoderError if that fails."""
        frame = self.decoder.frame(self.message)
        frame.index = self.index
        return frame


class StreamFeed:
    """Reads one source. `wake` is notified of everything new; several feeds may share it."""

    def __init__(self, spec: SourceSpec, settings: FeedSettings, wake: threading.Condition):
        self.spec = spec
        self.name = spec.name
        self.live = spec.kind in ("address", "camera") or spec.paced
        self.length: int | None = None
        # What a caller must mend before anything is written; set before `opened`.
        self.refused: str | None = None
        self.opened = threading.Event()
        self.counts = StreamCounts()
        self.state = "connecting"
        self._settings = settings
        self._health = StreamHealth(settings.health, time.monotonic())
        self._wake = wake
        self._items: deque[StreamEvent | WaitingFrame] = deque()
        self._taken = 0
        self._next_index = 0
        self._picture: int | None = None
        self._ended = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"feed of {self.name}", daemon=True)

    # --- for the thread that runs the network -----------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def take(self) -> list[StreamEvent | WaitingFrame]:
        """What waits, in order, up to and with the next frame. Call `done` for each frame."""
        with self._wake:
            items = []
            while self._items:
                item = self._items.popleft()
                if isinstance(item, WaitingFrame) and self._stop.is_set():
                    self._drop(item)
                    continue
                items.append(item)
                if isinstance(item, WaitingFrame):
                    self._taken += 1
                    break
            return items

    @property
    def waiting(self) -> bool:
        return bool(self._items)

    @property
    def finished(self) -> bool:
        """Whether the source has ended and everything of it was taken."""
        return self._ended and not self._items

    def done(self, *, lost: bool = False) -> None:
        """A taken frame has been processed, or could not be (`lost`)."""
        with self._wake:
            self._taken -= 1
            self.counts.processed += not lost
            self.counts.dropped += lost

    def give_back(self, frame: WaitingFrame) -> None:
        """A taken frame goes back to the front: nobody wants it for now."""
        with self._wake:
            self._taken -= 1
            self._items.appendleft(frame)

    def remaining_events(self) -> list[StreamEvent]:
        """What was told since the last `take`: in mode "latest" all of it, with the drops before a
        frame that nobody will take; in mode "every" up to the next frame."""
        events = []
        with self._wake:
            for item in self._items:
                if isinstance(item, StreamEvent):
                    events.append(item)
                elif not self._latest:
                    break
                elif item.dropped:
                    events.append(StreamEvent("drop", item.index, {"count": item.dropped}))
        return events

    def in_flight(self) -> int:
        with self._wake:
            return self._taken + sum(isinstance(item, WaitingFrame) for item in self._items)

    def check(self) -> None:
        """RuntimeError unless decoded = processed + dropped + skipped + in flight."""
        with self._wake:
            self.counts.check(self.in_flight(), self.name)

    def blind_seconds(self) -> float:
        return self._health.blind(time.monotonic())

    def fail(self, message: str) -> None:
        """Ends the stream with an error; frames that wait are dropped."""
        self.stop()
        self._fail(message)

    def stop(self) -> None:
        """Ends the stream; `join` waits for it."""
        self._stop.set()

    def join(self) -> None:
        self.stop()
        if self._thread.is_alive():
            self._thread.join()

    def discard(self) -> None:
        """Lets go of the memory of frames that nobody will take. They stay in flight."""
        with self._wake:
            for item in self._items:
                if isinstance(item, WaitingFrame):
                    item.decoder.release(item.message)

    # --- the feed's own thread --------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._keep_alive()
        except Exception as error:  # a defect here must reach the caller
            logger.exception("%s: the feed failed", self.name)
            self._fail(f"{self.name}: {error!r}")
        finally:
            with self._wake:
                self._ended = True
                if self.state != "failed":
                    self.state = "ended"
                self.opened.set()
                self._wake.notify_all()

    def _keep_alive(self) -> None:
        failures, level = 0, 0
        while not self._stop.is_set():
            begin, index = time.monotonic(), self._next_index
            reason = self._play(reconnecting=failures)
            if self._stop.is_set() or reason is None:
                return
            if not self._restartable:
                self._fail(reason)
                return
            got_frames = self._next_index > index
            failures = 1 if got_frames else failures + 1
            stable = got_frames and time.monotonic() - begin >= self._settings.stable_after
            level = 0 if stable else level
            if self._settings.attempts is not None and failures > self._settings.attempts:
                self._fail(reason)
                return
            wait = min(self._settings.longest_wait, self._settings.first_wait * 2**level)
            wait *= random.uniform(0.5, 1.0)
            level = min(level + 1, 30)
            self.state = "lost"
            logger.warning("%s Next try in %.1f s.", reason, wait)
            fields = {"message": reason, "retry_in": round(wait, 3)}
            self._event(StreamEvent("lost", self._next_index, fields))
            self._wait(wait)

    @property
    def _restartable(self) -> bool:
        return self.live and self.spec.kind in ("address", "camera")

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stop.is_set() and time.monotonic() < end:
            self._stop.wait(min(_TICK, seconds))
            self._tick()

    def _tick(self) -> None:
        if self.spec.kind != "file" or self.spec.paced:
            for event in self._health.on_tick(self._next_index, time.monotonic()):
                if self.state in ("online", "frozen"):
                    self.state = "stale"
                self._event(event)

    def _play(self, *, reconnecting: int) -> str | None:
        """Reads until the source ends. Why it did, if that was not as it should be."""
        reconnecting = reconnecting if self._next_index else 0
        try:
            decoder = Decoder(self.spec)
        except OSError as error:  # no memory, or too many processes or files, for now
            return f"{self.name}: the decoder process cannot be started ({error})."
        session = _Session(decoder, self._next_index, reconnecting, self.counts.skipped)
        self._health.reopened()
        try:
            return self._read(session)
        except DecoderError as error:
            return f"{self.name}: {error}."
        finally:
            session.decoder.close()

    def _read(self, session: _Session) -> str | None:
        decoder = session.decoder
        active = time.monotonic()
        while not self._stop.is_set():
            message = decoder.receive(_TICK)
            now = time.monotonic()
            if message is not None or decoder.in_slots >= SLOTS:
                active = now  # the source works, or waits for us
            if message is None:
                if decoder.in_slots < SLOTS:
                    self._tick()
                else:
                    session.held_up = 2
                if now - active > self._settings.health.restart_after and self._guarded:
                    return f"{self.name}: no frame for {now - active:.0f} s."
                continue
            kind = message.get("type")
            if kind == "frame":
                self._on_frame(message, session)
                if self._restartable and self._health.overflow:
                    limit = self._settings.health.max_fps
                    return f"{self.name}: gives more than {limit:g} frames a second (--max-fps)."
            elif kind == "open":
                self._on_open(message)
            elif kind == "refused":
                if not self._restartable:
                    self.refused = str(message["message"])
                return str(message["message"])
            elif kind == "error":
                if self._restartable:
                    return str(message["message"])
                index = message.get("frame", -1)
                self._error(str(message["message"]), index if index >= 0 else self._next_index)
            elif kind == "end":
                self._count_skipped(session, message)
                return None
        return None

    @property
    def _guarded(self) -> bool:
        # Whoever feeds our standard input may pause for as long as he likes.
        return self.spec.kind != "stdin"

    def _on_open(self, message: dict) -> None:
        self.live = bool(message["live"]) or self.spec.paced
        length = message["length"]
        self.length = length if type(length) is int and length > 0 else None
        self.opened.set()

    def _count_skipped(self, session: _Session, message: dict) -> None:
        with self._wake:
            skipped = session.skipped_before + message["skipped"]
            self.counts.decoded += skipped - self.counts.skipped
            self.counts.skipped = skipped

    def _on_frame(self, message: dict, session: _Session) -> None:
        index = session.first_index + message["frame"]
        shape = message["shape"]
        now = message["clock"]
        if session.reconnecting:
            fields = {
                "attempts": session.reconnecting,
                "seconds": round(self._health.silence(now), 3),
            }
            self._event(StreamEvent("reconnected", index, fields))
            session.reconnecting = 0
        # Kept over reopening: a server may replay one picture whenever it is asked.
        picture, before = message["picture"], self._picture
        self._picture = picture
        held_up = session.held_up > 0
        session.held_up -= held_up
        if self.live or self.spec.kind == "stdin":
            for event in self._health.on_frame(
                index,
                now,
                same=picture is not None and picture == before,
                size=(shape[1], shape[0]),
                damaged=message["damaged"],
                held_up=held_up,
            ):
                self._event(event)
        self._count_skipped(session, message)
        self._next_index = index + 1
        frame = WaitingFrame(index, 0, self._health.frozen, message, session.decoder)
        with self._wake:
            self.counts.decoded += 1
            self.state = "frozen" if self._health.frozen else "online"
            if self._latest:
                self._replace_older(frame)
            self._items.append(frame)
            self._wake.notify_all()

    @property
    def _latest(self) -> bool:
        mode = self._settings.mode
        return self.live if mode is None else mode == "latest"

    def _replace_older(self, frame: WaitingFrame) -> None:
        for item in list(self._items):
            if isinstance(item, WaitingFrame):
                self._items.remove(item)
                self._drop(item)
                frame.dropped += item.dropped + 1

    def _drop(self, frame: WaitingFrame) -> None:
        frame.decoder.release(frame.message)
        self.counts.dropped += 1

    def _event(self, event: StreamEvent) -> None:
        counted = {"gap": "gaps", "reconnected": "reconnects", "error": "errors"}
        name = counted.get(event.type, event.type)
        with self._wake:
            if hasattr(self.counts, name):
                step = event.fields["count"] if event.type == "damaged" else 1
                setattr(self.counts, name, getattr(self.counts, name) + step)
            self._items.append(event)
            self._wake.notify_all()

    def _error(self, message: str, index: int) -> None:
        self._event(StreamEvent("error", index, {"message": message}))

    def _fail(self, message: str) -> None:
        self.state = "failed"
        self._error(message, self._next_index)


@dataclasses.dataclass
class _Session:
    """One time that the source is open. reconnecting: failed attempts before, until the first
    frame; skipped_before: frames skipped in earlier ones; held_up: so many frames come late as all
    slots were full (the one that waited for a slot, and the next), not because of the source."""

    decoder: Decoder
    first_index: int
    reconnecting: int
    skipped_before: int
    held_up: int = 0
