"""Picks over HTTP and a plain socket: what arms get, who may ask, and what is refused."""

import contextlib
import dataclasses
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import pick_bags
import spot_model
import stream_parts
from cpr_deploy.camera import CameraModel
from cpr_deploy.files import InputError, write_json
from cpr_deploy.picking.client import PickClient, PickServerError
from cpr_deploy.picking.pick_desk import PickDesk
from cpr_deploy.picking.pick_frames import PickFrames, pack_frame
from cpr_deploy.picking.pick_queue import PickQueue
from cpr_deploy.picking.pick_server import MAX_BYTES, MAX_CONNECTIONS, PickServer
from cpr_deploy.picking.pick_socket import PickSocket
from cpr_deploy.picking.picker import PointPicker
from cpr_deploy.picking.settings import PickSettings
from cpr_deploy.point_localizer import PointLocalizer
from cpr_deploy.sessions import InferenceError
from cpr_deploy.transforms import Transform

ROOT = Path(__file__).parents[1]
CAMERA = CameraModel(
    pick_bags.WIDTH,
    pick_bags.HEIGHT,
    np.array(
        [
            [pick_bags.FOCAL, 0, pick_bags.WIDTH / 2 - 0.5],
            [0, pick_bags.FOCAL, pick_bags.HEIGHT / 2 - 0.5],
            [0, 0, 1],
        ]
    ),
)
ONE_FRAME = PickSettings(stable_frames=1)
PICTURE = spot_model.picture(pick_bags.HEIGHT, pick_bags.WIDTH, pick_bags.CELLS)


class Clock:
    now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def localizer():
    return PointLocalizer(spot_model.model_bytes(pick_bags.MAX_POINTS), threads=1)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def desk(clock):
    return PickDesk(PickQueue(), clock)


@pytest.fixture
def server(desk, localizer, clock):
    picker = PointPicker(CAMERA, pick_bags.BASE_FROM_CAMERA, ONE_FRAME)
    frames = PickFrames(localizer, picker, desk.queue, clock=clock)
    server = PickServer("127.0.0.1", 0, desk, frames)
    yield server
    server.close()


@pytest.fixture(scope="module")
def shared(localizer):
    """A server for requests that change nothing."""
    desk = PickDesk(PickQueue())
    picker = PointPicker(CAMERA, pick_bags.BASE_FROM_CAMERA, ONE_FRAME)
    server = PickServer("127.0.0.1", 0, desk, PickFrames(localizer, picker, desk.queue))
    yield server
    server.close()


@pytest.fixture
def client(server):
    return PickClient(port=server.port, arm="left")


def send(client, clock, seed=0, **fields):
    fields = {"depth_unit": "mm", "stamp": clock.now - 0.05, **fields}
    return client.send_frame(PICTURE, pick_bags.depth(seed), **fields)


def test_from_a_frame_to_picks(client, clock):
    found = send(client, clock)
    assert found["ok"] and found["age_ms"] == pytest.approx(50) and not found["refusals"]
    positions = np.array([target["position"] for target in found["targets"]])
    wanted = pick_bags.places()
    apart = np.linalg.norm(positions[:, None] - wanted, axis=2).min(axis=1)
    assert len(positions) == 3 and apart.max() < 0.002
    taken = client.take()
    assert taken["ok"] and taken["target"]["id"] == found["targets"][0]["id"]
    pose = Transform.from_dict(taken["pose"])
    np.testing.assert_allclose(pose.translation, taken["target"]["position"], atol=1e-6)
    np.testing.assert_allclose(pose.rotation[:, 2], taken["target"]["approach"], atol=1e-5)
    np.testing.assert_allclose(pose.rotation[:, 2], (0, 0, -1), atol=0.05)


def test_two_arms_never_get_one_object(client, server, clock):
    send(client, clock)
    other = PickClient(port=server.port, arm="right")
    first, second = client.take(), other.take()
    assert first["target"]["id"] != second["target"]["id"]
    assert client.take()["code"] == "arm_busy"
    assert client.acknowledge(first["target"]["id"]) == {"ok": True, "id": first["target"]["id"]}
    assert other.reject(second["target"]["id"], "no grip")["ok"]
    again = client.acknowledge(first["target"]["id"])
    assert (again["ok"], again["code"]) == (False, "unknown_id")
    health = client.health()
    counts = {name: health[name] for name in ("handed_out", "acknowledged", "rejected")}
    assert counts == {"handed_out": 2, "acknowledged": 1, "rejected": 1}


