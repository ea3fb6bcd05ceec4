"""A client of `deploy/serve_picks.py`, for arms and for the programs of cameras."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

import numpy as np

from cpr_deploy.picking.pick_frames import pack_frame
from cpr_deploy.transforms import Transform


class PickServerError(RuntimeError):
    """The server did not take a request: its status and the reason that it gave."""


class PickClient:
    """arm: the name under which targets are taken. Answers are the server's, with `ok`.

    All methods raise PickServerError for a request that is refused as such, and OSError if there is
    no server: then there are no picks.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 8090, *, arm: str = "arm", timeout: float = 5.0
    ):
        self._address = host, port, timeout
        self._arm = arm

    def health(self) -> dict[str, Any]:
        return self._ask("GET", "/health")

    def take(self) -> dict[str, Any]:
        """The next target: {"ok": true, "target": .., "pose": ..}, or `code` and `reason`."""
        return self._post("/picks/take", {"arm": self._arm})

    def acknowledge(self, id: str) -> dict[str, Any]:
        return self._post("/picks/acknowledge", {"arm": self._arm, "id": id})

    def reject(self, id: str, reason: str = "") -> dict[str, Any]:
        request = {"arm": self._arm, "id": id, **({"reason": reason} if reason else {})}
        return self._post("/picks/reject", request)

    def send_frame(
        self,
        image: np.ndarray,
        depth: np.ndarray,
        *,
        depth_unit: str | float,
        stamp: float | None = None,
        base_from_hand: Transform | None = None,
    ) -> dict[str, Any]:
        """Sends image (H, W, 3) uint8 BGR and aligned depth (H, W) uint16 or float32.

        stamp: when they were taken, seconds since 1970; now unless given. base_from_hand: the arm's
        pose then, for a camera on the arm.
        """
        header: dict[str, Any] = {
            "depth_unit": depth_unit,
            "stamp": time.time() if stamp is None else stamp,
        }
        if base_from_hand is not None:
            header["base_from_hand"] = base_from_hand.to_dict()
        body = pack_frame(image, depth, **header)
        return self._ask("POST", "/frame", body, "application/octet-stream")

    def _post(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", path, json.dumps(request).encode(), "application/json")

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> dict:
        host, port, timeout = self._address
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if kind else {})
            reply = connection.getresponse()
            answer = json.loads(reply.read())
        except (http.client.HTTPException, ValueError) as error:
            raise PickServerError(f"{host}:{port}: is no server of picks ({error})") from None
        finally:
            connection.close()
        if reply.status != http.HTTPStatus.OK:
            raise PickServerError(f"{reply.status}: {answer.get('reason', '')}")
        return answer
