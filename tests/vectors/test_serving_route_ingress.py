"""Route reconciles, frame by frame, against what the original wrote: status, KIngress, placeholder Services, Events."""

import copy
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from controller.frame import World
from controller.route import RouteReconciler
from kncore.api import meta
from kncore.api.resources import (
    CONFIGURATIONS,
    ENDPOINTS,
    INGRESSES,
    REVISIONS,
    ROUTES,
    SERVICES,
    Resource,
)
from kncore.config.store import Store
from kncore.errors import KnError
from kncore.kube.client import Key
from kncore.kube.errors import NotFound
from kncore.kube.patch import merge_patch
from kncore.testing import FakeClock

Obj = dict[str, Any]
Load = Callable[[str], dict[str, Any]]

KEY = Key("default", "web")
ROLLOUT = "networking.internal.knative.dev/rollout"


def not_wired(case: Obj) -> str:
    """Why a case is not for this release; empty when it is."""
    if any("certificates" in frame for frame in (*case["frames"], *case["expect"])):
        return "certificates and TLS are a later issue"
    return ""


class Shelves:
    """A world that changes at once: what the original's tests use, and what makes one frame one reconcile."""

    def __init__(self) -> None:
        self.objects: dict[Resource, dict[Key, Obj]] = {}

    # Informers and informer

    def of(self, resource: Resource, *_: Any, **__: Any) -> "Shelf":
        return Shelf(resource, self.objects.setdefault(resource, {}))

    # Client

    async def get(self, resource: Resource, name: str, namespace: str) -> Obj:
        found = self.of(resource).get(name, namespace)
        if found is None:
            raise NotFound.of(resource, name)
        return copy.deepcopy(found)

    async def create(self, resource: Resource, obj: Obj, namespace: str) -> Obj:
        made = copy.deepcopy(obj)
        made["metadata"] |= {"uid": f"uid-{meta.name(obj)}", "generation": 1}
        self.put(resource, made)
        return made

    async def update(self, resource: Resource, obj: Obj) -> Obj:
        before = self.of(resource).get(meta.name(obj), meta.namespace(obj))
        made = copy.deepcopy(obj)
        if before is not None and before.get("spec") != made.get("spec"):
            made["metadata"]["generation"] = meta.generation(before) + 1
        self.put(resource, made)
        return made

    async def patch(self, resource: Resource, name: str, patch: Obj, namespace: str, **_: Any) -> Obj:
        made: Obj = merge_patch(self.of(resource).get(name, namespace), patch)
        self.put(resource, made)
        return made

    async def delete(self, resource: Resource, name: str, namespace: str, **_: Any) -> None:
        del self.objects[resource][Key(namespace, name)]

    def put(self, resource: Resource, obj: Obj) -> None:
        self.objects.setdefault(resource, {})[Key.of(obj)] = obj

    def replace(self, resource: Resource, objects: list[Obj]) -> None:
        shelf = self.objects.setdefault(resource, {})
        shelf.clear()
        for obj in objects:
            shelf[Key.of(obj)] = copy.deepcopy(obj)


class Shelf:
    """The view of one kind that an informer gives."""

    def __init__(self, resource: Resource, objects: dict[Key, Obj]) -> None:
        self.resource = resource
        self._objects = objects

    def get(self, name: str, namespace: str = "") -> Obj | None:
        return self._objects.get(Key(namespace, name))

    def list(self, namespace: str, labels: Mapping[str, str] | None = None) -> list[Obj]:
        return [
            obj
            for key, obj in self._objects.items()
            if key.namespace == namespace and meta.matches(labels or {}, meta.labels(obj))
        ]

    def add_handler(self, _: Any) -> None:
        """Reconciles are made by the frames alone."""


class Recorder:
    """Collects what the reconciler tells the world besides its writes."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.delays: list[float] = []

    def event(self, _: Obj, type_: str, reason: str, message: str) -> None:
        self.events.append(f"{type_} {reason} {message}")

    def enqueue(self, key: Key, *, slow: bool = False) -> None:
        raise AssertionError(f"nobody asked for {key}")

    def enqueue_after(self, _: Key, seconds: float) -> None:
        self.delays.append(seconds)


def test_routes_are_reconciled_as_recorded(vectors: Load) -> None:
    recorded = vectors("serving/route_ingress.json")
    wired = [case for case in recorded["cases"] if not not_wired(case)]
    problems = [f"{case['id']}: {text}" for case in wired for text in at_once(replay(case, recorded["t0_unix"]))]
    assert not problems, "\n".join(problems[:40])


def at_once(coroutine: Coroutine[Any, Any, list[str]]) -> list[str]:
    """The result of a coroutine that never waits: this world answers at once, so no event loop is needed."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("the reconciler waited for something")


