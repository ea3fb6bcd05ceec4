"""Picks over HTTP for arms without ROS: JSON, on this machine only unless told otherwise.

GET /health; POST /picks/take, /picks/acknowledge, /picks/reject with {"arm": .., "id": ..} as
application/json; POST /frame from a camera's program on this machine (`pick_frames`). Every answer
is a JSON object with `ok`. PICKING.md has the schema.
"""

from __future__ import annotations

import http
import json
import logging
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any

from cpr_deploy.addresses import LOOPBACK
from cpr_deploy.files import InputError
from cpr_deploy.http_server import HttpServer, asks_for_this_machine
from cpr_deploy.picking.pick_desk import MAX_NAME, PickDesk
from cpr_deploy.picking.pick_frames import PickFrames

logger = logging.getLogger(__name__)

# Seconds for a request; requests at a time; connections, also those that ask nothing; bytes of one
# that is no frame.
TIMEOUT = 10.0
MAX_REQUESTS = 16
MAX_CONNECTIONS = 64
MAX_BYTES = 4096
VERBS = ("take", "acknowledge", "reject")
_HEADERS = {
    "Content-Type": "application/json",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _Bad(Exception):
    """A request that is refused as such."""

    def __init__(self, status: http.HTTPStatus, reason: str):
        super().__init__(reason)
        self.status = status


class PickServer:
    """Serves in threads of its own from the moment it is made. frames: takes frames, if any are.

    Raises:
        InputError: the port cannot be opened.
    """

    def __init__(self, host: str, port: int, desk: PickDesk, frames: PickFrames | None = None):
        self.desk = desk
        self.frames = frames
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS)
        self._server = HttpServer(
            host,
            port,
            partial(_Handler, self, host in LOOPBACK),
            option="--listen",
            name="picks",
            connections=MAX_CONNECTIONS,
        )
        self.port = self._server.port

    def close(self) -> None:
        self._server.close()

    def enter(self) -> bool:
        return self._slots.acquire(blocking=False)

    def leave(self) -> None:
        self._slots.release()

    def answer(self, verb: str, body: bytes) -> dict[str, Any]:
        """The answer to a request of an arm; _Bad if it is none."""
        try:
            request = json.loads(body)
        except ValueError:
            raise _Bad(http.HTTPStatus.BAD_REQUEST, "the body is not JSON") from None
        known = {"take": {"arm"}, "acknowledge": {"arm", "id"}, "reject": {"arm", "id", "reason"}}
        if not isinstance(request, dict) or not request.keys() <= known[verb]:
            names = ", ".join(sorted(known[verb]))
            raise _Bad(http.HTTPStatus.BAD_REQUEST, f"an object with {names} is needed")
        for name, value in request.items():
            if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
                raise _Bad(
                    http.HTTPStatus.BAD_REQUEST, f"{name}: 1 to {MAX_NAME} characters are needed"
                )
        return getattr(self.desk, verb)(**{"arm": "arm", **request})


class _Handler(BaseHTTPRequestHandler):
    timeout = TIMEOUT
    server_version, sys_version = "cpr", ""

    def __init__(self, picks: PickServer, local: bool, *args):
        self._picks = picks
        self._local = local
        super().__init__(*args)

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def _serve(self, find: Callable[[str], dict[str, Any]]) -> None:
        if not self._picks.enter():
            self._refuse(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at a time")
            return
        try:
            self._check_asker()
            self._reply(http.HTTPStatus.OK, find(self.path))
        except _Bad as error:
            self._refuse(error.status, str(error))
        except InputError as error:
            self._refuse(http.HTTPStatus.BAD_REQUEST, str(error))
        except (ConnectionError, TimeoutError):  # who asked is gone
            raise
        except Exception as error:  # the network failed, or a defect: never silence
            logger.exception("a request for picks failed")
            reason = f"the server failed: {error}"
            self._refuse(http.HTTPStatus.INTERNAL_SERVER_ERROR, reason, "server_error")
        finally:
            self._picks.leave()

    def _get(self, path: str) -> dict[str, Any]:
        if path == "/health":
            return self._picks.desk.health()
        raise _Bad(http.HTTPStatus.NOT_FOUND, "there is GET /health, POST /picks/take and others")

    def _post(self, path: str) -> dict[str, Any]:
        if path == "/frame" and self._picks.frames is not None:
            return self._frame(self._picks.frames)
        verb = path.removeprefix("/picks/")
        if verb not in VERBS or verb == path:
            raise _Bad(http.HTTPStatus.NOT_FOUND, "there is POST /picks/take, acknowledge, reject")
        return self._picks.answer(verb, self._body("application/json", MAX_BYTES))

    def _frame(self, frames: PickFrames) -> dict[str, Any]:
        # Who sends frames tells the robot what there is: nobody else may. A program on this machine
        # has the address that it calls.
        asker, own = self.client_address[0], self.connection.getsockname()[0]
        if asker.removeprefix("::ffff:") not in LOOPBACK and asker != own:
            raise _Bad(http.HTTPStatus.FORBIDDEN, "frames are taken from this machine only")
        return frames.add(self._body("application/octet-stream", frames.max_bytes))

    def _body(self, kind: str, limit: int) -> bytes:
        if self.headers.get_content_type() != kind:
            raise _Bad(http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"Content-Type: {kind} is needed")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _Bad(http.HTTPStatus.LENGTH_REQUIRED, "Content-Length is needed")
        if int(length) > limit:
            raise _Bad(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {limit} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _Bad(http.HTTPStatus.BAD_REQUEST, "the body was cut off")
        return body

    def _check_asker(self) -> None:
        """Web pages send Origin; their scripts must not move a robot, nor read along by a foreign
        name that resolves to this machine (DNS rebinding)."""
        foreign = self._local and not asks_for_this_machine(self.headers)
        if "Origin" in self.headers or foreign:
            raise _Bad(http.HTTPStatus.FORBIDDEN, "not for web pages")

    def _refuse(self, status: http.HTTPStatus, reason: str, code: str = "bad_request") -> None:
        self._reply(status, {"ok": False, "code": code, "reason": reason})

    def _reply(self, status: http.HTTPStatus, answer: dict[str, Any]) -> None:
        data = json.dumps(answer, allow_nan=False).encode() + b"\n"
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args) -> None:
        logger.debug(format, *args)
