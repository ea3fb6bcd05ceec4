"""Our handle of a decoder process: start, messages, frames, end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cpr_deploy.frame_slots import SlotReader, create_memory
from cpr_deploy.sources import Frame, SourceSpec
from cpr_deploy.video_io import MAX_PIXELS

# Frames under way: one is written, one waits, one is copied out, one to spare.
SLOTS = 4
MAX_MESSAGE = 1 << 16


class DecoderError(Exception):
    """The decoder process is gone, or what it says makes no sense."""


def child_environment() -> dict[str, str]:
    """The environment of a process of ours, which finds this package wherever it lies."""
    folder = str(Path(__file__).resolve().parents[1])
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


class Decoder:
    """A process that decodes `spec`. One thread receives and closes; any may take frames.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, spec: SourceSpec):
        ours, theirs = socket.socketpair()
        memory = create_memory()
        try:
            # A fresh interpreter: no copy of our memory, threads or GPU context. -P: modules are
            # not looked for in the current folder.
            arguments = [str(theirs.fileno()), str(memory), str(SLOTS)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cpr_deploy.decoder_child", *arguments],
                stdin=None if spec.kind == "stdin" else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory),
                env=child_environment(),
                # Ctrl-C goes to us alone: we end the decoder when all is written.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            os.close(memory)
            raise
        finally:
            theirs.close()
        self._connection = Connection(ours.detach())
        self._reader = SlotReader(memory)
        self._lock = threading.Lock()
        self._closed = False
        self.in_slots = 0
        # Not on the command line, which all users of the machine can see: it may hold a password.
        with contextlib.suppress(OSError):  # the process is gone already; `receive` tells
            self._connection.send_bytes(json.dumps(dataclasses.asdict(spec)).encode())

    @property
    def pid(self) -> int:
        return self._process.pid

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """The next message, or None if there is none in `timeout` seconds.

        Raises:
            DecoderError: the process has ended, or sent nonsense.
        """
        try:
            if not self._connection.poll(timeout):
                return None
            message = json.loads(self._connection.recv_bytes(MAX_MESSAGE))
        except (EOFError, OSError, ValueError) as error:
            raise DecoderError(self._ending(error)) from None
        if message.get("type") == "frame":
            _check(message)
            with self._lock:
                self.in_slots += 1
        return message

    def _ending(self, error: Exception) -> str:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return f"the decoder process sent nonsense ({error})"
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"the decoder process {how}"

    def frame(self, message: dict[str, Any]) -> Frame:
        """Copies a frame out of its slot and gives the slot back."""
        try:
            image = self._reader.read(message["offset"], tuple(message["shape"]))
        except (ValueError, OSError) as error:
            raise DecoderError(str(error)) from None
        finally:
            self.release(message)
        return Frame(
            message["frame"],
            image,
            message["pts"],
            message["captured_at"],
            message["name"],
            message["clock"],
            message["decode_seconds"],
        )

    def release(self, message: dict[str, Any]) -> None:
        """Gives a frame's slot back unread."""
        with self._lock:
            self.in_slots -= 1
            if not self._closed:
                with contextlib.suppress(OSError):  # the process is gone; `receive` tells
                    self._connection.send_bytes(bytes([message["slot"]]))
            elif not self.in_slots:
                self._reader.close()

    def close(self) -> None:
        """Ends the process, whatever it does. Frames in slots can still be copied out, or released;
        the memory goes with the last of them."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._connection.close()
            if not self.in_slots:
                self._reader.close()
        self._process.kill()
        self._process.wait()


def _check(message: dict[str, Any]) -> None:
    """A decoder fed with a hostile stream may say anything."""

    def number(key: str) -> bool:
        value = message.get(key)
        return isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < 1e15

    shape = message.get("shape")
    good = all(map(number, ("captured_at", "clock", "decode_seconds")))
    good &= message.get("pts") is None or number("pts")
    good &= all(
        type(message.get(key)) is int and 0 <= message[key] < 1 << 62
        for key in ("slot", "offset", "frame", "skipped", "damaged")
    )
    good &= isinstance(message.get("name"), str)
    good &= type(message.get("picture")) in (int, type(None))
    good = good and message["slot"] < SLOTS
    good = good and isinstance(shape, list) and len(shape) == 3 and shape[2] == 3
    good = good and all(type(side) is int and side > 0 for side in shape)
    if not good or shape[0] * shape[1] > MAX_PIXELS:
        raise DecoderError("the decoder process sent nonsense about a frame")
