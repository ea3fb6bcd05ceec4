"""Video files: tests/test_video.py has times and sizes; here is what a kill leaves, and sending."""

import contextlib
import subprocess
import sys
import threading
import time

import av
import numpy as np
import pytest

import spot_model
import stream_parts
from cpr_deploy.files import InputError
from cpr_deploy.video_push import VideoPusher
from cpr_deploy.video_writer import VideoWriter, open_video

WRITE_FOR_EVER = """
import sys, time
import stream_parts
from cpr_deploy.video_writer import open_video
images = stream_parts.pictures(5)
with open_video(sys.argv[1], in_place=True) as writer:
    for index in range(10**6):
        writer.write(images[index % 5].copy(), index / 25)
        print(index, flush=True)
        time.sleep(0.002)
"""


def test_a_file_that_grows_plays_after_a_kill(tmp_path):
    path = tmp_path / "out.mp4"
    env = spot_model.environment()
    env["PYTHONPATH"] += f":{spot_model.ROOT / 'tests'}"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(path)], stdout=subprocess.PIPE, env=env
    )
    written = 0
    for line in process.stdout:
        written = int(line)
        if written >= 200:
            break
    process.kill()
    process.wait()
    process.stdout.close()
    with av.open(str(path)) as container:
        kept = len(list(container.decode(video=0)))
    # A fragment of a second is 25 frames; the encoder looks some ahead.
    assert kept >= written - 100 and kept > 0


def test_closing_waits_for_the_frame_that_another_thread_writes(tmp_path):
    """As when Ctrl-C comes again while frames are drawn."""
    begun, go = threading.Event(), threading.Event()
    path = tmp_path / "out.mp4"
    with open(path, "wb", buffering=0) as file:

        class Slow:
            seekable = staticmethod(lambda: False)
            tell = file.tell

            def write(self, data):
                begun.set()
                assert go.wait(20)
                return file.write(data)

        writer = VideoWriter(Slow())
        image = np.zeros((96, 128, 3), np.uint8)

        def draw():
            with contextlib.suppress(ValueError):
                for index in range(10_000):
                    writer.write(image, index / 25)

        drawing = threading.Thread(target=draw)
        drawing.start()
        assert begun.wait(20)
        closing = threading.Thread(target=writer.close)
        closing.start()
        closing.join(0.3)
        assert closing.is_alive()
        go.set()
        closing.join(20)
        drawing.join(20)
        with pytest.raises(ValueError, match="closed"):
            writer.write(image, 1.0)
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == writer.frames


def receive(address, count, seconds=20, **options):
    """Frames that arrive at an address we listen at; in a thread of its own."""
    import threading

    frames = []

    def run():
        with av.open(address, options=options, timeout=seconds) as container:
            for frame in container.decode(video=0):
                frames.append(frame.to_ndarray(format="bgr24"))
                if len(frames) >= count:
                    return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, frames


ADDRESSES = {
    "rtmp": ("rtmp://127.0.0.1:{port}/live", {"listen": "1"}),
    "rtsp": ("rtsp://127.0.0.1:{port}/live", {"rtsp_flags": "listen", "listen_timeout": "20"}),
    "udp": ("udp://127.0.0.1:{port}", {}),
    "tcp": ("tcp://127.0.0.1:{port}", {"listen": "1"}),
}


@pytest.mark.server
@pytest.mark.parametrize("kind", ADDRESSES)
def test_video_arrives_where_it_is_sent(kind):
    address, options = ADDRESSES[kind]
    address = address.format(port=stream_parts.free_port())
    thread, frames = receive(address, 30, **options)
    time.sleep(0.5)
    pusher = VideoPusher(address)
    picture = spot_model.picture(96, 128, [(2, 3)])
    end = time.monotonic() + 20
    begin = time.monotonic()
    while thread.is_alive() and time.monotonic() < end:
        pusher.write(picture, time.monotonic() - begin)
        time.sleep(0.02)
    pusher.close()
    assert len(frames) == 30
    assert np.abs(frames[-1].astype(int) - picture).mean() < 5


def test_nobody_there_costs_no_time():
    pusher = VideoPusher(f"rtmp://127.0.0.1:{stream_parts.free_port()}/live")
    picture = spot_model.picture(96, 128)
    begin = time.monotonic()
    for index in range(200):
        pusher.write(picture, index / 25)
    assert time.monotonic() - begin < 2 and pusher.dropped > 150
    pusher.close()
    assert time.monotonic() - begin < 5


def test_where_video_cannot_be_sent():
    with pytest.raises(InputError, match="--push http://cam/x: video can be sent to rtmp://"):
        VideoPusher("http://u:p@cam/x")
    with pytest.raises(InputError, match="ends in .mp4"), open_video("out.avi", in_place=True):
        pass
