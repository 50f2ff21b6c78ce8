"""A local copy of a collection that follows the API server: list, then watch, for ever.

    server --list--> replace --+--> cache --> indexes --> handlers
    server --watch-> apply ----+

One task (`run`) is the only writer. It lists in pages, compares the result with what it has and reports the difference,
so an object that vanished while nobody watched is still reported as deleted; then it watches from the list's resource
version. When the stream ends or breaks it watches again from the last version it saw, and neither loses nor repeats a
change: the server sends exactly what came after that version, and an object whose version is already in the cache is
not reported twice. When the server no longer has that history (410), or the stream held something that was not
understood, it lists again.

Order: the cache and its indexes are updated first, then each handler is called with the change, in the order the
handlers were added; changes come in the order of the server's resource versions. Handlers are plain functions that
must not block: they enqueue a key or update a table.

Objects in the cache are shared by everyone in the process: copy before changing one. Their `managedFields` are dropped
(half of an object's size, read by nobody here; an update without them leaves the server's untouched).
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kncore.api.resources import Resource
from kncore.errors import KnError
from kncore.kube.backoff import Backoff
from kncore.kube.client import Client, Key, Obj, WatchEvent
from kncore.kube.errors import ApiError, Gone, TooManyRequests, Unauthorized, Unavailable

__all__ = ["Change", "Handler", "Indexer", "Informer", "NotSynced", "Statistics"]

logger = logging.getLogger(__name__)

# A watch that lived this long was healthy: the next one starts without delay. Shorter ones back off, or a server that
# accepts and closes at once would be asked hundreds of times a second.
_HEALTHY = 5.0
# Seconds between attempts while the server is away. Short, because an activator that follows endpoints is blind so
# long; twenty informers asking every two seconds are nothing to a server that comes up.
_LONGEST_WAIT = 2.0
_LONGEST_REQUESTED = 30.0  # of a wait that the server itself asks for
# Changes handled in a row before other tasks get a turn: a relist of 10 000 objects must not stop the event loop.
_BATCH = 128


class NotSynced(KnError):
    """The first list did not succeed in time; the message says what the server answered last."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the cache before and after."""

    type: Literal["added", "updated", "deleted"]
    object: Obj
    """The object now; for `deleted` its last known state."""
    old: Obj | None = None
    """What the cache held before; None for `added`."""
    resync: bool = False
    """Nothing changed: the periodic reminder, safe to handle at low priority."""

    @property
    def key(self) -> Key:
        """Which object changed."""
        return Key.of(self.object)


