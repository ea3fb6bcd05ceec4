"""What passes over many files have found: one that was stopped goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

logger = logging.getLogger(__name__)

FOLDER = "cpr/files"


class FileNotes:
    """Notes on files, a line each in a JSONL file that grows; of several the last counts.

    A note holds as long as size and time of change of its file stay as they were. A line that was
    cut off is passed over. Threads may share an object, and processes a file. Use `open_notes`.
    """

    def __init__(self, lines: IO[str]):
        self._file = lines
        self._lock = threading.Lock()
        self._notes: dict[tuple[str, str], tuple[list[int], Any]] = {}
        lines.seek(0)
        for line in lines:
            with contextlib.suppress(ValueError):
                path, kind, state, value = json.loads(line)
                self._notes[path, kind] = state, value

    def get(self, file: Path, kind: str) -> Any:
        """What was noted of `file` under `kind`; None if nothing, or if it has changed since."""
        with contextlib.suppress(OSError):
            state, value = self._notes.get((os.path.realpath(file), kind), (None, None))
            if state is not None and state == _state(file):
                return value
        return None

    def put(self, file: Path, kind: str, value: Any) -> None:
        """Notes a JSON value, at once. What cannot be noted is only work to do again."""
        with contextlib.suppress(OSError), self._lock:
            line = json.dumps([os.path.realpath(file), kind, _state(file), value])
            # The newline first: it ends a line that an interrupted run has left.
            self._file.write(f"\n{line}\n")
            self._file.flush()


def _state(file: Path) -> list[int]:
    status = os.stat(file)
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def open_notes(folder: str | os.PathLike, wanted: bool = True) -> Iterator[FileNotes]:
    """The notes on the files of `folder`, in the user's cache ($XDG_CACHE_HOME or ~/.cache).

    Not `wanted`: there are none, and none are kept.
    """
    if not wanted:
        yield FileNotes(io.StringIO())
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / FOLDER
    digest = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:32]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lines = open(cache / f"{digest}.jsonl", "a+", encoding="utf-8", errors="replace")  # noqa: SIM115
    except OSError as error:
        logger.warning("%s cannot be written (%s): a stop will lose all work", cache, error)
        lines = io.StringIO()
    with lines:
        yield FileNotes(lines)
