"""The decoder process: reads one source and hands its frames over in shared memory.

`decoder.Decoder` starts it as `python -m cpr_deploy.decoder_child SOCKET MEMORY SLOTS` (file
descriptors). It ends when the other end of the socket closes, even while a read hangs, so that none
is ever left behind. Messages are JSON objects; replies are numbers of slots that are free again.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
import zlib
from multiprocessing.connection import Connection

from cpr_deploy.addresses import redact
from cpr_deploy.files import InputError, explain
from cpr_deploy.frame_slots import SlotWriter

# A damaged or hostile stream must not take the machine's memory, nor fill its disk with cores.
MAX_ADDRESS_SPACE = 16 << 30
MAX_OPEN_FILES = 256
# Every so-many-th row decides whether two frames are the same. Codecs change whole blocks.
FINGERPRINT_ROWS = 8


def limit_resources() -> None:
    for what, most in (
        (resource.RLIMIT_AS, MAX_ADDRESS_SPACE),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        allowed = resource.getrlimit(what)[1]
        value = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(what, (value, value))


def main(argv: list[str]) -> None:
    socket, memory, slot_count = map(int, argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # our end is decided at the socket
    connection = Connection(socket)
    values = json.loads(connection.recv_bytes())
    slots = SlotWriter(memory, slot_count)
    threading.Thread(target=_take_back, args=(connection, slots), daemon=True).start()
    limit_resources()
    try:
        _Sender(connection, slots, values).run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # nobody listens any more
    finally:
        # No waiting for threads of FFmpeg, or for a camera's driver.
        sys.stderr.flush()
        os._exit(0)


def _take_back(connection: Connection, slots: SlotWriter) -> None:
    try:
        while True:
            slots.free(connection.recv_bytes()[0])
    except (EOFError, OSError):
        os._exit(0)


class _Sender:
    def __init__(self, connection: Connection, slots: SlotWriter, values: dict):
        self._connection = connection
        self._slots = slots
        self._values = values
        self._start: float | None = None

    def _send(self, kind: str, **values: object) -> None:
        if "message" in values:
            values["message"] = redact(str(values["message"]), self._values["address"])
        self._connection.send_bytes(json.dumps({"type": kind, **values}).encode())

    def run(self) -> None:
        from cpr_deploy.sources import open_source, spec_from_json

        try:
            spec = spec_from_json(self._values)
            source = open_source(spec)
        except (InputError, OSError) as error:
            self._send("refused", message=explain(error) or f"{spec.name}: {error}")
            return
        self._send("open", live=source.live, length=source.length)
        try:
            self._play(source, spec)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # a defect, or memory at its limit, must be told
            self._send("error", frame=-1, message=f"{spec.name}: {error!r}")
        self._send("end", skipped=source.skipped, damaged=source.damaged)

    def _play(self, source, spec) -> None:
        from cpr_deploy.sources import SourceError

        for item in source:
            if isinstance(item, SourceError):
                self._send("error", frame=item.index, message=item.message)
                continue
            if spec.paced:
                self._wait_for(item)
            picture = _fingerprint(item.image) if source.live or spec.paced else None
            slot, offset = self._slots.place(item.image)
            self._send(
                "frame",
                slot=slot,
                offset=offset,
                shape=item.image.shape,
                frame=item.index,
                pts=item.pts,
                captured_at=item.captured_at,
                clock=item.clock,
                name=item.name,
                decode_seconds=item.decode_seconds,
                picture=picture,
                skipped=source.skipped,
                damaged=source.damaged,
            )

    def _wait_for(self, frame) -> None:
        now = time.monotonic()
        if frame.pts is not None:
            self._start = now - frame.pts if self._start is None else self._start
            time.sleep(min(10.0, max(0.0, self._start + frame.pts - now)))
        frame.captured_at, frame.clock = time.time(), time.monotonic()


def _fingerprint(image) -> int:
    """A number that the very same picture has too, bit by bit."""
    # The size belongs to it: two black frames of different sizes are not the same.
    size = zlib.crc32(repr(image.shape).encode())
    return zlib.crc32(image[::FINGERPRINT_ROWS].tobytes(), size)


if __name__ == "__main__":
    main(sys.argv[1:])
