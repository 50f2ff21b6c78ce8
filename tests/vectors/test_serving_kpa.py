"""Golden data: reconciles of PodAutoscalers of the KPA class."""

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from autoscaler import kpa
from autoscaler.explain import Explanations
from autoscaler.multiscaler import Result
from kncore.api.resources import DEPLOYMENTS, METRICS, POD_AUTOSCALERS, SERVERLESS_SERVICES
from kncore.config.store import Store
from kncore.kube.client import Key
from kncore.kube.patch import merge_patch

KEY = Key("ns", "rev")
T0 = 946_684_800.0


def stamp(now: float) -> str:
    """Times with their fraction, which the cases have and Kubernetes drops."""
    return datetime.fromtimestamp(T0 + now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class World:
    """Informers, client, multiscaler and clock of one case, over a dict of objects."""

    def __init__(self) -> None:
        self.now = 0.0
        self.objects: dict[Any, dict[str, Any]] = {}
        self.result = Result(-1, 0)
        self.ready = 0
        self.answers = True  # until a frame says otherwise
        self.probes = 0
        self.scaled_to: int | None = None
        self.requeued: list[float] = []

    # informers

    def of(self, resource, **options):
        world = self

        class Lister:
            def get(self, name, namespace=None):
                return world.objects.get(resource)

            def keys(self):
                return [KEY]

            def add_handler(self, handler):
                pass

        return Lister()

    # client

    async def create(self, resource, obj, namespace=None):
        self.objects[resource] = copy.deepcopy(obj)
        self.objects[resource]["metadata"]["uid"] = f"uid-{resource.plural}"
        return self.objects[resource]

    async def patch(self, resource, name, patch, namespace=None, **options):
        if options.get("subresource") == "scale":
            self.scaled_to = patch[0]["value"]
            self.objects[resource]["spec"]["replicas"] = self.scaled_to
            return {}
        self.objects[resource] = merge_patch(self.objects[resource], patch)
        return self.objects[resource]

    # multiscaler

    def ensure(self, key, spec):
        return self.result

    # clock

    def wall(self) -> float:
        return T0 + self.now

    async def probe(self, sks) -> bool:
        self.probes += 1
        return self.answers


def reconciler(world: World, store: Store) -> kpa.Kpa:
    made = kpa.Kpa(
        world,
        world,
        store,
        world,
        Explanations(),
        world,
        ready_pods=lambda key: world.ready,
        probe=world.probe,
    )
    made.controller.enqueue_after = lambda key, seconds: world.requeued.append(seconds)
    return made


def show(world: World) -> dict[str, Any]:
    """The world after a reconcile, as the case's `expect`."""
    status = world.objects[POD_AUTOSCALERS]["status"]
    conditions = []
    for condition in status["conditions"]:
        changed = datetime.fromisoformat(condition["lastTransitionTime"]).timestamp() - T0
        entry = {k: v for k, v in condition.items() if k != "lastTransitionTime"}
        conditions.append({**entry, "changed": changed})
    sks = world.objects[SERVERLESS_SERVICES]["spec"]
    shown = {
        "status": {
            "actual_scale": status["actualScale"],
            "desired_scale": status["desiredScale"],
            "conditions": conditions,
            "metrics_service_name": status.get("metricsServiceName", ""),
            "service_name": status.get("serviceName", ""),
        },
        "sks": {"mode": sks["mode"], "num_activators": sks["numActivators"]},
    }
    if metric := world.objects.get(METRICS):
        shown["metric"] = {
            "stable_window_seconds": metric["spec"]["stableWindow"] / 1e9,
            "panic_window_seconds": metric["spec"]["panicWindow"] / 1e9,
            "scrape_target": metric["spec"]["scrapeTarget"],
        }
    if world.scaled_to is not None:
        shown["scaled_deployment_to"] = world.scaled_to
    if world.probes:
        shown["activator_probes"] = world.probes
    return shown


def apply_frame(world: World, store: Store, frame: dict[str, Any]) -> None:
    world.now = frame["now"]
    for name, data in frame.get("config", {}).items():
        if name == "config-deployment":
            data = {"queue-sidecar-image": "example.com/queue:v1", **data}
        store.apply(name, data)
    if "pa" in frame:
        old = world.objects.get(POD_AUTOSCALERS, {})
        world.objects[POD_AUTOSCALERS] = {**copy.deepcopy(frame["pa"]), "status": old.get("status", {})}
        target = frame["pa"]["spec"]["scaleTargetRef"]["name"]
        world.objects.setdefault(DEPLOYMENTS, {"metadata": {"name": target}, "spec": {}})
    if "decider" in frame:
        world.result = Result(*frame["decider"])
    if "pods" in frame:
        world.ready = frame["pods"]["ready"]
    if "replicas" in frame:
        world.objects[DEPLOYMENTS]["spec"]["replicas"] = frame["replicas"]
    if "activator_probe" in frame:
        world.answers = frame["activator_probe"] == "true"
    if "sks_status" in frame:
        given = frame["sks_status"]
        sks = world.objects[SERVERLESS_SERVICES]
        before = {c["type"]: c for c in sks.get("status", {}).get("conditions", [])}

        def condition(type_: str, true: bool, **texts: str) -> dict[str, Any]:
            made = {"type": type_, "status": "True" if true else "Unknown", **texts}
            old = before.get(type_)
            same = old is not None and old["status"] == made["status"]
            return {**made, "lastTransitionTime": old["lastTransitionTime"] if same else stamp(world.now)}

        # the text that the recorded world gave a ServerlessService that is not ready
        texts = {} if given["ready"] else {"message": "K8s Service is not ready"}
        sks["status"] = {
            "serviceName": given["service"],
            "privateServiceName": given["private"],
            "conditions": [
                condition("Ready", given["ready"], **texts),
                condition("ActivatorEndpointsPopulated", given["activator_endpoints"]),
            ],
        }


async def replay(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    world, store = World(), Store()
    made = reconciler(world, store)
    monkeypatch.setattr(kpa, "rfc3339", lambda now: stamp(now - T0))
    previous: dict[str, Any] = {}
    wrong = []
    for number, (frame, expected) in enumerate(zip(case["frames"], case["expect"], strict=True)):
        apply_frame(world, store, frame)
        world.probes, world.scaled_to, world.requeued = 0, None, []
        await made.reconcile(KEY)
        shown = show(world)
        asynchronous = world.probes > 0 and not world.answers
        requeued = [seconds for seconds in world.requeued if not (asynchronous and seconds == kpa.PROBE_RETRY)]
        full = unfold(expected, previous)
        previous = full
        if requeued:
            shown["enqueue_after_seconds"] = pytest.approx(requeued)
        if asynchronous:
            shown["async_probe_started"] = True
        if shown != full:
            wrong.append(f"frame {number} at {frame['now']}:\n  made   {shown}\n  expect {full}")
            break
    return wrong


def unfold(expected: dict[str, Any], previous: dict[str, Any]) -> dict[str, Any]:
    """Replace "=" by the value of the frame before."""
    full = {}
    for key, value in expected.items():
        before = previous.get(key)
        if value == "=":
            full[key] = before
        elif isinstance(value, dict):
            full[key] = unfold(value, before if isinstance(before, dict) else {})
        else:
            full[key] = value
    return full


async def test_kpa_scale(vectors, monkeypatch) -> None:
    failures = {}
    for case in vectors("serving/kpa_scale.json")["cases"]:
        if wrong := await replay(case, monkeypatch):
            failures[case["id"]] = wrong[0]
    first = next(iter(failures.items()), None)
    assert not failures, f"{len(failures)} cases differ, the first is {first[0]}:\n{first[1]}"
