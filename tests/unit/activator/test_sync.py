"""Objects of the API server become routes, queues and pods, in whatever order they come."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from activator.backends import Endpoints
from activator.sync import Sync, activators_of, endpoints_of, settings_of
from kncore.api.resources import ENDPOINT_SLICES, INGRESSES, REVISIONS, SERVICES
from kncore.kube.informers import Informers
from kncore.testing.kube import MemoryClient

KEY = ("default", "hello-1")
LABELS = {"serving.knative.dev/revision": "hello-1"}
KIND = "networking.internal.knative.dev/serviceType"


def revision(**spec):
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Revision",
        "metadata": {"namespace": "default", "name": "hello-1"},
        "spec": {"containers": [{"image": "x"}], "timeoutSeconds": 300, **spec},
    }


def slice_(name, kind, *endpoints, ports=None, labels=LABELS):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": name,
            "labels": {**labels, KIND: kind, "kubernetes.io/service-name": "hello-1-private"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8012}, {"name": "http-istio", "port": 8012}] if ports is None else ports,
        "endpoints": list(endpoints),
    }


def endpoint(address, **conditions):
    return {"addresses": [address], "conditions": conditions}


def service(cluster_ip="10.2.0.1"):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": "hello-1-private", "labels": {**LABELS, KIND: "Private"}},
        "spec": {"clusterIP": cluster_ip, "ports": [{"name": "https", "port": 443}, {"name": "http", "port": 80}]},
    }


def ingress(revision_name="hello-1"):
    split = {"serviceName": revision_name, "serviceNamespace": "default", "servicePort": 80, "percent": 100}
    return {
        "apiVersion": "networking.internal.knative.dev/v1alpha1",
        "kind": "Ingress",
        "metadata": {"namespace": "default", "name": "hello"},
        "spec": {"rules": [{"hosts": ["hello.example.com"], "http": {"paths": [{"splits": [split]}]}}]},
    }


class Api:
    """An API server whose changes arrive when `settled`."""

    def __init__(self, world, client: MemoryClient, informers: Informers) -> None:
        self.world = world
        self.client = client
        self.informers = informers

    async def put(self, *objects) -> None:
        self.client.seed(*objects)
        await self.settled()

    async def delete(self, resource, name) -> None:
        await self.client.delete(resource, name, "default")
        await self.settled()

    async def settled(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def endpoints(self, key=KEY) -> Endpoints:
        return self.world.backends._revisions[key].endpoints


@pytest.fixture
async def start(world):
    """Start following an API server that holds these objects."""

    @asynccontextmanager
    async def begin(*objects):
        client = MemoryClient(objects)
        informers = Informers(client, resync=0)
        made = []

        def make(key, settings):
            made.append(key)
            return world.revision(key, **{name: getattr(settings, name) for name in settings.__dataclass_fields__})

        Sync(informers, world.proxy, world.backends, make=make)
        task = asyncio.get_running_loop().create_task(informers.run())
        await informers.wait_synced()
        api = Api(world, client, informers)
        await api.settled()
        try:
            yield api
            assert all(found.handler_errors == 0 for found in informers.statistics().values())
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    return begin


# pure ----------------------------------------------------------------------------------------------------------------


def test_settings() -> None:
    made = settings_of(
        revision(containerConcurrency=3, responseStartTimeoutSeconds=5, idleTimeoutSeconds=7, timeoutSeconds=60)
    )
    assert (made.container_concurrency, made.timeout) == (3, 60.0)
    assert (made.response_start_timeout, made.idle_timeout, made.probe_early) == (5.0, 7.0, True)
    assert settings_of({}).timeout == 0.0


@pytest.mark.parametrize(
    ("containers", "early"),
    [
        ([{"readinessProbe": {"httpGet": {}}}], True),
        ([{"readinessProbe": {"exec": {"command": ["x"]}}}], False),
        ([{"startupProbe": {"httpGet": {}}}], False),
        ([{"ports": [{}]}, {"startupProbe": {"exec": {}}}], False),
        ([{"readinessProbe": {"exec": {}}}, {"ports": [{}], "readinessProbe": {"tcpSocket": {}}}], True),
        ([], True),
    ],
)
def test_probing_early_is_off_where_only_the_kubelet_can_probe(containers, early) -> None:
    assert settings_of(revision(containers=containers)).probe_early is early


@pytest.mark.parametrize(
    ("containers", "http2"),
    [
        ([{"image": "x"}], False),
        ([{"ports": [{"containerPort": 8080}]}], False),
        ([{"ports": [{"name": "http1"}]}], False),
        ([{"ports": [{"name": "h2c"}]}], True),
        ([{"image": "sidecar"}, {"ports": [{"name": "h2c"}]}], True),
        ([{"ports": [{"name": "x"}]}, {"ports": [{"name": "h2c"}]}], False),
    ],
)
def test_pods_are_spoken_to_in_http2_where_the_port_is_named_so(containers, http2) -> None:
    assert settings_of(revision(containers=containers)).http2 is http2


def test_endpoints_of_several_slices() -> None:
    made = endpoints_of(
        [
            slice_("a", "Private", endpoint("10.1.0.1", ready=True), endpoint("10.1.0.2", ready=False)),
            slice_("b", "Private", endpoint("10.1.0.2", ready=True), endpoint("10.1.0.3")),
            slice_("c", "Private", endpoint("10.1.0.4", ready=False, serving=True, terminating=True)),
            slice_("d", "Private", endpoint("10.1.0.5", ready=True), ports=[{"name": "other", "port": 1}]),
            slice_("e", "Private", endpoint("10.1.0.6", ready=False), ports=[{"name": "http2", "port": 8013}]),
            slice_("f", "Private", endpoint("fd00::1", ready=True)),
            slice_("g", "Private", ports=None) | {"ports": None, "endpoints": None},
        ],
        "10.2.0.1:80",
    )
    assert made.ready == {"10.1.0.1:8012", "10.1.0.2:8012", "10.1.0.3:8012", "[fd00::1]:8012"}
    assert made.not_ready == {"10.1.0.6:8013"}
    assert made.cluster_ip == "10.2.0.1:80"


def test_activators_are_the_ready_addresses() -> None:
    slices = [
        slice_("a", "Public", endpoint("10.0.0.1", ready=True), endpoint("10.0.0.2", ready=False)),
        slice_("b", "Public", endpoint("10.0.0.3")),
        slice_("c", "Public", endpoint("10.0.0.4"), ports=[{"name": "https", "port": 8112}]),
    ]
    assert activators_of(slices) == {"10.0.0.1", "10.0.0.3"}


# live ----------------------------------------------------------------------------------------------------------------

PRIVATE = slice_("p", "Private", endpoint("10.1.0.1", ready=True))


async def test_everything_is_there_after_the_start(world, start) -> None:
    async with start(revision(), PRIVATE, service(), ingress()) as api:
        assert set(world.proxy.revisions) == {KEY}
        assert set(world.proxy.table.hosts) == {"hello.example.com"}
        assert api.endpoints() == Endpoints(frozenset({"10.1.0.1:8012"}), frozenset(), "10.2.0.1:80")


async def test_order_of_arrival_does_not_matter(world, start) -> None:
    async with start() as api:
        await api.put(PRIVATE)
        await api.put(revision())
        assert api.endpoints().ready == {"10.1.0.1:8012"}
        assert api.endpoints().cluster_ip == ""
        await api.put(service())
        assert api.endpoints().cluster_ip == "10.2.0.1:80"


async def test_headless_service_has_no_address(start) -> None:
    async with start(revision(), PRIVATE, service("None")) as api:
        assert api.endpoints().cluster_ip == ""


async def test_slices_change_and_go(start) -> None:
    async with start(revision(), PRIVATE) as api:
        await api.put(slice_("q", "Private", endpoint("10.1.0.2", ready=False)))
        assert api.endpoints().all == {"10.1.0.1:8012", "10.1.0.2:8012"}
        await api.put(slice_("p", "Private", endpoint("10.1.0.1", ready=True, terminating=True)))
        assert api.endpoints().all == {"10.1.0.2:8012"}
        await api.delete(ENDPOINT_SLICES, "q")
        assert api.endpoints().all == set()


async def test_slices_of_others_are_not_looked_at(start) -> None:
    other = slice_("o", "Private", endpoint("10.1.0.9"), labels={"serving.knative.dev/revision": "other-1"})
    unlabelled = slice_("u", "Private", endpoint("10.1.0.8"), labels={})
    async with start(revision(), PRIVATE, other, unlabelled) as api:
        assert api.endpoints().all == {"10.1.0.1:8012"}


async def test_ingress_changes_and_goes(world, start) -> None:
    async with start(ingress()) as api:
        await api.put(ingress("hello-2"))
        path = world.proxy.table.hosts["hello.example.com"].paths[0]
        assert path.split.pick().key == ("default", "hello-2")
        await api.delete(INGRESSES, "hello")
        assert world.proxy.table.hosts == {}


async def test_changed_revision_keeps_the_requests_that_wait_and_run(world, start) -> None:
    async with start(revision(containerConcurrency=1)) as api:
        known = world.proxy.revisions[KEY]
        (pod,) = world.pods(known, "10.1.0.1:8012")
        running, waiting = world.send(), world.send()
        await api.put(revision(containerConcurrency=2, timeoutSeconds=60))
        assert world.proxy.revisions[KEY] is known
        assert known.settings.timeout == 60.0
        assert pod.sent == [running, waiting]
        pod.answer()
        pod.answer()
        assert (running.status, waiting.status) == (200, 200)
        assert known.throttler.statistics().in_flight == 0


async def test_status_of_a_revision_changes_nothing(world, start) -> None:
    async with start(revision()) as api:
        known = world.proxy.revisions[KEY]
        before = known.settings
        await api.put({**revision(), "status": {"observedGeneration": 1}})
        assert world.proxy.revisions[KEY] is known
        assert known.settings is before


async def test_deleted_revision_answers_who_waits(world, start) -> None:
    async with start(revision(), service()) as api:
        waiting = world.send()
        await api.delete(REVISIONS, "hello-1")
        assert waiting.status == 404
        assert world.proxy.revisions == {}
        assert world.backends.statistics().revisions == 0
        assert world.send().status == 404
        await api.delete(SERVICES, "hello-1-private")


async def test_revision_made_anew_starts_anew(world, start) -> None:
    async with start(revision(containerConcurrency=1), PRIVATE) as api:
        first = world.proxy.revisions[KEY]
        await api.delete(REVISIONS, "hello-1")
        await api.put(revision(containerConcurrency=5))
        again = world.proxy.revisions[KEY]
        assert again is not first
        assert again.settings.container_concurrency == 5
        assert api.endpoints().ready == {"10.1.0.1:8012"}


async def test_several_activators_share_the_pods(world, start) -> None:
    pods = [f"10.1.0.{number}:8012" for number in range(1, 5)]
    public = slice_("pub", "Public", endpoint("10.0.0.1", ready=True), endpoint("10.0.0.2", ready=True))
    async with start(revision(containerConcurrency=1)) as api:
        known = world.proxy.revisions[KEY]
        world.pods(known, *pods)
        assert known.throttler.capacity == 4
        await api.put(public)
        assert [pod.address for pod in known.throttler.assigned] == pods[:2]
        assert known.throttler.capacity == 2
        # pods themselves behind the public Service: we are out of the path, and keep our share for who comes anyway
        await api.put(slice_("pub", "Public", endpoint("10.1.0.1", ready=True)))
        assert known.throttler.capacity == 2


async def test_activators_known_before_the_revision(world, start) -> None:
    public = slice_("pub", "Public", endpoint("10.0.0.1", ready=True), endpoint("10.0.0.2", ready=True))
    async with start(public) as api:
        await api.put(revision(containerConcurrency=1))
        assert world.proxy.revisions[KEY].throttler.activators == 2
