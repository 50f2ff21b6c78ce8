"""The reconcile loop and its writes."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from kncore.api.meta import owner_reference
from kncore.api.resources import CONFIG_MAPS, DEPLOYMENTS, KSERVICES, PODS, REPLICA_SETS, REVISIONS, SERVICES
from kncore.kube.client import Key, Obj
from kncore.kube.errors import Conflict, NotFound, Unreachable
from kncore.kube.informer import Change, Informer
from kncore.kube.lease import OnChange
from kncore.kube.reconcile import (
    Controller,
    Permanent,
    Requeue,
    Tracker,
    add_finalizer,
    enqueue_owner,
    enqueue_self,
    remove_finalizer,
    write_status,
)
from kncore.testing.kube import MemoryClient

pytestmark = pytest.mark.looptime

A, B = Key("default", "a"), Key("default", "b")


def now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def working(controller: Controller) -> AsyncIterator[None]:
    running = asyncio.create_task(controller.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_one_key_is_reconciled_serially_and_different_keys_in_parallel() -> None:
    busy: dict[Key, int] = {A: 0, B: 0}
    most = {"same": 0, "all": 0}
    times = {A: 0, B: 0}

    async def reconcile(key: Key) -> None:
        busy[key] += 1
        times[key] += 1
        most["same"] = max(most["same"], busy[key])
        most["all"] = max(most["all"], sum(busy.values()))
        await asyncio.sleep(1.0)
        busy[key] -= 1

    controller = Controller("test", reconcile, workers=4)
    async with working(controller):
        for _ in range(5):
            controller.enqueue(A)
            controller.enqueue(B)
            await asyncio.sleep(0.3)
        await asyncio.sleep(10.0)
    assert most == {"same": 1, "all": 2}
    assert times == {A: 3, B: 3}  # at 0 s, at 1 s for what came meanwhile, and once more for what came after that
    assert controller.statistics().reconciled == 6


async def test_a_failure_is_logged_with_its_key_told_and_retried(caplog: pytest.LogCaptureFixture) -> None:
    attempts: list[float] = []
    errors: list[tuple[Key, str]] = []

    async def reconcile(key: Key) -> None:
        attempts.append(now())
        if len(attempts) < 4:
            raise Unreachable("no route")

    controller = Controller("test", reconcile, on_error=lambda key, exc: errors.append((key, str(exc))))
    with caplog.at_level(logging.ERROR):
        async with working(controller):
            controller.enqueue(A)
            await asyncio.sleep(10.0)
    assert [round(b - a, 4) for a, b in pairwise(attempts)] == [0.005, 0.01, 0.02]
    assert errors == [(A, "no route")] * 3
    assert [(vars(record)["knative.dev/key"], record.exc_info) for record in caplog.records] == [
        ("default/a", None)
    ] * 3
    assert controller.queue.failures(A) == 0
    assert (controller.statistics().failed, controller.statistics().reconciled) == (3, 1)


async def test_a_bug_is_logged_with_its_trace_and_stops_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    done: list[Key] = []

    async def reconcile(key: Key) -> None:
        if key == A:
            raise ZeroDivisionError("oops")
        done.append(key)

    controller = Controller("test", reconcile, workers=1)
    with caplog.at_level(logging.ERROR):
        async with working(controller):
            controller.enqueue(A)
            controller.enqueue(B)
            await asyncio.sleep(0.001)
    assert done == [B]
    assert caplog.records[0].exc_info is not None


async def test_a_reconcile_that_hangs_is_cut_off() -> None:
    cut = []

    async def reconcile(key: Key) -> None:
        try:
            await asyncio.sleep(1000.0)
        finally:
            cut.append(now())

    errors: list[str] = []
    controller = Controller("test", reconcile, timeout=30.0, on_error=lambda key, exc: errors.append(str(exc)))
    async with working(controller):
        controller.enqueue(A)
        await asyncio.sleep(31.0)
    assert cut[0] == pytest.approx(30.0, abs=0.01)
    assert errors == ["reconcile took longer than 30 s"]
    assert controller.statistics().timed_out == 1


async def test_conflicts_are_retried_quietly() -> None:
    calls = []
    errors: list[Key] = []

    async def reconcile(key: Key) -> None:
        calls.append(key)
        if len(calls) == 1:
            raise Conflict.of(REVISIONS, key.name)

    controller = Controller("test", reconcile, on_error=lambda key, exc: errors.append(key))
    async with working(controller):
        controller.enqueue(A)
        await asyncio.sleep(1.0)
    assert (len(calls), errors) == (2, [])
    assert (controller.statistics().conflicts, controller.statistics().failed) == (1, 0)


async def test_requeue_and_permanent_are_not_retries() -> None:
    times: dict[Key, list[float]] = {A: [], B: []}

    async def reconcile(key: Key) -> None:
        times[key].append(now())
        if key == A:
            raise Requeue(5.0)
        raise Permanent("the spec makes no sense")

    controller = Controller("test", reconcile)
    async with working(controller):
        controller.enqueue(A)
        controller.enqueue(B)
        await asyncio.sleep(11.0)
    assert times[A] == pytest.approx([0.0, 5.0, 10.0], abs=0.01)
    assert len(times[B]) == 1
    assert controller.queue.failures(A) == controller.queue.failures(B) == 0


async def test_stopping_cancels_what_is_under_way_and_leaves_no_timer() -> None:
    cancelled = asyncio.Event()

    async def reconcile(key: Key) -> None:
        try:
            await asyncio.sleep(1000.0)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    controller = Controller("test", reconcile, timeout=10_000.0)
    async with working(controller):
        controller.enqueue(A)
        controller.enqueue_after(B, 5.0)
        await asyncio.sleep(1.0)
    assert cancelled.is_set()
    await asyncio.sleep(10.0)
    assert controller.statistics().queue.processing == 0
    assert controller.statistics().queue.ready == 0


class Switch:
    """A leader that a test turns on."""

    on = False
    changed: OnChange | None = None

    def owns(self, key: Key) -> bool:
        return self.on

    def subscribe(self, changed: OnChange) -> None:
        self.changed = changed


async def test_only_a_leader_works_and_a_new_leader_looks_at_everything() -> None:
    seen: list[Key] = []

    async def reconcile(key: Key) -> None:
        seen.append(key)

    leader = Switch()
    controller = Controller("test", reconcile, leader=leader, keys=lambda: [A, B])
    async with working(controller):
        controller.enqueue(A)
        await asyncio.sleep(1.0)
        assert seen == []
        assert controller.statistics().skipped == 1
        leader.on = True
        assert leader.changed is not None
        leader.changed("bucket", True)
        await asyncio.sleep(1.0)
    assert sorted(seen) == [A, B]


# -- from changes to keys -------------------------------------------------------------------------------------------


class Enqueued:
    """Where keys go in these tests."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, bool]] = []

    def enqueue(self, key: Key, *, slow: bool = False) -> None:
        self.keys.append((str(key), slow))

    def take(self) -> list[tuple[str, bool]]:
        taken, self.keys = self.keys, []
        return taken