def test_many_arms_at_once(client, server, clock):
    send(client, clock)
    answers = []

    def take(arm):
        answers.append(PickClient(port=server.port, arm=arm).take())

    threads = [threading.Thread(target=take, args=(f"arm{n}",)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [answer["target"]["id"] for answer in answers if answer["ok"]]
    assert len(ids) == len(set(ids)) == 3
    assert {answer["code"] for answer in answers if not answer["ok"]} == {"all_taken"}


def test_dead_man(client, clock):
    assert client.take()["code"] == "stale" and not client.health()["ok"]
    send(client, clock)
    assert client.health()["ok"]
    clock.now += 1.0
    assert client.take()["code"] == "stale"
    assert not client.health()["ok"] and client.health()["refusal"]["code"] == "stale"
    # A frame that was long on its way is no new one.
    found = send(client, clock, seed=1, stamp=clock.now - 2)
    assert found["targets"] == [] and found["refusals"][0]["code"] == "stale"


def test_frozen_frames(client, clock):
    for _ in range(4):
        found = send(client, clock)
        clock.now += 0.4
    assert found["refusals"][0]["code"] == "frozen"
    assert client.take()["code"] == "frozen"


def test_an_image_that_is_frozen_while_depth_goes_on(client, clock):
    for seed in range(4):
        found = send(client, clock, seed=seed)
        clock.now += 0.4
    assert found["refusals"][0]["code"] == "frozen" and not found["live"]
    assert client.take()["code"] == "frozen"


def test_nothing_is_picked_of_a_frame_of_which_nothing_is_known(
    client, clock, localizer, monkeypatch
):
    send(client, clock)
    blind = dataclasses.replace(localizer(PICTURE), flags=4)
    monkeypatch.setattr(type(localizer), "__call__", lambda *_, **__: blind)
    found = send(client, clock, seed=1)
    assert not found["targets"] and {r["code"] for r in found["refusals"]} == {"no_result"}
    assert client.take()["code"] == "no_result" and not client.health()["ok"]


def test_a_network_that_fails_is_told(client, clock, localizer, monkeypatch, caplog):
    def fail(*_, **__):
        raise InferenceError("the network failed: out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(type(localizer), "__call__", fail)
        with pytest.raises(PickServerError, match="500: .*out of memory"):
            send(client, clock)
    assert "out of memory" in caplog.text and client.take()["code"] == "stale"
    assert send(client, clock)["targets"]


def test_a_clock_that_is_set_back(client, clock):
    send(client, clock)
    clock.now -= 3600
    assert len(send(client, clock, seed=1)["targets"]) == 3
    taken = client.take()
    assert taken["ok"] and taken["target"]["stamp"] == pytest.approx(clock.now - 0.05)
    clock.now += 1
    client.reject(taken["target"]["id"])
    assert client.take()["code"] == "stale"


def test_a_frame_from_the_future_does_not_blind_for_long(client, clock):
    send(client, clock)
    assert send(client, clock, seed=1, stamp=clock.now + 3600)["refusals"][0]["code"] == "stale"
    assert client.take()["code"] == "stale"
    send(client, clock, seed=2)
    assert client.take()["ok"]


def test_depth_in_metres_and_images_in_rgb(server, client, clock):
    metres = (pick_bags.depth(0) / 1000).astype(np.float32)
    found = client.send_frame(PICTURE, metres, depth_unit="m", stamp=clock.now)
    assert len(found["targets"]) == 3
    body = pack_frame(
        PICTURE, pick_bags.depth(1), depth_unit=0.001, stamp=clock.now, encoding="rgb8"
    )
    found = server.frames.add(body)  # red where it was blue: the model looks at blue
    assert len(found["targets"]) == 3  # white spots


def test_a_camera_on_the_arm(desk, localizer, clock):
    hand = Transform.from_quaternion((0, 0, 0.6, 0.8), (0.1, 0.2, 0.3))
    base_from_hand = pick_bags.BASE_FROM_CAMERA @ hand.inverse()
    picker = PointPicker(CAMERA, settings=ONE_FRAME, hand_from_camera=hand)
    server = PickServer(
        "127.0.0.1", 0, desk, PickFrames(localizer, picker, desk.queue, clock=clock)
    )
    client = PickClient(port=server.port)
    try:
        assert send(client, clock)["refusals"][0]["code"] == "no_transform"
        found = send(client, clock, seed=1, base_from_hand=base_from_hand)
        positions = np.array([target["position"] for target in found["targets"]])
        apart = np.linalg.norm(positions[:, None] - pick_bags.places(), axis=2).min(axis=1)
        assert len(positions) == 3 and apart.max() < 0.002
    finally:
        server.close()


# --- what is refused ------------------------------------------------------------------------------


def ask(server, method, path, body=b"", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    """headers: None leaves one out."""
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in fields.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    reply = connection.getresponse()
    answer = reply.read()
    connection.close()
    return reply, answer


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/", b"", {}, 404),
        ("GET", "/picks/take", b"", {}, 404),
        ("POST", "/picks/steal", b"{}", {}, 404),
        ("POST", "/take", b"{}", {}, 404),
        ("POST", "/picks/../health", b"{}", {}, 404),
        ("POST", "/picks/take", b"{", {}, 400),
        ("POST", "/picks/take", b"[]", {}, 400),
        ("POST", "/picks/take", b'{"arm": 3}', {}, 400),
        ("POST", "/picks/take", b'{"arm": ""}', {}, 400),
        ("POST", "/picks/take", b'{"arm": "' + b"a" * 101 + b'"}', {}, 400),
        ("POST", "/picks/take", b'{"id": "1"}', {}, 400),
        ("POST", "/picks/take", b"\xff", {}, 400),
        ("POST", "/picks/take", b"{}", {"Content-Type": "text/plain"}, 415),
        ("POST", "/picks/take", b"{}", {"Content-Length": None}, 411),
        ("POST", "/picks/take", b"{}", {"Content-Length": "-1"}, 411),
        ("POST", "/picks/take", b" " * (MAX_BYTES + 1), {}, 413),
        ("POST", "/picks/take", b"{}", {"Origin": "http://localhost"}, 403),
        ("GET", "/health", b"", {"Host": "evil.example"}, 403),
        ("POST", "/frame", b"{}\n", {}, 415),
        ("DELETE", "/health", b"", {}, 501),
        ("OPTIONS", "/picks/take", b"", {"Origin": "http://evil.example"}, 501),
    ],
)
def test_requests_that_are_refused(shared, method, path, body, headers, status):
    reply, answer = ask(shared, method, path, body, **headers)
    assert reply.status == status
    assert not [name for name, _ in reply.getheaders() if name.lower().startswith("access-control")]
    if status != 501:
        assert json.loads(answer)["ok"] is False and json.loads(answer)["reason"]
        assert reply.getheader("X-Content-Type-Options") == "nosniff"


FRAME = {"Content-Type": "application/octet-stream"}
HEADER = {
    "width": pick_bags.WIDTH,
    "height": pick_bags.HEIGHT,
    "encoding": "bgr8",
    "depth": "uint16",
    "depth_unit": "mm",
    "stamp": 1_700_000_000.0,
}
PIXELS = bytes(5 * pick_bags.WIDTH * pick_bags.HEIGHT)


@pytest.mark.parametrize(
    ("change", "pixels", "text"),
    [
        ({}, PIXELS[:-1], "bytes of pixels"),
        ({}, PIXELS + b"x", "bytes of pixels"),
        ({"width": 640}, PIXELS, "the camera has 320 x 240"),
        ({"encoding": "yuv"}, PIXELS, "encoding 'yuv'"),
        ({"depth": "uint8"}, PIXELS, "depth 'uint8'"),
        ({"depth_unit": "km"}, PIXELS, "depth_unit 'km'"),
        ({"depth_unit": "m"}, PIXELS, "whole metres"),
        ({"stamp": "now"}, PIXELS, "stamp 'now'"),
        ({"stamp": float("nan")}, PIXELS, "stamp nan"),
        ({"stamp": 10**400}, PIXELS, "stamp 1000"),
        (
            {"base_from_hand": {"rotation": [0, 0, 0, 2], "translation": [0, 0, 0]}},
            PIXELS,
            "length",
        ),
        ({"base_from_hand": Transform.identity().to_dict()}, PIXELS, "stands still"),
    ],
)
def test_frames_that_are_refused(shared, change, pixels, text):
    body = json.dumps({**HEADER, **change}).encode() + b"\n" + pixels
    reply, answer = ask(shared, "POST", "/frame", body, **FRAME)
    assert reply.status == 400 and text in json.loads(answer)["reason"]


@pytest.mark.parametrize("body", [b"", b"{}", b"{}\n", b"[1]\n", b"\xff\n", b"x" * 5000])
def test_what_is_no_frame(shared, body):
    with pytest.raises(InputError, match="begins with a line of JSON"):
        shared.frames.add(body)


@pytest.mark.parametrize(
    ("host", "source", "status"),
    [
        ("127.0.0.1", "127.0.0.1", 400),  # taken, and found to be no frame
        ("127.0.0.2", "127.0.0.2", 400),  # this machine by its address in a network
        ("127.0.0.2", "127.0.0.3", 403),  # another one
    ],
)
def test_frames_come_from_this_machine_only(shared, host, source, status):
    server = PickServer(host, 0, shared.desk, shared.frames)
    try:
        connection = http.client.HTTPConnection(
            host, server.port, timeout=10, source_address=(source, 0)
        )
        connection.request("POST", "/frame", b"no frame", FRAME)
        assert connection.getresponse().status == status
        # Arms may be elsewhere.
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
    finally:
        connection.close()
        server.close()


def test_a_frame_that_is_too_large(shared):
    length = {"Content-Length": str(shared.frames.max_bytes + 1)}
    assert ask(shared, "POST", "/frame", **FRAME, **length)[0].status == 413


def test_many_silent_visitors_do_not_stop_others(server, client):
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    assert "ok" in client.health()
    for connection in silent:
        connection.close()


def test_a_port_that_is_taken(server, desk):
    with pytest.raises(InputError, match="--listen .* Choose another port"):
        PickServer("127.0.0.1", server.port, desk)
    with pytest.raises(InputError, match="--tcp .* Choose another port"):
        PickSocket("127.0.0.1", 70000, desk)


def test_the_client_tells_what_is_wrong(server, client):
    with pytest.raises(PickServerError, match="400: frame: is of 8 x 8 px"):
        client.send_frame(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint16), depth_unit=1)
    with pytest.raises(InputError, match="uint16 or float32"):
        client.send_frame(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), depth_unit="m")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        thread = threading.Thread(target=lambda: other.accept()[0].close())
        thread.start()
        with pytest.raises((PickServerError, OSError)):
            PickClient(port=port).take()
        thread.join()
    with pytest.raises(OSError):
        PickClient(port=port, timeout=1).take()


