"""Servers on this machine that treat a stream as badly as the world does."""

from __future__ import annotations

import contextlib
import functools
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import stream_parts
from cpr_deploy.feed import FeedSettings
from cpr_deploy.feed_group import FeedGroup
from cpr_deploy.sources import SourceSpec
from cpr_deploy.stream import StreamOutputs, run_streams
from cpr_deploy.stream_health import HealthSettings

SYSTEM_PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).parent / "rtsp_server.py"


@functools.cache
def missing_parts() -> str:
    """Why there can be no RTSP server, or ""."""
    code = (
        "import gi; gi.require_version('GstRtspServer', '1.0');"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
        "assert Gst.ElementFactory.find('x264enc') and Gst.ElementFactory.find('rtph264pay')"
    )
    try:
        done = subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, timeout=60)
    except OSError:
        return f"no {SYSTEM_PYTHON}"
    missing = "no RTSP server of GStreamer: `make test-server` installs it"
    return "" if done.returncode == 0 else missing


class RtspServer:
    """GStreamer's, at `port`, which stays the same over restarts."""

    def __init__(self, **options):
        self.port = stream_parts.free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/live"
        self._process = None
        self.start(**options)

    def start(self, **options) -> None:
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, str(SCRIPT), str(self.port), *words], stdout=subprocess.PIPE
        )
        assert self._process.stdout.readline() == b"ready\n"

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def restart(self, **options) -> None:
        self.stop()
        self.start(**options)


class Relay:
    """Hands TCP on to `port`, until `silent` is set: then it keeps connections and says nothing, as
    a network does that has lost its other half."""

    def __init__(self, port: int):
        self._target = port
        self.silent = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._connections = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._connections += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._hand_on, args=ends, daemon=True).start()

    def _hand_on(self, source, target) -> None:
        mute = False
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                # A connection that was there when the silence began stays silent for ever.
                mute = mute or self.silent.is_set()
                if not mute:
                    target.sendall(data)
            target.close()

    def close(self) -> None:
        for connection in [self._server, *self._connections]:
            connection.close()


class ByteServer:
    """Sends the pieces of `play()` to whoever connects, each after its pause; then closes."""

    def __init__(self, play):
        self._play = play
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self.connections += 1
                with connection, contextlib.suppress(OSError):
                    for pause, data in self._play():
                        time.sleep(pause)
                        connection.sendall(data)

    def close(self) -> None:
        self._server.close()


def quick(**health) -> FeedSettings:
    """Settings with which a test need not wait for half a minute."""
    health = {"stale_after": 0.5, "restart_after": 2.0, **health}
    return FeedSettings(
        first_wait=0.1, longest_wait=0.5, stable_after=1.0, health=HealthSettings(**health)
    )


class Watch:
    """A run over addresses in a thread of its own; `records` grows."""

    def __init__(self, *addresses, settings=None, using=None, frames=None, **options):
        self.records = stream_parts.Records()
        self._group = FeedGroup([SourceSpec(address) for address in addresses], settings or quick())
        self._using = using or stream_parts.localizer()
        self._outputs = StreamOutputs([self.records], frames or [])
        self._options = options
        self.summary = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._group:
            self.summary = run_streams(self._using, self._group, self._outputs, **self._options)

    def wait(self, kind, count=1, seconds=25.0):
        """Until there are so many records of a kind; all of that kind."""
        stream_parts.wait_until(
            lambda: len(self.records.of(kind)) >= count, seconds, f"{count} {kind} records"
        )
        return self.records.of(kind)

    def more_frames(self, count=10, seconds=25.0) -> None:
        self.wait("frame", len(self.records.of("frame")) + count, seconds)

    def stop(self):
        """Ends it; the summary, whose counts add up."""
        self._group.stop()
        self._thread.join(10)
        assert not self._thread.is_alive() and self.summary is not None
        for status in self.summary.streams:
            counts = status.feed.counts
            known = counts.processed + counts.dropped + counts.skipped + status.feed.in_flight()
            assert counts.decoded == known
        return self.summary