def obj(name: str, *owners: Obj, kind: str = "Pod", api_version: str = "v1") -> Obj:
    references = [owner_reference(owner) for owner in owners]
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "ownerReferences": references},
    }


def test_a_change_enqueues_the_object_or_its_owner() -> None:
    queue = Enqueued()
    parent = obj("hello", kind="Service", api_version="serving.knative.dev/v1")
    child = obj("hello-1", parent)
    enqueue_self(queue)(Change("added", child))
    enqueue_owner(queue, KSERVICES)(Change("updated", child, child, resync=True))
    enqueue_owner(queue, "Service")(Change("deleted", child, child))
    assert queue.take() == [("default/hello-1", False), ("default/hello", True), ("default/hello", False)]
    enqueue_owner(queue, SERVICES)(Change("added", child))  # a Kubernetes Service is another kind
    enqueue_owner(queue, KSERVICES)(Change("added", parent))
    assert queue.take() == []


def test_a_child_that_changes_owner_enqueues_both() -> None:
    queue = Enqueued()
    one, two = (obj(name, kind="ReplicaSet", api_version="apps/v1") for name in ("one", "two"))
    enqueue_owner(queue, REPLICA_SETS)(Change("updated", obj("pod", two), obj("pod", one)))
    assert queue.take() == [("default/two", False), ("default/one", False)]


