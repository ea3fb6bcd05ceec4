"""The web page: what it tells, whom it answers, and how it looks in a browser."""

import http.client
import json
import os
import socket

import cv2
import numpy as np
import pytest

import spot_model
import stream_parts
from cpr_deploy.feed import FeedSettings, StreamFeed
from cpr_deploy.files import InputError
from cpr_deploy.metrics_text import MetricsFile, metrics_text
from cpr_deploy.point_localizer import PointResult
from cpr_deploy.sources import Frame, SourceSpec
from cpr_deploy.stream_status import StreamStatus
from cpr_deploy.web.server import WebPage

HOSTILE = '<img src=x onerror="document.title=1">'


def status_of(number=1, address="rtsp://u:secret@cam/live", classes=("seal",), points=3):
    """The status of a stream that has seen a frame."""
    import threading

    spec = SourceSpec(address)
    feed = StreamFeed(spec, FeedSettings(), threading.Condition(threading.RLock()))
    status = StreamStatus(number, feed, classes)
    result = PointResult(
        np.zeros((points, 2), np.float32), np.ones(points, np.float32), np.zeros(points, int), 0
    )
    feed.counts.decoded, feed.counts.processed, feed.state = 5, 4, "online"
    status.add(Frame(0, spot_model.picture(64, 96), 0.0), result, 120.0, stale=False)
    return status


@pytest.fixture
def page():
    page = WebPage("127.0.0.1", 0, streams=1)
    page([status_of()])
    yield page
    page.close()


def ask(page, path, method="GET", host="localhost"):
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request(method, path, headers={"Host": f"{host}:{page.port}"})
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    return reply, data


def test_status_and_picture(page):
    reply, data = ask(page, "/status.json")
    (stream,) = json.loads(data)["streams"]
    assert stream["source"] == "rtsp://cam/live" and "secret" not in data.decode()
    assert stream["found"] == {"seal": 3} and stream["state"] == "online"
    assert stream["history"][-1][1] == 3 and stream["age_ms"] == 120.0
    assert ask(page, "/frame/1.jpg")[0].status == 404  # no frame so far
    picture = spot_model.picture(64, 96, [(3, 4)])
    page.pictures[0].write(picture, 0.0)
    reply, data = ask(page, "/frame/1.jpg?7")
    assert reply.getheader("Content-Type") == "image/jpeg"
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(shown.astype(int) - picture).mean() < 5


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/status.json", "/metrics", "/no"])
def test_headers_of_every_answer(page, path):
    reply, data = ask(page, path)
    assert reply.status == (404 if path == "/no" else 200)
    policy = reply.getheader("Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert reply.getheader("X-Content-Type-Options") == "nosniff"
    assert not [name for name, _ in reply.getheaders() if name.lower().startswith("access-control")]
    assert int(ask(page, path, "HEAD")[0].getheader("Content-Length")) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_only_reads(page, method):
    assert ask(page, "/status.json", method)[0].status == 501


@pytest.mark.parametrize(
    "path", ["/../server.py", "/%2e%2e/x", "/page.html", "/frame/2.jpg", "//etc"]
)
def test_nothing_else_is_there(page, path):
    assert ask(page, path)[0].status == 404


def test_a_foreign_name_for_this_machine_is_refused(page):
    assert ask(page, "/status.json", host="evil.example")[0].status == 403
    assert ask(page, "/status.json", host="127.0.0.1")[0].status == 200


def test_many_silent_visitors_do_not_stop_others(page):
    silent = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(50)]
    assert ask(page, "/status.json")[0].status == 200
    for connection in silent:
        connection.close()


def test_a_port_that_is_taken(page):
    with pytest.raises(InputError, match="Choose another port"):
        WebPage("127.0.0.1", page.port, streams=1)


def test_metrics(tmp_path):
    status = status_of(address='rtsp://cam/a"b')
    text = metrics_text([status, status_of(2)])
    assert 'cpr_frames_decoded_total{stream="1",source="rtsp://cam/a\\"b"} 5\n' in text
    assert 'cpr_result_age_seconds_bucket{stream="2",source="rtsp://cam/live",le="0.1"} 0\n' in text
    assert 'cpr_result_age_seconds_bucket{stream="2",source="rtsp://cam/live",le="0.2"} 1\n' in text
    assert 'le="+Inf"} 1\n' in text
    # Every sample belongs to a metric that was announced, once.
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)[0].split("{")[0], float(line.rsplit(" ", 1)[1])
            assert value >= 0 and any(name.startswith(known) for known in names)
    MetricsFile(tmp_path / "m.prom")([status])
    assert (tmp_path / "m.prom").read_text().startswith("# HELP cpr_")


# --- in a browser ---------------------------------------------------------------------------------


def watch(browser, url):
    """The page, and what went wrong in it."""
    page, wrong = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.set_default_timeout(15_000)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda m: wrong.append(m.text) if "404" not in m.text else None)
    page.on("request", lambda r: None if r.url.startswith((url, "data:")) else wrong.append(r.url))
    page.goto(url)
    return page, wrong


@pytest.mark.browser
def test_picture_counts_and_health_in_a_browser(browser, tmp_path):
    hostile = tmp_path / f"{HOSTILE.replace('/', '')}.mp4"
    stream_parts.write_clip(hostile, stream_parts.pictures(400), fps=20)
    model = tmp_path / "model.onnx"
    model.write_bytes(spot_model.model_bytes())
    port = stream_parts.free_port()
    process = stream_parts.start_video(
        *("--model", model, "--mode", "latest", "--web", port, "--threads", 1),
        *("--source", hostile, "--source", f"tcp://127.0.0.1:{stream_parts.free_port()}"),
        *("--stale-after", 1),
    )
    try:
        stream_parts.wait_until(lambda: socket.create_connection(("127.0.0.1", port)).close() or 1)
        page, wrong = watch(browser, f"http://127.0.0.1:{port}/")
        page.wait_for_selector("section:nth-child(2)")
        first, second = page.locator("section").all()
        assert HOSTILE in first.locator("h2").inner_text() and page.title() == "Streams"
        width = "document.querySelector('img').naturalWidth"
        stream_parts.wait_until(lambda: page.evaluate(width) == 128)
        assert first.locator(".state").inner_text().startswith("online")
        assert "spot:" in first.locator(".found").inner_text()
        before = int(first.locator("td").nth(1).inner_text())
        count = first.locator("td").nth(1)
        stream_parts.wait_until(lambda: int(count.inner_text()) > before + 10)
        assert len(first.locator("polyline").get_attribute("points").split()) >= 2
        # Blind is shown as blind.
        assert "lost" in second.locator(".state").get_attribute("class")
        assert "BLIND" in second.locator(".state").inner_text()
        assert "blind" in second.get_attribute("class")
        assert second.locator(".found").inner_text() == "not known"
        page.screenshot(path=os.environ.get("SCREENSHOT") or tmp_path / "page.png")
        assert not wrong
        process.terminate()
        process.communicate(timeout=20)
        page.wait_for_selector("#alarm", state="visible")
        page.close()
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 143
