"""What arms ask for, over whatever transport: the next target, done with it, is it alive.

Answers are JSON values. Every one has `ok`; where it is false, `code` and `reason` say why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from cpr_deploy.picking.pick_queue import PickQueue
from cpr_deploy.picking.results import PickTarget, Refusal, RefusalCode
from cpr_deploy.picking.tool_poses import tool_pose

# Names of arms, and of targets, that are longer are not from an arm.
MAX_NAME = 100


class PickDesk:
    """Safe to use from several threads.

    clock: seconds on the clock of the frames' stamps.
    """

    def __init__(self, queue: PickQueue, clock: Callable[[], float] = time.time):
        self.queue = queue
        self.clock = clock
        self._lock = threading.Lock()
        # Arm -> id of what it holds, so that it need not say it.
        self._held: dict[str, str] = {}

    def take(self, arm: str) -> dict[str, Any]:
        """The next target for `arm`: {"ok": true, "target": .., "pose": ..} or a refusal.

        pose: {"rotation": [x, y, z, w], "translation": [x, y, z]} of the tool in the base frame, z
        along the approach.
        """
        with self._lock:
            found = self.queue.take(self.clock(), arm)
            if isinstance(found, Refusal):
                return refused(found)
            self._held[arm] = found.id
        return {"ok": True, "target": found.to_dict(), "pose": _pose(found)}

    def acknowledge(self, arm: str, id: str | None = None) -> dict[str, Any]:
        """The object is picked. id: of the target, if it is not what `arm` took last."""
        return self._end(arm, id, lambda id: self.queue.acknowledge(id, now=self.clock()))

    def reject(self, arm: str, id: str | None = None, reason: str = "") -> dict[str, Any]:
        """The arm does not pick it; its place is left alone for a while."""
        return self._end(arm, id, lambda id: self.queue.reject(id, reason, now=self.clock()))

    def health(self) -> dict[str, Any]:
        """ok: a target could be handed out now, if there is one. The rest: `PickQueue.status`."""
        status = self.queue.status(self.clock())
        return {"ok": status["refusal"] is None, **status}

    def _end(
        self, arm: str, id: str | None, end: Callable[[str], Refusal | None]
    ) -> dict[str, Any]:
        with self._lock:
            if id is None:
                id = self._held.get(arm)
            if id is None:
                return refused(Refusal(RefusalCode.UNKNOWN_ID, f"{arm} holds nothing"))
            refusal = end(id)
            self._held = {name: held for name, held in self._held.items() if held != id}
        return refused(refusal) if refusal else {"ok": True, "id": id}


def refused(refusal: Refusal) -> dict[str, Any]:
    """A refusal as an answer."""
    return {"ok": False, **refusal.to_dict()}


def _pose(target: PickTarget) -> dict[str, list[float]]:
    return tool_pose(target.position, target.approach).to_dict()
