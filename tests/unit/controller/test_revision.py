"""Revisions: images, children that follow them, and how trouble is told."""

from collections.abc import Callable
from typing import Any

import pytest

from kncore.api import keys, meta
from kncore.api.resources import CONFIGURATIONS, DEPLOYMENTS, POD_AUTOSCALERS, PODS, REVISIONS, ROUTES

Obj = dict[str, Any]
Make = Callable[..., Obj]

REVISION = "hello-00001"
DEPLOYMENT = "hello-00001-deployment"


async def test_an_unknown_image_is_told_everywhere(cluster: Any, service: Make) -> None:
    cluster.resolver.unknown["example.com/hello:v1"] = "no such image"
    await cluster.apply(service())
    message = 'Unable to fetch image "example.com/hello:v1": failed to resolve image to digest: no such image'
    assert cluster.condition(REVISIONS, REVISION) == ("False", "ContainerMissing", message)
    assert cluster.condition(CONFIGURATIONS, "hello") == (
        "False",
        "RevisionFailed",
        f'Revision "{REVISION}" failed with message: {message}.',
    )
    assert cluster.condition(ROUTES, "hello", "AllTrafficAssigned") == (
        "False",
        "RevisionMissing",
        'Configuration "hello" does not have any ready Revision.',
    )
    assert cluster.names(DEPLOYMENTS) == []
    assert set(cluster.events.reasons(f"Revision {REVISION}")) == {"InternalError"}


@pytest.mark.looptime
async def test_an_image_that_appears_is_found_by_and_by(cluster: Any, service: Make) -> None:
    cluster.resolver.unknown["example.com/hello:v1"] = "no such image"
    await cluster.apply(service())
    cluster.resolver.unknown.clear()
    await cluster.wait(2.0)
    assert cluster.names(DEPLOYMENTS) == [DEPLOYMENT]
    assert cluster.condition(REVISIONS, REVISION)[1] != "ContainerMissing"


async def test_digests_and_skipped_registries_are_not_resolved(cluster: Any, service: Make) -> None:
    fixed = "example.com/hello@sha256:" + "a" * 64
    await cluster.apply(service("fixed", image=fixed))
    await cluster.apply(service("local", image="dev.local/hello:v1"))
    assert cluster.resolver.asked == []
    assert cluster.get(REVISIONS, "fixed-00001")["status"]["containerStatuses"] == [
        {"name": "user-container", "imageDigest": fixed}
    ]
    containers = cluster.get(DEPLOYMENTS, "local-00001-deployment")["spec"]["template"]["spec"]["containers"]
    assert containers[0]["image"] == "dev.local/hello:v1"


