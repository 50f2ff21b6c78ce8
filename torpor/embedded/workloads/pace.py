"""Status writes that wait a moment: the pods come first.

A pod that starts changes the counts of its ReplicaSet and its Deployment several times within milliseconds, while the
same process and the same API server are busy with what a waiting request depends on. So the first change of a status
only starts a short wait, and what has added up by then is written once.
"""

import asyncio

from kncore.kube.client import Key
from kncore.kube.reconcile import Controller

__all__ = ["StatusPace"]

DELAY = 0.05
EARLY = 0.002
"""How much early a work queue may come back (it takes keys that are due within a millisecond)."""


class StatusPace:
    """Says when a status may be written, and has the controller come back then."""

    def __init__(self, controller: Controller, delay: float = DELAY) -> None:
        self._controller = controller
        self._delay = delay
        self._due: dict[Key, float] = {}

    def must_wait(self, key: Key) -> bool:
        """Whether a status that differs is to be left for a later reconcile, which is arranged for."""
        now = asyncio.get_running_loop().time()
        due = self._due.setdefault(key, now + self._delay)
        if now < due - EARLY:
            self._controller.enqueue_after(key, due - now)
            return True
        del self._due[key]
        return False

    def settled(self, key: Key) -> None:
        """There is nothing to write (any more)."""
        self._due.pop(key, None)
