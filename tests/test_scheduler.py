import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

from cpr.scheduler import (
    Scheduler,
    Step,
    StepFailed,
    command_environment,
    read_training_log,
    step_key,
)
from cpr_deploy.cpus import available_cpus
from cpr_deploy.files import InputError


def python(code):
    return [sys.executable, "-c", code]


def writes(path, text="x"):
    """A command that appends `text` to `path`, so that a second run shows."""
    return python(f"open({str(path)!r}, 'a').write({text!r})")


def test_steps_run_after_what_they_wait_for(tmp_path):
    log = tmp_path / "order"
    steps = [
        Step("last", writes(log, "3"), after=["middle"], outputs=[log]),
        Step("first", writes(log, "1"), outputs=[log]),
        Step("middle", writes(log, "2"), after=["first"], outputs=[log]),
    ]
    seconds = Scheduler(steps, tmp_path / "run", max_parallel=2).run()
    assert log.read_text() == "123"
    assert set(seconds) == {"first", "middle", "last"} and min(seconds.values()) > 0


def test_independent_steps_run_side_by_side(tmp_path):
    # Each waits for the other's file, so one after the other they would never end.
    def meet(mine, other):
        return python(
            "import pathlib, time\n"
            f"pathlib.Path({str(mine)!r}).touch()\n"
            f"end = time.time() + 20\n"
            f"while not pathlib.Path({str(other)!r}).exists():\n"
            "    assert time.time() < end\n"
            "    time.sleep(0.01)"
        )

    a, b = tmp_path / "a", tmp_path / "b"
    steps = [Step("a", meet(a, b), outputs=[a]), Step("b", meet(b, a), outputs=[b])]
    Scheduler(steps, tmp_path / "run", max_parallel=2).run()


def test_done_steps_are_kept_until_command_input_or_output_changes(tmp_path):
    source, result, follow = tmp_path / "in", tmp_path / "out", tmp_path / "follow"
    source.write_text("1")

    def run(text="x"):
        steps = [
            Step("one", writes(result, text), inputs=[source], outputs=[result]),
            Step("two", writes(follow), after=["one"], inputs=[result], outputs=[follow]),
        ]
        Scheduler(steps, tmp_path / "run").run()
        return result.read_text(), follow.read_text()

    assert run() == ("x", "x")
    assert run() == ("x", "x")
    source.write_text("2")
    assert run() == ("xx", "xx")
    assert run("y") == ("xxy", "xxx")
    result.unlink()
    # The output is back with another content, so what follows runs again too.
    assert run("y") == ("y", "xxxx")
    follow.unlink()
    assert run("y") == ("y", "x")


def test_a_step_that_failed_is_not_taken_for_done(tmp_path):
    out = tmp_path / "out"
    code = f"open({str(out)!r}, 'w').write('half'); print('what went wrong'); raise SystemExit(3)"
    scheduler = Scheduler([Step("bad", python(code), outputs=[out])], tmp_path / "run")
    with pytest.raises(StepFailed, match=r"(?s)bad failed \(exit code 3\).*what went wrong"):
        scheduler.run()
    Scheduler([Step("bad", writes(out, "+"), outputs=[out])], tmp_path / "run").run()
    assert out.read_text() == "half+"


def test_missing_output_is_a_failure(tmp_path):
    steps = [Step("lazy", python("pass"), outputs=[tmp_path / "never"])]
    with pytest.raises(StepFailed, match="did not write"):
        Scheduler(steps, tmp_path / "run").run()


def test_failure_stops_the_others(tmp_path):
    steps = [
        Step("slow", python("import time; time.sleep(60)")),
        Step("bad", python("raise SystemExit(1)")),
    ]
    began = time.monotonic()
    with pytest.raises(StepFailed, match="bad"):
        Scheduler(steps, tmp_path / "run", max_parallel=2).run()
    assert time.monotonic() - began < 30


def test_folder_is_emptied_before_a_step_runs_again(tmp_path):
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "metrics.json").write_text("old")
    code = f"import os; os.makedirs({str(folder)!r}); open({str(folder / 'new')!r}, 'w').close()"
    steps = [Step("train", python(code), outputs=[folder / "new"], folder=folder)]
    Scheduler(steps, tmp_path / "run").run()
    assert [path.name for path in folder.iterdir()] == ["new"]


