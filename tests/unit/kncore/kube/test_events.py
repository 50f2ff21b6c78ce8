"""Events: written once, counted afterwards, never in the way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from kncore.api.resources import EVENTS, REVISIONS
from kncore.kube.client import Obj
from kncore.kube.errors import Forbidden, Unreachable
from kncore.kube.events import Recorder
from kncore.testing.clock import FakeClock
from kncore.testing.kube import MemoryClient

pytestmark = pytest.mark.looptime


def revision(name: str = "hello-00001") -> Obj:
    return {
        "apiVersion": REVISIONS.api_version,
        "kind": REVISIONS.kind,
        "metadata": {"name": name, "namespace": "default", "uid": f"uid of {name}", "resourceVersion": "5"},
    }


@contextlib.asynccontextmanager
async def recording(client: MemoryClient, clock: FakeClock | None = None) -> AsyncIterator[Recorder]:
    recorder = Recorder(client, "revision-controller", clock=clock or FakeClock())
    running = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_event_says_what_happened_to_what(client: MemoryClient) -> None:
    async with recording(client) as recorder:
        recorder.event(revision(), "Warning", "InternalError", "it broke")
        await asyncio.sleep(1.0)
    (event,) = client.objects(EVENTS)
    assert event["metadata"]["namespace"] == "default"
    assert event["metadata"]["name"].startswith("hello-00001.")
    assert event["involvedObject"] == {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Revision",
        "name": "hello-00001",
        "namespace": "default",
        "uid": "uid of hello-00001",
        "resourceVersion": "5",
    }
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "InternalError", "it broke")
    assert event["source"] == {"component": "revision-controller"}
    assert event["count"] == 1
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2023-11-14T22:13:20Z"


async def test_repetitions_are_counted_before_and_after_the_write(client: MemoryClient) -> None:
    clock = FakeClock()
    async with recording(client, clock) as recorder:
        for _ in range(3):
            recorder.event(revision(), "Normal", "Created", "made it")
        await asyncio.sleep(1.0)
        clock.advance(60.0)
        recorder.event(revision(), "Normal", "Created", "made it")
        recorder.event(revision(), "Normal", "Created", "made another")
        await asyncio.sleep(1.0)
    counts = {event["message"]: event["count"] for event in client.objects(EVENTS)}
    assert counts == {"made it": 4, "made another": 1}
    stamps = {(event["firstTimestamp"], event["lastTimestamp"]) for event in client.objects(EVENTS)}
    assert ("2023-11-14T22:13:20Z", "2023-11-14T22:14:20Z") in stamps


async def test_a_counted_event_that_the_server_forgot_is_written_anew(client: MemoryClient) -> None:
    async with recording(client) as recorder:
        recorder.event(revision(), "Normal", "Created", "made it")
        await asyncio.sleep(1.0)
        (event,) = client.objects(EVENTS)
        await client.delete(EVENTS, event["metadata"]["name"], "default")
        recorder.event(revision(), "Normal", "Created", "made it")
        await asyncio.sleep(1.0)
    (event,) = client.objects(EVENTS)
    assert event["count"] == 1


async def test_an_event_repeated_during_its_write_is_not_forgotten(client: MemoryClient) -> None:
    client.latency = 1.0
    async with recording(client) as recorder:
        recorder.event(revision(), "Normal", "Created", "made it")
        await asyncio.sleep(0.5)
        recorder.event(revision(), "Normal", "Created", "made it")
        await asyncio.sleep(5.0)
    (event,) = client.objects(EVENTS)
    assert event["count"] == 2


async def test_a_server_that_is_away_gets_the_event_later_and_one_that_refuses_does_not(client: MemoryClient) -> None:
    async with recording(client) as recorder:
        client.fail_next(Unreachable("down"), times=3)
        recorder.event(revision(), "Normal", "Created", "late")
        await asyncio.sleep(30.0)
        client.fail_next(Forbidden("the namespace is being terminated"))
        recorder.event(revision(), "Normal", "Deleted", "never")
        await asyncio.sleep(30.0)
        assert recorder.statistics().waiting == 0
        assert recorder.statistics().dropped == 1
    assert [event["message"] for event in client.objects(EVENTS)] == ["late"]


async def test_a_noisy_object_is_cut_off_and_others_are_not(client: MemoryClient) -> None:
    clock = FakeClock()
    async with recording(client, clock) as recorder:
        for number in range(100):
            recorder.event(revision("noisy"), "Warning", "Failed", f"attempt {number}")
        recorder.event(revision("quiet"), "Warning", "Failed", "once")
        await asyncio.sleep(1.0)
        assert recorder.statistics().dropped == 75
        clock.advance(300.0)
        recorder.event(revision("noisy"), "Warning", "Failed", "five minutes later")
        await asyncio.sleep(1.0)
    names = [event["involvedObject"]["name"] for event in client.objects(EVENTS)]
    assert (names.count("noisy"), names.count("quiet")) == (26, 1)


async def test_the_table_is_bounded(client: MemoryClient) -> None:
    recorder = Recorder(client, "test", clock=FakeClock())  # nobody writes
    for number in range(1500):
        recorder.event(revision(f"rev-{number}"), "Normal", "Created", "made it")
    assert (recorder.statistics().waiting, recorder.statistics().dropped) == (1000, 500)
