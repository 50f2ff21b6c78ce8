"""Which pods answer, on a fake clock: when they are asked, when they are used, and that nothing keeps running."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from activator.backends import Answer, Backends, Endpoints, Mesh
from kncore.config.network import Network

pytestmark = pytest.mark.looptime

KEY = ("default", "hello-1")
A, B, C = "10.1.0.1:8012", "10.1.0.2:8012", "10.1.0.3:8012"
SERVICE = "10.2.0.1:80"


class Pods:
    """What answers where; `asked` says who was asked when."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.takes: dict[str, float] = {}
        self.asked: list[tuple[str, float]] = []
        self.under_way = 0
        self.hosts: set[str] = set()

    async def probe(self, address: str, timeout: float, *, host: str = "") -> Answer:
        now = asyncio.get_running_loop().time()
        self.hosts.add(host)
        self.asked.append((address, now))
        self.under_way += 1
        try:
            await asyncio.sleep(min(self.takes.get(address, 0.0), timeout))
        finally:
            self.under_way -= 1
        return self.answers.get(address, Answer.NOT_READY)

    def times(self, address: str) -> list[float]:
        return [round(at, 3) for asked, at in self.asked if asked == address]


class Watching:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.waiting = 0
        self.using: set[str] = set()
        self.cluster_ip: tuple[str, int] | None = None
        self.seen: list[str] = []

    def healthy(self, addresses) -> None:
        self.using, self.cluster_ip = set(addresses), None

    def use_cluster_ip(self, address: str, backends: int) -> None:
        self.using, self.cluster_ip = set(), (address, backends)

    def appeared(self, address: str) -> None:
        self.seen.append(address)


@asynccontextmanager
async def running(pods: Pods, *, early: bool = True, mesh: Mesh | None = None):
    backends, listener = Backends(pods.probe, mesh), Watching()
    task = asyncio.get_running_loop().create_task(backends.run())
    await asyncio.sleep(0)
    backends.add(KEY, listener, early=early)
    try:
        yield backends, listener
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert backends.statistics().probing == 0
        assert pods.under_way == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task was left behind"


def not_ready(*addresses: str, **more) -> Endpoints:
    return Endpoints(not_ready=frozenset(addresses), **more)


def ready(*addresses: str, **more) -> Endpoints:
    return Endpoints(ready=frozenset(addresses), **more)


async def test_new_address_is_asked_at_once_and_every_10_ms_while_somebody_waits() -> None:
    pods = Pods()
    async with running(pods) as (backends, listener):
        listener.waiting = 1
        backends.update(KEY, not_ready(A))
        await asyncio.sleep(0.045)
        assert pods.times(A) == [0.0, 0.01, 0.02, 0.03, 0.04]
        pods.answers[A] = Answer.READY
        await asyncio.sleep(0.01)
        assert listener.using == {A}
        assert listener.seen == [A]
        assert backends.statistics().probing == 0
        asked = len(pods.asked)
        await asyncio.sleep(5)
        assert len(pods.asked) == asked, "who answered is not asked again"


async def test_pace_slows_down_after_a_second_of_waiting() -> None:
    pods = Pods()
    async with running(pods) as (backends, listener):
        listener.waiting = 1
        backends.update(KEY, not_ready(A))
        await asyncio.sleep(2.0)
        gaps = [round(later - at, 3) for at, later in zip(pods.times(A), pods.times(A)[1:], strict=False)]
        assert gaps[:99] == [0.01] * 99
        assert set(gaps[101:]) == {0.025}


async def test_nobody_waits_five_times_a_second() -> None:
    pods = Pods()
    async with running(pods) as (backends, listener):
        backends.update(KEY, not_ready(A))
        await asyncio.sleep(0.5)
        assert pods.times(A) == [0.0, 0.2, 0.4]
        listener.waiting = 1
        backends.hurry(KEY)
        await asyncio.sleep(0.005)
        assert pods.times(A)[-1] == 0.5, "who begins to wait does not wait for the next tick"
        backends.hurry(KEY)
        await asyncio.sleep(0.02)
        assert pods.times(A)[-2:] == [0.51, 0.52], "and more who wait do not make it faster"


