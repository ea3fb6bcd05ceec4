"""A small HTTP server in threads of its own; what it answers is its handler's business."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from email.message import Message
from http.server import ThreadingHTTPServer

from cpr_deploy.addresses import LOOPBACK
from cpr_deploy.files import InputError

logger = logging.getLogger(__name__)


class HttpServer:
    """Serves from the moment it is made.

    Args:
        handler: makes a `BaseHTTPRequestHandler` of each connection.
        option: of the command line, for messages. name: what is served, for messages.
        connections: at a time, also those that ask nothing; further ones are closed.

    Raises:
        InputError: the port cannot be opened.
    """

    def __init__(
        self,
        host: str,
        port: int,
        handler: Callable,
        *,
        option: str,
        name: str,
        connections: int = 1 << 16,
    ):
        try:
            self._server = _Server((host, port), handler, name, connections)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"{option} {host}:{port}: cannot be opened ({getattr(error, 'strerror', error)})."
                " Choose another port."
            ) from None
        if host not in LOOPBACK:
            logger.warning("%s: without a password, and %s is open to others", name, host)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name=name, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def asks_for_this_machine(headers: Message) -> bool:
    """Whether a request names this machine as its host: a foreign name that resolves to it (DNS
    rebinding) would let that site's scripts read along."""
    host = headers.get("Host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower() in LOOPBACK


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: Callable, name: str, connections: int):
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._name = name
        self._connections = threading.BoundedSemaphore(connections)
        super().__init__(address, handler)

    def process_request(self, request, client_address) -> None:
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request, client_address) -> None:
        logger.debug("%s: a request failed", self._name, exc_info=True)
