"""ReplicaSets: keep so many pods of a template alive.

The pods counted are the informer's plus what this controller did and the informer has not shown yet (`_Memory`): a
pod it created counts at once, a pod it deleted does not count any more. So a cache that is behind never makes it
create a pod twice. `foresee` lets the Deployment controller announce a scale that it is still writing, so that the
pods are created while the ReplicaSet is being patched: one API call less on the path of a cold start.
"""

import asyncio
import copy
import secrets
from dataclasses import dataclass, field

from kncore.api import meta
from kncore.api.meta import Obj, at
from kncore.api.resources import PODS, REPLICA_SETS
from kncore.clock import Clock, SystemClock, rfc3339
from kncore.kube.client import Client, Key
from kncore.kube.errors import ApiError, Conflict, NotFound
from kncore.kube.informer import Change
from kncore.kube.informers import Informers
from kncore.kube.reconcile import Controller, enqueue_owner, enqueue_self, write_status
from torpor.embedded.workloads import pods
from torpor.embedded.workloads.events import Record, silent
from torpor.embedded.workloads.pace import StatusPace
from torpor.embedded.workloads.scheduler import NodeRoom, unfit

__all__ = ["BY_CONTROLLER", "ReplicaSets", "Statistics", "by_controller", "new_pod"]

BY_CONTROLLER = "controller uid"
"""Name of the pod informer's index by the uid of the controlling owner."""
MAX_PARALLEL_WRITES = 32
"""Pods created or deleted at once for one ReplicaSet."""
MEMORY_SECONDS = 30.0
"""How long what we did is believed if the informer never shows it."""
FORESIGHT_SECONDS = 5.0

_NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' own: no vowels, no look-alikes


def by_controller(obj: Obj) -> list[str]:
    """Index key: the uid of the controlling owner, if there is one."""
    owner = meta.controller_of(obj)
    return [owner["uid"]] if owner and owner.get("uid") else []


def new_pod(owner: Obj, node: NodeRoom, suffix: str) -> Obj:
    """A pod of the ReplicaSet's template, bound to the node if it fits there."""
    template = copy.deepcopy(at(owner, "spec", "template", default={}))
    found = template.get("metadata") or {}
    kept = {field_: found[field_] for field_ in ("labels", "annotations", "finalizers") if found.get(field_)}
    pod: Obj = {
        "apiVersion": PODS.api_version,
        "kind": PODS.kind,
        "metadata": {
            **kept,
            "name": f"{meta.name(owner)[:57]}-{suffix}",
            "generateName": f"{meta.name(owner)}-",
            "namespace": meta.namespace(owner),
            "ownerReferences": [meta.owner_reference(owner)],
        },
        "spec": template.get("spec") or {},
    }
    if not unfit(pod, node):
        pod["spec"]["nodeName"] = node.name
    return pod