async def replay(case: Obj, start: float) -> list[str]:
    """What differs from the recording, up to the first frame that does."""
    shelves, seen = Shelves(), Recorder()
    store = Store()
    shown: Obj = {}
    for number, (frame, expect) in enumerate(zip(case["frames"], case["expect"], strict=True)):
        if "config" in frame:
            try:
                store = Store.of(frame["config"])
            except KnError as exc:
                refused = "config_error" in expect
                return [] if refused else [f"frame {number}: config refused: {exc}"]
        if "config_error" in expect:
            return [f"frame {number}: config should be refused: {expect['config_error']}"]
        arrange(shelves, frame)
        seen.events, seen.delays = [], []
        clock = FakeClock(start + frame["now"])
        world = World(client=shelves, informers=shelves, config=store, clock=clock, events=seen)  # type: ignore[arg-type]
        reconciler = RouteReconciler(world)
        reconciler.watch(seen)  # type: ignore[arg-type]
        error = ""
        try:
            await reconciler.reconcile(KEY)
        except KnError as exc:
            error = str(exc)
        got = observed(shelves, seen, error)
        wanted = {part: shown.get(part) if value == "=" else value for part, value in expect.items()}
        shown = shown | wanted
        if found := list(differences(simplified(wanted), simplified(got))):
            return [f"frame {number}: {text}" for text in found]
    return []


def arrange(shelves: Shelves, frame: Obj) -> None:
    if "configurations" in frame:
        shelves.replace(CONFIGURATIONS, frame["configurations"])
    if "revisions" in frame:
        shelves.replace(REVISIONS, frame["revisions"])
    for service in frame.get("services", ()):
        shelves.put(SERVICES, copy.deepcopy(service))
    if "route" in frame:
        route = copy.deepcopy(frame["route"])
        before = shelves.of(ROUTES).get("web", "default")
        generation = 1
        if before is not None:
            generation = meta.generation(before) + (before["spec"] != route["spec"])
            route["status"] = before.get("status", {})
        route["metadata"]["generation"] = generation
        shelves.put(ROUTES, route)
    ingress = shelves.of(INGRESSES).get("web", "default")
    if "ingress_status" in frame and ingress is not None:
        ingress["status"] = ingress_status(frame["ingress_status"], meta.generation(ingress))


MARKS = {
    "ready": ("True", "", ""),
    "lb_not_ready": ("Unknown", "Uninitialized", "Waiting for load balancer to be ready"),
    "not_ready": ("Unknown", "Waiting", "waiting for the ingress"),
    "failed": ("False", "Broken", "the load balancer is broken"),
}


def ingress_status(wanted: Obj, generation: int) -> Obj:
    status, reason, message = MARKS[wanted["mark"]]
    ready = {"type": "Ready", "status": status} | ({"reason": reason, "message": message} if reason else {})
    made: Obj = {"conditions": [ready], "observedGeneration": generation - bool(wanted.get("stale"))}
    for kind in ("public", "private"):
        if kind in wanted:
            made[f"{kind}LoadBalancer"] = {"ingress": wanted[kind]}
    return made


def observed(shelves: Shelves, seen: Recorder, error: str) -> Obj:
    route = shelves.of(ROUTES).get("web", "default") or {}
    made: Obj = {
        "status": route.get("status"),
        "services": [
            {"name": meta.name(item)} | pick(item["metadata"], "labels", "annotations") | pick(item, "spec")
            for item in sorted(shelves.of(SERVICES).list("default"), key=meta.name)
        ],
        "endpoints": [
            {"name": meta.name(item), "subsets": item["subsets"]}
            for item in sorted(shelves.of(ENDPOINTS).list("default"), key=meta.name)
        ],
        "events": sorted(event for event in seen.events if not event.startswith("Warning InternalError")),
        "error": error,
        "enqueue_after_seconds": seen.delays,
    }
    if ingress := shelves.of(INGRESSES).get("web", "default"):
        made["ingress"] = pick(ingress["metadata"], "labels", "annotations", "generation", "name") | pick(
            ingress, "spec"
        )
    return made


def pick(source: Obj, *names: str) -> Obj:
    return {name: source[name] for name in names if name in source}


def simplified(value: Any) -> Any:
    """Without empty parts, times and Go's way of not giving a target port; JSON inside strings parsed."""
    if isinstance(value, dict):
        made = {name: simplified(inner) for name, inner in value.items() if name != "lastTransitionTime"}
        if made.get("targetPort") == 0:
            del made["targetPort"]
        for name in ("networking.internal.knative.dev/tag-to-host", ROLLOUT):
            if name in made:
                made[name] = json.loads(made[name])
        return {name: inner for name, inner in made.items() if inner not in (None, "", {}, [])}
    if isinstance(value, list):
        return [simplified(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value


def differences(wanted: Any, got: Any, path: str = "") -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(got, dict):
        for name in sorted(wanted.keys() | got.keys()):
            yield from differences(wanted.get(name), got.get(name), f"{path}.{name}")
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for index, (one, other) in enumerate(zip(wanted, got, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif wanted != got:
        yield f"{path}: wanted {json.dumps(wanted)[:300]}, got {json.dumps(got)[:300]}"


def test_what_is_not_wired_is_known(vectors: Load) -> None:
    """A case left out for a reason that no longer holds should be noticed."""
    cases = vectors("serving/route_ingress.json")["cases"]
    left_out = {case["id"] for case in cases if not_wired(case)}
    assert len(left_out) < len(cases) / 4
    assert all(name.startswith("tls:") for name in left_out)
