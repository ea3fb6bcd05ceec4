"""Webhook and MQTT against servers on this machine, written here from their specifications."""

import base64
import contextlib
import http.server
import json
import socket
import struct
import threading
import time

import pytest

import stream_parts
from cpr_deploy.files import InputError
from cpr_deploy.tracking.alarm_sinks import MqttTopic, Webhook, open_sink
from cpr_deploy.tracking.alarms import AlarmSender, AlarmSettings, DeadLetters, DeliveryError

ALARM = {"id": "a1", "rule": "läuft", "seconds": 5.0}


@contextlib.contextmanager
def web_server(port=0, codes=()):
    """(port, requests); answers with `codes` in turn, then 204."""
    requests, codes = [], list(codes)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, dict(self.headers), json.loads(body)))
            self.send_response(codes.pop(0) if codes else 204)
            self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
            self.end_headers()

        def do_GET(self):
            requests.append(("GET", self.path))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port, requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.server
def test_a_webhook_gets_json():
    with web_server() as (port, requests):
        Webhook(f"http://me:p%40ss@127.0.0.1:{port}/hook?x=1").deliver(ALARM)
    ((path, headers, body),) = requests
    assert path == "/hook?x=1" and body == ALARM
    assert headers["Content-Type"] == "application/json"
    assert base64.b64decode(headers["Authorization"].split()[1]) == b"me:p@ss"


@pytest.mark.server
@pytest.mark.parametrize(
    ("code", "final"),
    [(500, False), (503, False), (404, False), (429, False), (400, True), (413, True)],
)
def test_codes_of_a_webhook(code, final):
    with web_server(codes=[code]) as (port, _):
        with pytest.raises(DeliveryError, match=str(code)) as caught:
            Webhook(f"http://u:secret@127.0.0.1:{port}/hook?token=secret").deliver(ALARM)
    assert caught.value.final is final and "secret" not in str(caught.value)


@pytest.mark.server
@pytest.mark.parametrize("code", [301, 302, 307])
def test_a_webhook_follows_no_redirect(code):
    with web_server(codes=[code]) as (port, requests):
        with pytest.raises(DeliveryError, match=str(code)):
            Webhook(f"http://127.0.0.1:{port}/hook").deliver(ALARM)
        assert len(requests) == 1


@pytest.mark.server
def test_a_server_that_hangs_or_talks_nonsense_is_an_error_soon():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        begin = time.monotonic()
        with pytest.raises(DeliveryError, match="not reached"):
            Webhook(f"http://127.0.0.1:{port}/", timeout=0.3).deliver(ALARM)
        assert time.monotonic() - begin < 3
    with broken_server(b"hello\r\n\r\n") as port:
        with pytest.raises(DeliveryError):
            Webhook(f"http://127.0.0.1:{port}/", timeout=1).deliver(ALARM)
    with pytest.raises(DeliveryError, match="not reached"):
        Webhook(f"http://127.0.0.1:{stream_parts.free_port()}/").deliver(ALARM)


@contextlib.contextmanager
def broken_server(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run():
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        yield server.getsockname()[1]
        thread.join(5)


@pytest.mark.server
def test_a_webhook_that_is_down_and_comes_back_gets_everything(tmp_path):
    port = stream_parts.free_port()
    settings = AlarmSettings(attempts=2, first_wait=0.02, longest_wait=0.2, drain=1.0)
    letters = DeadLetters(tmp_path / "dead.jsonl")
    sender = AlarmSender(Webhook(f"http://127.0.0.1:{port}/hook"), letters, settings)
    for number in range(5):
        sender.send({"id": number})
    stream_parts.wait_until(lambda: len(letters) == 5)
    with web_server(port) as (_, requests):
        stream_parts.wait_until(lambda: len(requests) == 5)
        sender.close()
    assert [body["id"] for _, _, body in requests] == list(range(5))
    assert len(letters) == 0


# --- MQTT ---


class Broker:
    """Enough of an MQTT 3.1.1 broker: CONNECT, PUBLISH with quality 1, DISCONNECT."""

    def __init__(self, *, refuse=0, acknowledge=True):
        self.refuse, self.acknowledge = refuse, acknowledge
        self.connects, self.messages = [], []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self):
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)

    def _run(self):
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError, EOFError):
                connection.settimeout(5)
                self._serve(connection)

    def _serve(self, connection):
        while True:
            kind, body = self._packet(connection)
            if kind >> 4 == 1:
                self.connects.append(body)
                connection.sendall(bytes([0x20, 2, 0, self.refuse]))
            elif kind >> 4 == 3:
                (length,) = struct.unpack(">H", body[:2])
                topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
                self.messages.append((topic, json.loads(rest[2:]), kind >> 1 & 3))
                if self.acknowledge:
                    connection.sendall(bytes([0x40, 2]) + rest[:2])
            elif kind >> 4 == 14:
                return

    @staticmethod
    def _packet(connection):
        def read(count):
            data = b""
            while len(data) < count:
                part = connection.recv(count - len(data))
                if not part:
                    raise EOFError
                data += part
            return data

        kind, length, shift = read(1)[0], 0, 0
        while True:
            byte = read(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return kind, read(length)


@contextlib.contextmanager
def broker(**options):
    running = Broker(**options)
    try:
        yield running
    finally:
        running.close()


@pytest.mark.server
def test_mqtt_publishes_with_a_receipt():
    with broker() as running:
        sink = MqttTopic(f"mqtt://me:pass@127.0.0.1:{running.port}/site/alarms")
        sink.deliver(ALARM)
        sink.deliver({**ALARM, "id": "a2"})
    assert running.messages == [
        ("site/alarms", ALARM, 1),
        ("site/alarms", {**ALARM, "id": "a2"}, 1),
    ]
    assert b"me" in running.connects[0] and b"pass" in running.connects[0]


@pytest.mark.server
def test_mqtt_failures():
    with broker(refuse=5) as running:
        with pytest.raises(DeliveryError, match="[Nn]ot authorized"):
            MqttTopic(f"mqtt://127.0.0.1:{running.port}/t", timeout=2).deliver(ALARM)
        assert running.messages == []
    with broker(acknowledge=False) as running:
        with pytest.raises(DeliveryError, match="does not acknowledge"):
            MqttTopic(f"mqtt://127.0.0.1:{running.port}/t", timeout=0.5).deliver(ALARM)
    with pytest.raises(DeliveryError, match="not reached"):
        MqttTopic(f"mqtt://127.0.0.1:{stream_parts.free_port()}/t", timeout=1).deliver(ALARM)


# --- addresses ---


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/x", "can be sent to"),
        ("host/x", "is no address"),
        ("http://", "is no address"),
        ("http://host:port/x", "is no address"),
        ("http://ho st/x", "is no address"),
        ("mqtt://host/", "a topic without"),
        ("mqtt://host/a/#", "a topic without"),
        ("file:///etc/passwd", "is no address"),
    ],
)
def test_bad_addresses_are_refused(address, message):
    with pytest.raises(InputError, match=message):
        open_sink(address)


def test_kinds_and_names_without_secrets():
    web = open_sink("https://u:p@host/hook?token=abc")
    topic = open_sink("mqtts://u:p@host/a/b")
    assert isinstance(web, Webhook) and isinstance(topic, MqttTopic)
    assert web.name == "https://host/hook?token=***" and topic.name == "mqtts://host/a/b"


def test_without_paho_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "paho.mqtt.client", None)
    with pytest.raises(InputError, match=r"cpr-point-localization\[track\]"):
        open_sink("mqtt://host/t")