def interrupted_training(folder, *, identity="training", fails=False):
    """A training that stops half way (as if the machine went off) unless it is resumed."""
    log = folder / "metrics.json"
    first = (
        f"import os; os.makedirs({str(folder)!r}, exist_ok=True)\n"
        f"open({str(log)!r}, 'a').write('{{\"iteration\": 4, \"total_loss\": 1}}\\n')\n"
    )
    end = "raise SystemExit(1)" if fails else "import time; time.sleep(60)"
    second = (
        f"open({str(log)!r}, 'a').write('{{\"iteration\": 9, \"total_loss\": 1}}\\n')\n"
        f"open({str(folder / 'done')!r}, 'w').close()"
    )
    return Step(
        "train",
        python(first + end),
        outputs=[folder / "done"],
        folder=folder,
        iterations=10,
        identity=identity,
        resume_command=python(second),
    )


def stop_half_way(step, run, **options):
    """Runs the step until its log holds five iterations, then stops as Ctrl-C does."""

    class Stopped(Scheduler):
        def _show_progress(self):
            if (step.folder / "metrics.json").exists():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stopped([step], run, **options).run()


def test_an_interrupted_training_is_resumed_in_its_folder(tmp_path):
    folder = tmp_path / "training"
    step = interrupted_training(folder)
    stop_half_way(step, tmp_path / "run")
    before = json.loads((tmp_path / "run" / "steps" / "train.json").read_text())
    assert "seconds" not in before and before["spent"] > 0
    seconds = Scheduler([step], tmp_path / "run").run()
    lines = (folder / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [4, 9]
    assert seconds["train"] > before["spent"]


def test_another_training_does_not_go_on_in_the_folder(tmp_path):
    folder = tmp_path / "training"
    stop_half_way(interrupted_training(folder), tmp_path / "run")
    other = interrupted_training(folder, identity="other")
    with pytest.raises(InputError, match=r"step train was run with other settings.*another output"):
        Scheduler([other], tmp_path / "run", refuse_changes=True).run()
    stop_half_way(other, tmp_path / "run")
    assert len((folder / "metrics.json").read_text().splitlines()) == 1, "it starts over"


def test_a_failed_training_starts_over(tmp_path):
    folder = tmp_path / "training"
    with pytest.raises(StepFailed):
        Scheduler([interrupted_training(folder, fails=True)], tmp_path / "run").run()
    stop_half_way(interrupted_training(folder), tmp_path / "run", refuse_changes=True)
    assert len((folder / "metrics.json").read_text().splitlines()) == 1


def test_a_killed_training_is_resumed(tmp_path):
    """As the system does when memory runs out; an exit code of its own would start over."""
    folder = tmp_path / "training"
    step = interrupted_training(folder)
    code = step.command[-1].replace("import time; time.sleep(60)", "os.kill(os.getpid(), 9)")
    killed = dataclasses.replace(step, command=python(code))
    with pytest.raises(StepFailed, match=r"exit code -9"):
        Scheduler([killed], tmp_path / "run").run()
    Scheduler([step], tmp_path / "run").run()
    assert len((folder / "metrics.json").read_text().splitlines()) == 2


def test_other_steps_go_on_after_a_failure(tmp_path):
    out = tmp_path / "out"
    steps = [
        Step("bad", python("raise SystemExit(1)")),
        Step("follows", writes(tmp_path / "never"), after=["bad"]),
        Step("last", writes(tmp_path / "never"), after=["follows"]),
        Step("good", writes(out), outputs=[out]),
    ]
    with pytest.raises(StepFailed) as error:
        Scheduler(steps, tmp_path / "run", keep_going=True, stamp={"machine": "m"}).run()
    text = str(error.value)
    assert "bad failed" in text and "follows was not run, because bad" in text and "last" in text
    assert out.exists() and not (tmp_path / "never").exists()
    record = json.loads((tmp_path / "run" / "steps" / "good.json").read_text())
    assert record["machine"] == "m" and record["seconds"] > 0


def test_what_follows_on_a_step_that_is_remade_may_change(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"

    def run(text):
        steps = [
            Step("one", writes(first, text), outputs=[first], identity="one"),
            Step(
                "two", writes(second), after=["one"], inputs=[first], outputs=[second], identity="2"
            ),
        ]
        Scheduler(steps, tmp_path / "run", refuse_changes=True).run()

    run("a")
    first.unlink()
    run("b")  # as a training that is not repeatable to the bit
    assert second.read_text() == "xx"
    first.write_text("changed by hand")
    with pytest.raises(InputError, match="step two"):
        run("b")


def test_one_scheduler_at_a_time_and_no_command_outlives_it(tmp_path):
    beat = tmp_path / "beat"
    code = (
        "from pathlib import Path\n"
        "from cpr.scheduler import Scheduler, Step\n"
        "import sys\n"
        f"beat = {str(beat)!r}\n"
        'work = f\'import time\\nwhile True: open({beat!r}, "a").write("x"); time.sleep(0.02)\'\n'
        f"run = Path({str(tmp_path / 'run')!r})\n"
        "Scheduler([Step('endless', [sys.executable, '-c', work])], run).run()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(python(code), env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 30
            while not beat.exists():
                assert time.monotonic() < end
                time.sleep(0.02)
            with pytest.raises(InputError, match="another run works in it"):
                Scheduler([Step("a", python("pass"))], tmp_path / "run").run()
        finally:
            process.kill()
        process.wait()
        time.sleep(0.5)
        size = beat.stat().st_size
        time.sleep(0.5)
        assert beat.stat().st_size == size, "the command still runs"
    Scheduler([Step("a", python("pass"))], tmp_path / "run").run()


def test_identity_stands_for_the_command(tmp_path):
    path = tmp_path / "a" / "in"
    path.parent.mkdir()
    path.write_text("1")
    one = step_key(Step("a", ["x"], inputs=[path], identity="same"))
    elsewhere = tmp_path / "b" / "in"
    elsewhere.parent.mkdir()
    elsewhere.write_text("1")
    assert step_key(Step("a", ["y"], inputs=[elsewhere], identity="same")) == one
    assert step_key(Step("a", ["x"], inputs=[path], identity="other")) != one


@pytest.mark.parametrize("inherited", [None, "", "lib", os.pathsep.join(["lib", "/abs"])])
def test_commands_find_our_packages_and_the_user_s(tmp_path, monkeypatch, inherited):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if inherited is not None:
        monkeypatch.setenv("PYTHONPATH", inherited)
    monkeypatch.chdir(tmp_path)
    environment = command_environment(3, [str(tmp_path)])
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    paths = environment["PYTHONPATH"].split(os.pathsep)
    assert all(os.path.isabs(path) for path in paths) and paths[-1] == str(tmp_path)
    expected = [str(tmp_path / "lib")] if inherited and "lib" in inherited else []
    expected += ["/abs"] if inherited and "/abs" in inherited else []
    assert paths[2:-1] == expected or paths[1:-1] == expected
    # In another folder, where the packages may not be installed.
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import cpr, cpr_deploy"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


def test_time_left_follows_the_iterations(tmp_path, capsys):
    # Two trainings of equal length, one after the other: after the first, half is left.
    def train(name):
        folder = tmp_path / name
        code = (
            f"import os, time; os.makedirs({str(folder)!r}); time.sleep(1.5)\n"
            f"open({str(folder / 'metrics.json')!r}, 'w')"
            '.write(\'{"iteration": 9, "total_loss": 1}\\n\')'
        )
        return Step(name, python(code), folder=folder, iterations=10)

    scheduler = Scheduler([train("a"), train("b")], tmp_path / "run")
    assert scheduler._left() == ""
    scheduler.run()
    assert scheduler._left().startswith(", about 0:00")


def test_circles_and_unknown_names_are_refused(tmp_path):
    a, b = Step("a", python("pass"), after=["b"]), Step("b", python("pass"), after=["a"])
    with pytest.raises(ValueError, match="wait for each other"):
        Scheduler([a, b], tmp_path / "run").run()
    with pytest.raises(ValueError, match="unknown"):
        Scheduler([a], tmp_path / "run")
    with pytest.raises(ValueError, match="same name"):
        Scheduler([Step("a", []), Step("a", [])], tmp_path / "run")


def test_key_depends_on_content_not_on_time(tmp_path):
    path = tmp_path / "in"
    path.write_text("1")
    step = Step("a", ["x"], inputs=[path])
    key = step_key(step)
    path.write_text("1")
    assert step_key(step) == key
    path.write_text("2")
    assert step_key(step) != key


def test_training_log_that_is_being_written(tmp_path):
    path = tmp_path / "metrics.json"
    assert read_training_log(path) == []
    path.write_text('{"iteration": 19, "total_loss": 0.5}\n{"iteration": 39, "tot')
    assert read_training_log(path) == [{"iteration": 19, "total_loss": 0.5}]


def test_available_cpus():
    assert available_cpus() >= 1
