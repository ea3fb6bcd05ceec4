import os
import signal
import socket

import numpy as np
import pytest

import stream_parts
from cpr_deploy.decoder import Decoder, DecoderError
from cpr_deploy.sources import SourceSpec


def drain(decoder):
    """All frames and the other messages."""
    frames, messages = [], []
    while not messages or messages[-1]["type"] not in ("end", "refused"):
        message = decoder.receive(20)
        assert message is not None, "silence"
        if message["type"] == "frame":
            frames.append(decoder.frame(message))
        else:
            messages.append(message)
    return frames, messages


def test_frames_come_over_as_they_are_in_the_file(tmp_path):
    images = stream_parts.pictures(9)
    clip = stream_parts.write_clip(tmp_path / "clip.avi", images, codec="ffv1")
    before = stream_parts.open_files()
    decoder = Decoder(SourceSpec(str(clip)))
    frames, messages = drain(decoder)
    decoder.close()
    assert [frame.index for frame in frames] == list(range(9))
    for frame, image in zip(frames, images, strict=True):
        assert np.abs(frame.image[:90, :120].astype(int) - image[:90, :120]).mean() < 25
    assert messages[0] == {"type": "open", "live": False, "length": 9}
    assert messages[-1] == {"type": "end", "skipped": 0, "damaged": 0}
    assert stream_parts.open_files() == before
    assert decoder.pid not in stream_parts.decoders_of(os.getpid())


def test_frames_in_slots_outlive_the_process(tmp_path):
    clip = stream_parts.write_clip(tmp_path / "clip.mp4", stream_parts.pictures(3))
    before = stream_parts.open_files()
    decoder = Decoder(SourceSpec(str(clip)))
    messages = []
    while len(messages) < 3:
        message = decoder.receive(20)
        messages += [message] if message["type"] == "frame" else []
    decoder.close()
    assert [decoder.frame(message).image.shape for message in messages] == [(96, 128, 3)] * 3
    assert stream_parts.open_files() == before


def test_a_hanging_source_is_ended_at_once():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        # Accepts, and never says a word.
        decoder = Decoder(SourceSpec(f"rtsp://127.0.0.1:{server.getsockname()[1]}/x"))
        connection, _ = server.accept()
        assert decoder.receive(0.3) is None
        os.kill(decoder.pid, signal.SIGSTOP)
        decoder.close()
        connection.close()
    assert decoder.pid not in stream_parts.decoders_of(os.getpid())


def test_a_killed_process_is_told(tmp_path):
    (tmp_path / "folder").mkdir()
    clip = stream_parts.write_clip(tmp_path / "clip.mp4", stream_parts.pictures(30))
    decoder = Decoder(SourceSpec(str(clip)))
    assert decoder.receive(20)["type"] == "open"
    os.kill(decoder.pid, signal.SIGKILL)
    with pytest.raises(DecoderError, match="signal 9"):
        for _ in range(40):
            decoder.receive(5)
    decoder.close()


@pytest.mark.parametrize(
    "spoil",
    [
        {"offset": 1 << 50},
        {"shape": [1 << 20, 1 << 20, 3]},
        {"shape": [4, 4]},
        {"slot": 300},
        {"frame": -1},
        {"clock": float("nan")},
        {"pts": "now"},
        {"name": None},
    ],
)
def test_nonsense_of_a_decoder_gone_wrong(tmp_path, monkeypatch, spoil):
    import json

    clip = stream_parts.write_clip(tmp_path / "clip.mp4", stream_parts.pictures(1))
    decoder = Decoder(SourceSpec(str(clip)))
    assert decoder.receive(20)["type"] == "open"
    real = json.loads
    monkeypatch.setattr(json, "loads", lambda data: {**real(data), **spoil})
    with pytest.raises(DecoderError):
        decoder.frame(decoder.receive(20))
    decoder.close()


def test_the_process_has_limits_and_no_password_in_its_command_line():
    decoder = Decoder(SourceSpec("udp://u:secret@127.0.0.1:0"))
    with open(f"/proc/{decoder.pid}/cmdline") as file:
        assert "secret" not in file.read()

    def limits():
        with open(f"/proc/{decoder.pid}/limits") as file:
            lines = {line[:25].strip(): line[25:].split() for line in file}
        return lines if int(lines["Max open files"][0]) <= 256 else None

    lines = stream_parts.wait_until(limits)
    decoder.close()
    assert int(lines["Max address space"][0]) <= 16 << 30
    assert lines["Max core file size"][0] == "0"
