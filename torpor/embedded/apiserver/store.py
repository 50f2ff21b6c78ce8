"""Objects in memory, in version order, behind a journal.

All reads are answered from memory: `Collection` holds the current `Record` of every object and a short history of
changes. A write goes to the journal first and is published (into the collection, the history and every watcher, all in
one synchronous step on the loop) only once it is durable. So whatever a client was told or could see survives
`kill -9`, and a write that fails, be it for a full disk, leaves no trace.

Versions are one counter over all collections. They are given out when a write is appended; the journal answers in the
same order, so publication is in version order too, and the version last published describes a consistent state:
lists carry it, watches continue from it.

One write per object may be under way. Callers follow one pattern, without an `await` between looking and committing::

    await store.settled(collection, key)
    current = collection.get(key)
    ...                                             # decide what to write; synchronous
    record = await store.commit(collection, key, new)

What is bounded: the history of a collection (changes and bytes) and the queue of a watcher. A watch or a page from
before the history, and a watcher that does not keep up, end with `Expired`; their clients list again.

Records are shared and never change; `Record.fresh` makes a copy to work on.
"""

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

from torpor.embedded.apiserver.errors import expired, storage_failed, too_large_version
from torpor.embedded.apiserver.journal import Journal, JournalError

__all__ = ["Change", "Collection", "Event", "Key", "Record", "Statistics", "Store", "Watcher"]

Obj = dict[str, Any]
EventType = Literal["ADDED", "MODIFIED", "DELETED"]

HISTORY_CHANGES = 1024
"""Changes a collection remembers; a watch that was away for longer starts over."""
HISTORY_BYTES = 4 << 20
"""JSON bytes a collection's history may hold on to."""
WATCHER_DEPTH = 4096
"""Changes that may wait for one watcher. A burst is published faster than a client reads; this is a large burst."""


class Key(NamedTuple):
    """Name of an object in its collection; the namespace is empty for cluster scope."""

    namespace: str
    name: str


class Record:
    """One object at one version: its JSON, and what is asked of it all the time."""

    __slots__ = ("_obj", "api_version", "data", "key", "labels", "owners", "uid", "version")

    def __init__(self, key: Key, obj: Obj, data: bytes, version: int) -> None:
        metadata = obj["metadata"]
        self.key = key
        self.version = version
        self.data = data
        """The object as JSON, `resourceVersion` included."""
        self.api_version: str = obj.get("apiVersion", "")
        self.uid: str = metadata.get("uid", "")
        self.labels: dict[str, str] = metadata.get("labels") or {}
        self.owners: tuple[str, ...] = tuple(one.get("uid", "") for one in metadata.get("ownerReferences") or ())
        self._obj: Obj | None = obj

    @property
    def obj(self) -> Obj:
        """The object, shared: do not change it."""
        if self._obj is None:
            self._obj = orjson.loads(self.data)
        return self._obj

    def fresh(self) -> Obj:
        """A private copy of the object; decoding is the fastest deep copy there is."""
        made: Obj = orjson.loads(self.data)
        return made

    def forget(self) -> None:
        """Drop the decoded form; it is made again when asked for. History would otherwise hold megabytes of it."""
        self._obj = None


class Change:
    """One step of a collection's history. `record` of a DELETED change is the last state at the deletion's version."""

    __slots__ = ("old", "record", "type")

    def __init__(self, type_: EventType, record: Record, old: Record | None) -> None:
        self.type = type_
        self.record = record
        self.old = old


class Event(NamedTuple):
    """What a watcher is told: not always the change itself, since objects also enter and leave its selection."""

    type: EventType
    record: Record


Match = Callable[[Record], bool]