async def test_who_begins_to_wait_late_gets_the_fast_pace_too() -> None:
    pods = Pods()
    async with running(pods) as (backends, listener):
        backends.update(KEY, not_ready(A))
        await asyncio.sleep(10.1)
        listener.waiting = 1
        backends.hurry(KEY)
        await asyncio.sleep(0.045)
        assert pods.times(A)[-5:] == [10.1, 10.11, 10.12, 10.13, 10.14]


async def test_pace_is_relaxed_again_when_nobody_waits_any_more() -> None:
    pods = Pods()
    async with running(pods) as (backends, listener):
        listener.waiting = 1
        backends.hurry(KEY)
        backends.update(KEY, not_ready(A))
        await asyncio.sleep(0.015)
        listener.waiting = 0
        await asyncio.sleep(0.5)
        assert pods.times(A) == [0.0, 0.01, 0.02, 0.22, 0.42]


async def test_hurry_of_an_unknown_revision_is_nothing() -> None:
    async with running(Pods()) as (backends, _):
        backends.hurry(("nobody", "knows"))
        backends.failed(("nobody", "knows"), A)
        backends.update(("nobody", "knows"), ready(A))
        backends.remove(("nobody", "knows"))
        assert backends.statistics().revisions == 1


async def test_pod_that_hangs_does_not_delay_the_others() -> None:
    pods = Pods()
    pods.takes[A] = 60.0
    async with running(pods) as (backends, listener):
        listener.waiting = 1
        backends.update(KEY, not_ready(A))
        await asyncio.sleep(0.05)
        backends.update(KEY, not_ready(A, B))
        pods.answers[B] = Answer.READY
        await asyncio.sleep(0.001)
        assert listener.using == {B}
        assert pods.times(A) == [0.0]
        await asyncio.sleep(0.9)
        assert len(pods.times(A)) == 1, "while somebody waits, a probe may wait as well"
        await asyncio.sleep(0.1)
        assert len(pods.times(A)) == 2, "but it is given up after a second"


async def test_pod_that_hangs_is_given_up_sooner_when_nobody_waits() -> None:
    pods = Pods()
    pods.takes[A] = 60.0
    async with running(pods) as (backends, _):
        backends.update(KEY, not_ready(A))
        await asyncio.sleep(0.49)
        assert len(pods.times(A)) == 1
        await asyncio.sleep(0.1)
        assert len(pods.times(A)) == 2, "300 ms for the probe, then the ordinary pause"


async def test_each_pod_is_used_as_soon_as_it_answers() -> None:
    pods = Pods()
    pods.answers = {A: Answer.READY, B: Answer.READY}
    pods.takes = {A: 0.02, B: 0.1}
    async with running(pods) as (backends, listener):
        backends.update(KEY, not_ready(A, B))
        await asyncio.sleep(0.05)
        assert listener.using == {A}
        await asyncio.sleep(0.1)
        assert listener.using == {A, B}


async def test_what_kubernetes_does_not_call_ready_is_not_used_where_only_it_can_tell() -> None:
    pods = Pods()
    pods.answers = {A: Answer.READY, B: Answer.READY}
    async with running(pods, early=False) as (backends, listener):
        backends.update(KEY, Endpoints(ready=frozenset({A}), not_ready=frozenset({B})))
        await asyncio.sleep(1)
        assert listener.using == {A}
        assert pods.times(B) == []
        backends.update(KEY, ready(A, B))
        await asyncio.sleep(0.01)
        assert listener.using == {A, B}
        backends.update(KEY, Endpoints(ready=frozenset({A}), not_ready=frozenset({B})))
        assert listener.using == {A}


async def test_pod_that_kubernetes_took_back_must_prove_itself_again() -> None:
    pods = Pods()
    pods.answers = {A: Answer.READY, B: Answer.READY}
    async with running(pods) as (backends, listener):
        backends.update(KEY, ready(A, B))
        await asyncio.sleep(0.01)
        pods.answers[B] = Answer.NOT_READY
        backends.update(KEY, Endpoints(ready=frozenset({A}), not_ready=frozenset({B})))
        assert listener.using == {A}, "at once, not when the next probe fails"
        await asyncio.sleep(1)
        assert listener.using == {A}
        pods.answers[B] = Answer.READY
        await asyncio.sleep(0.2)
        assert listener.using == {A, B}


