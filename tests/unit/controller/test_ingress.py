"""KIngress status, ServerlessServices and Routes on their own."""

from collections.abc import Callable
from typing import Any

import pytest

from kncore.api import keys, meta
from kncore.api.resources import (
    CONFIGURATIONS,
    DEPLOYMENTS,
    ENDPOINTS,
    INGRESSES,
    KSERVICES,
    REVISIONS,
    ROUTES,
    SERVERLESS_SERVICES,
    SERVICES,
)

Obj = dict[str, Any]
Make = Callable[..., Obj]

WAITING = ("Unknown", "Uninitialized", "Waiting for load balancer to be ready")


@pytest.mark.looptime
async def test_ready_means_that_every_activator_routes_by_it(cluster: Any, service: Make) -> None:
    await cluster.activators("10.0.0.1", "10.0.0.2")
    cluster.lagging.add("hello.default")
    await cluster.apply(service())
    await cluster.pods_become_ready("hello-00001")
    await cluster.wait(0.5)
    assert cluster.condition(INGRESSES, "hello") == WAITING
    assert cluster.condition(ROUTES, "hello", "IngressReady") == WAITING
    asked = len(cluster.probed)
    cluster.lagging.clear()
    await cluster.wait(2.0)
    assert cluster.condition(INGRESSES, "hello")[0] == "True"
    assert meta.is_ready(cluster.get(KSERVICES, "hello"))
    assert {address for address, _ in cluster.probed} == {"10.0.0.1:8012", "10.0.0.2:8012"}
    assert len(cluster.probed) == asked + 2


@pytest.mark.looptime
async def test_without_activators_nothing_is_ready(cluster: Any, service: Make) -> None:
    await cluster.activators()
    await cluster.apply(service())
    await cluster.pods_become_ready("hello-00001")
    await cluster.wait(1000.0)
    assert cluster.condition(INGRESSES, "hello") == WAITING
    await cluster.activators("10.0.0.9")
    await cluster.wait(0.01)  # long pauses between questions do not delay the first answer
    assert cluster.condition(INGRESSES, "hello")[0] == "True"


