"""From `kubectl apply` of a Service to Ready, and what goes wrong on the way."""

from collections.abc import Callable
from typing import Any

import pytest

from kncore.api import keys, meta
from kncore.api.resources import (
    CONFIGURATIONS,
    DEPLOYMENTS,
    IMAGES,
    INGRESSES,
    KSERVICES,
    POD_AUTOSCALERS,
    REVISIONS,
    ROUTES,
    SERVICES,
)

Obj = dict[str, Any]
Make = Callable[..., Obj]


async def test_a_service_gets_all_its_children(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    assert cluster.names(CONFIGURATIONS) == ["hello"]
    assert cluster.names(REVISIONS) == ["hello-00001"]
    assert cluster.names(ROUTES) == ["hello"]
    assert cluster.names(DEPLOYMENTS) == ["hello-00001-deployment"]
    assert cluster.names(POD_AUTOSCALERS) == ["hello-00001"]
    assert cluster.names(IMAGES) == ["hello-00001-cache-user-container"]
    assert cluster.names(INGRESSES) == []  # nothing is routed before something can answer
    revision = cluster.get(REVISIONS, "hello-00001")
    assert meta.labels(revision)[keys.ROUTING_STATE] == "active"
    container = cluster.get(DEPLOYMENTS, "hello-00001-deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"].startswith("example.com/hello@sha256:")
    assert cluster.condition(KSERVICES, "hello")[0] == "Unknown"
    assert cluster.condition(ROUTES, "hello", "AllTrafficAssigned") == (
        "Unknown",
        "RevisionMissing",
        'Configuration "hello" is waiting for a Revision to become ready.',
    )


async def test_a_service_becomes_ready(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    await cluster.pods_become_ready("hello-00001")
    ksvc = cluster.get(KSERVICES, "hello")
    assert meta.is_ready(ksvc)
    assert ksvc["status"]["url"] == "http://hello.default.example.com"
    assert ksvc["status"]["address"] == {"url": "http://hello.default.svc.cluster.local"}
    assert ksvc["status"]["latestReadyRevisionName"] == "hello-00001"
    assert ksvc["status"]["traffic"] == [{"revisionName": "hello-00001", "percent": 100, "latestRevision": True}]
    ingress = cluster.get(INGRESSES, "hello")
    assert ingress["status"]["publicLoadBalancer"] == {
        "ingress": [{"domainInternal": "activator-service.knative-serving.svc.cluster.local"}]
    }
    placeholder = cluster.get(SERVICES, "hello")
    assert placeholder["spec"]["externalName"] == "activator-service.knative-serving.svc.cluster.local"
    assert cluster.events.reasons("Configuration hello") == ["Created", "LatestReadyUpdate", "ConfigurationReady"]
    assert "RevisionReady" in cluster.events.reasons("Revision hello-00001")


async def test_when_everything_is_in_order_nothing_is_written(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    await cluster.pods_become_ready("hello-00001")
    await cluster.stop()
    before = cluster.writes()
    await cluster.start()
    assert cluster.writes() == before


@pytest.mark.parametrize("crash_after", range(0, 40, 3))
async def test_a_restart_in_the_middle_changes_nothing_in_the_end(
    cluster: Any, service: Make, crash_after: int
) -> None:
    """Killed after any number of writes, the next process finishes the work and makes nothing twice."""
    await cluster.stop()
    await cluster.client.create(KSERVICES, service(), "default")
    await cluster.start(writes=crash_after)
    await cluster.stop()
    await cluster.start()
    await cluster.pods_become_ready("hello-00001")
    assert meta.is_ready(cluster.get(KSERVICES, "hello"))
    assert cluster.names(REVISIONS) == ["hello-00001"]
    assert cluster.names(DEPLOYMENTS) == ["hello-00001-deployment"]
    assert cluster.names(INGRESSES) == ["hello"]


async def test_a_change_makes_a_revision_and_moves_traffic_when_it_is_ready(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    await cluster.pods_become_ready("hello-00001")
    await cluster.apply(service(image="example.com/hello:v2"))
    assert cluster.names(REVISIONS) == ["hello-00001", "hello-00002"]
    status = cluster.get(KSERVICES, "hello")["status"]
    assert (status["latestCreatedRevisionName"], status["latestReadyRevisionName"]) == ("hello-00002", "hello-00001")
    assert status["traffic"][0]["revisionName"] == "hello-00001"
    # Both keep their pods while the move is not finished.
    for name in ("hello-00001", "hello-00002"):
        assert meta.labels(cluster.get(REVISIONS, name))[keys.ROUTING_STATE] == "active"
    await cluster.pods_become_ready("hello-00002")
    assert cluster.get(KSERVICES, "hello")["status"]["traffic"][0]["revisionName"] == "hello-00002"
    assert meta.labels(cluster.get(REVISIONS, "hello-00001"))[keys.ROUTING_STATE] == "reserve"
    assert cluster.get(POD_AUTOSCALERS, "hello-00001")["spec"]["reachability"] == "Unreachable"
    assert cluster.get(POD_AUTOSCALERS, "hello-00002")["spec"]["reachability"] == "Reachable"


async def test_labels_on_the_service_alone_make_no_revision(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    await cluster.apply(service() | {"metadata": {"name": "hello", "namespace": "default", "labels": {"team": "a"}}})
    assert cluster.names(REVISIONS) == ["hello-00001"]
    assert meta.labels(cluster.get(CONFIGURATIONS, "hello"))["team"] == "a"
    assert meta.labels(cluster.get(ROUTES, "hello"))["team"] == "a"


async def test_scaled_to_zero_stays_ready(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    await cluster.pods_become_ready("hello-00001")
    idle = ("False", "NoTraffic", "The target is not receiving traffic.")
    await cluster.autoscaler_says("hello-00001", active=idle, scale=0)
    await cluster.status(DEPLOYMENTS, "hello-00001-deployment", {"readyReplicas": 0, "availableReplicas": 0})
    assert cluster.condition(REVISIONS, "hello-00001") == ("True", "", "")
    assert cluster.condition(REVISIONS, "hello-00001", "Active") == idle
    assert meta.is_ready(cluster.get(KSERVICES, "hello"))
    assert cluster.get(REVISIONS, "hello-00001")["status"]["actualReplicas"] == 0


async def test_a_chosen_revision_name_is_used(cluster: Any, service: Make) -> None:
    await cluster.apply(service(revision="hello-blue"))
    await cluster.pods_become_ready("hello-blue")
    assert cluster.names(REVISIONS) == ["hello-blue"]
    assert meta.is_ready(cluster.get(KSERVICES, "hello"))


async def test_going_back_to_an_old_name_moves_traffic_back(cluster: Any, service: Make) -> None:
    await cluster.apply(service(revision="hello-blue"))
    await cluster.pods_become_ready("hello-blue")
    await cluster.apply(service(revision="hello-green", image="example.com/hello:v2"))
    await cluster.pods_become_ready("hello-green")
    await cluster.apply(service(revision="hello-blue"))
    status = cluster.get(KSERVICES, "hello")["status"]
    assert status["latestReadyRevisionName"] == "hello-blue"
    assert status["traffic"][0]["revisionName"] == "hello-blue"
    assert cluster.names(REVISIONS) == ["hello-blue", "hello-green"]


async def test_a_name_taken_by_another_service_stops_everything(cluster: Any, service: Make) -> None:
    await cluster.apply(service("hello-a", revision="hello-a-blue"))
    await cluster.apply(service("hello", revision="hello-a-blue"))
    assert cluster.condition(CONFIGURATIONS, "hello") == (
        "False",
        "RevisionFailed",
        'Revision creation failed with message: revisions.serving.knative.dev "hello-a-blue" already exists.',
    )
    assert cluster.condition(KSERVICES, "hello", "RoutesReady") == (
        "False",
        "RevisionNameTaken",
        'The revision name "hello-a-blue" is taken by a conflicting Revision, so traffic will not be migrated',
    )
    assert cluster.names(ROUTES) == ["hello-a"]
    # When the other is gone, the name is free.
    await cluster.client.delete(KSERVICES, "hello-a", "default")
    await cluster.settle()
    assert meta.is_controlled_by(cluster.get(REVISIONS, "hello-a-blue"), cluster.get(CONFIGURATIONS, "hello"))
    assert cluster.names(ROUTES) == ["hello"]


async def test_a_foreign_configuration_is_left_alone(cluster: Any, service: Make) -> None:
    foreign = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Configuration",
        "metadata": {"name": "hello", "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{"image": "example.com/mine"}]}}},
    }
    await cluster.apply(foreign)
    await cluster.apply(service())
    assert cluster.condition(KSERVICES, "hello", "ConfigurationsReady") == (
        "False",
        "NotOwned",
        'There is an existing Configuration "hello" that we do not own.',
    )
    spec = cluster.get(CONFIGURATIONS, "hello")["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == "example.com/mine"
    assert "InternalError" in cluster.events.reasons("Service hello")


async def test_an_out_of_date_configuration_says_so(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    stale = cluster.get(CONFIGURATIONS, "hello")
    stale["status"]["observedGeneration"] = 0
    await cluster.stop()
    cluster.client.seed(stale)
    # Only the Service looks: the Configuration's own reconcile would observe the generation.
    await cluster.start(only="service")
    assert cluster.condition(KSERVICES, "hello", "ConfigurationsReady") == (
        "Unknown",
        "OutOfDate",
        "The Configuration is still working to reflect the latest desired specification.",
    )


async def test_new_defaults_do_not_touch_what_is_there(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    generation = meta.generation(cluster.get(CONFIGURATIONS, "hello"))
    await cluster.configure("config-defaults", {"revision-timeout-seconds": "120", "revision-cpu-request": "100m"})
    assert meta.generation(cluster.get(CONFIGURATIONS, "hello")) == generation
    assert cluster.names(REVISIONS) == ["hello-00001"]


async def test_a_split_with_a_tag(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    await cluster.pods_become_ready("hello-00001")
    traffic = [
        {"revisionName": "hello-00001", "percent": 90},
        {"latestRevision": True, "percent": 10, "tag": "canary"},
    ]
    await cluster.apply(service(image="example.com/hello:v2", traffic=traffic))
    await cluster.pods_become_ready("hello-00002")
    ksvc = cluster.get(KSERVICES, "hello")
    assert meta.is_ready(ksvc)
    assert ksvc["status"]["traffic"] == [
        {"revisionName": "hello-00001", "percent": 90, "latestRevision": False},
        {
            "revisionName": "hello-00002",
            "percent": 10,
            "latestRevision": True,
            "tag": "canary",
            "url": "http://canary-hello.default.example.com",
        },
    ]
    assert cluster.names(SERVICES) == ["canary-hello", "hello"]
    rules = cluster.get(INGRESSES, "hello")["spec"]["rules"]
    splits = {rule["hosts"][0]: rule["http"]["paths"][0]["splits"] for rule in rules}
    shares = {host: {split["serviceName"]: split["percent"] for split in found} for host, found in splits.items()}
    assert shares["hello.default.example.com"] == {"hello-00001": 90, "hello-00002": 10}
    assert shares["canary-hello.default.example.com"] == {"hello-00002": 100}
    # The tag goes, and with it its name in the cluster.
    await cluster.apply(service(image="example.com/hello:v2", traffic=[{"latestRevision": True, "percent": 100}]))
    assert cluster.names(SERVICES) == ["hello"]


async def test_deleting_a_service_leaves_nothing(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    await cluster.pods_become_ready("hello-00001")
    await cluster.client.delete(KSERVICES, "hello", "default")
    await cluster.settle()
    for resource in (KSERVICES, CONFIGURATIONS, ROUTES, REVISIONS, DEPLOYMENTS, INGRESSES, SERVICES):
        assert cluster.names(resource) == []