async def test_becoming_ready_changes_nothing_for_a_pod_in_use() -> None:
    pods = Pods()
    pods.answers[A] = Answer.READY
    async with running(pods) as (backends, listener):
        backends.update(KEY, not_ready(A))
        await asyncio.sleep(0.01)
        backends.update(KEY, ready(A))
        await asyncio.sleep(1)
        assert listener.using == {A}
        assert len(pods.times(A)) == 1


async def test_pod_that_failed_a_request_is_out_until_it_answers() -> None:
    pods = Pods()
    pods.answers = {A: Answer.READY, B: Answer.READY}
    async with running(pods) as (backends, listener):
        backends.update(KEY, ready(A, B))
        await asyncio.sleep(0.01)
        pods.answers[A] = Answer.NOT_READY
        backends.failed(KEY, A)
        backends.failed(KEY, A)
        assert listener.using == {B}
        await asyncio.sleep(0.001)
        assert len(pods.times(A)) == 2, "asked again at once"
        pods.answers[A] = Answer.READY
        await asyncio.sleep(0.2)
        assert listener.using == {A, B}


async def test_address_that_vanishes_is_not_used_and_not_asked() -> None:
    pods = Pods()
    pods.takes[B] = 60.0
    pods.answers = {A: Answer.READY}
    async with running(pods) as (backends, listener):
        backends.update(KEY, ready(A, B))
        await asyncio.sleep(0.05)
        assert listener.using == {A}
        backends.update(KEY, Endpoints())
        await asyncio.sleep(0)
        assert listener.using == set()
        assert pods.under_way == 0, "the probe under way was cancelled"
        assert backends.statistics().probing == 0
        backends.update(KEY, ready(B))
        await asyncio.sleep(0)
        assert pods.under_way == 1, "the same address again is another pod"
        assert listener.seen == [A, B, B]


async def test_revision_removed_while_it_is_probed() -> None:
    pods = Pods()
    pods.takes[A] = 0.2
    pods.answers[A] = Answer.READY
    async with running(pods) as (backends, listener):
        backends.update(KEY, ready(A))
        await asyncio.sleep(0.1)
        backends.remove(KEY)
        await asyncio.sleep(1)
        assert listener.using == set(), "nobody is told of a revision that is gone"
        assert backends.statistics().revisions == 0
        assert pods.under_way == 0


async def test_cancelled_in_the_tick_in_which_the_probe_succeeds() -> None:
    pods, answered = Pods(), asyncio.get_running_loop().create_future()

    async def probe(address: str, timeout: float) -> Answer:
        await answered
        return Answer.READY

    pods.probe = probe  # type: ignore[method-assign]
    async with running(pods) as (backends, listener):
        backends.update(KEY, ready(A))
        await asyncio.sleep(0)
        answered.set_result(None)
        backends.update(KEY, Endpoints())
        await asyncio.sleep(0.01)
        assert listener.using == set()


async def test_addresses_known_before_it_runs_are_probed_when_it_does() -> None:
    pods, listener = Pods(), Watching()
    pods.answers[A] = Answer.READY
    backends = Backends(pods.probe)
    backends.add(KEY, listener, early=True)
    backends.update(KEY, ready(A))
    assert pods.asked == []
    task = asyncio.get_running_loop().create_task(backends.run())
    await asyncio.sleep(0.01)
    assert listener.using == {A}
    task.cancel()


async def test_many_waking_pods_share_the_pace() -> None:
    pods = Pods()
    async with running(pods) as (backends, listener):
        listener.waiting = 1
        addresses = [f"10.1.1.{number}:8012" for number in range(50)]
        backends.update(KEY, not_ready(*addresses))
        await asyncio.sleep(1.0)
        assert len(pods.asked) <= 550, "about 500 probes a second, whoever needs them"
        assert all(len(pods.times(address)) >= 9 for address in addresses), "and nobody is forgotten"


