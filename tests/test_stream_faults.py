"""What befalls streams, with real servers on this machine: kills, silence, damage, changes.

Each fault must end in frames again, or in a clear error; every decoded frame is accounted for; no
process and no open file is left behind.
"""

import random
import signal
import socket
import threading
import time

import pytest

import spot_model
import stream_parts
from stream_servers import ByteServer, Relay, RtspServer, Watch, missing_parts, quick

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]
RESTARTS = 20


@pytest.fixture(autouse=True)
def nothing_left_behind():
    stream_parts.localizer()  # ONNX Runtime opens files of its own when it is first used
    files = stream_parts.open_files()
    with stream_parts.no_decoder_left():
        yield
    stream_parts.wait_until(lambda: stream_parts.open_files() <= files, 5, "closing of files")


@pytest.fixture
def server():
    if missing_parts():
        pytest.skip(missing_parts())
    server = RtspServer()
    yield server
    server.stop()


@pytest.fixture
def watches():
    """Makes watches that end with the test, whatever happens."""
    made = []

    def watch(*addresses, **options):
        made.append(Watch(*addresses, **options))
        return made[-1]

    yield watch
    for one in made:
        one._group.stop()
        one._thread.join(10)


def elementary(images, **options):
    """H.264 of `images` as a stream without container, repeated headers, a key frame each tenth."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = stream_parts.write_clip(
            f"{folder}/c.h264", images, format="h264", g="10", bf="0", tune="zerolatency", **options
        )
        return path.read_bytes()


def transport(images, fps=25):
    """MPEG-TS of `images`."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = stream_parts.write_clip(
            f"{folder}/c.ts", images, fps=fps, format="mpegts", g="10", bf="0", tune="zerolatency"
        )
        return path.read_bytes()


def paced(data, seconds, size=1316):
    """Pieces of `data`, spread over `seconds`."""
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return [(seconds / len(pieces), piece) for piece in pieces]


def test_a_server_restarted_again_and_again(server, watches):
    watch = watches(server.url)
    watch.more_frames()
    files = []
    for _ in range(RESTARTS):
        server.restart()
        watch.more_frames(3)
        files.append(stream_parts.open_files())
    summary = watch.stop()
    assert stream_parts.counts(summary).reconnects == RESTARTS
    assert len(watch.records.of("reconnected")) == RESTARTS <= len(watch.records.of("lost"))
    # Frame numbers go on over all of them.
    numbers = [record["frame"] for record in watch.records.of("frame")]
    assert numbers == sorted(set(numbers)) and not summary.errors
    assert max(files[5:]) <= max(files[:5]) + 1


def test_a_server_that_stops_and_goes_on(server, watches):
    watch = watches(server.url)
    watch.more_frames()
    server.send(signal.SIGSTOP)
    watch.wait("stale", 2)
    (lost,) = watch.wait("lost")[:1]
    assert "no frame for" in lost["message"] or "reading failed" in lost["message"]
    server.send(signal.SIGCONT)
    (back,) = watch.wait("reconnected")
    (gap,) = watch.wait("gap")
    assert gap["seconds"] >= 2 and gap["seconds"] == back["seconds"]
    watch.more_frames()
    summary = watch.stop()
    # What it took to connect at first was blind too.
    assert gap["seconds"] <= summary.streams[0].feed.blind_seconds() < gap["seconds"] + 5


def test_a_connection_half_open(server, watches):
    relay = Relay(server.port)
    watch = watches(f"rtsp://127.0.0.1:{relay.port}/live")
    watch.more_frames()
    relay.silent.set()
    watch.wait("lost")
    relay.silent.clear()
    watch.wait("reconnected")
    watch.more_frames()
    watch.stop()
    relay.close()


def test_one_dead_stream_beside_a_good_one(server, watches):
    dead = f"rtsp://me:secret@127.0.0.1:{stream_parts.free_port()}/live"
    watch = watches(dead, server.url)
    watch.more_frames(30)
    watch.wait("lost", 2)
    watch.wait("stale")
    watch.stop()
    assert {record["stream"] for record in watch.records.of("frame")} == {2}
    assert {record["stream"] for record in watch.records.of("lost")} == {1}
    assert not any("secret" in str(record) for record in watch.records)


def test_giving_up_after_some_attempts(watches):
    address = f"rtsp://127.0.0.1:{stream_parts.free_port()}/live"
    settings = quick()
    settings = type(settings)(attempts=2, first_wait=0.1, longest_wait=0.2, health=settings.health)
    watch = watches(address, settings=settings)
    (error,) = watch.wait("error")
    assert "cannot be opened as video" in error["message"]
    assert len(watch.records.of("lost")) == 2
    assert len(watch.stop().errors) == 1


def test_another_size_and_rate_after_a_restart(server, watches):
    watch = watches(server.url)
    watch.more_frames()
    server.restart(width=320, height=240, fps=10)
    (change,) = watch.wait("resolution")
    watch.more_frames()
    watch.stop()
    assert (change["width"], change["height"], change["old_width"]) == (320, 240, 128)


def test_another_size_in_the_middle_of_a_stream(watches):
    first = elementary(stream_parts.pictures(40))
    second = elementary(stream_parts.pictures(40, (192, 256)))
    server = ByteServer(lambda: paced(first + second, 3.0))
    frames = stream_parts.Frames()
    watch = watches(server.url, frames=[[frames]])
    (change,) = watch.wait("resolution")
    watch.more_frames(5)
    watch.stop()
    server.close()
    assert (change["width"], change["height"]) == (256, 192)
    # Larger frames came whole: their points are where the pictures have them.
    records = watch.records.of("frame")
    assert records[-1]["points"] and len(frames) + watch.summary.undrawn == len(records)


