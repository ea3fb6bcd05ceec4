"""Runs commands that depend on each other: several at a time, resumable, each with a log file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cpr_deploy.files import InputError, read_json, write_json

logger = logging.getLogger(__name__)

# Seconds between looks at the running commands, and between lines of progress in a plain log.
_POLL = 0.2
_QUIET = 30.0


class StepFailed(RuntimeError):
    """A step's command failed; the text holds the end of its log."""


@dataclass(frozen=True)
class Step:
    """One command. It is done once its `outputs` exist and nothing that it depends on changed."""

    name: str
    command: Sequence[str]
    # Names of the steps that must be done before.
    after: Sequence[str] = ()
    # Files whose content decides, with the command, whether the step must run again.
    inputs: Sequence[Path] = ()
    # Files that the command must leave behind.
    outputs: Sequence[Path] = ()
    # A folder that is emptied before the command runs, so that no earlier run shines through.
    folder: Path | None = None
    # Of a training: iterations in all; its progress is read from folder/metrics.json.
    iterations: int | None = None


@dataclass
class _Running:
    step: Step
    key: str
    process: subprocess.Popen
    started: float = field(default_factory=time.monotonic)


class Scheduler:
    """Runs `steps` in an order that their dependencies allow, at most `max_parallel` at a time.

    Logs go to folder/logs/<name>.log, records of what is done to folder/steps/<name>.json.
    `environment` is added to that of this process.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        folder: Path,
        *,
        max_parallel: int = 1,
        environment: Mapping[str, str] | None = None,
        working_folder: Path | None = None,
    ) -> None:
        names = [step.name for step in steps]
        if len(set(names)) != len(names):
            raise ValueError(f"two steps have the same name: {names}")
        for step in steps:
            unknown = set(step.after) - set(names)
            if unknown:
                raise ValueError(f"step {step.name} waits for unknown steps {sorted(unknown)}")
        self._steps = list(steps)
        self._folder = folder
        self._max_parallel = max(1, max_parallel)
        self._environment = {**os.environ, **(environment or {})}
        self._working_folder = working_folder
        self._done: dict[str, float] = {}
        self._running: list[_Running] = []
        self._began = time.monotonic()
        self._last_line = -_QUIET

    def run(self) -> dict[str, float]:
        """Runs what is not done yet. Returns the seconds of each step, also of those skipped.

        Raises StepFailed for the first step that fails, after the others were stopped.
        """
        (self._folder / "logs").mkdir(parents=True, exist_ok=True)
        (self._folder / "steps").mkdir(parents=True, exist_ok=True)
        waiting = list(self._steps)
        try:
            while waiting or self._running:
                started = self._start_ready(waiting)
                if not self._running and not started and waiting:
                    raise ValueError(f"steps wait for each other: {[s.name for s in waiting]}")
                self._collect()
                self._show_progress()
                if self._running:
                    time.sleep(_POLL)
        finally:
            self._stop_all()
        return dict(self._done)

    def _start_ready(self, waiting: list[Step]) -> bool:
        """Starts or skips every step that may go now; True if there was any."""
        progressed = False
        for step in list(waiting):
            if len(self._running) >= self._max_parallel:
                break
            if not all(name in self._done for name in step.after):
                continue
            waiting.remove(step)
            progressed = True
            key = step_key(step)
            record = self._record(step)
            if record.get("key") == key and all(path.exists() for path in step.outputs):
                self._done[step.name] = float(record.get("seconds", 0.0))
                self._say(f"{self._count()} {step.name}: done before, kept")
                continue
            self._start(step, key)
        return progressed

    def _start(self, step: Step, key: str) -> None:
        self._record_path(step).unlink(missing_ok=True)
        if step.folder is not None:
            shutil.rmtree(step.folder, ignore_errors=True)
        self._say(f"{self._count()} {step.name}: started")
        with open(self._log_path(step), "w", encoding="utf-8") as log:
            log.write(f"$ {' '.join(step.command)}\n")
            log.flush()
            process = subprocess.Popen(
                list(step.command),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                cwd=self._working_folder,
            )
        self._running.append(_Running(step, key, process))

    def _collect(self) -> None:
        for running in list(self._running):
            code = running.process.poll()
            if code is None:
                continue
            self._running.remove(running)
            step, seconds = running.step, time.monotonic() - running.started
            missing = [path for path in step.outputs if not path.exists()]
            if code != 0 or missing:
                reason = f"exit code {code}" if code else f"it did not write {missing[0]}"
                raise StepFailed(
                    f"{step.name} failed ({reason}). The end of {self._log_path(step)}:\n"
                    f"{tail(self._log_path(step))}"
                )
            record = {"key": running.key, "seconds": round(seconds, 2)}
            write_json(self._record_path(step), record)
            self._done[step.name] = seconds
            self._say(f"{self._count()} {step.name}: done in {_clock(seconds)}")

    def _stop_all(self) -> None:
        for running in self._running:
            running.process.terminate()
        for running in self._running:
            try:
                running.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
        self._running.clear()

    def _record_path(self, step: Step) -> Path:
        return self._folder / "steps" / f"{step.name}.json"

    def _log_path(self, step: Step) -> Path:
        return self._folder / "logs" / f"{step.name}.log"

    def _record(self, step: Step) -> dict:
        try:
            record = read_json(self._record_path(step))
        except InputError:
            return {}
        return record if isinstance(record, dict) else {}

    def _count(self) -> str:
        return f"[{len(self._done)}/{len(self._steps)} {_clock(time.monotonic() - self._began)}]"

    def _say(self, line: str) -> None:
        clear = "\r\033[K" if sys.stderr.isatty() else ""
        sys.stderr.write(f"{clear}{line}\n")
        sys.stderr.flush()
        self._last_line = time.monotonic()

    def _show_progress(self) -> None:
        """On a terminal one line that stays in place, elsewhere a line from time to time."""
        if not self._running:
            return
        terminal = sys.stderr.isatty()
        if not terminal and time.monotonic() - self._last_line < _QUIET:
            return
        line = f"{self._count()} " + " | ".join(_state(r) for r in self._running)
        if terminal:
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r\033[K{line[: width - 1]}")
            sys.stderr.flush()
        else:
            self._say(line)


def step_key(step: Step) -> str:
    """Hash of the step's command and of the content of its input files."""
    digest = hashlib.sha256(json.dumps(list(step.command)).encode())
    for path in step.inputs:
        digest.update(str(path).encode())
        if path.is_file():
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_training_log(path: Path) -> list[dict]:
    """The lines of a Detectron2 metrics.json so far; a line that is still being written is left."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    records = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def tail(path: Path, lines: int = 25) -> str:
    """The last lines of a text file."""
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its container if there is one.

    A container may see all CPUs of its host; more threads than its quota slow each other down.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = min(cpus, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cpus


def _state(running: _Running) -> str:
    step = running.step
    text = f"{step.name} {_clock(time.monotonic() - running.started)}"
    if step.iterations is None or step.folder is None:
        return text
    records = [r for r in read_training_log(step.folder / "metrics.json") if "total_loss" in r]
    if records:
        last = records[-1]
        text += f" {last.get('iteration', 0) + 1}/{step.iterations} loss {last['total_loss']:.3f}"
    return text


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"
