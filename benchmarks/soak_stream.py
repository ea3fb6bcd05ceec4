#!/usr/bin/env python
"""Streams for hours: deploy/video.py on RTSP servers that are killed, stopped and restarted.

`make test-server` installs the servers. Every --fault-every seconds one of them, at random, is
killed and started again, stopped for some seconds, or comes back with another size. Measured each
second: memory, open files and threads of the program, with its decoder processes. Passed if

- the program is there to the end, ends within 5 s of SIGTERM with code 143, and leaves no process;
- every decoded frame is accounted for, in each stream;
- each fault was told (`lost`, `gap` or `resolution`), and each stream gives frames at the end;
- memory grew by less than 20 MB and 1 MB an hour after the first tenth, open files and threads not;
- the 99th percentile of the results' age in the last tenth is at most 10 % and 50 ms above that of
  the first, and no record holds the servers' password.

200 restarts: --minutes 20 --fault-every 6 --faults kill. Exit code 1 if it did not pass.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from cpr_deploy.files import InputError, run_main, write_json

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

FAULTS = ("kill", "stop", "size")
SIZES = ((128, 96), (320, 240), (192, 144))
MAX_GROWTH = 20e6
MAX_GROWTH_PER_HOUR = 1e6
# Ages are compared where the machine is busy too.
AGE_SLACK = (1.1, 50.0)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="up to 1440 (%(default)s)")
    parser.add_argument("--streams", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--fault-every", type=float, default=20.0, help="seconds (%(default)s)")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", metavar="FILE.json", help="also write the figures here")
    return parser.parse_args()


class Soak:
    """One run of the program over servers that fail."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        import spot_model
        import stream_parts
        from stream_servers import RtspServer

        self._args = args
        self._rng = random.Random(args.seed)
        self._servers = [RtspServer() for _ in range(args.streams)]
        self._stopped: dict[int, float] = {}
        self.points, self.summary = folder / "points.jsonl", folder / "summary.json"
        self._log = open(folder / "log.txt", "wb")  # noqa: SIM115 - closed by `end`
        model = folder / "model.onnx"
        model.write_bytes(spot_model.model_bytes())
        words = ["--model", model, "--points", self.points, "--summary", self.summary]
        words += ["--output", folder / "{n}.mp4", "--threads", 1, "--reconnect-wait", 0.5]
        words += ["--restart-after", 4, "--stale-after", 1]
        for server in self._servers:
            words += ["--source", server.url.replace("//", "//me:SECRET@")]
        self.process = stream_parts.start_video(*words, log=self._log)
        self.samples: list[dict] = []
        self.faults: list[str] = []

    def run(self) -> None:
        begin = time.monotonic()
        end = begin + 60 * self._args.minutes
        # The last faults have time to heal.
        quiet = end - max(15.0, 2 * self._args.fault_every)
        next_fault = begin + self._args.fault_every
        while (now := time.monotonic()) < end and self.process.poll() is None:
            for number in [n for n, until in self._stopped.items() if until <= now]:
                self._servers[number].send(signal.SIGCONT)
                del self._stopped[number]
            if next_fault <= now < quiet:
                next_fault += self._args.fault_every
                self._fault(now)
            self.samples.append({"seconds": now - begin, **self._sample()})
            time.sleep(1.0)

    def _fault(self, now: float) -> None:
        number = self._rng.randrange(len(self._servers))
        if number in self._stopped:
            return
        kind = self._rng.choice(self._args.faults)
        self.faults.append(kind)
        server = self._servers[number]
        if kind == "stop":
            server.send(signal.SIGSTOP)
            self._stopped[number] = now + self._rng.uniform(2, 8)
            return
        width, height = self._rng.choice(SIZES) if kind == "size" else SIZES[0]
        server.restart(width=width, height=height)

    def _sample(self) -> dict:
        import stream_parts
        from cpr_deploy.metrics_text import resident_bytes

        pid = self.process.pid
        try:
            threads = len(os.listdir(f"/proc/{pid}/task"))
            files = stream_parts.open_files(pid)
        except OSError:
            threads = files = 0
        decoders = len(stream_parts.decoders_of(pid))
        sample = {"bytes": resident_bytes(pid), "threads": threads}
        return {**sample, "files": files, "decoders": decoders}

    def end(self) -> tuple[float, list[int]]:
        """Seconds that the end took, and the processes that are left."""
        import stream_parts

        children = stream_parts.decoders_of(self.process.pid)
        begin = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            seconds = time.monotonic() - begin
            for number in self._stopped:
                self._servers[number].send(signal.SIGCONT)
            for server in self._servers:
                server.stop()
            self._log.close()
        return seconds, [pid for pid in children if os.path.exists(f"/proc/{pid}")]