async def test_change_of_what_may_decide() -> None:
    pods = Pods()
    pods.answers[A] = Answer.READY
    async with running(pods) as (backends, listener):
        backends.update(KEY, not_ready(A))
        await asyncio.sleep(0.01)
        assert listener.using == {A}
        backends.add(KEY, listener, early=False)
        assert listener.using == set()
        backends.add(KEY, listener, early=True)
        await asyncio.sleep(0.01)
        assert listener.using == {A}


# service mesh --------------------------------------------------------------------------------------------------------


async def test_service_address_is_used_when_a_mesh_hides_the_pods() -> None:
    pods = Pods()
    pods.answers = {A: Answer.MESH, B: Answer.MESH, SERVICE: Answer.READY}
    async with running(pods) as (backends, listener):
        backends.update(KEY, ready(A, B, cluster_ip=SERVICE))
        await asyncio.sleep(0.01)
        assert listener.cluster_ip == (SERVICE, 2)
        asked = len(pods.asked)
        await asyncio.sleep(2)
        assert len(pods.asked) == asked, "for good"
        backends.update(KEY, ready(A, B, C, cluster_ip=SERVICE))
        assert listener.cluster_ip == (SERVICE, 3), "capacity follows the number of pods"
        backends.update(KEY, ready(A))
        assert listener.cluster_ip == (SERVICE, 1), "a Service that we lost sight of is still where it was"


async def test_mesh_mode_ends_when_there_are_no_pods() -> None:
    pods = Pods()
    pods.answers = {A: Answer.MESH, SERVICE: Answer.READY}
    async with running(pods) as (backends, listener):
        backends.update(KEY, ready(A, cluster_ip=SERVICE))
        await asyncio.sleep(0.01)
        backends.update(KEY, Endpoints(cluster_ip=SERVICE))
        assert (listener.using, listener.cluster_ip) == (set(), None)
        pods.answers[A] = Answer.READY
        backends.update(KEY, ready(A, cluster_ip=SERVICE))
        await asyncio.sleep(0.01)
        assert listener.using == {A}


@pytest.mark.parametrize("other", [Answer.NOT_READY, Answer.READY])
async def test_one_pod_that_can_be_addressed_rules_a_mesh_out(other: Answer) -> None:
    pods = Pods()
    pods.answers = {A: Answer.MESH, B: other, SERVICE: Answer.READY}
    async with running(pods) as (backends, listener):
        backends.update(KEY, ready(A, B, cluster_ip=SERVICE))
        await asyncio.sleep(1)
        assert listener.cluster_ip is None
        assert pods.times(SERVICE) == []


async def test_service_that_does_not_answer_either_is_not_used() -> None:
    pods = Pods()
    pods.answers = {A: Answer.MESH}
    async with running(pods) as (backends, listener):
        backends.update(KEY, ready(A, cluster_ip=SERVICE))
        await asyncio.sleep(0.5)
        assert listener.cluster_ip is None
        assert len(pods.times(SERVICE)) >= 2


# what config-network says of a mesh ----------------------------------------------------------------------------------


async def test_in_a_mesh_only_the_service_is_asked_and_used() -> None:
    pods = Pods()
    async with running(pods, mesh=Mesh("enabled")) as (backends, listener):
        backends.update(KEY, not_ready(A, cluster_ip=SERVICE))
        await asyncio.sleep(0.5)
        assert {address for address, _ in pods.asked} == {SERVICE}
        assert listener.cluster_ip is None
        pods.answers[SERVICE] = Answer.READY
        backends.update(KEY, ready(A, B, cluster_ip=SERVICE))
        await asyncio.sleep(0.3)
        assert listener.cluster_ip == (SERVICE, 2)
        backends.update(KEY, ready(A, B, C, cluster_ip=SERVICE))
        assert listener.cluster_ip == (SERVICE, 3)
        asked = len(pods.asked)
        await asyncio.sleep(2)
        assert len(pods.asked) == asked
        backends.update(KEY, Endpoints(cluster_ip=SERVICE))
        assert (listener.cluster_ip, listener.using) == (None, set())
        backends.update(KEY, ready(A, cluster_ip=SERVICE))
        await asyncio.sleep(0.3)
        assert listener.cluster_ip == (SERVICE, 1)
        assert A not in {address for address, _ in pods.asked}