async def test_a_tracker_tells_who_waits_for_what_does_not_exist_yet(client: MemoryClient) -> None:
    queue = Enqueued()
    tracker = Tracker(queue)
    informer = Informer(client, CONFIG_MAPS, resync=5.0)
    tracker.observe(informer)
    running = asyncio.create_task(informer.run())
    tracker.track(A, CONFIG_MAPS, "default", "wanted")
    tracker.track(B, CONFIG_MAPS, "default", "wanted")
    tracker.track(B, CONFIG_MAPS, "default", "other")
    await asyncio.sleep(1.0)
    assert queue.take() == []
    await client.create(CONFIG_MAPS, {"metadata": {"name": "wanted"}}, "default")
    await asyncio.sleep(1.0)
    assert queue.take() == [("default/a", False), ("default/b", False)]
    tracker.forget(A)
    await client.delete(CONFIG_MAPS, "wanted", "default")
    await asyncio.sleep(1.0)
    assert queue.take() == [("default/b", False)]
    assert tracker.statistics() == {"keys": 1, "objects": 2}
    tracker.forget(B)
    assert tracker.statistics() == {"keys": 0, "objects": 0}
    await asyncio.sleep(20.0)
    running.cancel()


# -- writing --------------------------------------------------------------------------------------------------------


async def deployment(client: MemoryClient) -> Obj:
    created = await client.create(DEPLOYMENTS, {"metadata": {"name": "a"}, "spec": {"replicas": 1}}, "default")
    client.calls.clear()
    return created


async def test_a_status_is_written_only_where_it_differs(client: MemoryClient) -> None:
    first = await deployment(client)
    second = await write_status(client, DEPLOYMENTS, first, first | {"status": {"replicas": 1, "readyReplicas": 0}})
    third = await write_status(client, DEPLOYMENTS, second, second | {"status": {"replicas": 1, "readyReplicas": 1}})
    assert third["status"] == {"replicas": 1, "readyReplicas": 1}
    assert client.calls[-1].body["status"] == {"readyReplicas": 1}
    assert client.calls[-1].subresource == "status"
    client.calls.clear()
    assert await write_status(client, DEPLOYMENTS, third, third | {"spec": {"replicas": 99}}) is third
    assert list(client.calls) == []


async def test_a_status_never_undoes_a_newer_spec(client: MemoryClient) -> None:
    read = await deployment(client)
    await client.patch(DEPLOYMENTS, "a", {"spec": {"replicas": 7}}, "default")
    written = await write_status(client, DEPLOYMENTS, read, read | {"status": {"replicas": 1}})
    assert written["spec"]["replicas"] == 7
    assert written["status"] == {"replicas": 1}


async def test_a_precondition_refuses_to_write_about_an_older_version(client: MemoryClient) -> None:
    read = await deployment(client)
    await client.patch(DEPLOYMENTS, "a", {"spec": {"replicas": 7}}, "default")
    with pytest.raises(Conflict):
        await write_status(client, DEPLOYMENTS, read, read | {"status": {"replicas": 1}}, precondition=True)
    stored = client.peek(DEPLOYMENTS, "a", "default")
    assert stored is not None
    assert "status" not in stored


async def test_a_status_does_not_go_to_a_later_object_of_the_same_name(client: MemoryClient) -> None:
    read = await deployment(client)
    await client.delete(DEPLOYMENTS, "a", "default")
    with pytest.raises(NotFound):
        await write_status(client, DEPLOYMENTS, read, read | {"status": {"replicas": 1}})
    await deployment(client)
    with pytest.raises(Conflict):
        await write_status(client, DEPLOYMENTS, read, read | {"status": {"replicas": 1}})


async def test_finalizers_hold_an_object_until_they_are_removed(client: MemoryClient) -> None:
    made = await client.create(PODS, {"metadata": {"name": "a", "finalizers": ["theirs"]}}, "default")
    held = await add_finalizer(client, PODS, made, "ours")
    assert held["metadata"]["finalizers"] == ["theirs", "ours"]
    assert await add_finalizer(client, PODS, held, "ours") is held
    with pytest.raises(Conflict):
        await add_finalizer(client, PODS, made, "another's")  # read before ours was added
    await client.delete(PODS, "a", "default")
    dying = await client.get(PODS, "a", "default")
    assert await add_finalizer(client, PODS, dying, "late") is dying
    await remove_finalizer(client, PODS, dying, "ours")
    last = await client.get(PODS, "a", "default")
    assert last["metadata"]["finalizers"] == ["theirs"]
    await remove_finalizer(client, PODS, last, "theirs")
    assert client.peek(PODS, "a", "default") is None
    await remove_finalizer(client, PODS, last, "theirs")  # gone already is fine