def test_connections_that_ask_nothing_are_bounded(server, client):
    before = threading.active_count()
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MAX_CONNECTIONS)]
    with contextlib.ExitStack() as stack:
        for connection in idle:
            stack.enter_context(connection)
        stream_parts.wait_until(lambda: threading.active_count() >= before + MAX_CONNECTIONS)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as one_more:
            assert one_more.recv(1) == b""
        assert threading.active_count() <= before + MAX_CONNECTIONS
    stream_parts.wait_until(lambda: threading.active_count() <= before)
    assert client.health()["ok"] is False


# --- the plain socket -----------------------------------------------------------------------------


@pytest.fixture
def talk(desk):
    """Sends lines to a new socket of a form, gives the lines that come back."""
    made = []

    def talk(form, *lines):
        if not made:
            made.append(PickSocket("127.0.0.1", 0, desk, form))
        with socket.create_connection(("127.0.0.1", made[0].port), timeout=10) as connection:
            reader = connection.makefile("rb")
            answers = []
            for line in lines:
                connection.sendall(line)
                answers.append(reader.readline().decode().rstrip("\n"))
            return answers

    yield talk
    for each in made:
        each.close()


def numbers(line):
    """As socket_read_ascii_float of URScript: the count, then the numbers."""
    found = [float(text) for text in line.strip("()").split(",") if text]
    return [len(found), *found]


