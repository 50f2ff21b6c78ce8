"""The store: durable before visible, one order, bounded history, watchers that are cut instead of growing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kncore.errors import ConfigError
from torpor.embedded.apiserver import journal as journal_module
from torpor.embedded.apiserver import store as store_module
from torpor.embedded.apiserver.errors import StatusError
from torpor.embedded.apiserver.journal import Journal
from torpor.embedded.apiserver.store import Change, Collection, Key, Store


def obj(name: str, size: int = 0, **labels: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "ns", "uid": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Thing", "metadata": metadata, "data": "x" * size}


def key(name: str) -> Key:
    return Key("ns", name)


@contextlib.asynccontextmanager
async def opened(directory: Path, **options: Any) -> AsyncIterator[Store]:
    store = Store(Journal(directory, **options))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def test_what_was_written_is_there_after_a_restart_and_versions_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        things = store.collection("things")
        for name in ("a", "b", "c"):
            await store.commit(things, key(name), obj(name))
        await store.commit(things, key("b"), obj("b", size=10))
        last = await store.commit(things, key("c"), obj("c"), delete=True)
    async with opened(tmp_path) as store:
        things = store.collection("things")
        assert [record.key.name for record in things.records("ns")] == ["a", "b"]
        assert store.version == last.version
        assert things.get(key("b")).fresh()["data"] == "x" * 10  # type: ignore[union-attr]
        assert (await store.commit(things, key("d"), obj("d"))).version > last.version
    async with opened(tmp_path) as store:  # the deleted row is swept up by now, its version is not forgotten
        assert store.version > last.version


async def test_writes_of_one_turn_of_the_loop_share_a_commit_and_keep_their_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        things = store.collection("things")
        seen: list[str] = []
        store.subscribe(lambda _, change: seen.append(change.record.key.name))
        names = [f"n{index}" for index in range(50)]
        records = await asyncio.gather(*(store.commit(things, key(name), obj(name)) for name in names))
        assert seen == names
        assert [record.version for record in records] == sorted(record.version for record in records)
        assert store.statistics().commits == 1


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(ConfigError, match=r"in use by another process \(pid \d+\)"):
            await Store(Journal(tmp_path)).open()
    async with opened(tmp_path):  # and let in once the first has gone
        pass


async def test_a_broken_file_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "objects.sqlite").write_bytes(b"this is not a database" * 100)
    with pytest.raises(ConfigError, match=str(tmp_path)):
        await Store(Journal(tmp_path)).open()


async def test_a_full_disk_fails_the_write_and_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, max_pages=40) as store:
        things = store.collection("things")
        await store.commit(things, key("a"), obj("a"))
        watcher = things.watch(after=store.version)
        version = store.version
        with pytest.raises(StatusError) as caught:
            await store.commit(things, key("big"), obj("big", size=1_000_000))
        assert caught.value.code == 507
        assert "nothing was changed" in caught.value.message
        assert things.get(key("big")) is None
        assert store.version == version
        # small writes and deletions go on, and nobody saw the failed one
        await store.commit(things, key("b"), obj("b"))
        await store.commit(things, key("a"), obj("a"), delete=True)
        assert [(event.type, event.record.key.name) for event in await watcher.take()] == [
            ("ADDED", "b"),
            ("DELETED", "a"),
        ]
        assert not things.pending
    async with opened(tmp_path) as store:
        assert [record.key.name for record in store.collection("things").records()] == ["b"]


async def test_whoever_watches_over_the_disk_hears_when_writes_begin_to_fail_and_when_they_succeed_again(
    tmp_path: Path,
) -> None:
    heard: list[str] = []
    async with opened(tmp_path, max_pages=40, on_trouble=heard.append) as store:
        things = store.collection("things")
        await store.commit(things, key("a"), obj("a"))
        assert heard == []
        for _ in range(2):
            with pytest.raises(StatusError):
                await store.commit(things, key("big"), obj("big", size=1_000_000))
        assert heard == ["database or disk is full"]
        for name in ("b", "c"):
            await store.commit(things, key(name), obj(name))
        assert heard == ["database or disk is full", ""]


async def test_in_a_batch_only_what_does_not_fit_fails(tmp_path: Path) -> None:
    async with opened(tmp_path, max_pages=40) as store:
        things = store.collection("things")
        outcomes = await asyncio.gather(
            store.commit(things, key("a"), obj("a")),
            store.commit(things, key("big"), obj("big", size=1_000_000)),
            store.commit(things, key("c"), obj("c")),
            return_exceptions=True,
        )
        assert [isinstance(one, StatusError) for one in outcomes] == [False, True, False]
        assert [record.key.name for record in things.records()] == ["a", "c"]


async def test_a_cancelled_caller_leaves_the_write_to_happen(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        things = store.collection("things")
        writing = asyncio.create_task(store.commit(things, key("a"), obj("a")))
        await asyncio.sleep(0)
        writing.cancel()
        await store.settled(things, key("a"))
        assert things.get(key("a")) is not None
        assert writing.cancelled()


async def test_settled_lets_writers_of_one_object_go_one_after_the_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        things = store.collection("things")
        await store.commit(things, key("n"), {**obj("n"), "count": 0})

        async def increment() -> None:
            await store.settled(things, key("n"))
            new = things.get(key("n")).fresh()  # type: ignore[union-attr]
            new["count"] += 1
            await store.commit(things, key("n"), new)

        await asyncio.gather(*(increment() for _ in range(20)))
        assert things.get(key("n")).obj["count"] == 20  # type: ignore[union-attr]


async def test_a_slow_watcher_is_cut_and_the_others_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        things = store.collection("things")
        slow, quick = things.watch(after=store.version, depth=3), things.watch(after=store.version, depth=100)
        for index in range(5):
            await store.commit(things, key(f"n{index}"), obj(f"n{index}"))
        with pytest.raises(StatusError) as caught:
            await slow.take()
        assert caught.value.code == 410
        assert len(await quick.take()) == 5
        assert store.statistics().watchers == 1
        assert store.statistics().watchers_cut == 1


async def test_a_waiting_watcher_is_woken_by_the_publication_itself(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        things = store.collection("things")
        watcher = things.watch(after=store.version)
        taking = asyncio.create_task(watcher.take())
        await asyncio.sleep(0)
        await store.commit(things, key("a"), obj("a"))
        await asyncio.sleep(0)
        assert taking.done()
        watcher.close()
        watcher.close()
        assert not things.watchers


async def test_history_ends_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HISTORY_CHANGES", 3)
    async with opened(tmp_path) as store:
        things = store.collection("things")
        versions = [(await store.commit(things, key(f"n{index}"), obj(f"n{index}"))).version for index in range(5)]
        watcher = things.watch(after=versions[1])
        assert [event.record.key.name for event in await watcher.take()] == ["n2", "n3", "n4"]
        with pytest.raises(StatusError, match="too old resource version"):
            things.watch(after=versions[0])
        with pytest.raises(StatusError, match="too old resource version"):
            things.records_at(versions[0])


async def test_a_list_of_the_past_is_the_list_that_was(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        things = store.collection("things")
        await store.commit(things, key("a"), obj("a"))
        then = (await store.commit(things, key("b"), obj("b"))).version
        await store.commit(things, key("a"), obj("a"), delete=True)
        await store.commit(things, key("b"), obj("b", size=5))
        await store.commit(things, key("c"), obj("c"))
        past = things.records_at(then, "ns")
        assert [(record.key.name, record.obj["data"]) for record in past] == [("a", ""), ("b", "")]
        assert [record.key.name for record in things.records("ns")] == ["b", "c"]


def changed(old: str | None, new: str | None) -> Change:
    """A change of one object whose label goes from old to new; None: absent."""
    make = lambda value, version: store_module.Record(  # noqa: E731
        key("a"),
        {**obj("a", x=value), "metadata": {**obj("a", x=value)["metadata"], "resourceVersion": "1"}},
        b"{}",
        version,
    )
    before = None if old is None else make(old, 1)
    if before is not None:
        before.data = b'{"metadata": {"resourceVersion": "1"}}'
    if new is None:
        return Change("DELETED", make(old, 2), before)
    return Change("MODIFIED" if old is not None else "ADDED", make(new, 2), before)


@pytest.mark.parametrize(
    ("old", "new", "event"),
    [
        (None, "in", "ADDED"),
        (None, "out", None),
        ("in", "in", "MODIFIED"),
        ("out", "in", "ADDED"),
        ("in", "out", "DELETED"),
        ("out", "out", None),
        ("in", None, "DELETED"),
        ("out", None, None),
    ],
)
def test_a_watcher_sees_objects_enter_and_leave_its_selection(
    old: str | None, new: str | None, event: str | None
) -> None:
    watcher = Collection("things").watch(after=0, match=lambda record: record.labels.get("x") == "in")
    seen = watcher.seen(changed(old, new))
    assert (seen and seen.type) == event
    if seen is not None:
        assert seen.record.version == 2  # even an object that has left: the watch has come this far


async def test_the_log_is_merged_in_quiet_moments_and_bounded_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "CHECKPOINT_PAGES", 20)
    monkeypatch.setattr(journal_module, "FORCED_CHECKPOINT_PAGES", 60)
    monkeypatch.setattr(journal_module, "QUIET", 0.001)
    async with opened(tmp_path) as store:
        things = store.collection("things")
        for index in range(1000):  # 12 MB without a pause
            await store.commit(things, key(f"n{index % 10}"), obj(f"n{index % 10}", size=12_000))
        assert (tmp_path / "objects.sqlite-wal").stat().st_size < 3_000_000
        async with asyncio.timeout(5.0):
            while (tmp_path / "objects.sqlite").stat().st_size < 100_000:  # noqa: ASYNC110 (a thread does it)
                await asyncio.sleep(0.001)
    async with opened(tmp_path) as again:
        assert len(again.collection("things").records()) == 10