async def test_in_a_mesh_a_service_without_an_address_is_waited_for() -> None:
    pods = Pods()
    pods.answers[SERVICE] = Answer.READY
    async with running(pods, mesh=Mesh("enabled")) as (backends, listener):
        backends.update(KEY, ready(A))
        await asyncio.sleep(1)
        assert pods.asked == []
        backends.update(KEY, ready(A, cluster_ip=SERVICE))
        await asyncio.sleep(0.01)
        assert listener.cluster_ip == (SERVICE, 1)


async def test_without_a_mesh_ready_pods_are_used_unasked_and_the_others_once_they_answer() -> None:
    pods = Pods()
    async with running(pods, mesh=Mesh("disabled")) as (backends, listener):
        backends.update(KEY, Endpoints(ready=frozenset([A]), not_ready=frozenset([B]), cluster_ip=SERVICE))
        assert listener.using == {A}
        await asyncio.sleep(0.3)
        assert {address for address, _ in pods.asked} == {B}
        pods.answers[B] = Answer.READY
        await asyncio.sleep(0.3)
        assert listener.using == {A, B}
        backends.update(KEY, Endpoints(ready=frozenset([C]), not_ready=frozenset([A, B]), cluster_ip=SERVICE))
        assert listener.using == {B, C}, "what was taken back must prove itself"


async def test_without_a_mesh_a_pod_that_failed_is_asked_whatever_kubernetes_says() -> None:
    pods = Pods()
    async with running(pods, mesh=Mesh("disabled")) as (backends, listener):
        backends.update(KEY, ready(A, B, cluster_ip=SERVICE))
        backends.failed(KEY, A)
        assert listener.using == {B}
        backends.update(KEY, ready(A, B, C, cluster_ip=SERVICE))
        assert listener.using == {B, C}
        pods.answers[A] = Answer.READY
        await asyncio.sleep(0.3)
        assert listener.using == {A, B, C}
        backends.failed(KEY, A)
        backends.update(KEY, ready(B, cluster_ip=SERVICE))
        backends.update(KEY, ready(A, B, cluster_ip=SERVICE))
        assert listener.using == {A, B}, "another pod with its address"


async def test_without_a_mesh_the_service_is_never_used() -> None:
    pods = Pods()
    pods.answers = {A: Answer.MESH, SERVICE: Answer.READY}
    async with running(pods, mesh=Mesh("disabled")) as (backends, listener):
        backends.update(KEY, not_ready(A, cluster_ip=SERVICE))
        await asyncio.sleep(2)
        assert listener.cluster_ip is None


async def test_mesh_that_addresses_pods_is_asked_by_the_private_name_and_nothing_else_is_used() -> None:
    pods = Pods()
    pods.answers = {A: Answer.MESH, SERVICE: Answer.READY}
    async with running(pods, mesh=Mesh("auto", addressable=True)) as (backends, listener):
        backends.update(KEY, ready(A, cluster_ip=SERVICE))
        await asyncio.sleep(1)
        assert listener.cluster_ip is None
        assert pods.hosts == {"hello-1-private.default"}
        pods.answers[A] = Answer.READY
        await asyncio.sleep(0.3)
        assert listener.using == {A}


def test_mesh_is_read_as_config_network_is() -> None:
    assert Mesh.read({}) == Mesh("auto", addressable=False)
    assert Mesh.read({"mesh-compatibility-mode": "Enabled"}) == Mesh("enabled")
    assert Mesh.read({"mesh-compatibility-mode": "what"}) == Mesh()
    assert Mesh.read({"enable-mesh-pod-addressability": "true"}) == Mesh(addressable=True)
    for data in ({"mesh-compatibility-mode": "disabled", "enable-mesh-pod-addressability": "true"}, {}):
        network, mesh = Network.parse(data), Mesh.read(data)
        assert mesh == Mesh(network.mesh_compatibility_mode, addressable=network.enable_mesh_pod_addressability)