class Watcher:
    """The changes one client asked for, oldest first.

    Published changes are put in synchronously by the store; `take` hands out all that has gathered. A watcher that lets
    more than `depth` gather is cut: what waits is dropped and the next `take` raises `Expired`.
    """

    __slots__ = ("_collection", "_cut", "_ended", "_events", "_wake", "depth", "match", "name", "namespace")

    def __init__(
        self, collection: "Collection", namespace: str | None, name: str | None, match: Match | None, depth: int
    ) -> None:
        self._collection = collection
        self.namespace = namespace
        self.name = name
        self.match = match
        self.depth = depth
        self._events: list[Event] = []
        self._cut = False
        self._ended = False
        self._wake: asyncio.Future[None] | None = None

    async def take(self) -> list[Event]:
        """All events that have gathered, waiting for the first; none when the watch has been ended.

        Raises:
            StatusError: Expired; the client did not keep up and has to list again.
        """
        while not (self._events or self._cut or self._ended):
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        if self._cut:
            raise expired("the watch was ended: it did not keep up with the changes, or its kind is gone; list again")
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Stop collecting; may be called more than once."""
        self._collection.watchers.pop(self, None)
        self._events = []

    def offer(self, change: Change) -> None:
        """Add a change if it concerns this watcher; called by the store for each one, in order."""
        event = self.seen(change)
        if event is None or self._cut:
            return
        if len(self._events) >= self.depth:
            self.cut()
            return
        self._events.append(event)
        self._notify()

    def cut(self) -> None:
        """End the watch: drop what waits and let the client list again."""
        self._cut = True
        self._collection.cut += 1
        self.close()
        self._notify()

    def end(self) -> None:
        """End the watch in good order, after what waits: its client may go on from there, with the next server."""
        self._ended = True
        self._collection.watchers.pop(self, None)
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def seen(self, change: Change) -> Event | None:
        """The change as this watcher sees it: an object that stops matching is DELETED, in its last matching state."""
        record = change.record
        if self.namespace is not None and record.key.namespace != self.namespace:
            return None
        if self.name is not None and record.key.name != self.name:
            return None
        if self.match is None:
            return Event(change.type, record)
        was = change.old is not None and self.match(change.old)
        if change.type != "DELETED" and self.match(record):
            return Event("MODIFIED" if was else "ADDED", record)
        if was and change.old is not None:
            return Event("DELETED", record if change.type == "DELETED" else _at_version(change.old, record.version))
        return None

    def preload(self, events: Iterable[Event]) -> None:
        """Put in what came before the watch began; not counted against the depth, it was bounded by its source."""
        self._events.extend(events)


def _at_version(record: Record, version: int) -> Record:
    obj = record.fresh()
    obj["metadata"]["resourceVersion"] = str(version)
    return Record(record.key, obj, orjson.dumps(obj), version)


class Collection:
    """All objects of one resource, whatever API version they are asked in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.watchers: dict[Watcher, None] = {}
        self.cut = 0
        """Watchers that did not keep up, since the start."""
        self.pending: dict[Key, asyncio.Future[Record]] = {}
        self._records: dict[Key, Record] = {}
        self._order: list[Key] = []
        self._history: deque[Change] = deque()
        self._history_bytes = 0
        self.since = 0
        """Changes after this version are in the history."""

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: Key) -> Record | None:
        """The current state of one object."""
        return self._records.get(key)

    def records(self, namespace: str | None = None) -> list[Record]:
        """All objects of one or (None) every namespace, in order of namespace and name."""
        keys = self._order if namespace is None else self._order[self._span(namespace)]
        records = self._records
        return [records[key] for key in keys]

    def count(self, namespace: str) -> int:
        """Objects in one namespace."""
        span = self._span(namespace)
        return len(range(span.start, span.stop))

    def records_at(self, version: int, namespace: str | None = None) -> list[Record]:
        """The same list as it was at an earlier version, by undoing what the history holds after it.

        Raises:
            StatusError: Expired; the history does not reach back that far.
        """
        if version < self.since:
            raise expired(f"too old resource version: {version} ({self.since})")
        if not self._history or self._history[-1].record.version <= version:
            return self.records(namespace)
        then = dict(self._records)
        for change in reversed(self._history):
            if change.record.version <= version:
                break
            if change.old is None:
                then.pop(change.record.key, None)
            else:
                then[change.record.key] = change.old
        return [then[key] for key in sorted(then) if namespace is None or key.namespace == namespace]

    def changes_after(self, version: int) -> Iterator[Change]:
        """History after a version, oldest first.

        Raises:
            StatusError: Expired; the history does not reach back that far.
        """
        if version < self.since:
            raise expired(f"too old resource version: {version} ({self.since})")
        return (change for change in self._history if change.record.version > version)

    def watch(
        self,
        *,
        after: int,
        namespace: str | None = None,
        name: str | None = None,
        match: Match | None = None,
        depth: int = WATCHER_DEPTH,
    ) -> Watcher:
        """A watcher of everything after a version; close it.

        Raises:
            StatusError: Expired; the history does not reach back that far.
        """
        watcher = Watcher(self, namespace, name, match, depth)
        earlier = (watcher.seen(change) for change in self.changes_after(after))
        watcher.preload(event for event in earlier if event is not None)
        self.watchers[watcher] = None
        return watcher

    def restore(self, record: Record) -> None:
        """Take in an object read from disk; not a change."""
        self._records[record.key] = record
        insort(self._order, record.key)

    def publish(self, key: Key, record: Record, *, deleted: bool) -> Change:
        """Make a durable write visible, to readers, in the history and to watchers: no `await`, so to all at once."""
        old = self._records.get(key)
        if deleted:
            change = Change("DELETED", record, old)
            if self._records.pop(key, None) is not None:
                del self._order[bisect_left(self._order, key)]
        else:
            change = Change("ADDED" if old is None else "MODIFIED", record, old)
            if old is None:
                insort(self._order, key)
            self._records[key] = record
        self._remember(change)
        for watcher in list(self.watchers):
            watcher.offer(change)
        if old is not None:
            old.forget()
        return change

    def _remember(self, change: Change) -> None:
        self._history.append(change)
        self._history_bytes += len(change.record.data)
        while len(self._history) > HISTORY_CHANGES or (self._history_bytes > HISTORY_BYTES and len(self._history) > 1):
            gone = self._history.popleft()
            self._history_bytes -= len(gone.record.data)
            self.since = gone.record.version

    def _span(self, namespace: str) -> slice:
        start = bisect_left(self._order, Key(namespace, ""))
        return slice(start, bisect_left(self._order, Key(f"{namespace}\0", ""), lo=start))


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The store as it is now, and counters since its start."""

    version: int
    objects: int
    object_bytes: int
    history_changes: int
    watchers: int
    watchers_cut: int
    """Watchers that did not keep up."""
    writes_waiting: int
    writes: int
    commits: int
    failures: int


Subscriber = Callable[[Collection, Change], None]


class Store:
    """Every collection of one API server, and the only way to change them."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._collections: dict[str, Collection] = {}
        self._given = 0
        self._published = 0
        self._opened = 0  # nothing is known of what happened before this version
        self._subscribers: list[Subscriber] = []

    async def open(self) -> None:
        """Read all objects from disk.

        Raises:
            ConfigError: the state cannot be used.
        """
        highest, rows = await self._journal.open()
        self._given = self._published = max(highest, 1)
        for name, namespace, object_name, version, value in rows:
            if value is not None:
                record = Record(Key(namespace, object_name), orjson.loads(value), value, version)
                record.forget()
                self.collection(name).restore(record)
        self._opened = self._published
        for collection in self._collections.values():
            collection.since = self._opened

    async def close(self) -> None:
        """Wait for the writes under way and release the file."""
        await self._journal.close()

    @property
    def version(self) -> int:
        """The version last published: what a list of the present carries."""
        return self._published

    def collection(self, name: str) -> Collection:
        """The collection of one resource (`plural.group`), made empty on first use."""
        found = self._collections.get(name)
        if found is None:
            found = self._collections[name] = Collection(name)
            found.since = self._opened  # made on first use, so nothing has changed in it yet
        return found

    def collections(self) -> list[Collection]:
        """All that exist so far."""
        return list(self._collections.values())

    def end_watches(self) -> None:
        """End all watches in good order: the server stops."""
        for collection in self._collections.values():
            for watcher in list(collection.watchers):
                watcher.end()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call a function with every change, right after the watchers; it must be quick and must not raise."""
        self._subscribers.append(subscriber)

    def reached(self, version: int) -> None:
        """Raises:
        StatusError: Timeout; no such version has been published yet.
        """
        if version > self._published:
            raise too_large_version(version, self._published)

    async def settled(self, collection: Collection, key: Key) -> None:
        """Return once no write of this object is under way; look and commit without an `await` in between."""
        while (pending := collection.pending.get(key)) is not None:
            await asyncio.wait([pending])

    async def commit(self, collection: Collection, key: Key, obj: Obj, *, delete: bool = False) -> Record:
        """Write an object (or its deletion, `obj` being its last state) and return once it is durable and published.

        Takes `obj` over and sets its `resourceVersion`. A caller that is cancelled meanwhile leaves the write to
        happen.

        Raises:
            StatusError: it could not be written; nothing has changed.
        """
        version = self._given = self._given + 1
        obj["metadata"]["resourceVersion"] = str(version)
        data = orjson.dumps(obj)
        record = Record(key, obj, data, version)
        written = asyncio.get_running_loop().create_future()
        collection.pending[key] = written

        def done(error: JournalError | None) -> None:
            del collection.pending[key]
            if error is not None:
                written.set_exception(storage_failed(str(error), full=error.full))
                written.exception()  # a cancelled caller no longer asks for it
                return
            self._published = version
            try:
                change = collection.publish(key, record, deleted=delete)
                for subscriber in self._subscribers:
                    subscriber(collection, change)
            finally:  # whatever a subscriber makes of it, the write is done
                written.set_result(record)

        row = (collection.name, key.namespace, key.name, version, None if delete else data)
        self._journal.append(row, done)
        return await asyncio.shield(written)

    def statistics(self) -> Statistics:
        """Sizes and counters."""
        journal = self._journal.statistics()
        collections = self._collections.values()
        return Statistics(
            version=self._published,
            objects=sum(len(one) for one in collections),
            object_bytes=sum(len(record.data) for one in collections for record in one.records()),
            history_changes=sum(len(one._history) for one in collections),
            watchers=sum(len(one.watchers) for one in collections),
            watchers_cut=sum(one.cut for one in collections),
            writes_waiting=journal.waiting,
            writes=journal.rows,
            commits=journal.commits,
            failures=journal.failures,
        )
