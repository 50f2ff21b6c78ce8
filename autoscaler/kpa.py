"""The KPA reconciler: one PodAutoscaler's pods, ServerlessService, Metric and status (serving §4.7, §4.8).

    decider (multiscaler) --result--> plan --PATCH scale--> Deployment
                                       |--> SKS (mode, activators)   |--> Metric (windows)   |--> PodAutoscaler status

The scale is written first and is one JSON patch on the `scale` subresource, without reading before it: on a wake-up
somebody is waiting. What the Deployment has now is known from the informer and from what was written last; when the
two disagree the patch is sent again, for it does no harm, while a wake-up lost to a stale cache would.
"""

import copy
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from autoscaler import status as pa_status
from autoscaler.decide import Spec
from autoscaler.explain import Explanations
from autoscaler.multiscaler import MultiScaler, Result
from autoscaler.scale import ACTIVATION_BUFFER, UNKNOWN, Bounds, Plan, Situation, plan
from kncore.api import keys, meta
from kncore.api import podautoscaler as derive
from kncore.api.conditions import Conditions, post_process, pre_process
from kncore.api.resources import DEPLOYMENTS, METRICS, POD_AUTOSCALERS, SERVERLESS_SERVICES, Resource
from kncore.clock import Clock, rfc3339
from kncore.config.autoscaler import Autoscaler
from kncore.config.deployment import Deployment
from kncore.config.store import Store
from kncore.errors import KnError
from kncore.kube.client import Client, Key, Obj, Patch
from kncore.kube.errors import AlreadyExists, NotFound
from kncore.kube.informers import Informers
from kncore.kube.lease import Leader
from kncore.kube.reconcile import Controller, Permanent, enqueue_owner, enqueue_self, write_status

__all__ = ["Kpa", "NotOwned", "Probe", "Settings", "make_metric", "make_sks", "situation_of", "spec_of"]

Probe = Callable[[Obj], Awaitable[bool]]
"""Asks the public Service of a ServerlessService whether an activator answers there."""

PROBE_RETRY: Final = 1.0
"""Seconds between probes of an activator that does not answer yet."""
NO_PRIVATE_SERVICE: Final = ("NotReady", "No Private Service Name")
CONCERNS: Final = frozenset({"config-autoscaler", "config-deployment"})
"""ConfigMaps whose change may change what is written here."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The configuration a PodAutoscaler's derived values depend on."""

    autoscaler: Autoscaler
    deployment: Deployment


def spec_of(pa: Obj, config: Autoscaler) -> Spec:
    """The evaluator's spec of a PodAutoscaler."""
    target, total = derive.targets(pa, config)
    return Spec(
        metric=derive.metric(pa),
        total=total,
        target=target,
        target_burst_capacity=derive.target_burst_capacity(pa, config),
        panic_threshold=derive.panic_threshold(pa, config),
        max_scale_up_rate=config.max_scale_up_rate,
        max_scale_down_rate=config.max_scale_down_rate,
        stable_window=derive.stable_window(pa, config),
        scale_down_delay=derive.scale_down_delay(pa, config),
        activation_scale=derive.activation_scale(pa),
        initial_scale=derive.initial_scale(pa, config),
        reachable=derive.is_reachable(pa),
    )


def situation_of(
    pa: Obj, conditions: Conditions, sks: Obj, result: Result, spec: Spec, settings: Settings, now: float
) -> Situation:
    """What the scaler looks at, `now` in Unix seconds."""
    config = settings.autoscaler
    minimum, maximum = derive.scale_bounds(pa, config)
    return Situation(
        desired=result.desired,
        bounds=Bounds(min=minimum, max=maximum),
        initial_scale=spec.initial_scale,
        initialized=conditions.is_true("ScaleTargetInitialized"),
        reachable=spec.reachable,
        activity=pa_status.activity_of(conditions),
        activity_age=_age(conditions.get("Active"), now),
        proxying=meta.at(sks, "spec", "mode") == "Proxy",
        proxy_age=_age(_true(sks, "ActivatorEndpointsPopulated"), now),
        scale_to_zero=config.enable_scale_to_zero,
        stable_window=spec.stable_window,
        grace=derive.scale_to_zero_grace_period(pa, config),
        retention=derive.pod_retention(pa, config) if spec.reachable else 0.0,
        activation_timeout=derive.progress_deadline(pa, settings.deployment) + ACTIVATION_BUFFER,
        activator_always=spec.target_burst_capacity == -1,
    )


def _true(obj: Obj, type_: str) -> Obj | None:
    found = meta.condition(obj, type_)
    return found if found and found.get("status") == "True" else None


def _age(condition: Obj | None, now: float) -> float:
    """Seconds since a condition changed; 0 without one."""
    changed = (condition or {}).get("lastTransitionTime")
    return max(0.0, now - datetime.fromisoformat(changed).timestamp()) if changed else 0.0


