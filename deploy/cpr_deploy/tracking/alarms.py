"""Alarms on their way: a queue and a thread, tries again and again, and a file for what failed.

`send` does not wait for the receiver. An alarm is delivered at least once, or it is in the
file of dead letters; from there it is delivered when the receiver is back, in this run or a later
one with the same file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from cpr_deploy.files import InputError, atomic_path, check_outputs

logger = logging.getLogger(__name__)

# A file of dead letters with longer lines, or none of an alarm, is another file.
_MAX_LINE = 1 << 16
_TICK = 0.2


class DeliveryError(Exception):
    """An alarm could not be delivered. `final`: trying again is of no use; the receiver said so."""

    def __init__(self, message: str, *, final: bool = False):
        super().__init__(message)
        self.final = final


class AlarmSink(Protocol):
    """Delivers alarms. name: for logs, without secrets."""

    name: str

    def deliver(self, alarm: Mapping[str, Any]) -> None:
        """Returns when the receiver has it; DeliveryError if not."""


@dataclasses.dataclass(frozen=True)
class AlarmSettings:
    """attempts: for one alarm, before it becomes a dead letter. first_wait, longest_wait: seconds
    between them, doubling; while a receiver is away it is asked each longest_wait. queue: alarms
    that wait at most. drain: seconds for what waits, and for dead letters, when the run ends."""

    attempts: int = 5
    first_wait: float = 1.0
    longest_wait: float = 30.0
    queue: int = 1000
    drain: float = 2.0

    def __post_init__(self):
        if self.attempts < 1 or self.queue < 1:
            raise InputError("alarms: attempts and queue must be at least 1.")
        if not 0 < self.first_wait <= self.longest_wait or not 0 <= self.drain < 1e6:
            raise InputError("alarms: 0 < first_wait <= longest_wait and a drain are needed.")


class DeadLetters:
    """A file of alarms, one JSON object a line: the alarm, `failed_at` and `reason` beside it, and
    `final` where trying again is of no use. Each line is on the disk before `add` returns."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        check_outputs([self.path])
        self._lock = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._read()  # whether it is such a file

    def add(self, alarm: Mapping[str, Any], reason: str, *, final: bool = False) -> None:
        letter = {"failed_at": round(time.time(), 3), "reason": reason, "alarm": dict(alarm)}
        if final:
            letter["final"] = True
        with self._lock, open(self.path, "a+b") as file:
            # A line that a crash cut off must not swallow this one.
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(letter, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def __len__(self) -> int:
        with self._lock:
            return len(self._read())

    def replay(
        self, deliver: Callable[[Mapping[str, Any]], None], *, refused: bool = False
    ) -> tuple[int, str | None]:
        """Delivers letters in their order until one fails; (how many went, why the rest did not).

        Those that went leave the file. Letters that the receiver refused for good stay, unless
        `refused`. A crash on the way delivers letters again rather than never.
        """
        with self._lock:
            letters = self._read()
        gone, reason = set(), None
        for index, letter in enumerate(letters):
            if letter.get("final") and not refused:
                continue
            try:
                deliver(letter["alarm"])
                gone.add(index)
            except DeliveryError as error:
                if error.final:
                    letter["final"], letter["reason"] = True, str(error)
                    continue
                reason = str(error)
                break
        with self._lock:
            new = self._read()[len(letters) :]  # while we were sending
            rest = [letter for index, letter in enumerate(letters) if index not in gone] + new
            self._rewrite(rest)
        return len(gone), reason

    def waiting(self) -> bool:
        """Whether there is a letter that may be tried again."""
        with self._lock:
            return any(not letter.get("final") for letter in self._read())

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        letters = []
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    letter = json.loads(line) if len(line) < _MAX_LINE else None
                except ValueError:
                    letter = None
                if isinstance(letter, dict) and isinstance(letter.get("alarm"), dict):
                    letters.append(letter)
                elif line.strip() and not _is_cut(line):
                    raise InputError(
                        f"{self.path}: line {number} is no alarm that failed. Give a file of dead"
                        " letters, or the name of a new one."
                    )
        return letters

    def _rewrite(self, letters: list[dict[str, Any]]) -> None:
        if not letters:
            self.path.unlink(missing_ok=True)
            return
        with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
            file.writelines(json.dumps(letter).encode() + b"\n" for letter in letters)


def _is_cut(line: bytes) -> bool:
    """A line that a crash cut off: all that there is of it is kept out of the way, not believed."""
    return line.startswith(b'{"failed_at": ') and not line.rstrip().endswith(b"}")


class AlarmSender:
    """Sends alarms to one sink in a thread of its own."""

    def __init__(
        self, sink: AlarmSink, dead_letters: DeadLetters, settings: AlarmSettings | None = None
    ):
        self._sink = sink
        self._dead = dead_letters
        self._settings = settings or AlarmSettings()
        self._queue: queue.Queue[dict[str, Any]] = queue.Queue(self._settings.queue)
        self._stop = threading.Event()
        self._deadline = 0.0
        # Of alarms: handed on, and made dead letters.
        self.delivered = 0
        self.failed = 0
        # The receiver did not answer; before this moment of the monotonic clock it is not asked
        # again.
        self._away = False
        self._ask_at = 0.0
        # The alarm that the thread has taken from the queue and not yet done with.
        self._current: dict[str, Any] | None = None
        self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)
        self._thread.start()

    def send(self, alarm: Mapping[str, Any]) -> None:
        """Takes an alarm at once. A full queue makes it a dead letter.

        Raises:
            OSError: the queue is full, and so is the disk.
        """
        try:
            self._queue.put_nowait(dict(alarm))
        except queue.Full:
            self._bury(alarm, "too many alarms wait to be sent")

    def close(self) -> None:
        """Sends what waits for `drain` seconds; the rest becomes dead letters, also what a receiver
        that hangs may have got."""
        self._deadline = time.monotonic() + self._settings.drain
        self._stop.set()
        self._thread.join(self._settings.drain + 2 * _TICK)
        if not self._thread.is_alive():
            return
        reason = "the run ended before it was acknowledged"
        if self._current is not None:
            self._bury(self._current, reason)
        with contextlib.suppress(queue.Empty):
            while True:
                self._bury(self._queue.get_nowait(), reason)

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        alarm, last = None, False  # those of an earlier run go first
        while True:
            try:
                self._current = alarm
                if alarm is not None:
                    self._pass_on(alarm)
                    self._current = None
                elif last or time.monotonic() >= self._ask_at:
                    self._send_dead_letters()
            except Exception:  # a full disk, above all
                logger.exception("alarms: %s could not be written", self._dead.path)
                if alarm is not None:
                    self._keep(alarm)
            if last:
                return
            try:
                alarm = self._queue.get(timeout=_TICK)
            except queue.Empty:
                # A short run may end before the receiver is asked again: a last try.
                alarm, last = None, self._stop.is_set()

    def _pass_on(self, alarm: dict[str, Any]) -> None:
        settings = self._settings
        if self._away and time.monotonic() < self._ask_at:
            self._bury(alarm, f"{self._sink.name} is away")
            return
        if self._stop.is_set() and time.monotonic() > self._deadline:
            self._bury(alarm, "the run ended before it was sent")
            return
        wait, final = settings.first_wait, False
        attempts = 1 if self._away or self._stop.is_set() else settings.attempts
        for left in range(attempts - 1, -1, -1):
            try:
                self._deliver(alarm)
                return
            except DeliveryError as error:
                reason, final = str(error), error.final
            if final or not left or self._stop.wait(wait):
                break
            wait = min(2 * wait, settings.longest_wait)
        if not final:
            self._is_away(reason)
        self._bury(alarm, reason, final=final)

    def _send_dead_letters(self) -> None:
        """When nothing else waits."""
        self._ask_at = time.monotonic() + self._settings.longest_wait
        if self._dead.waiting():
            count, reason = self._dead.replay(self._deliver_letter)
            if reason is not None:
                self._is_away(reason)
            elif count:
                logger.warning("alarms: %d sent that had failed before.", count)

    def _deliver_letter(self, alarm: Mapping[str, Any]) -> None:
        if self._stop.is_set() and time.monotonic() > self._deadline:
            raise DeliveryError("the run ended before all were sent")
        self._deliver(alarm)

    def _deliver(self, alarm: Mapping[str, Any]) -> None:
        self._sink.deliver(alarm)
        self.delivered += 1
        if self._away:  # what failed meanwhile can go as well
            self._away, self._ask_at = False, 0.0

    def _is_away(self, reason: str) -> None:
        if not self._away:
            logger.warning("alarms: %s; they go to %s.", reason, self._dead.path)
        self._away, self._ask_at = True, time.monotonic() + self._settings.longest_wait

    def _bury(self, alarm: Mapping[str, Any], reason: str, *, final: bool = False) -> None:
        self._dead.add(alarm, reason, final=final)
        self.failed += 1

    def _keep(self, alarm: dict[str, Any]) -> None:
        """An alarm that neither receiver nor disk took waits on, or is told to the log."""
        if not self._stop.wait(_TICK):
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(alarm)
                return
        logger.error("alarms: lost: %s", json.dumps(alarm))