def test_a_frozen_picture(server, watches):
    server.restart(pattern="black")
    watch = watches(server.url, settings=quick(frozen_after=1.0))
    told = watch.wait("frozen", 3)
    assert 1.0 <= told[0]["seconds"] < told[1]["seconds"] < told[2]["seconds"]
    watch.more_frames(5)
    assert watch.records.of("frame")[-1]["frozen"]
    assert all(record["frame"] == 0 for record in watch.records.of("stale"))
    watch.stop()


def test_a_replay_at_hundreds_of_frames_a_second(server, watches):
    server.restart(pattern="black", fps=240)
    # Opened again every three seconds, and frozen all the same.
    watch = watches(server.url, settings=quick(max_fps=100, frozen_after=6.0))
    told = "more than 100 frames a second"
    stream_parts.wait_until(
        lambda: any(told in record["message"] for record in watch.records.of("lost")), 30, told
    )
    (frozen,) = watch.wait("frozen")[:1]
    assert frozen["seconds"] >= 6
    server.restart()
    watch.wait("reconnected")
    watch.more_frames()
    watch.stop()


def test_truncated_and_flipped_bits(watches):
    good = transport(stream_parts.pictures(50))
    rng = random.Random(0)

    def play():
        spoilt = bytearray(good)
        for _ in range(60):
            place = rng.randrange(188 * 10, len(spoilt))
            spoilt[place] ^= 1 << rng.randrange(8)
        yield from paced(bytes(spoilt), 1.0)
        yield from paced(good[: int(0.37 * len(good))], 0.5)
        yield from paced(good, 1.0)

    server = ByteServer(play)
    watch = watches(server.url)
    watch.wait("reconnected", 2)
    watch.more_frames(20)
    summary = watch.stop()
    server.close()
    assert stream_parts.counts(summary).processed > 60 and not summary.errors


def test_a_stream_of_noise_is_a_clear_error_and_good_frames_are_taken_after_it(watches):
    good, count = transport(stream_parts.pictures(50)), iter(range(10**6))
    noise = random.Random(1).randbytes(300_000)
    server = ByteServer(lambda: paced(noise if next(count) < 2 else good, 1.0))
    watch = watches(server.url)
    watch.more_frames(20)
    watch.stop()
    server.close()
    lost = watch.records.of("lost")
    assert "cannot be opened as video" in lost[0]["message"]


def test_packet_loss(watches):
    """MPEG-TS over UDP, of which every tenth packet is lost."""
    port = stream_parts.free_port()
    data = transport(stream_parts.pictures(75))
    stop = threading.Event()

    def send():
        rng = random.Random(2)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.is_set():
                for pause, piece in paced(data, 3.0):
                    time.sleep(pause)
                    if rng.random() > 0.1:
                        sender.sendto(piece, ("127.0.0.1", port))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    watch = watches(f"udp://127.0.0.1:{port}")
    watch.more_frames(60, seconds=60)
    summary = watch.stop()
    stop.set()
    thread.join()
    counts = stream_parts.counts(summary)
    assert counts.damaged == sum(record["count"] for record in watch.records.of("damaged"))


def test_a_consumer_ten_times_too_slow(server, watches):
    class Slow:
        def __init__(self):
            self._localizer = stream_parts.localizer()
            self.class_names = self._localizer.class_names

        def __call__(self, images, *, latency=None):
            time.sleep(0.4)
            return self._localizer(images, latency=latency)

    watch = watches(server.url, using=Slow())
    watch.wait("frame", 12)
    counts = stream_parts.counts(watch.stop())
    assert counts.dropped > 60 and counts.gaps == 0
    # Taken at most one frame's interval old, then one inference; and no lag that grows.
    ages = [record["age_ms"] for record in watch.records.of("frame")]
    assert max(ages) < 800 and sum(ages[6:]) < 1.5 * sum(ages[:6])


def test_jumps_of_the_wall_clock_change_nothing(tmp_path):
    """A clock that goes back and forth by hours at every look, for us and for the decoder."""
    (tmp_path / "sitecustomize.py").write_text(
        "import random, time\nreal = time.time\n"
        "time.time = lambda: real() + random.choice((-3600, 3600))\n"
    )
    model, points = tmp_path / "model.onnx", tmp_path / "o.jsonl"
    model.write_bytes(spot_model.model_bytes())
    clip = stream_parts.write_clip(tmp_path / "c.mp4", stream_parts.pictures(75))
    environment = spot_model.environment()
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    done = stream_parts.run_video(
        *("--model", model, "--source", clip, "--mode", "latest", "--points", points),
        *("--threads", 1, "--stale-after", 2),
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    records = stream_parts.read_records(points)
    times = [record["captured_at"] for record in records.of("frame")]
    assert max(times) - min(times) > 3600  # the clock did jump
    assert {record["type"] for record in records} <= {"frame", "drop", "end"}
    assert all(0 <= record["age_ms"] < 2000 for record in records.of("frame"))


def test_an_http_server_may_not_lead_elsewhere_and_a_file_on_it_ends(tmp_path, watches):
    import functools
    import http.server

    stream_parts.write_clip(tmp_path / "c.mkv", stream_parts.pictures(30))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/elsewhere":
                self.send_response(302)
                self.send_header("Location", "/c.mkv")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    watch = watches(f"{base}/c.mkv", settings=quick())
    watch.wait("end")
    watch._thread.join(5)
    assert [record["frame"] for record in watch.records.of("frame")][-1] == 29
    assert not watch.summary.errors
    watch = watches(f"{base}/elsewhere")
    assert "cannot be opened" in watch.wait("lost")[0]["message"]
    watch.stop()
    server.shutdown()
    server.server_close()