def make_sks(pa: Obj, mode: str, activators: int) -> Obj:
    """The ServerlessService of a PodAutoscaler."""
    annotations = {k: v for k, v in meta.annotations(pa).items() if k not in keys.METRIC}
    return {
        "apiVersion": SERVERLESS_SERVICES.api_version,
        "kind": "ServerlessService",
        "metadata": _child_metadata(pa, annotations),
        "spec": {
            "mode": mode,
            "objectRef": pa["spec"]["scaleTargetRef"],
            "protocolType": pa["spec"]["protocolType"],
            "numActivators": activators,
        },
    }


def make_metric(pa: Obj, spec: Spec, config: Autoscaler, scrape_target: str) -> Obj:
    """The Metric of a PodAutoscaler; windows are nanoseconds on the wire."""
    return {
        "apiVersion": METRICS.api_version,
        "kind": "Metric",
        "metadata": _child_metadata(pa, meta.annotations(pa)),
        "spec": {
            "stableWindow": round(spec.stable_window * 1e9),
            "panicWindow": round(derive.panic_window(pa, config) * 1e9),
            "scrapeTarget": "" if spec.target_burst_capacity == -1 else scrape_target,
        },
    }


def _child_metadata(pa: Obj, annotations: dict[str, str]) -> Obj:
    return {
        "name": meta.name(pa),
        "namespace": meta.namespace(pa),
        "labels": dict(meta.labels(pa)),
        "annotations": dict(annotations),
        "ownerReferences": [meta.owner_reference(pa)],
    }


class NotOwned(Permanent):
    """A child's name is taken by an object that this PodAutoscaler does not control."""

    def __init__(self, resource: Resource, name: str, pa: Obj) -> None:
        super().__init__(f"PodAutoscaler {meta.key(pa)} does not own {resource.kind} {name}")
        self.message = f'There is an existing {resource.kind} "{name}" that we do not own.'


