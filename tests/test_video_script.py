"""deploy/video.py as a process: signals, files in place, what a kill leaves."""

import json
import os
import signal
import time

import av
import pytest

import spot_model
import stream_parts


@pytest.fixture
def words(tmp_path):
    """A live source: a clip of ten seconds at its own speed."""
    model = tmp_path / "model.onnx"
    model.write_bytes(spot_model.model_bytes())
    clip = stream_parts.write_clip(tmp_path / "c.mp4", stream_parts.pictures(250), fps=25, g="25")
    points, video = tmp_path / "o.jsonl", tmp_path / "o.mp4"
    return [
        *("--model", model, "--source", clip, "--mode", "latest", "--threads", 1),
        *("--points", points, "--output", video, "--summary", tmp_path / "o.json"),
    ]


def started(words, frames=20):
    """The process, after some frames."""
    process = stream_parts.start_video(*words)
    points = words[words.index("--points") + 1]
    stream_parts.wait_until(lambda: len(stream_parts.read_records(points).of("frame")) >= frames)
    return process, points


def test_a_signal_within_the_handling_of_another():
    """A stop takes a lock, for which the second must not wait in the same thread."""
    script = (
        "import runpy, signal, threading\n"
        f"video = runpy.run_path({str(stream_parts.VIDEO)!r}, run_name='video')\n"
        "lock = threading.Lock()\n"
        "def stop():\n"
        "    with lock:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "with video['_stopped_by_signals'](stop) as signals:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "print(*map(int, signals))\n"
    )
    done = stream_parts.run_python(script)
    assert done.stdout.split() == [b"2", b"15"], done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_order(tmp_path, words, number, code):
    process, points = started(words)
    decoders = stream_parts.decoders_of(process.pid)
    assert len(decoders) == 1
    begin = time.monotonic()
    process.send_signal(number)
    _, shown = process.communicate(timeout=20)
    assert time.monotonic() - begin < 4 and process.returncode == code, shown
    assert b"Traceback" not in shown
    records = stream_parts.read_records(points)
    assert records[-1] == {
        "type": "end",
        "source": records[0]["source"],
        "errors": 0,
        "frames": len(records.of("frame")),
    }
    summary = json.loads((tmp_path / "o.json").read_text())
    with av.open(str(tmp_path / "o.mp4")) as container:
        drawn = len(list(container.decode(video=0)))
    assert drawn + summary["undrawn"] == len(records.of("frame"))
    stream = summary["streams"][0]
    known = stream["processed"] + stream["dropped"] + stream["in_flight"]
    assert stream["decoded"] == known and stream["skipped"] == 0
    assert not any(os.path.exists(f"/proc/{pid}") for pid in decoders)


def test_a_kill_leaves_whole_lines_a_playable_video_and_no_process(tmp_path, words):
    process, points = started(words, frames=100)
    (decoder,) = stream_parts.decoders_of(process.pid)
    process.kill()
    process.communicate()
    text = points.read_text()
    assert text.endswith("\n") and all(map(json.loads, text.splitlines()))
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert len(list(container.decode(video=0))) >= 25
    stream_parts.wait_until(lambda: not os.path.exists(f"/proc/{decoder}"), 5, "the decoder's end")


def test_a_model_replaced_while_it_runs_changes_nothing(words):
    process, points = started(words)
    words[1].write_bytes(b"not a model")
    before = len(stream_parts.read_records(points).of("frame"))
    stream_parts.wait_until(
        lambda: len(stream_parts.read_records(points).of("frame")) >= before + 20
    )
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 143
    done = stream_parts.run_video(*words)
    assert done.returncode == 2 and b"is not a whole ONNX file" in done.stderr


def test_a_full_disk_leaves_the_records(tmp_path, words):
    """/dev/full takes nothing, as a full disk."""
    script = (
        "import sys, runpy\n"
        "import cpr_deploy.video_writer as w\n"
        "real = open\n"
        "w.open = lambda *a, **k: real('/dev/full', 'wb', buffering=0)\n"
        f"sys.argv = ['video.py', *{[str(word) for word in words]!r}, '--max-frames', '80']\n"
        f"runpy.run_path({str(stream_parts.VIDEO)!r}, run_name='__main__')\n"
    )
    done = stream_parts.run_python(script)
    records = stream_parts.read_records(tmp_path / "o.jsonl")
    assert done.returncode in (1, 2) and b"the disk is full" in done.stderr, done.stderr
    assert b"Traceback" not in done.stderr
    assert len(records.of("frame")) == 80 and records[-1]["type"] == "end"