def test_ur_form(talk, client, clock):
    assert talk("ur", b"take\n", b"health\n", b"ack\n") == ["()", "(0)", "(0)"]
    send(client, clock)
    health, line, busy, done, nothing = talk(
        "ur", b"health\n", b"take ur5\r\n", b"take ur5\n", b"ack ur5\n", b"ack ur5\n"
    )
    assert (health, busy, done, nothing) == ("(1)", "()", "(1)", "(0)")
    count, *pose = numbers(line)
    assert count == 6
    assert np.linalg.norm(pick_bags.places() - pose[:3], axis=1).min() < 0.002
    # Straight down.
    assert np.linalg.norm(pose[3:]) == pytest.approx(np.pi, abs=0.05)
    assert talk("ur", b"take ur5\n", b"reject ur5 no grip\n")[1] == "(1)"


def test_kuka_form(talk, client, clock):
    send(client, clock)
    lines = talk("kuka", b"take kr10\n", b"ack kr10\n", b"reject kr10\n", b"health\n", b"what\n")
    pick, done, refused, health, unknown = map(ElementTree.fromstring, lines)
    place = [float(pick.find("Pose").get(name)) for name in "XYZ"]
    assert np.linalg.norm(1000 * pick_bags.places() - place, axis=1).min() < 2
    assert (done.get("Code"), health.get("Code")) == ("ok", "ok")
    assert (refused.get("Code"), unknown.get("Code")) == ("unknown_id", "bad_request")


