"""The reconcile loop, and the few things that every reconciler does to the API server.

    informer change --handler--> queue of keys --worker--> reconcile(key) --error--> queue again, later
                                                            reads the cache, computes, writes the difference

A reconcile function is given a key and nothing else: what changed does not matter, only what is (level-triggered). It
reads the object from an informer, computes what should be and writes the difference; it may be called at any time, any
number of times, but never twice at once for one key. It reports failure by raising. `Requeue` asks to be called later
without having failed, `Permanent` says that trying again is useless until something changes.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from kncore.api import meta
from kncore.api.resources import Resource
from kncore.errors import KnError
from kncore.kube import workqueue
from kncore.kube.client import Client, Key, Obj
from kncore.kube.errors import Conflict, NotFound
from kncore.kube.informer import Change, Handler, Informer
from kncore.kube.lease import AlwaysLeader, Leader
from kncore.kube.patch import merge_diff
from kncore.telemetry.logs import bind

__all__ = [
    "Controller",
    "Enqueuer",
    "Key",
    "Permanent",
    "Requeue",
    "Statistics",
    "Tracker",
    "add_finalizer",
    "enqueue_owner",
    "enqueue_self",
    "remove_finalizer",
    "write_status",
]

logger = logging.getLogger(__name__)


class Permanent(KnError):
    """A reconcile failed in a way that only a change of the object, or of the world, can cure: do not retry."""


class Requeue(KnError):
    """Not an error: call the reconcile function again in `after` seconds."""

    def __init__(self, after: float, message: str = "") -> None:
        super().__init__(message or f"look again in {after:g} s")
        self.after = after


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """A controller's queue, and what came of the reconciles since the start."""

    queue: workqueue.Statistics
    reconciled: int
    """Calls that succeeded, `Requeue` included."""
    failed: int
    """Calls that raised, time-outs included, conflicts not."""
    timed_out: int
    conflicts: int
    """Calls that lost a race against another writer; retried at once and normal."""
    skipped: int
    """Keys that another replica owns."""
    seconds: float
    """Time spent in reconciles altogether."""
    longest: float
    """The longest single reconcile, seconds."""


class Enqueuer(Protocol):
    """What takes keys: a `Controller`, or a test's list."""

    def enqueue(self, key: Key, *, slow: bool = False) -> None:
        """Reconcile this key soon; `slow` if it is a mere reminder."""