@dataclass
class _Memory:
    """What was done for one ReplicaSet and is not in the cache yet."""

    created: dict[str, tuple[Obj, float]] = field(default_factory=dict)
    """uid -> (pod, monotonic time)."""
    deleted: dict[str, float] = field(default_factory=dict)
    foreseen: int | None = None
    """Replicas that somebody is writing; believed until the ReplicaSet's generation moves on, or for a short time."""
    foreseen_from: int = 0
    foreseen_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is remembered between reconciles."""

    remembered: int


class ReplicaSets:
    """The ReplicaSet controller.

    Args:
        node: where pods are bound.
        record: writes an Event: (object, type, reason, message).
    """

    def __init__(
        self,
        client: Client,
        informers: Informers,
        node: NodeRoom,
        *,
        clock: Clock | None = None,
        record: Record = silent,
    ) -> None:
        self._client = client
        self._node = node
        self._clock = clock or SystemClock()
        self._record = record
        self._sets = informers.of(REPLICA_SETS)
        self._pods = informers.of(PODS, indexers={BY_CONTROLLER: by_controller})
        self._memory: dict[str, _Memory] = {}
        self.controller = Controller("replicaset", self._reconcile, workers=16)
        self.name = self.controller.name
        self._pace = StatusPace(self.controller)
        self._sets.add_handler(enqueue_self(self.controller))
        self._sets.add_handler(self._forget)
        self._pods.add_handler(self._seen)
        self._pods.add_handler(enqueue_owner(self.controller, REPLICA_SETS))

    async def run(self) -> None:
        """Reconcile until cancelled."""
        await self.controller.run()

    def statistics(self) -> Statistics:
        """See `Statistics`."""
        return Statistics(sum(len(one.created) + len(one.deleted) for one in self._memory.values()))

    def foresee(self, replicaset: Obj, replicas: int) -> None:
        """Act as if `spec.replicas` were this already; the caller is writing it."""
        memory = self._memory.setdefault(meta.uid(replicaset), _Memory())
        memory.foreseen = replicas
        memory.foreseen_from = meta.generation(replicaset)
        memory.foreseen_until = self._clock.monotonic() + FORESIGHT_SECONDS
        self.controller.enqueue(Key.of(replicaset))
        self.controller.enqueue_after(Key.of(replicaset), FORESIGHT_SECONDS + 0.1)

    # What the informer shows, it need not be told again

    def _seen(self, change: Change) -> None:
        owner = meta.controller_of(change.object)
        memory = self._memory.get(owner["uid"]) if owner else None
        if memory is None:
            return
        uid = meta.uid(change.object)
        memory.created.pop(uid, None)
        if change.type == "deleted" or meta.is_deleting(change.object):
            memory.deleted.pop(uid, None)

    def _forget(self, change: Change) -> None:
        if change.type == "deleted":
            self._memory.pop(meta.uid(change.object), None)

    def _active(self, replicaset: Obj, memory: _Memory) -> list[Obj]:
        now = self._clock.monotonic()
        memory.created = {uid: one for uid, one in memory.created.items() if now - one[1] < MEMORY_SECONDS}
        memory.deleted = {uid: at_ for uid, at_ in memory.deleted.items() if now - at_ < MEMORY_SECONDS}
        found = {meta.uid(pod): pod for pod in self._pods.by_index(BY_CONTROLLER, meta.uid(replicaset))}
        found |= {uid: pod for uid, (pod, _) in memory.created.items() if uid not in found}
        return [pod for uid, pod in found.items() if uid not in memory.deleted and pods.is_active(pod)]

    async def _reconcile(self, key: Key) -> None:
        replicaset = self._sets.get(key.name, key.namespace)
        if replicaset is None or meta.is_deleting(replicaset):
            return
        memory = self._memory.setdefault(meta.uid(replicaset), _Memory())
        wanted: int = at(replicaset, "spec", "replicas", default=1)
        if memory.foreseen is not None:
            shown = meta.generation(replicaset) > memory.foreseen_from
            if shown or self._clock.monotonic() >= memory.foreseen_until:
                memory.foreseen = None
            else:
                wanted = memory.foreseen
        active = self._active(replicaset, memory)
        problem: ApiError | None = None
        try:
            if len(active) < wanted:
                await self._create(replicaset, wanted - len(active), memory)
            elif len(active) > wanted:
                await self._delete(replicaset, pods.deletion_order(active)[: len(active) - wanted], memory)
        except ApiError as exc:
            problem = exc
        await self._write_status(replicaset, self._active(replicaset, memory), problem, len(active) < wanted)
        if problem is not None:
            raise problem

    async def _create(self, replicaset: Obj, count: int, memory: _Memory) -> None:
        async def create() -> None:
            suffix = "".join(secrets.choice(_NAME_ALPHABET) for _ in range(5))
            made = await self._client.create(PODS, new_pod(replicaset, self._node, suffix))
            # It may have come and gone in the informer before this answer; then there is nothing to remember.
            if self._pods.get(meta.name(made), meta.namespace(made)) is None:
                memory.created[meta.uid(made)] = (made, self._clock.monotonic())
            self._record(replicaset, "Normal", "SuccessfulCreate", f"Created pod: {meta.name(made)}")

        try:
            # The first alone: if it is refused (quota, admission), so would the others be.
            await create()
            for start in range(1, count, MAX_PARALLEL_WRITES):
                await _all([create() for _ in range(min(MAX_PARALLEL_WRITES, count - start))])
        except ApiError as exc:
            self._record(replicaset, "Warning", "FailedCreate", f"Error creating: {exc.message}")
            raise

    async def _delete(self, replicaset: Obj, victims: list[Obj], memory: _Memory) -> None:
        async def delete(pod: Obj) -> None:
            memory.deleted[meta.uid(pod)] = self._clock.monotonic()
            try:
                await self._client.delete(PODS, meta.name(pod), meta.namespace(pod), uid=meta.uid(pod))
            except (NotFound, Conflict):  # gone already, or another pod has the name
                memory.created.pop(meta.uid(pod), None)
                return
            except ApiError as exc:
                memory.deleted.pop(meta.uid(pod), None)
                self._record(replicaset, "Warning", "FailedDelete", f"Error deleting: {exc.message}")
                raise
            self._record(replicaset, "Normal", "SuccessfulDelete", f"Deleted pod: {meta.name(pod)}")

        for start in range(0, len(victims), MAX_PARALLEL_WRITES):
            await _all([delete(pod) for pod in victims[start : start + MAX_PARALLEL_WRITES]])

    async def _write_status(self, replicaset: Obj, active: list[Obj], problem: ApiError | None, creating: bool) -> None:
        now = self._clock.wall()
        min_ready: int = at(replicaset, "spec", "minReadySeconds", default=0)
        times = [pods.available_at(pod, min_ready) for pod in active]
        waiting = [when - now for when in times if when is not None and when > now]
        if waiting:
            self.controller.enqueue_after(Key.of(replicaset), min(waiting) + 0.001)
        before = replicaset.get("status") or {}
        template_labels = at(replicaset, "spec", "template", "metadata", "labels", default={})
        status: Obj = {
            "replicas": len(active),
            "fullyLabeledReplicas": sum(meta.matches(template_labels, meta.labels(pod)) for pod in active),
            "readyReplicas": sum(map(pods.is_ready, active)),
            "availableReplicas": sum(when is not None and when <= now for when in times),
            "observedGeneration": meta.generation(replicaset),
            "conditions": [one for one in before.get("conditions") or [] if one.get("type") != "ReplicaFailure"],
        }
        if problem is not None:
            old = meta.condition(replicaset, "ReplicaFailure")
            failure = {
                "type": "ReplicaFailure",
                "status": "True",
                "reason": "FailedCreate" if creating else "FailedDelete",
                "message": problem.message,
                "lastTransitionTime": rfc3339(now),
            }
            same = old is not None and all(old.get(one) == failure[one] for one in ("reason", "message"))
            status["conditions"].append(old if same else failure)
        if not status["conditions"] and "conditions" not in before:
            del status["conditions"]
        key = Key.of(replicaset)
        if status == before:
            self._pace.settled(key)
            return
        if problem is None and self._pace.must_wait(key):
            return
        try:
            await write_status(self._client, REPLICA_SETS, replicaset, {**replicaset, "status": status})
        except NotFound:
            return


async def _all(work: list) -> None:  # type: ignore[type-arg]
    """Run all; raise the first error once every one has ended."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