async def test_what_was_confirmed_is_not_asked_about_again(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    await cluster.pods_become_ready("hello-00001")
    asked = len(cluster.probed)
    assert asked == 1
    await cluster.stop()
    await cluster.start()
    assert len(cluster.probed) == asked


async def test_other_classes_belong_to_others(cluster: Any, service: Make) -> None:
    await cluster.stop()
    cluster.any_ingress_class = False
    await cluster.start()
    await cluster.apply(service())
    await cluster.pods_become_ready("hello-00001")
    assert not cluster.get(INGRESSES, "hello").get("status")
    assert cluster.condition(ROUTES, "hello", "IngressReady")[1] == "IngressNotConfigured"
    await cluster.configure("config-network", {"ingress-class": keys.INGRESS_CLASS_TORPOR})
    assert cluster.condition(INGRESSES, "hello")[0] == "True"
    assert meta.is_ready(cluster.get(KSERVICES, "hello"))


async def test_a_host_is_the_first_ones(cluster: Any, service: Make) -> None:
    await cluster.configure("config-network", {"domain-template": "{{.Namespace}}.{{.Domain}}"})
    for name in ("first", "second"):
        await cluster.apply(service(name))
        await cluster.pods_become_ready(f"{name}-00001")
    assert cluster.condition(INGRESSES, "first")[0] == "True"
    assert cluster.condition(INGRESSES, "second") == (
        "False",
        "DomainConflict",
        "Ingress rejected: ingress has a conflicting domain with another ingress",
    )
    await cluster.client.delete(KSERVICES, "first", "default")
    await cluster.settle()
    assert cluster.condition(INGRESSES, "second")[0] == "True"


async def test_the_port_is_shown_in_public_urls_only(cluster: Any, service: Make) -> None:
    await cluster.stop()
    cluster.external_ports = {"http": 8080, "https": 8443}
    await cluster.start()
    traffic = [{"latestRevision": True, "percent": 100, "tag": "now"}]
    await cluster.apply(service(traffic=traffic))
    await cluster.pods_become_ready("hello-00001")
    status = cluster.get(KSERVICES, "hello")["status"]
    assert status["url"] == "http://hello.default.example.com:8080"
    assert status["traffic"][0]["url"] == "http://now-hello.default.example.com:8080"
    assert status["address"]["url"] == "http://hello.default.svc.cluster.local"
    assert "8080" not in str(cluster.get(INGRESSES, "hello")["spec"])
    await cluster.configure("config-network", {"default-external-scheme": "https"})
    assert cluster.get(KSERVICES, "hello")["status"]["url"] == "https://hello.default.example.com:8443"
    route = cluster.get(ROUTES, "hello")
    route["metadata"]["labels"][keys.VISIBILITY] = "cluster-local"
    ksvc = cluster.get(KSERVICES, "hello")
    ksvc["metadata"]["labels"] = {keys.VISIBILITY: "cluster-local"}
    await cluster.client.update(KSERVICES, ksvc)
    await cluster.settle()
    assert cluster.get(KSERVICES, "hello")["status"]["url"] == "http://hello.default.svc.cluster.local"


async def test_a_changed_domain_moves_every_route(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    await cluster.pods_become_ready("hello-00001")
    await cluster.configure("config-domain", {"example.org": ""})
    ksvc = cluster.get(KSERVICES, "hello")
    assert ksvc["status"]["url"] == "http://hello.default.example.org"
    assert meta.is_ready(ksvc)


async def test_a_deleted_route_takes_its_marks_with_it(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    await cluster.pods_become_ready("hello-00001")
    other = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Route",
        "metadata": {"name": "other", "namespace": "default"},
        "spec": {"traffic": [{"configurationName": "hello", "percent": 100, "latestRevision": True}]},
    }
    await cluster.apply(other)
    assert "routes.serving.knative.dev" in meta.finalizers(cluster.get(ROUTES, "other"))
    for resource, name in ((CONFIGURATIONS, "hello"), (REVISIONS, "hello-00001")):
        assert meta.annotations(cluster.get(resource, name))[keys.ROUTES] == "hello,other"
    await cluster.client.delete(ROUTES, "other", "default")
    await cluster.settle()
    assert cluster.names(ROUTES) == ["hello"]
    for resource, name in ((CONFIGURATIONS, "hello"), (REVISIONS, "hello-00001")):
        assert meta.annotations(cluster.get(resource, name))[keys.ROUTES] == "hello"
    assert meta.labels(cluster.get(REVISIONS, "hello-00001"))[keys.ROUTING_STATE] == "active"


async def test_a_gradual_rollout_moves_step_by_step(cluster: Any, service: Make) -> None:
    slow = service() | {
        "metadata": {
            "name": "hello",
            "namespace": "default",
            "annotations": {"serving.knative.dev/rollout-duration": "100s"},
        }
    }
    await cluster.apply(slow)
    await cluster.pods_become_ready("hello-00001")
    slow["spec"]["template"]["spec"]["containers"][0]["image"] = "example.com/hello:v2"
    await cluster.apply(slow)
    await cluster.pods_become_ready("hello-00002")
    shares = [(item["revisionName"], item["percent"]) for item in cluster.get(ROUTES, "hello")["status"]["traffic"]]
    assert shares == [("hello-00001", 99), ("hello-00002", 1)]
    assert cluster.condition(ROUTES, "hello", "IngressReady")[:2] == ("Unknown", "RolloutInProgress")
    assert cluster.condition(KSERVICES, "hello")[:2] == ("Unknown", "RolloutInProgress")


# ServerlessServices


def sks(mode: str, activators: int = 2) -> Obj:
    return {
        "apiVersion": "networking.internal.knative.dev/v1alpha1",
        "kind": "ServerlessService",
        "metadata": {"name": "hello-00001", "namespace": "default", "labels": {"app": "hello-00001"}},
        "spec": {
            "mode": mode,
            "numActivators": activators,
            "protocolType": "http1",
            "objectRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "hello-00001-deployment"},
        },
    }


POD_PORTS = [
    {"name": "http", "port": 8012},
    {"name": "http-autometric", "port": 9090},
    {"name": "https", "port": 8112},
]


def pods(*ready: str) -> list[Obj]:
    return [{"addresses": [{"ip": ip} for ip in ready], "ports": POD_PORTS}] if ready else []


def public_addresses(cluster: Any) -> list[str]:
    subsets = cluster.get(ENDPOINTS, "hello-00001")["subsets"]
    return [address["ip"] for subset in subsets for address in subset["addresses"]]


async def with_pods(cluster: Any, *ready: str) -> None:
    labels = meta.labels(cluster.get(SERVICES, "hello-00001-private"))
    await cluster.endpoints("hello-00001-private", pods(*ready), labels=labels)


async def test_an_sks_puts_pods_or_activators_behind_the_public_service(cluster: Any, service: Make) -> None:
    await cluster.activators("10.0.0.1", "10.0.0.2", "10.0.0.3")
    await cluster.apply(service())
    await cluster.apply(sks("Serve"))
    selector = cluster.get(SERVICES, "hello-00001-private")["spec"]["selector"]
    assert selector == cluster.get(DEPLOYMENTS, "hello-00001-deployment")["spec"]["selector"]["matchLabels"]
    assert "selector" not in cluster.get(SERVICES, "hello-00001")["spec"]

    # Serve without pods: activators stand in, so that the first request has somebody to wake them.
    assert len(public_addresses(cluster)) == 2
    assert cluster.condition(SERVERLESS_SERVICES, "hello-00001")[:2] == ("Unknown", "NoHealthyBackends")
    backed = cluster.condition(SERVERLESS_SERVICES, "hello-00001", "ActivatorEndpointsPopulated")
    assert backed[0] == "True"

    await with_pods(cluster, "10.1.0.1", "10.1.0.2")
    assert public_addresses(cluster) == ["10.1.0.1", "10.1.0.2"]
    ports = [port["port"] for port in cluster.get(ENDPOINTS, "hello-00001")["subsets"][0]["ports"]]
    assert ports == [8012, 8112]
    assert cluster.condition(SERVERLESS_SERVICES, "hello-00001")[0] == "True"
    assert cluster.condition(SERVERLESS_SERVICES, "hello-00001", "ActivatorEndpointsPopulated")[0] == "False"
    status = cluster.get(SERVERLESS_SERVICES, "hello-00001")["status"]
    assert (status["serviceName"], status["privateServiceName"]) == ("hello-00001", "hello-00001-private")

    await cluster.apply(sks("Proxy"))
    chosen = public_addresses(cluster)
    assert len(chosen) == 2
    assert set(chosen) < {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    assert cluster.condition(SERVERLESS_SERVICES, "hello-00001")[0] == "True"  # the revision has pods all the same

    await cluster.apply(sks("Proxy", activators=0))
    assert public_addresses(cluster) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


async def test_an_sks_without_activators_serves_by_itself(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    await cluster.apply(sks("Proxy"))
    await with_pods(cluster, "10.1.0.1")
    await cluster.activators()
    assert public_addresses(cluster) == ["10.1.0.1"]
    await cluster.activators("10.0.0.7")
    assert public_addresses(cluster) == ["10.0.0.7"]


async def test_a_foreign_service_is_not_taken_over(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "hello-00001", "namespace": "default"},
        "spec": {"selector": {"app": "mine"}},
    }
    cluster.client.seed(foreign)
    await cluster.apply(sks("Proxy"))
    assert cluster.condition(SERVERLESS_SERVICES, "hello-00001") == (
        "False",
        "NotOwned",
        'There is an existing Service "hello-00001" that we do not own.',
    )
    assert cluster.get(SERVICES, "hello-00001")["spec"]["selector"] == {"app": "mine"}
