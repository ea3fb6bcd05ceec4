import http.client
import socket
from email.message import Message
from http.server import BaseHTTPRequestHandler

import pytest

import stream_parts
from cpr_deploy.files import InputError
from cpr_deploy.http_server import HttpServer, asks_for_this_machine


class Hello(BaseHTTPRequestHandler):
    timeout = 5

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *args):
        pass


def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/")
    return connection.getresponse().read()


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("[::1]:8080", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:80", False),
        ("", False),
    ],
)
def test_whom_a_request_asks_for(host, ours):
    headers = Message()
    headers["Host"] = host
    assert asks_for_this_machine(headers) is ours


def test_connections_are_bounded_and_come_free_again():
    server = HttpServer("127.0.0.1", 0, Hello, option="--x", name="test", connections=2)
    try:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        # The third is closed at once, the others wait.
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as third:
            assert third.recv(1) == b""
        for connection in silent:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert connection.makefile("rb").read().endswith(b"hello")
            connection.close()
        stream_parts.wait_until(lambda: ask(server.port) == b"hello", 10, "a free place")
    finally:
        server.close()


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"^--x 127.0.0.1:{port}: cannot be opened"):
            HttpServer("127.0.0.1", port, Hello, option="--x", name="test")