def test_requests_in_xml_need_no_line_end(talk, client, clock):
    send(client, clock)
    requests = [
        b'<Robot Command="take" Arm="kr10"></Robot>',
        b'<Robot Command="take" Arm="kr10"/>\r\n\r\n',
        b"<Robot Command='reject' Arm='kr10' Reason='no grip'/>",
        b'\n<Robot Command="ack" Arm="kr10"/>',
    ]
    codes = [ElementTree.fromstring(line).get("Code") for line in talk("kuka", *requests)]
    assert codes == ["ok", "arm_busy", "ok", "unknown_id"]


@pytest.mark.parametrize(
    "line", [b"\xff\xfe\n", b"TAKE\n", b"take" + b"x" * 100 + b"\n", b"<Robot/>"]
)
def test_lines_that_are_none(talk, line):
    assert talk("ur", line) == ["(0)"]


def test_a_line_without_end_is_cut_off(talk):
    assert talk("ur", b"x" * 100_000) == [""]


def test_form_that_is_unknown(desk):
    with pytest.raises(InputError, match="one of ur, kuka"):
        PickSocket("127.0.0.1", 0, desk, "abb")


def test_the_script_of_a_web_page_takes_nothing(talk, desk, client, clock):
    """Browsers send a form to any port, as lines of HTTP and whatever body it wants."""
    send(client, clock)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\r\n"
    assert talk("ur", head + b"take arm\nack arm\n") == [""]
    assert desk.health()["handed_out"] == 0
    assert len(talk("ur", b"take arm\n")[0]) > 2


# --- the script -----------------------------------------------------------------------------------


def test_the_script(tmp_path):
    (tmp_path / "model.onnx").write_bytes(spot_model.model_bytes(pick_bags.MAX_POINTS))
    write_json(tmp_path / "camera.json", CAMERA.to_dict())
    write_json(tmp_path / "place.json", pick_bags.BASE_FROM_CAMERA.to_dict())
    write_json(tmp_path / "limits.json", {"stable_frames": 1})
    words = ["--model", "model.onnx", "--camera", "camera.json", "--transform", "place.json"]
    words += ["--settings", "limits.json", "--picks", "o.jsonl", "--listen", "0", "--tcp", "0"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "deploy/serve_picks.py", *words, "--threads", "1"],
        cwd=tmp_path,
        env={**spot_model.environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        port = int(process.stderr.readline().rstrip("/\n").rpartition(":")[2])
        tcp = int(process.stderr.readline().split(":")[2].split()[0])
        client = PickClient(port=port)
        found = client.send_frame(PICTURE, pick_bags.depth(0), depth_unit="mm", stamp=time.time())
        assert len(found["targets"]) == 3
        with socket.create_connection(("127.0.0.1", tcp), timeout=10) as connection:
            connection.sendall(b"take\n")
            assert numbers(connection.makefile().readline().strip())[0] == 6
        assert client.take()["code"] == "arm_busy"
        process.terminate()
        assert process.wait(10) == 143
    finally:
        process.kill()
        process.communicate()
    (record,) = map(json.loads, (tmp_path / "o.jsonl").read_text().splitlines())
    assert len(record["targets"]) == len(record["points"]) == 3
