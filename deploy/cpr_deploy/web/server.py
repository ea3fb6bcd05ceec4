"""The web page's server: reads only, on this machine only unless told otherwise."""

from __future__ import annotations

import http
import json
import logging
import threading
import time
from collections.abc import Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler
from importlib import resources

import cv2
import numpy as np

from cpr_deploy.addresses import LOOPBACK
from cpr_deploy.http_server import HttpServer, asks_for_this_machine
from cpr_deploy.metrics_text import metrics_text
from cpr_deploy.stream_status import StreamStatus

logger = logging.getLogger(__name__)

# Seconds for a request; requests at a time; connections, also those that ask nothing.
TIMEOUT = 10.0
MAX_REQUESTS = 16
MAX_CONNECTIONS = 256
JPEG_QUALITY = 80
_FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
# The page loads its own parts and nothing else, and no other page may hold it in a frame.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _Picture:
    """The newest annotated frame of a stream; JPEG is made only when somebody looks."""

    def __init__(self):
        self._lock = threading.Lock()
        self._image: np.ndarray | None = None
        self._jpeg: bytes | None = None

    def write(self, image: np.ndarray, seconds: float | None) -> None:
        with self._lock:
            self._image, self._jpeg = image, None

    def jpeg(self) -> bytes | None:
        with self._lock:
            if self._jpeg is None and self._image is not None:
                quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
                self._jpeg = cv2.imencode(".jpg", self._image, quality)[1].tobytes()
            return self._jpeg


class WebPage:
    """Serves the page in threads of its own from the moment it is made. `pictures`: one per stream,
    writers of annotated frames. Calling it gives it the streams' status."""

    def __init__(self, host: str, port: int, streams: int):
        self.pictures = [_Picture() for _ in range(streams)]
        self._statuses: Sequence[StreamStatus] = ()
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS)
        self._server = HttpServer(
            host,
            port,
            partial(_Handler, self, host in LOOPBACK),
            option="--web",
            name="web page",
            connections=MAX_CONNECTIONS,
        )
        self.port = self._server.port

    def __call__(self, statuses: Sequence[StreamStatus]) -> None:
        self._statuses = statuses

    def close(self) -> None:
        self._server.close()

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Content type and body, or None if there is no such thing."""
        if path in _FILES:
            name = _FILES[path]
            data = resources.files(__package__).joinpath(name).read_bytes()
            return f"{_TYPES[name.rpartition('.')[2]]}; charset=utf-8", data
        if path == "/status.json":
            return "application/json", json.dumps(self._status()).encode()
        if path == "/metrics":
            return "text/plain; version=0.0.4", metrics_text(self._statuses).encode()
        for number, picture in enumerate(self.pictures, 1):
            if path == f"/frame/{number}.jpg":
                data = picture.jpeg()
                return None if data is None else ("image/jpeg", data)
        return None

    def _status(self) -> dict:
        now = int(time.time())
        return {
            "streams": [
                {**status.snapshot(), "now": now, "history": list(status.history)}
                for status in self._statuses
            ]
        }

    def enter(self) -> bool:
        return self._slots.acquire(blocking=False)

    def leave(self) -> None:
        self._slots.release()


class _Handler(BaseHTTPRequestHandler):
    timeout = TIMEOUT
    server_version, sys_version = "cpr", ""

    def __init__(self, page: WebPage, local: bool, *args):
        self._page = page
        self._local = local
        super().__init__(*args)

    def do_GET(self) -> None:
        self._serve(body=True)

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def _serve(self, *, body: bool) -> None:
        if self._local and not asks_for_this_machine(self.headers):
            self._reply(http.HTTPStatus.FORBIDDEN, "text/plain", b"Wrong host.\n", body)
            return
        if not self._page.enter():
            status = http.HTTPStatus.SERVICE_UNAVAILABLE
            self._reply(status, "text/plain", b"Too many requests.\n", body)
            return
        try:
            found = self._page.answer(self.path.partition("?")[0])
        finally:
            self._page.leave()
        if found is None:
            self._reply(http.HTTPStatus.NOT_FOUND, "text/plain", b"Not here.\n", body)
        else:
            self._reply(http.HTTPStatus.OK, *found, body)

    def _reply(self, status: http.HTTPStatus, kind: str, data: bytes, body: bool) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args) -> None:
        logger.debug(format, *args)
