"""Events: what controllers tell the people who run `kubectl describe`.

`Recorder.event` never waits and never fails: it puts the event into a bounded table, from which one task writes it.
An event that repeats (same object, reason and text) is written once and then counted, in the table while it waits and
on the server afterwards; an object that keeps producing events is cut off by a token bucket, as in client-go (25 at
once, then one every five minutes). What does not fit is dropped and counted: an Event is a courtesy, not state.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kncore.api import meta
from kncore.api.resources import EVENTS
from kncore.clock import Clock, SystemClock, rfc3339
from kncore.kube.backoff import Backoff
from kncore.kube.client import Client, Obj
from kncore.kube.errors import ApiError, NotFound, TooManyRequests, Unavailable
from kncore.kube.workqueue import TokenBucket

__all__ = ["Recorder", "Statistics"]

logger = logging.getLogger(__name__)

_WAITING = 1000
_REMEMBERED = 4096  # client-go's correlator cache
_MESSAGE = 1024  # characters; the API server refuses longer ones
_BURST = 25
_RATE = 1 / 300
_ATTEMPTS = 12


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Events waiting to be written, and what became of the others."""

    waiting: int
    written: int
    """Writes that succeeded; one may stand for several occurrences."""
    dropped: int
    """For lack of room, for lack of tokens, or refused by the server."""


class _Identity(NamedTuple):
    """Events that are equal in this are one event with a count."""

    namespace: str
    kind: str
    name: str
    uid: str
    type: str
    reason: str
    message: str


@dataclass(slots=True)
class _Waiting:
    about: Obj
    count: int
    first: float


@dataclass(slots=True)
class _Written:
    name: str
    count: int


class Recorder:
    """Writes Events for one component.

    Args:
        client: where to write.
        component: the Event's source, e.g. `revision-controller`.
    """

    def __init__(self, client: Client, component: str, *, clock: Clock | None = None) -> None:
        self.name = f"events {component}"
        self._client = client
        self._component = component
        self._clock = clock or SystemClock()
        self._waiting: OrderedDict[_Identity, _Waiting] = OrderedDict()
        self._written: OrderedDict[_Identity, _Written] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, str, str], TokenBucket] = OrderedDict()
        self._ready = asyncio.Event()
        self._writes = self._dropped = self._serial = 0

    def event(self, obj: Obj, type_: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Say that something happened to `obj`, a stored object with its kind."""
        identity = _Identity(
            meta.namespace(obj), meta.kind(obj), meta.name(obj), meta.uid(obj), type_, reason, message[:_MESSAGE]
        )
        now = self._clock.wall()
        if (same := self._waiting.get(identity)) is not None:
            same.count += 1
            same.about = obj
            return
        if len(self._waiting) >= _WAITING or not self._allowed(identity):
            self._dropped += 1
            return
        self._waiting[identity] = _Waiting(obj, 1, now)
        self._ready.set()

    async def run(self) -> None:
        """Write what is recorded until cancelled."""
        while True:
            while self._waiting:
                identity, waiting = next(iter(self._waiting.items()))
                await self._deliver(identity, waiting)
            self._ready.clear()
            await self._ready.wait()

    def statistics(self) -> Statistics:
        """Depth and totals."""
        return Statistics(waiting=len(self._waiting), written=self._writes, dropped=self._dropped)

    def _allowed(self, identity: _Identity) -> bool:
        about = (identity.namespace, identity.kind, identity.name)
        bucket = self._buckets.get(about)
        if bucket is None:
            bucket = self._buckets[about] = TokenBucket(_RATE, _BURST)
            if len(self._buckets) > _REMEMBERED:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(about)
        return bucket.take(self._clock.monotonic())

    async def _deliver(self, identity: _Identity, waiting: _Waiting) -> None:
        """Write one, trying for a while if the server is away; it leaves the table when its fate is known."""
        backoff = Backoff(first=0.5, cap=10.0)
        for attempt in range(1, _ATTEMPTS + 1):
            count = waiting.count
            try:
                await self._write(identity, waiting)
            except (Unavailable, TooManyRequests) as exc:
                if attempt == _ATTEMPTS:
                    self._refused(identity, exc)
                    break
                await asyncio.sleep(backoff.next())
            except ApiError as exc:
                self._refused(identity, exc)
                break
            else:
                self._writes += 1
                if waiting.count > count:  # it happened again while it was being written
                    waiting.count -= count
                    self._waiting.move_to_end(identity)
                    return
                break
        del self._waiting[identity]

    def _refused(self, identity: _Identity, exc: ApiError) -> None:
        # A namespace that is going away takes no new events; that, like the rest, is not worth more than a line.
        self._dropped += 1
        logger.debug(
            "event not written", extra={"reason": identity.reason, "about": identity.name, "error": exc.message}
        )

    async def _write(self, identity: _Identity, waiting: _Waiting) -> None:
        namespace = identity.namespace or "default"
        now = rfc3339(self._clock.wall())
        count = waiting.count  # may grow while we write
        known = self._written.get(identity)
        if known is not None:
            patch = {"count": known.count + count, "lastTimestamp": now}
            try:
                await self._client.patch(EVENTS, known.name, patch, namespace)
            except NotFound:
                del self._written[identity]  # events live an hour
            else:
                known.count += count
                self._written.move_to_end(identity)
                return
        about = waiting.about
        self._serial += 1  # two events of one moment need two names
        name = f"{identity.name}.{int(self._clock.wall() * 1e9) + self._serial:x}"
        event = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": about.get("apiVersion", ""),
                "kind": identity.kind,
                "name": identity.name,
                "namespace": identity.namespace,
                "uid": identity.uid,
                "resourceVersion": meta.resource_version(about),
            },
            "type": identity.type,
            "reason": identity.reason,
            "message": identity.message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": "",
            "firstTimestamp": rfc3339(waiting.first),
            "lastTimestamp": now,
            "count": count,
        }
        await self._client.create(EVENTS, event, namespace)
        self._written[identity] = _Written(name, count)
        if len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)