async def test_min_scale_on_a_living_revision_reaches_the_autoscaler(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    deployment = cluster.get(DEPLOYMENTS, DEPLOYMENT)
    revision = cluster.get(REVISIONS, REVISION)
    revision["metadata"]["annotations"] |= {
        "autoscaling.knative.dev/min-scale": "2",
        "autoscaling.knative.dev/class": "foreign.example.com",
    }
    await cluster.client.update(REVISIONS, revision)
    await cluster.settle()
    annotations = meta.annotations(cluster.get(POD_AUTOSCALERS, REVISION))
    assert annotations["autoscaling.knative.dev/min-scale"] == "2"
    assert annotations["autoscaling.knative.dev/class"] == keys.KPA_CLASS  # settled when it was made
    assert cluster.get(DEPLOYMENTS, DEPLOYMENT) == deployment


async def test_a_new_sidecar_image_rolls_the_deployment_and_keeps_its_scale(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    deployment = cluster.get(DEPLOYMENTS, DEPLOYMENT)
    deployment["spec"]["replicas"] = 7
    deployment["metadata"]["annotations"] = {"deployment.kubernetes.io/revision": "1"}
    await cluster.client.update(DEPLOYMENTS, deployment)
    await cluster.configure("config-deployment", {"queue-sidecar-image": "queue:v2"})
    rolled = cluster.get(DEPLOYMENTS, DEPLOYMENT)
    images = [container["image"] for container in rolled["spec"]["template"]["spec"]["containers"]]
    assert images[1] == "queue:v2"
    assert rolled["spec"]["replicas"] == 7
    assert meta.annotations(rolled)["deployment.kubernetes.io/revision"] == "1"
    assert meta.labels(rolled)[keys.DEPLOYMENT_HASH] != meta.labels(deployment)[keys.DEPLOYMENT_HASH]


async def test_a_bad_config_map_keeps_the_last_good_value(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    before = cluster.get(DEPLOYMENTS, DEPLOYMENT)
    await cluster.configure("config-deployment", {"queue-sidecar-image": ""})
    assert cluster.get(DEPLOYMENTS, DEPLOYMENT) == before
    assert cluster.events.reasons("ConfigMap config-deployment") == ["InvalidConfiguration"]


async def test_a_quota_is_told(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": "exceeded quota: compute",
    }
    await cluster.status(DEPLOYMENTS, DEPLOYMENT, {"conditions": [failure]})
    assert cluster.condition(REVISIONS, REVISION, "ResourcesAvailable")[0] in ("False", "Unknown")
    await cluster.autoscaler_says(REVISION, active=("Unknown", "Queued", "q"), scale=0)
    assert cluster.condition(REVISIONS, REVISION) == ("False", "FailedCreate", "exceeded quota: compute")


@pytest.mark.parametrize(
    ("exit_", "reason", "message"),
    [
        ({"exitCode": 3, "message": "no config"}, "ExitCode3", "Container failed with: no config"),
        ({"exitCode": 0}, "ExitCode0", "container exited with no error"),
    ],
)
async def test_a_container_that_exits_is_told(
    cluster: Any, service: Make, exit_: Obj, reason: str, message: str
) -> None:
    await cluster.apply(service())
    await cluster.status(DEPLOYMENTS, DEPLOYMENT, {"replicas": 1, "unavailableReplicas": 1})
    status = {
        "containerStatuses": [{"name": "queue-proxy"}, {"name": "user-container", "lastState": {"terminated": exit_}}]
    }
    await cluster.pod(REVISION, status)
    assert cluster.condition(REVISIONS, REVISION, "ContainerHealthy") == ("False", reason, message)
    assert cluster.condition(REVISIONS, REVISION)[:2] == ("False", reason)


async def test_an_unschedulable_pod_is_told_unless_nodes_come_by_themselves(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    scheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available",
    }
    await cluster.pod(REVISION, {"conditions": [scheduled]})
    assert cluster.condition(REVISIONS, REVISION, "ResourcesAvailable")[0] == "Unknown"  # no autoscaler yet
    await cluster.autoscaler_says(REVISION, active=("Unknown", "Queued", "q"), scale=0)
    unhappy = cluster.condition(REVISIONS, REVISION, "ResourcesAvailable")
    assert unhappy == ("False", "Unschedulable", "0/3 nodes are available")
    relaxed = {"queue-sidecar-image": "q", "pod-is-always-schedulable": "true"}
    await cluster.configure("config-deployment", relaxed)
    assert cluster.condition(REVISIONS, REVISION, "ResourcesAvailable")[1] != "Unschedulable"


async def test_a_pull_error_is_told_when_the_deadline_has_passed(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    await cluster.pod(REVISION, {"containerStatuses": [{"name": "user-container", "state": {"waiting": waiting}}]})
    await cluster.autoscaler_says(REVISION, active=("Unknown", "Queued", "q"), scale=0)
    assert cluster.condition(REVISIONS, REVISION)[1] != "ImagePullBackOff"
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "late"}
    await cluster.status(DEPLOYMENTS, DEPLOYMENT, {"conditions": [late]})
    assert cluster.condition(REVISIONS, REVISION) == ("False", "ImagePullBackOff", "Back-off pulling image")


async def test_a_revision_that_never_started_is_a_failure_after_it_was_given_up(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    progressing = {"type": "Progressing", "status": "True"}
    await cluster.status(DEPLOYMENTS, DEPLOYMENT, {"conditions": [progressing]})
    gone = [
        {"type": "Ready", "status": "False", "reason": "TimedOut", "message": "The target could not be activated."},
        {"type": "ScaleTargetInitialized", "status": "Unknown"},
    ]
    await cluster.status(POD_AUTOSCALERS, REVISION, {"serviceName": REVISION, "conditions": gone})
    assert cluster.condition(REVISIONS, REVISION) == (
        "False",
        "ProgressDeadlineExceeded",
        "Initial scale was never achieved",
    )
    assert cluster.condition(REVISIONS, REVISION, "Active")[1] == "TimedOut"


async def test_a_broken_revision_does_not_hold_its_min_scale(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    assert cluster.get(POD_AUTOSCALERS, REVISION)["spec"]["reachability"] == "Reachable"
    await cluster.autoscaler_says(REVISION, active=("Unknown", "Queued", "q"), scale=0)
    exit_ = {"exitCode": 1, "message": "boom"}
    await cluster.pod(REVISION, {"containerStatuses": [{"name": "user-container", "lastState": {"terminated": exit_}}]})
    assert cluster.get(POD_AUTOSCALERS, REVISION)["spec"]["reachability"] == "Unreachable"


async def test_a_deleted_deployment_comes_back(cluster: Any, service: Make) -> None:
    await cluster.apply(service())
    await cluster.client.delete(DEPLOYMENTS, DEPLOYMENT, "default")
    await cluster.settle()
    assert cluster.names(DEPLOYMENTS) == [DEPLOYMENT]
    assert cluster.names(PODS) == []