def slope(samples: list[dict], key: str) -> float:
    """Of a straight line through the samples after the first tenth, per hour."""
    import numpy as np

    settled = samples[len(samples) // 10 :]
    if len(settled) < 3:
        return 0.0
    return 3600 * float(
        np.polyfit([s["seconds"] for s in settled], [s[key] for s in settled], 1)[0]
    )


def percentile_99(ages: list[float]) -> float:
    import numpy as np

    return float(np.percentile(ages, 99)) if ages else float("nan")


def judge(soak: Soak, seconds: float, left: list[int], args: argparse.Namespace) -> dict:
    """All figures, with `failed`, the criteria that were not met."""
    import stream_parts

    records = stream_parts.read_records(soak.points)
    text = soak.points.read_text()
    streams = json.loads(soak.summary.read_text())["streams"] if soak.summary.exists() else []
    settled = soak.samples[len(soak.samples) // 10 :]
    growth = max(s["bytes"] for s in settled) - settled[0]["bytes"]
    hours = soak.samples[-1]["seconds"] / 3600
    frames = records.of("frame")
    ages = [record["age_ms"] for record in frames]
    tenth = max(1, len(ages) // 10)
    first, last = percentile_99(ages[:tenth]), percentile_99(ages[-tenth:])
    told = sum(len(records.of(kind)) for kind in ("lost", "gap", "resolution"))
    late = {r.get("stream", 1) for r in frames if r["captured_at"] > frames[-1]["captured_at"] - 5}
    checks = {
        "ended with code 143": soak.process.returncode == 143,
        "ended within 5 s": seconds <= 5,
        "no process left": not left,
        "every frame accounted for": len(streams) == args.streams
        and all(
            s["decoded"] == s["processed"] + s["dropped"] + s["skipped"] + s["in_flight"]
            for s in streams
        ),
        "faults were told": told >= len(soak.faults),
        "all streams alive at the end": len(late) == args.streams,
        "memory": growth < MAX_GROWTH,
        # A straight line through less than half an hour of noise says nothing.
        "memory per hour": hours < 0.5 or slope(soak.samples, "bytes") < MAX_GROWTH_PER_HOUR,
        "open files": settled[-1]["files"] <= max(s["files"] for s in settled[: len(settled) // 2]),
        "threads": settled[-1]["threads"]
        <= max(s["threads"] for s in settled[: len(settled) // 2]),
        "age": last <= AGE_SLACK[0] * first + AGE_SLACK[1],
        "no password": "SECRET" not in text,
    }
    return {
        "minutes": 60 * hours,
        "faults": {kind: soak.faults.count(kind) for kind in args.faults},
        "frames": len(frames),
        "records": {kind: len(records.of(kind)) for kind in sorted({r["type"] for r in records})},
        "growth_bytes": growth,
        "growth_bytes_per_hour": slope(soak.samples, "bytes"),
        "bytes": settled[-1]["bytes"],
        "files": settled[-1]["files"],
        "threads": settled[-1]["threads"],
        "age_p99_ms": {"first_tenth": first, "last_tenth": last},
        "seconds_to_end": seconds,
        "streams": streams,
        "failed": [name for name, good in checks.items() if not good],
    }


def main() -> int:
    args = parse_args()
    if not 0 < args.minutes <= 1440 or args.streams < 1 or args.fault_every <= 0:
        raise InputError(
            "--minutes up to 1440, --streams from 1 and --fault-every above 0, please."
        )
    from stream_servers import missing_parts

    if missing_parts():
        raise InputError(f"{missing_parts()}.")
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(args, Path(folder))
        try:
            soak.run()
        finally:
            seconds, left = soak.end()
        if not soak.samples or not soak.points.exists():
            raise InputError(f"it ended at once: {(Path(folder) / 'log.txt').read_text()}")
        figures = judge(soak, seconds, left, args)
    print(json.dumps(figures, indent=1))
    if args.output:
        write_json(args.output, figures, indent=1)
    print("failed: " + ", ".join(figures["failed"]) if figures["failed"] else "passed")
    return 1 if figures["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