class Kpa:
    """The reconciler of PodAutoscalers of the KPA class; `controller` is its loop.

    Args:
        ready_pods: ready pods of a revision now, None when they cannot be counted.
        probe: asks whether the activator answers for a revision.
        leader: whose revisions are ours; all, by default.
    """

    def __init__(
        self,
        client: Client,
        informers: Informers,
        config: Store,
        multiscaler: MultiScaler,
        explanations: Explanations,
        clock: Clock,
        *,
        ready_pods: Callable[[tuple[str, str]], int | None],
        probe: Probe,
        leader: Leader | None = None,
    ) -> None:
        self._client = client
        self._config = config
        self._multiscaler = multiscaler
        self._explanations = explanations
        self._clock = clock
        self._ready_pods = ready_pods
        self._probe = probe
        self._written: dict[Key, int] = {}
        """Replicas written last, by PodAutoscaler; UNKNOWN after a write that failed."""
        self._autoscalers = informers.of(POD_AUTOSCALERS)
        self._services = informers.of(SERVERLESS_SERVICES)
        self._metrics = informers.of(METRICS)
        self._deployments = informers.of(DEPLOYMENTS)
        self.controller = Controller("kpa", self.reconcile, workers=8, leader=leader, keys=self._autoscalers.keys)
        self._autoscalers.add_handler(enqueue_self(self.controller))
        self._services.add_handler(enqueue_owner(self.controller, POD_AUTOSCALERS))
        self._metrics.add_handler(enqueue_owner(self.controller, POD_AUTOSCALERS))
        config.subscribe(self._configuration_changed)

    def _configuration_changed(self, name: str) -> None:
        if name in CONCERNS:
            self.controller.enqueue_all(self._autoscalers.keys())

    def decided(self, key: tuple[str, str]) -> None:
        """The multiscaler has another result for a revision."""
        self.controller.enqueue(Key(*key))

    def forget(self, key: Key) -> None:
        """The revision is gone, or another replica's now."""
        self._multiscaler.forget(key)
        self._written.pop(key, None)

    async def reconcile(self, key: Key) -> None:
        """Bring one PodAutoscaler's world in order.

        Raises:
            NotOwned: its children's name is taken.
            ApiError: the API server refused something; what was found out until then is in the status.
        """
        original = self._autoscalers.get(key.name, key.namespace)
        if original is None or meta.is_deleting(original) or derive.class_(original) != keys.KPA_CLASS:
            self.forget(key)
            return
        pa = copy.deepcopy(original)
        now = self._clock.wall()
        conditions = pre_process(pa, rfc3339(now))
        try:
            await self._reconcile(key, pa, conditions, now)
        except NotOwned as exc:
            conditions.mark_false("Active", "NotOwned", exc.message)
            await self._write_status(original, pa, now)
            raise
        except KnError:
            await self._write_status(original, pa, now)
            raise
        await self._write_status(original, pa, now)

    async def _write_status(self, original: Obj, pa: Obj, now: float) -> None:
        post_process(pa, original, rfc3339(now))
        try:
            await write_status(self._client, POD_AUTOSCALERS, original, pa)
        except NotFound:
            log.debug("deleted meanwhile", extra={"knative.dev/key": meta.key(pa)})

    async def _reconcile(self, key: Key, pa: Obj, conditions: Conditions, now: float) -> None:
        settings = Settings(self._config.autoscaler, self._config.deployment)
        spec = spec_of(pa, settings.autoscaler)
        sks = self._services.get(key.name, key.namespace)
        private = meta.at(sks, "status", "privateServiceName", default="")
        if sks is None or not private:
            await self._write_child(SERVERLESS_SERVICES, sks, make_sks(pa, "Proxy", pa_status.MIN_ACTIVATORS), pa)
            conditions.mark_unknown("SKSReady", *NO_PRIVATE_SERVICE)
            self._fill(pa, conditions, settings, spec, UNKNOWN, 0)
            return
        status = pa["status"]
        status["metricsServiceName"] = private
        result = self._multiscaler.ensure(key, spec)
        planned = await self._plan(pa, conditions, sks, result, spec, settings, now)
        if planned.apply is not None:
            await self._scale(key, pa, planned.apply)
        if planned.recheck is not None:
            self.controller.enqueue_after(key, planned.recheck)

        metric = make_metric(pa, spec, settings.autoscaler, private)
        await self._write_child(METRICS, self._metrics.get(key.name, key.namespace), metric, pa)
        ready = self._ready_pods(key) or 0
        activators = pa_status.number_of_activators(spec, ready, settings.autoscaler.activator_capacity)
        wanted = make_sks(pa, pa_status.sks_mode(planned.want, result), activators)
        sks = await self._write_child(SERVERLESS_SERVICES, sks, wanted, pa)
        status["serviceName"] = meta.at(sks, "status", "serviceName", default="")
        if meta.is_ready(sks):
            conditions.mark_true("SKSReady")
        else:
            message = (meta.condition(sks, "Ready") or {}).get("message", "")
            conditions.mark_unknown("SKSReady", "NotReady", message)
        self._fill(pa, conditions, settings, spec, planned.want, ready)

    async def _plan(
        self,
        pa: Obj,
        conditions: Conditions,
        sks: Obj,
        result: Result,
        spec: Spec,
        settings: Settings,
        now: float,
    ) -> Plan:
        situation = situation_of(pa, conditions, sks, result, spec, settings, now)
        planned = plan(situation)
        if not planned.probe:
            return planned
        answers = await self._probe(sks)
        # Somebody may have come while we asked: going to zero now would only make them wait longer.
        desired = self._multiscaler.ensure(Key.of(pa), spec).desired
        planned = plan(replace(situation, desired=desired), activator_answers=answers)
        if not answers:
            log.info("activator does not answer for the revision yet", extra={"knative.dev/key": meta.key(pa)})
            self.controller.enqueue_after(Key.of(pa), PROBE_RETRY)
        return planned

    def _fill(self, pa: Obj, conditions: Conditions, settings: Settings, spec: Spec, want: int, ready: int) -> None:
        threshold = pa_status.active_threshold(
            min_scale=derive.scale_bounds(pa, settings.autoscaler)[0],
            initial_scale=spec.initial_scale,
            initialized=conditions.is_true("ScaleTargetInitialized"),
        )
        pa_status.fill(pa["status"], conditions, want=want, ready=ready, threshold=threshold)

    async def _scale(self, key: Key, pa: Obj, replicas: int) -> None:
        target = meta.at(pa, "spec", "scaleTargetRef", "name", default="")
        deployment = self._deployments.get(target, key.namespace)
        has = meta.at(deployment, "spec", "replicas", default=1) if deployment is not None else None
        if has == replicas == self._written.get(key, replicas):
            return
        self._written[key] = UNKNOWN  # until the call has succeeded: one that fails may have been carried out
        patch: list[dict[str, Any]] = [{"op": "add", "path": "/spec/replicas", "value": replicas}]
        await self._client.patch(DEPLOYMENTS, target, patch, key.namespace, how=Patch.JSON, subresource="scale")
        self._written[key] = replicas
        self._explanations.scaled(key, replicas, self._clock.wall())
        log.info("scaled", extra={"knative.dev/key": str(key), "replicas": replicas})

    async def _write_child(self, resource: Resource, existing: Obj | None, wanted: Obj, pa: Obj) -> Obj:
        """Create the child, or bring its spec to what is wanted."""
        name, namespace = meta.name(pa), meta.namespace(pa)
        if existing is None:
            try:
                return await self._client.create(resource, wanted)
            except AlreadyExists:  # our cache did not know it yet
                existing = await self._client.get(resource, name, namespace)
        if not meta.is_controlled_by(existing, pa):
            raise NotOwned(resource, name, pa)
        if existing["spec"] == wanted["spec"]:
            return existing
        patch = {"spec": wanted["spec"], "metadata": {"uid": meta.uid(existing)}}
        return await self._client.patch(resource, name, patch, namespace)
