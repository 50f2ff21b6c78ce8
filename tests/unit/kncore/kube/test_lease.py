"""Leader election between replicas that share a server; time is the event loop's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from kncore.api.names import autoscaler_buckets
from kncore.api.resources import LEASES
from kncore.kube.client import Key
from kncore.kube.errors import Unreachable
from kncore.kube.lease import AlwaysLeader, Elector, FixedLeader
from kncore.testing.kube import MemoryClient

pytestmark = pytest.mark.looptime

BUCKET = "controller.00-of-01"


class LoopClock:
    """A clock that moves with the event loop: a renewal that changes nothing in the Lease would be none."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return 1_700_000_000.0 + self.monotonic()


def elector(client: MemoryClient, identity: str, buckets: list[str] | None = None) -> Elector:
    return Elector(client, buckets or [BUCKET], identity=identity, namespace="knative-serving", clock=LoopClock())


@contextlib.asynccontextmanager
async def competing(*electors: Elector) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(one.run()) for one in electors]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def spec(client: MemoryClient, bucket: str = BUCKET) -> dict[str, object]:
    lease = client.peek(LEASES, bucket, "knative-serving")
    assert lease is not None
    found: dict[str, object] = lease["spec"]
    return found


async def test_the_first_replica_leads_and_renews(client: MemoryClient) -> None:
    one, two = elector(client, "one"), elector(client, "two")
    async with competing(one, two):
        await asyncio.sleep(300.0)
        assert one.holds(BUCKET)
        assert not two.holds(BUCKET)
        assert two.holder(BUCKET) == "one"
        assert one.statistics()[BUCKET].renewals == pytest.approx(30, abs=2)
        assert spec(client)["holderIdentity"] == "one"
        assert spec(client)["leaseTransitions"] == 0
        assert spec(client)["leaseDurationSeconds"] == 60
        assert spec(client)["acquireTime"] == "2023-11-14T22:13:20.000000Z"
        assert str(spec(client)["renewTime"]) >= "2023-11-14T22:18:00.000000Z"


async def test_a_renewal_is_one_request(client: MemoryClient) -> None:
    one = elector(client, "one")
    async with competing(one):
        await asyncio.sleep(5.0)
        client.calls.clear()
        await asyncio.sleep(100.0)
        assert {call.verb for call in client.calls} == {"update"}


async def test_a_dead_leader_is_replaced_after_the_lease_duration(client: MemoryClient) -> None:
    one, two = elector(client, "one"), elector(client, "two")
    changes: list[tuple[str, bool, float]] = []
    loop = asyncio.get_running_loop()
    two.subscribe(lambda bucket, gained: changes.append((bucket, gained, loop.time())))
    async with competing(one, two) as tasks:
        await asyncio.sleep(100.0)
        client.fail_next(Unreachable("died"), verb="update", times=1)  # dies without releasing
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        died = loop.time()
        await asyncio.sleep(200.0)
        assert two.holds(BUCKET)
    (gain, loss) = changes
    assert gain[:2] == (BUCKET, True)
    # the last renewal may be seen one look (10 to 22 s) late, and its end again one look late
    assert 40.0 < gain[2] - died < 60.0 + 2 * 22.0 + 1.0
    assert loss[:2] == (BUCKET, False)
    assert spec(client)["leaseTransitions"] == 1


async def test_a_clean_exit_hands_over_at_the_next_try(client: MemoryClient) -> None:
    one, two = elector(client, "one"), elector(client, "two")
    async with competing(one, two) as tasks:
        await asyncio.sleep(100.0)
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        assert spec(client)["holderIdentity"] == ""
        await asyncio.sleep(23.0)
        assert two.holds(BUCKET)


async def test_a_leader_that_cannot_renew_stops_before_another_may_start(client: MemoryClient) -> None:
    one = elector(client, "one")
    lost: list[float] = []
    loop = asyncio.get_running_loop()
    one.subscribe(lambda bucket, gained: None if gained else lost.append(loop.time()))
    async with competing(one):
        await asyncio.sleep(95.0)
        client.fail_next(Unreachable("partition"), times=10_000)
        cut = loop.time()
        await asyncio.sleep(100.0)
        assert not one.holds(BUCKET)
        assert not one.owns(Key("default", "a"))
    assert 30.0 < lost[0] - cut < 60.0


async def test_a_silent_server_cannot_keep_a_leader_in_office(client: MemoryClient) -> None:
    one = elector(client, "one")
    async with competing(one):
        await asyncio.sleep(95.0)
        client.latency = 10_000.0
        await asyncio.sleep(75.0)
        assert not one.holds(BUCKET)
        client.latency = 0.0


async def test_a_lease_taken_by_somebody_else_is_lost_at_once(client: MemoryClient) -> None:
    one = elector(client, "one")
    async with competing(one):
        await asyncio.sleep(95.0)
        await client.patch(LEASES, BUCKET, {"spec": {"holderIdentity": "usurper"}}, "knative-serving")
        await asyncio.sleep(11.0)
        assert not one.holds(BUCKET)
        assert one.holder(BUCKET) == "usurper"


async def test_a_touched_lease_that_is_still_ours_is_kept(client: MemoryClient) -> None:
    one = elector(client, "one")
    async with competing(one):
        await asyncio.sleep(95.0)
        await client.patch(LEASES, BUCKET, {"metadata": {"labels": {"a": "b"}}}, "knative-serving")
        await asyncio.sleep(100.0)
        assert one.holds(BUCKET)
        assert one.statistics()[BUCKET].failures == 1


async def test_a_deleted_lease_is_made_again(client: MemoryClient) -> None:
    one = elector(client, "one")
    async with competing(one):
        await asyncio.sleep(95.0)
        await client.delete(LEASES, BUCKET, "knative-serving")
        await asyncio.sleep(25.0)
        assert one.holds(BUCKET)
        assert spec(client)["holderIdentity"] == "one"


async def test_every_key_has_one_owner_among_the_replicas(client: MemoryClient) -> None:
    buckets = autoscaler_buckets(5)
    replicas = [elector(client, name, buckets) for name in ("one", "two", "three")]
    keys = [Key("default", f"rev-{number}") for number in range(50)]
    async with competing(*replicas):
        await asyncio.sleep(30.0)
        assert [sum(replica.owns(key) for replica in replicas) for key in keys] == [1] * 50
        assert len({replicas[0].bucket(key) for key in keys}) == 5


async def test_a_late_subscriber_is_told_what_is_held(client: MemoryClient) -> None:
    one = elector(client, "one")
    async with competing(one):
        await asyncio.sleep(1.0)
        told: list[tuple[str, bool]] = []
        one.subscribe(lambda bucket, gained: told.append((bucket, gained)))
        assert told == [(BUCKET, True)]


def test_leaders_without_leases() -> None:
    buckets = autoscaler_buckets(3)
    keys = [Key("default", f"rev-{number}") for number in range(30)]
    replicas = [FixedLeader(buckets, [bucket]) for bucket in buckets]
    assert [sum(replica.owns(key) for replica in replicas) for key in keys] == [1] * 30
    assert AlwaysLeader().owns(keys[0])
