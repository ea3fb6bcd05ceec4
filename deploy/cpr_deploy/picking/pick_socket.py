"""Picks over a plain socket, line by line, for controllers that have nothing else.

Requests: take, ack, reject, health; each may be followed by the arm's name, reject by a reason too;
or the same as XML, <Robot Command="reject" Arm="kr10" Reason="no grip"/>, without a line end too.
Answers, one line each: in the form "ur" numbers in brackets, as socket_read_ascii_float of URScript
reads them: (x,y,z,rx,ry,rz) or () for a target, (1) or (0) for the others. In the form "kuka" XML
as EthernetKRL reads it (`tool_poses`).
"""

from __future__ import annotations

import logging
import re
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

from cpr_deploy.addresses import LOOPBACK
from cpr_deploy.files import InputError
from cpr_deploy.picking.pick_desk import MAX_NAME, PickDesk
from cpr_deploy.picking.tool_poses import kuka_xml, ur_line

logger = logging.getLogger(__name__)

FORMS = ("ur", "kuka")
MAX_LINE = 256
MAX_CONNECTIONS = 16
# Seconds of silence after which a connection is closed: longer than an arm's longest motion.
IDLE = 600.0
_END = re.compile(rb"\n|</Robot>|/>")
_HTTP = re.compile(r" HTTP/\d")
_ATTRIBUTE = re.compile(r"""(\w+)\s*=\s*["']([^"'<>]*)["']""")
VERBS = {"take": "take", "ack": "acknowledge", "reject": "reject", "health": "health"}


class PickSocket:
    """Listens in threads of its own from the moment it is made.

    Raises:
        InputError: an unknown form, or the port cannot be opened.
    """

    def __init__(self, host: str, port: int, desk: PickDesk, form: str = "ur"):
        if form not in FORMS:
            raise InputError(f"form {form!r}: one of {', '.join(FORMS)} is needed.")
        self._desk = desk
        self._form = form
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        picks = self

        class Handler(socketserver.StreamRequestHandler):
            timeout = IDLE

            def handle(self) -> None:
                picks.serve(self.rfile, self.wfile)

        try:
            self._server = _Server((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"--tcp {host}:{port}: cannot be opened ({getattr(error, 'strerror', error)})."
                " Choose another port."
            ) from None
        if host not in LOOPBACK:
            logger.warning("picks have no password, and %s is open to others", host)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="pick socket", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def serve(self, reader: Any, writer: Any) -> None:
        """Answers the requests of one connection until it ends, or sends what is none."""
        if not self._slots.acquire(blocking=False):
            return
        try:
            for line in _lines(reader):
                if _HTTP.search(line):  # the script of a web page: it must not move a robot
                    return
                writer.write(self.answer(line).encode() + b"\n")
        finally:
            self._slots.release()

    def answer(self, line: str) -> str:
        """The answer to one line, without its end."""
        if line.startswith("<"):
            found = dict(_ATTRIBUTE.findall(line))
            verb, arm, reason = (found.get(name, "") for name in ("Command", "Arm", "Reason"))
        else:
            verb, _, rest = line.partition(" ")
            arm, _, reason = rest.strip().partition(" ")
        arm = arm[:MAX_NAME] or "arm"
        if verb not in VERBS:
            found = {"ok": False, "code": "bad_request", "reason": f"one of {', '.join(VERBS)}"}
        elif verb == "health":
            found = self._desk.health()
            found = {**found, **(found["refusal"] or {})}
        elif verb == "reject":
            found = self._desk.reject(arm, reason=reason.strip())
        else:
            found = getattr(self._desk, VERBS[verb])(arm)
        if self._form == "kuka":
            return kuka_xml(found)
        return ur_line(found) if verb == "take" else f"({int(found['ok'])})"


def _lines(reader: Any) -> Iterator[str]:
    """What comes, up to the end of a line or of an XML element; ends at what is too long."""
    waiting = b""
    while len(waiting) <= MAX_LINE and (data := reader.read1(MAX_LINE)):
        waiting += data
        while end := _END.search(waiting):
            line, waiting = waiting[: end.end()].strip(), waiting[end.end() :]
            if line:
                yield line.decode("ascii", "replace")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    # A closing server does not wait for arms that hold their connection.
    block_on_close = False

    def handle_error(self, request, client_address) -> None:
        logger.debug("a connection of the pick socket failed", exc_info=True)
