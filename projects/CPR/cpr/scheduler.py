"""Runs commands that depend on each other: several at a time, resumable, each with a log file."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cpr
import cpr_deploy
from cpr_deploy.files import InputError, file_sha256, read_json, write_json

# Seconds between looks at the running commands, and between lines of progress in a plain log.
_POLL = 0.2
_QUIET = 30.0
# Linux: the signal that a process gets when its parent ends (prctl).
_PR_SET_PDEATHSIG = 1


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
    # What the step is, if the command says more than that (paths, the device); with the inputs it
    # decides whether the step must run again.
    identity: str | None = None
    # Goes on with what an interrupted run left in `folder`; without it such a run starts over.
    resume_command: Sequence[str] | None = None


@dataclass
class _Running:
    step: Step
    key: str
    process: subprocess.Popen
    # Seconds that interrupted runs of the step took before.
    spent: float = 0.0
    # Iterations that were done before.
    resumed_at: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.spent + time.monotonic() - self.started


class Scheduler:
    """Runs `steps` in an order that their dependencies allow, at most `max_parallel` at a time.

    Logs go to folder/logs/<name>.log, records of what is done to folder/steps/<name>.json.
    `environment` is added to that of this process. With `refuse_changes` a step that was run with
    another command or other inputs is an InputError, instead of being run again, unless it follows
    on a step that was. With `keep_going` a failed step stops only those that wait for it. `stamp`
    is written into the record of each step that is run.

    One scheduler at a time works in a folder, and its commands end with it, even if it is killed.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        folder: Path,
        *,
        max_parallel: int = 1,
        environment: Mapping[str, str] | None = None,
        working_folder: Path | None = None,
        refuse_changes: bool = False,
        keep_going: bool = False,
        stamp: Mapping[str, str] | None = None,
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
        self._refuse_changes = refuse_changes
        self._keep_going = keep_going
        self._stamp = dict(stamp or {})
        self._failures: dict[str, str] = {}
        self._done: dict[str, float] = {}
        self._finished_now: set[str] = set()
        self._running: list[_Running] = []
        self._began = time.monotonic()
        self._last_line = -_QUIET
        self._last_noted = time.monotonic()

    def run(self) -> dict[str, float]:
        """Runs what is not done yet. Returns the seconds of each step, also of those skipped.

        Raises StepFailed for the first step that fails, after the others were stopped (or, with
        `keep_going`, done); InputError if another scheduler works in the folder.
        """
        (self._folder / "logs").mkdir(parents=True, exist_ok=True)
        (self._folder / "steps").mkdir(parents=True, exist_ok=True)
        with _locked(self._folder):
            self._run_all()
        if self._failures:
            raise StepFailed("\n".join(self._failures.values()))
        return dict(self._done)

    def _run_all(self) -> None:
        waiting = list(self._steps)
        try:
            while waiting or self._running:
                self._drop_followers(waiting)
                started = self._start_ready(waiting)
                if not self._running and not started and waiting:
                    raise ValueError(f"steps wait for each other: {[s.name for s in waiting]}")
                self._collect()
                self._show_progress()
                if self._running:
                    time.sleep(_POLL)
        finally:
            self._stop_all()

    def _drop_followers(self, waiting: list[Step]) -> None:
        """Steps that wait for a failed one, directly or not, will not run."""
        for step in list(waiting):
            failed = next((name for name in step.after if name in self._failures), None)
            if failed is not None:
                waiting.remove(step)
                self._failures[step.name] = f"{step.name} was not run, because {failed} failed."

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
            record = step_record(self._folder, step.name)
            same = record.get("key") == key
            if same and "seconds" in record and all(path.exists() for path in step.outputs):
                self._done[step.name] = float(record["seconds"])
                self._say(f"{self._count()} {step.name}: done before, kept")
                continue
            remade = self._finished_now.intersection(step.after)
            if record and not same and self._refuse_changes and not remade:
                raise InputError(
                    f"{self._folder}: its step {step.name} was run with other settings or data."
                    " Give the same ones to go on, or another output folder."
                )
            self._start(step, key, record if same and "seconds" not in record else None)
        return progressed

    def _start(self, step: Step, key: str, interrupted: dict | None) -> None:
        """Starts a step; `interrupted` is the record of a run of the same step that was stopped."""
        command = step.command
        resumed_at, spent = 0, 0.0
        if interrupted is not None and step.resume_command and step.folder and step.folder.exists():
            command = step.resume_command
            spent = float(interrupted.get("spent", 0.0))
            resumed_at = _iterations_done(step)
        elif step.folder is not None:
            shutil.rmtree(step.folder, ignore_errors=True)
        resumed = command is step.resume_command
        write_json(self._record_path(step), {"key": key, "spent": spent})
        self._say(f"{self._count()} {step.name}: {'resumed' if resumed else 'started'}")
        with open(self._log_path(step), "a" if resumed else "w", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            process = subprocess.Popen(
                list(command),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                cwd=self._working_folder,
                preexec_fn=_die_with_parent,
            )
        self._running.append(_Running(step, key, process, spent, resumed_at))

    def _collect(self) -> None:
        for running in list(self._running):
            code = running.process.poll()
            if code is None:
                continue
            self._running.remove(running)
            step, seconds = running.step, running.seconds
            missing = [path for path in step.outputs if not path.exists()]
            if code != 0 or missing:
                # What a failed training left may be why it failed, so it starts over; one that was
                # killed (a negative code; out of memory, for example) is resumed.
                if code < 0:
                    self._note_spent(running)
                else:
                    self._record_path(step).unlink(missing_ok=True)
                reason = f"exit code {code}" if code else f"it did not write {missing[0]}"
                self._failures[step.name] = (
                    f"{step.name} failed ({reason}). The end of {self._log_path(step)}:\n"
                    f"{tail(self._log_path(step))}"
                )
                if not self._keep_going:
                    raise StepFailed(self._failures[step.name])
                self._say(f"{self._count()} {step.name}: failed, see {self._log_path(step)}")
                continue
            record = {"key": running.key, "seconds": round(seconds, 2), **self._stamp}
            write_json(self._record_path(step), record)
            self._done[step.name] = seconds
            self._finished_now.add(step.name)
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
            self._note_spent(running)
        self._running.clear()

    def _note_spent(self, running: _Running) -> None:
        """Keeps the time of an unfinished step, for when it is resumed."""
        spent = {"key": running.key, "spent": running.seconds}
        write_json(self._record_path(running.step), spent)

    def _record_path(self, step: Step) -> Path:
        return _record_path(self._folder, step.name)

    def _log_path(self, step: Step) -> Path:
        return self._folder / "logs" / f"{step.name}.log"

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
        if time.monotonic() - self._last_noted > _QUIET:
            self._last_noted = time.monotonic()
            for running in self._running:
                self._note_spent(running)
        if not terminal and time.monotonic() - self._last_line < _QUIET:
            return
        line = f"{self._count()}{self._left()} " + " | ".join(_state(r) for r in self._running)
        if terminal:
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r\033[K{line[: width - 1]}")
            sys.stderr.flush()
        else:
            self._say(line)

    def _left(self) -> str:
        """Time left, from the trainings' iterations; they take nearly all of it."""
        if not any(step.iterations for step in self._steps):
            return ""
        running = {r.step.name: r for r in self._running}
        done_now = sum(
            max(0, _iterations_done(r.step) - r.resumed_at) for r in self._running
        ) + sum(step.iterations or 0 for step in self._steps if step.name in self._finished_now)
        if not done_now:
            return ""
        todo = 0
        for step in self._steps:
            if step.iterations and step.name not in self._done:
                done = _iterations_done(step) if step.name in running else 0
                todo += max(0, step.iterations - done)
        rate = done_now / (time.monotonic() - self._began)
        return f", about {_clock(todo / rate)} left"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps a second scheduler out of the folder; the lock goes with the process."""
    with open(folder / "lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{folder}: another run works in it. Wait for it, or give another output folder."
            ) from None
        yield


def _die_with_parent() -> None:
    """In a command about to start: SIGTERM it when this process goes, even by SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _record_path(folder: Path, name: str) -> Path:
    return folder / "steps" / f"{name}.json"


def step_record(folder: Path, name: str) -> dict:
    """What a scheduler of `folder` noted of a step: "seconds" and the stamp if it is done.

    {} if it was never started, or if the record is damaged: the step will run again.
    """
    try:
        record = read_json(_record_path(folder, name))
    except InputError:
        return {}
    return record if isinstance(record, dict) else {}


def step_key(step: Step) -> str:
    """Hash of what the step is, by default its command, and of the content of its input files."""
    what = json.dumps(list(step.command)) if step.identity is None else step.identity
    digest = hashlib.sha256(what.encode())
    for path in step.inputs:
        # The name tells the inputs apart; where they lie does not matter to a named step.
        digest.update((str(path) if step.identity is None else path.name).encode())
        if path.is_file():
            digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()


def command_environment(threads: int, folders: Sequence[str] = ()) -> dict[str, str]:
    """What commands need to know: their number of threads, and the packages of this process.

    Args:
        threads: more of them than CPUs, over all commands, slow each other down.
        folders: where else modules may lie.
    """
    # The commands must use our packages whether they are installed or not, and may run in another
    # folder, where a relative path would lead elsewhere.
    ours = {str(Path(module.__file__).resolve().parents[1]) for module in (cpr, cpr_deploy)}
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [*sorted(ours), *(os.path.abspath(path) for path in inherited if path), *folders]
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }


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


def _state(running: _Running) -> str:
    step = running.step
    text = f"{step.name} {_clock(running.seconds)}"
    last = _last_losses(step)
    if last:
        text += f" {last.get('iteration', 0) + 1}/{step.iterations} loss {last['total_loss']:.3f}"
    return text


def _last_losses(step: Step) -> dict:
    """The newest line with losses in the log of a training; {} if there is none."""
    if step.iterations is None or step.folder is None:
        return {}
    records = [r for r in read_training_log(step.folder / "metrics.json") if "total_loss" in r]
    return records[-1] if records else {}


def _iterations_done(step: Step) -> int:
    return int(_last_losses(step).get("iteration", -1)) + 1


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