class Controller:
    """Reconciles keys, each serially, different ones in parallel.

    Args:
        name: for logs and metrics.
        reconcile: brings one object's world in order; may be cancelled at any await.
        workers: how many keys at once (2 as in Knative).
        timeout: seconds one call may take.
        leader: keys that it does not own are dropped; its gains put `keys()` into the queue.
        keys: all keys there are, e.g. `informer.keys`; needed only with a leader that changes.
        on_error: told about each failed call, e.g. to record an Event.
    """

    def __init__(
        self,
        name: str,
        reconcile: Callable[[Key], Awaitable[None]],
        *,
        workers: int = 2,
        timeout: float = 30.0,
        leader: Leader | None = None,
        keys: Callable[[], Iterable[Key]] | None = None,
        on_error: Callable[[Key, Exception], None] | None = None,
    ) -> None:
        self.name = name
        self.queue: workqueue.WorkQueue[Key] = workqueue.WorkQueue()
        self._reconcile = reconcile
        self._workers = workers
        self._timeout = timeout
        self._leader: Leader = leader or AlwaysLeader()
        self._keys = keys
        self._on_error = on_error
        self._reconciled = self._failed = self._timed_out = self._conflicts = self._skipped = 0
        self._seconds = self._longest = 0.0
        self._leader.subscribe(self._leadership_changed)

    def enqueue(self, key: Key, *, slow: bool = False) -> None:
        """Reconcile this key as soon as a worker is free; `slow`: after everything that is not."""
        self.queue.add(key, slow=slow)

    def enqueue_after(self, key: Key, seconds: float) -> None:
        """Reconcile this key in `seconds`; needs a running event loop."""
        self.queue.add_after(key, seconds)

    def enqueue_all(self, keys: Iterable[Key]) -> None:
        """Look at all of these again when there is nothing more urgent, e.g. after a configuration change."""
        for key in keys:
            self.queue.add(key, slow=True)

    async def run(self) -> None:
        """Work until cancelled; calls under way are cancelled too."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(), name=f"{self.name} {number}")
        finally:
            self.queue.close()

    def statistics(self) -> Statistics:
        """The queue's depths and the totals."""
        return Statistics(
            queue=self.queue.statistics(),
            reconciled=self._reconciled,
            failed=self._failed,
            timed_out=self._timed_out,
            conflicts=self._conflicts,
            skipped=self._skipped,
            seconds=self._seconds,
            longest=self._longest,
        )

    def _leadership_changed(self, bucket: str, gained: bool) -> None:
        if gained and self._keys is not None:
            self.enqueue_all(self._keys())

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                await self._process(key)
            finally:
                self.queue.done(key)

    async def _process(self, key: Key) -> None:
        if not self._leader.owns(key):
            self._skipped += 1
            self.queue.forget(key)
            return
        with bind(key=str(key), controller=self.name, traceid=uuid.uuid4().hex):
            await self._timed(key)

    async def _timed(self, key: Key) -> None:
        """One call of the reconcile function, and what follows from its end."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self._timeout) as limit:
                await self._reconcile(key)
        except Requeue as again:
            self._reconciled += 1
            self.queue.forget(key)
            self.queue.add_after(key, again.after)
        except Conflict as exc:
            self._conflicts += 1
            logger.debug("reconcile lost a race", extra={"error": exc.message})
            self.queue.retry(key)
        except Exception as exc:
            # The outermost frame of a reconcile: whatever went wrong with one object must not stop the others.
            self._failed += 1
            if timed_out := isinstance(exc, TimeoutError) and limit.expired():
                self._timed_out += 1
                exc = TimeoutError(f"reconcile took longer than {self._timeout:g} s")
            if isinstance(exc, Permanent):
                self.queue.forget(key)
                logger.warning("reconcile failed for good", extra={"error": str(exc)})
            else:
                delay = self.queue.retry(key)
                # A typed error explains itself; a stack trace is for bugs.
                trace = None if timed_out or isinstance(exc, KnError) else exc
                logger.error(
                    "reconcile failed",
                    exc_info=trace,
                    extra={
                        "knative.dev/key": str(key),
                        "error": str(exc) or repr(exc),
                        "attempts": self.queue.failures(key),
                        "retry_in": delay,
                    },
                )
            if self._on_error is not None:
                self._on_error(key, exc)
        else:
            self._reconciled += 1
            self.queue.forget(key)
        took = loop.time() - started
        self._seconds += took
        self._longest = max(self._longest, took)


# -- from changes to keys -------------------------------------------------------------------------------------------


def enqueue_self(controller: Enqueuer) -> Handler:
    """A handler that reconciles the object that changed."""

    def handle(change: Change) -> None:
        controller.enqueue(change.key, slow=change.resync)

    return handle


def enqueue_owner(controller: Enqueuer, kind: Resource | str) -> Handler:
    """A handler that reconciles the controlling owner, of this kind, of the object that changed.

    If the owner itself changed, the former one is reconciled too. A `Resource` also compares the API group, which
    tells a Knative Service from a Kubernetes one; the version is not compared.
    """
    wanted = kind if isinstance(kind, str) else kind.kind
    group = None if isinstance(kind, str) else kind.group

    def owner(obj: Obj | None) -> Key | None:
        reference = meta.controller_of(obj) if obj else None
        if reference is None or reference.get("kind") != wanted:
            return None
        if group is not None and reference.get("apiVersion", "").rpartition("/")[0] != group:
            return None
        namespaced = isinstance(kind, str) or kind.namespaced
        return Key(meta.namespace(obj or {}) if namespaced else "", reference["name"])

    def handle(change: Change) -> None:
        now, before = owner(change.object), owner(change.old)
        if now is not None:
            controller.enqueue(now, slow=change.resync)
        if before is not None and before != now:
            controller.enqueue(before)

    return handle


class Tracker:
    """Who wants to know about objects that they do not own: "when X appears or changes, reconcile K".

    A reconciler declares its interests every time it runs, also in objects that do not exist yet; `forget` drops them
    all when its own object is gone. Bounded by the number of references in existing objects.
    """

    def __init__(self, controller: Enqueuer) -> None:
        self._controller = controller
        self._interested: dict[tuple[Resource, str, str], set[Key]] = {}
        self._interests: dict[Key, set[tuple[Resource, str, str]]] = {}

    def observe(self, informer: Informer) -> None:
        """Hear of changes from this informer; once per resource."""
        resource = informer.resource
        informer.add_handler(lambda change: self._changed(resource, change))

    def track(self, key: Key, resource: Resource, namespace: str, name: str) -> None:
        """Reconcile `key` whenever this object appears, changes or goes."""
        target = (resource, namespace, name)
        self._interested.setdefault(target, set()).add(key)
        self._interests.setdefault(key, set()).add(target)

    def forget(self, key: Key) -> None:
        """`key` is no longer interested in anything."""
        for target in self._interests.pop(key, ()):
            keys = self._interested[target]
            keys.discard(key)
            if not keys:
                del self._interested[target]

    def statistics(self) -> dict[str, int]:
        """How many keys track how many objects."""
        return {"keys": len(self._interests), "objects": len(self._interested)}

    def _changed(self, resource: Resource, change: Change) -> None:
        if change.resync:
            return
        for key in sorted(self._interested.get((resource, *change.key), ())):
            self._controller.enqueue(key)


# -- writing --------------------------------------------------------------------------------------------------------


async def write_status(
    client: Client, resource: Resource, original: Obj, desired: Obj, *, precondition: bool = False
) -> Obj:
    """Bring the object's status from `original`'s to `desired`'s, writing only what differs, and nothing if nothing
    does.

    The patch names the object's uid, so a later object of the same name never gets an earlier one's status. It cannot
    touch the spec, and does not overwrite parts of the status that we did not change.

    Args:
        original: the object as read.
        desired: a copy whose `status` is as it should be; the rest is ignored.
        precondition: write only if the object is still the one that was read, else raise Conflict: for a status
            whose parts depend on each other, or on the spec that was read.
    Returns:
        The object as stored, or `original` itself if there was nothing to write.
    Raises:
        Conflict: another object has the name now, or the precondition failed.
        NotFound: the object is gone.
    """
    patch = merge_diff({"status": original.get("status") or {}}, {"status": desired.get("status") or {}})
    if not patch:
        return original
    identity = original["metadata"]
    if uid := identity.get("uid"):
        patch["metadata"] = {"uid": uid}
    if precondition:
        patch["metadata"] = patch.get("metadata", {}) | {"resourceVersion": identity["resourceVersion"]}
    return await client.patch(resource, identity["name"], patch, identity.get("namespace"), subresource="status")


async def add_finalizer(client: Client, resource: Resource, obj: Obj, finalizer: str) -> Obj:
    """The object with the finalizer, written if it was missing; an object that is being deleted gets none.

    Raises:
        Conflict: the object changed since it was read.
    """
    present = meta.finalizers(obj)
    if finalizer in present or meta.is_deleting(obj):
        return obj
    return await _write_finalizers(client, resource, obj, [*present, finalizer])


async def remove_finalizer(client: Client, resource: Resource, obj: Obj, finalizer: str) -> None:
    """Let go of the object; if this was the last finalizer of a deleted object, it vanishes. Gone already is fine.

    Raises:
        Conflict: the object changed since it was read.
    """
    present = meta.finalizers(obj)
    if finalizer not in present:
        return
    try:
        await _write_finalizers(client, resource, obj, [one for one in present if one != finalizer])
    except NotFound:
        return


async def _write_finalizers(client: Client, resource: Resource, obj: Obj, finalizers: list[str]) -> Obj:
    # A merge patch replaces the list as a whole, so it must not land on a version with somebody else's addition.
    identity = obj["metadata"]
    patch: Obj = {"metadata": {"finalizers": finalizers or None, "resourceVersion": identity["resourceVersion"]}}
    return await client.patch(resource, identity["name"], patch, identity.get("namespace"))