Handler: TypeAlias = Callable[[Change], None]
Indexer: TypeAlias = Callable[[Obj], Iterable[str]]
_Objects: TypeAlias = list[Obj]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What an informer holds and has done since it started."""

    objects: int
    synced: bool
    lists: int
    watches: int
    """Streams opened."""
    events: int
    """Changes received on streams, bookmarks not counted."""
    duplicates: int
    """Events dropped because the cache held that version already."""
    failures: int
    """Lists and watches that ended in an error."""
    handler_errors: int
    last_error: str
    """Empty once the server answers again."""
    resource_version: str


class Informer:
    """A cache of one collection, kept equal to the server's.

    Args:
        client: where to list and watch.
        resource: which collection.
        namespace: only this namespace; None is all of them.
        labels: label selector, evaluated by the server.
        fields: field selector, evaluated by the server.
        indexers: name -> function from an object to the keys under which `by_index` finds it.
        resync: seconds between reminders of every object to every handler (10 h as in Knative), spread by up to 10 %; 0
            turns them off.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        indexers: Mapping[str, Indexer] | None = None,
        resync: float = 36000.0,
        backoff: Backoff | None = None,
    ) -> None:
        self.resource = resource
        self.namespace = namespace
        self.name = f"informer {resource}"
        self._client = client
        self._labels = labels
        self._fields = fields
        self._resync = resync
        self._backoff = backoff or Backoff(cap=_LONGEST_WAIT)
        self._spaces: dict[str, dict[str, Obj]] = {}
        self._indexers: dict[str, Indexer] = {}
        self._indexes: dict[str, dict[str, dict[Key, Obj]]] = {}
        self._handlers: list[Handler] = []
        self._synced = asyncio.Event()
        self._version = ""
        self._objects = 0
        self._lists = self._watches = self._events = self._duplicates = self._failures = self._handler_errors = 0
        self._last_error = ""
        self._since_pause = 0
        self.add_indexers(indexers or {})

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, name: str, namespace: str | None = None) -> Obj | None:
        """The object as last seen, or None; shared, never change it."""
        space = self._spaces.get(namespace or "")
        return space.get(name) if space else None

    def list(self, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> _Objects:
        """Objects of one namespace (None: of all) that carry all these labels; shared, never change them."""
        spaces = self._spaces.values() if namespace is None else [self._spaces.get(namespace, {})]
        if not labels:
            return [obj for space in spaces for obj in space.values()]
        wanted = labels.items()
        return [
            obj
            for space in spaces
            for obj in space.values()
            if wanted <= (obj["metadata"].get("labels") or _NO_LABELS).items()
        ]

    def by_index(self, index: str, key: str) -> _Objects:
        """Objects that the indexer of this name put under `key`; shared, never change them."""
        return [*self._indexes[index].get(key, {}).values()]

    def keys(self) -> Iterable[Key]:
        """The keys of all objects, as they are now."""
        return [Key(space, name) for space, objects in self._spaces.items() for name in objects]

    @property
    def synced(self) -> bool:
        """True once the cache has held a complete list."""
        return self._synced.is_set()

    async def wait_synced(self, deadline: float | None = None) -> None:
        """Wait until the cache is complete.

        Args:
            deadline: loop time, seconds; None waits for ever.
        Raises:
            NotSynced: the deadline passed.
        """
        try:
            async with asyncio.timeout_at(deadline):
                await self._synced.wait()
        except TimeoutError as exc:
            reason = self._last_error or "no answer yet"
            raise NotSynced(f"{self.resource} could not be listed in time: {reason}") from exc

    def statistics(self) -> Statistics:
        """Counters for metrics and for whoever asks why nothing happens."""
        return Statistics(
            objects=self._objects,
            synced=self.synced,
            lists=self._lists,
            watches=self._watches,
            events=self._events,
            duplicates=self._duplicates,
            failures=self._failures,
            handler_errors=self._handler_errors,
            last_error=self._last_error,
            resource_version=self._version,
        )

    # -- wiring -----------------------------------------------------------------------------------------------------

    def add_handler(self, handler: Handler) -> None:
        """Call `handler` with every change from now on, after an `added` for each object that is here already."""
        self._handlers.append(handler)
        for obj in self.list():
            self._call(handler, Change("added", obj))

    def add_indexers(self, indexers: Mapping[str, Indexer]) -> None:
        """More ways to find objects; those already in the cache are indexed at once."""
        for name, indexer in indexers.items():
            if self._indexers.get(name, indexer) is not indexer:
                raise ValueError(f"{self.name}: index {name!r} exists with another function")
            if name in self._indexers:
                continue
            self._indexers[name] = indexer
            index = self._indexes[name] = {}
            for obj in self.list():
                _enter(index, indexer(obj), Key.of(obj), obj)

    # -- following the server ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the server until cancelled; never ends by itself."""
        loop = asyncio.get_running_loop()
        reminder: asyncio.TimerHandle | None = None

        def remind() -> None:
            nonlocal reminder
            reminder = loop.call_later(self._resync * random.uniform(1.0, 1.1), remind)
            if self.synced:
                for obj in self.list():
                    self._tell(Change("updated", obj, obj, resync=True))

        if self._resync > 0:
            reminder = loop.call_later(self._resync * random.uniform(1.0, 1.1), remind)
        try:
            while True:
                await self._relist()
                await self._follow()
        finally:
            if reminder is not None:
                reminder.cancel()

    async def _relist(self) -> None:
        """Make the cache equal to a fresh list; tries until it succeeds."""
        while True:
            try:
                found = await self._client.list(self.resource, self.namespace, labels=self._labels, fields=self._fields)
                break
            except ApiError as exc:
                await self._failed("list", exc)
        self._lists += 1
        gone = set(self.keys())
        for obj in found.items:
            gone.discard(Key.of(obj))
            self._put(obj)
            await self._breathe()
        for key in gone:
            self._remove(key)
            await self._breathe()
        self._version = found.resource_version
        self._answered()
        if not self.synced:
            logger.debug("cache synced", extra={"resource": str(self.resource), "objects": self._objects})
            self._synced.set()

    async def _follow(self) -> None:
        """Apply the server's changes until only a new list can tell what we missed."""
        loop = asyncio.get_running_loop()
        while True:
            opened = loop.time()
            self._watches += 1
            problem: ApiError | None = None
            try:
                stream = self._client.watch(
                    self.resource,
                    self.namespace,
                    resource_version=self._version,
                    labels=self._labels,
                    fields=self._fields,
                )
                async with contextlib.aclosing(stream):
                    async for event in stream:
                        self._apply(event)
                        await self._breathe()
            except ApiError as exc:
                problem = exc
            if loop.time() - opened >= _HEALTHY:
                self._backoff.reset()
                if problem is None:
                    continue  # the usual end: the server limits every watch to some minutes
            if problem is None or isinstance(problem, Gone):
                await asyncio.sleep(self._backoff.next())
            else:
                await self._failed("watch", problem)
            # The server being away says nothing about our version. Anything else does: an expired version, one that
            # the server refuses (it was restored from a backup), a line that was not understood.
            if problem is not None and not isinstance(problem, Unavailable | TooManyRequests | Unauthorized):
                return

    async def _failed(self, verb: str, exc: ApiError) -> None:
        """Note the error and wait as long as the back-off, or the server, says."""
        self._failures += 1
        first = not self._last_error
        self._last_error = f"{verb}: {exc.message}"
        wait = max(self._backoff.next(), min(exc.retry_after or 0.0, _LONGEST_REQUESTED))
        logger.log(
            logging.WARNING if first else logging.DEBUG,
            "the API server did not answer",
            extra={"verb": verb, "resource": str(self.resource), "error": exc.message, "retry_in": wait},
        )
        await asyncio.sleep(wait)

    def _answered(self) -> None:
        if self._last_error:
            self._last_error = ""
            logger.info("the API server answers again", extra={"resource": str(self.resource)})

    async def _breathe(self) -> None:
        self._since_pause += 1
        if self._since_pause >= _BATCH:
            self._since_pause = 0
            await asyncio.sleep(0)

    # -- the cache's transitions ------------------------------------------------------------------------------------

    def _apply(self, event: WatchEvent) -> None:
        """One event of the stream."""
        self._answered()
        version = event.object.get("metadata", {}).get("resourceVersion", "")
        if event.type != "BOOKMARK":
            self._events += 1
            if event.type == "DELETED":
                self._remove(Key.of(event.object), event.object)
            else:
                self._put(event.object)
        if version:
            self._version = version

    def _put(self, obj: Obj) -> None:
        """Store an object and report it as added or updated, or do nothing if that version is here."""
        meta = obj["metadata"]
        meta.pop("managedFields", None)
        key = Key(meta.get("namespace", ""), meta["name"])
        space = self._spaces.get(key.namespace)
        old = space.get(key.name) if space else None
        if old is not None:
            seen = old["metadata"]
            if seen.get("uid") != meta.get("uid"):
                # Deleted and made again while nobody watched: two changes, or owners by uid would see neither.
                self._remove(key)
                old = None
            elif seen.get("resourceVersion") == meta.get("resourceVersion"):
                self._duplicates += 1
                return
        self._spaces.setdefault(key.namespace, {})[key.name] = obj
        for name, indexer in self._indexers.items():
            index = self._indexes[name]
            if old is not None:
                _leave(index, indexer(old), key)
            _enter(index, indexer(obj), key, obj)
        if old is None:
            self._objects += 1
            self._tell(Change("added", obj))
        else:
            self._tell(Change("updated", obj, old))

    def _remove(self, key: Key, last: Obj | None = None) -> None:
        """Forget an object and report it as deleted, or do nothing if it is not here."""
        space = self._spaces.get(key.namespace)
        old = space.pop(key.name, None) if space else None
        if old is None:
            self._duplicates += 1
            return
        if not space:
            del self._spaces[key.namespace]
        self._objects -= 1
        for name, indexer in self._indexers.items():
            _leave(self._indexes[name], indexer(old), key)
        self._tell(Change("deleted", last or old, old))

    def _tell(self, change: Change) -> None:
        for handler in tuple(self._handlers):
            self._call(handler, change)

    def _call(self, handler: Handler, change: Change) -> None:
        try:
            handler(change)
        except Exception:
            # The outermost frame of foreign code: one handler's bug must not blind all the others, for good, to an
            # object that is in the cache already.
            self._handler_errors += 1
            logger.exception(
                "handler failed",
                extra={"knative.dev/key": str(change.key), "resource": str(self.resource), "change": change.type},
            )


_NO_LABELS: Mapping[str, str] = {}


def _enter(index: dict[str, dict[Key, Obj]], values: Iterable[str], key: Key, obj: Obj) -> None:
    for value in values:
        index.setdefault(value, {})[key] = obj


def _leave(index: dict[str, dict[Key, Obj]], values: Iterable[str], key: Key) -> None:
    for value in values:
        members = index.get(value)
        if members is not None:
            members.pop(key, None)
            if not members:
                del index[value]
