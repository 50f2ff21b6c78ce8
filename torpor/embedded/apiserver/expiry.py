"""Events are news, not state: they go an hour after they were last written, as in Kubernetes."""

import asyncio
from collections import deque

from kncore.clock import Clock
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.lifecycle import Deletion
from torpor.embedded.apiserver.resources import Resources, Write
from torpor.embedded.apiserver.store import Change, Collection, Key

__all__ = ["EventExpiry"]

LIFE = 3600.0
"""Seconds an Event lives; kube-apiserver's `--event-ttl`."""
SWEEP = 60.0
"""Seconds between looks at the oldest."""


class EventExpiry:
    """Deletes old Events. Times are this process's own: after a restart all that is left lives for another hour."""

    def __init__(self, resources: Resources, kind: Kind, clock: Clock) -> None:
        self._resources = resources
        self._kind = kind
        self._clock = clock
        self._queue: deque[tuple[float, Key, int]] = deque()  # written at, which, version

    def load(self) -> None:
        """Begin counting for what was read from disk."""
        for record in self._resources.collection(self._kind).records():
            self._queue.append((self._clock.monotonic(), record.key, record.version))

    def observe(self, collection: Collection, change: Change) -> None:
        """Note when an Event was written; the store calls this with every change."""
        if collection.name == self._kind.plural and change.type != "DELETED":
            self._queue.append((self._clock.monotonic(), change.record.key, change.record.version))

    async def run(self) -> None:
        """Sweep, for ever."""
        while True:
            await asyncio.sleep(SWEEP)
            await self.sweep()

    async def sweep(self) -> None:
        """Delete the Events whose time has come and that were not written again."""
        collection = self._resources.collection(self._kind)
        write = Write(user="system:apiserver", manager="torpor-events")
        while self._queue and self._queue[0][0] + LIFE <= self._clock.monotonic():
            _, key, version = self._queue.popleft()
            record = collection.get(key)
            if record is None or record.version != version:
                continue
            try:
                await self._resources.delete(self._kind, key.namespace, key.name, Deletion(uid=record.uid), write)
            except StatusError:
                continue  # gone already, or the disk is full: the next start counts again
