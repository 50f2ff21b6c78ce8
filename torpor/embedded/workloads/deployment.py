"""Deployments: one ReplicaSet per pod template, and the way from one to the next.

A reconcile finds (or makes) the ReplicaSet of the present template by the hash of the template, decides with `rolling`
how many pods each ReplicaSet gets, writes that, and reports with `progress`. The scale of a Deployment that is not
rolling, which is what every wake-up and every autoscaler decision is, takes one pass: `ReplicaSets.foresee` starts
the pods while the ReplicaSet is being patched.
"""

import copy
import hashlib
from collections.abc import Sequence

import orjson

from kncore.api import meta
from kncore.api.meta import Obj, at
from kncore.api.resources import DEPLOYMENTS, REPLICA_SETS
from kncore.clock import Clock, SystemClock
from kncore.kube.client import Client, Key
from kncore.kube.errors import AlreadyExists, Conflict, NotFound
from kncore.kube.informers import Informers
from kncore.kube.reconcile import Controller, enqueue_owner, enqueue_self, write_status
from torpor.embedded.workloads import progress
from torpor.embedded.workloads.events import Record, silent
from torpor.embedded.workloads.pace import StatusPace
from torpor.embedded.workloads.replicaset import BY_CONTROLLER, ReplicaSets, by_controller
from torpor.embedded.workloads.rolling import Old, Surge, new_replicas, old_replicas, resolve

__all__ = ["HASH_LABEL", "Deployments", "template_hash"]

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
_HISTORY = 10

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def template_hash(template: Obj, collisions: int = 0) -> str:
    """Ten letters that stand for a pod template; `collisions` gives another value for the same one."""
    text = orjson.dumps([template, collisions], option=orjson.OPT_SORT_KEYS)
    number = int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
    letters = []
    for _ in range(10):
        number, digit = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[digit])
    return "".join(letters)


class Deployments:
    """The Deployment controller.

    Args:
        replicasets: the controller that will act on what this one writes.
        record: writes an Event: (object, type, reason, message).
    """

    def __init__(
        self,
        client: Client,
        informers: Informers,
        replicasets: ReplicaSets,
        *,
        clock: Clock | None = None,
        record: Record = silent,
    ) -> None:
        self._client = client
        self._replicasets = replicasets
        self._clock = clock or SystemClock()
        self._record = record
        self._deployments = informers.of(DEPLOYMENTS)
        self._sets = informers.of(REPLICA_SETS, indexers={BY_CONTROLLER: by_controller})
        self._written: dict[Key, tuple[Obj, str]] = {}
        """ReplicaSets as we last wrote them, and the version the informer had then: until it moves on, ours counts."""
        self.controller = Controller("deployment", self._reconcile, workers=16)
        self.name = self.controller.name
        self._pace = StatusPace(self.controller)
        self._deployments.add_handler(enqueue_self(self.controller))
        self._sets.add_handler(enqueue_owner(self.controller, DEPLOYMENTS))

    async def run(self) -> None:
        """Reconcile until cancelled."""
        await self.controller.run()

    async def _reconcile(self, key: Key) -> None:
        deployment = self._deployments.get(key.name, key.namespace)
        if deployment is None or meta.is_deleting(deployment):
            for one in [one for one, (obj, _) in self._written.items() if _owned_by(obj, key)]:
                del self._written[one]
            return
        sets = self._owned(deployment)
        collisions = at(deployment, "status", "collisionCount", default=0)
        wanted_hash = template_hash(at(deployment, "spec", "template", default={}), collisions)
        new = next((one for one in sets if meta.labels(one).get(HASH_LABEL) == wanted_hash), None)
        desired: int = at(deployment, "spec", "replicas", default=1)
        strategy = at(deployment, "spec", "strategy", default={})
        rolling = strategy.get("rollingUpdate") or {}
        bounds = resolve(desired, rolling.get("maxSurge"), rolling.get("maxUnavailable"))
        recreate = strategy.get("type") == "Recreate"
        olds = [one for one in sets if one is not new]
        paused = at(deployment, "spec", "paused", default=False)
        if new is None and not paused:
            running = sum(at(one, "spec", "replicas", default=0) for one in olds)
            first = (0 if running else desired) if recreate else new_replicas(desired, 0, running, bounds)
            new = await self._create(deployment, wanted_hash, first, sets)
            sets = [*sets, new]
        try:
            if new is not None:
                counts = self._counts(desired, new, olds, bounds, recreate=recreate)
                sets = [await self._scale(deployment, one, counts[meta.uid(one)]) for one in sets]
                new = next(one for one in sets if meta.uid(one) == meta.uid(new))
            elif len(olds) == 1:  # paused, but scaling still works
                sets = [await self._scale(deployment, olds[0], desired)]
        finally:
            # Whatever could not be written: the status tells what is.
            await self._write_status(deployment, new, sets, bounds)
        await self._clean_up(deployment, new, sets)

    def _counts(self, desired: int, new: Obj, olds: Sequence[Obj], bounds: Surge, *, recreate: bool) -> dict[str, int]:
        def counted(one: Obj) -> Old:
            wanted = at(one, "spec", "replicas", default=0)
            return Old(replicas=wanted, available=min(wanted, at(one, "status", "availableReplicas", default=0)))

        current = counted(new).replicas
        if recreate:
            left = any(at(one, "status", "replicas", default=0) for one in olds)
            return {meta.uid(new): current if left else desired} | {meta.uid(one): 0 for one in olds}
        before = [counted(one) for one in olds]
        after = old_replicas(desired, counted(new), before, bounds)
        total = current + sum(one.replicas for one in before)
        return {meta.uid(new): new_replicas(desired, current, total, bounds)} | {
            meta.uid(one): count for one, count in zip(olds, after, strict=True)
        }

    def _owned(self, deployment: Obj) -> list[Obj]:
        """Its ReplicaSets, oldest first, as of the later of the informer's and our own knowledge."""
        found = {Key.of(one): one for one in self._sets.by_index(BY_CONTROLLER, meta.uid(deployment))}
        for key, (ours, seen) in list(self._written.items()):
            if not meta.is_controlled_by(ours, deployment):
                continue
            cached = found.get(key)
            if (meta.resource_version(cached) if cached else "") == seen:
                found[key] = ours
            else:
                del self._written[key]
        alive = [one for one in found.values() if not meta.is_deleting(one)]
        return sorted(alive, key=lambda one: (at(one, "metadata", "creationTimestamp", default=""), meta.name(one)))

    def _remember(self, replicaset: Obj) -> None:
        key = Key.of(replicaset)
        cached = self._sets.get(key.name, key.namespace)
        if cached is None or meta.resource_version(cached) != meta.resource_version(replicaset):
            self._written[key] = (replicaset, meta.resource_version(cached) if cached else "")

    async def _create(self, deployment: Obj, hash_: str, replicas: int, sets: Sequence[Obj]) -> Obj:
        template = copy.deepcopy(at(deployment, "spec", "template", default={}))
        metadata = template.setdefault("metadata", {})
        metadata["labels"] = {**(metadata.get("labels") or {}), HASH_LABEL: hash_}
        revision = 1 + max((_revision(one) for one in sets), default=0)
        name = f"{meta.name(deployment)[:52]}-{hash_}"
        wanted: Obj = {
            "apiVersion": REPLICA_SETS.api_version,
            "kind": REPLICA_SETS.kind,
            "metadata": {
                "name": name,
                "namespace": meta.namespace(deployment),
                "labels": dict(metadata["labels"]),
                "annotations": {REVISION: str(revision)},
                "ownerReferences": [meta.owner_reference(deployment)],
            },
            "spec": {
                "replicas": replicas,
                "selector": _with_hash(at(deployment, "spec", "selector", default={}), hash_),
                "template": template,
            },
        }
        if seconds := at(deployment, "spec", "minReadySeconds", default=0):
            wanted["spec"]["minReadySeconds"] = seconds
        try:
            made = await self._client.create(REPLICA_SETS, wanted)
        except AlreadyExists:
            made = await self._client.get(REPLICA_SETS, name, meta.namespace(deployment))
            if not meta.is_controlled_by(made, deployment):
                # Somebody else's has the name: the next pass derives another one.
                collisions = at(deployment, "status", "collisionCount", default=0) + 1
                patch = {"status": {"collisionCount": collisions}}
                key = Key.of(deployment)
                await self._client.patch(DEPLOYMENTS, key.name, patch, key.namespace, subresource="status")
                raise Conflict(f'replica set "{name}" belongs to somebody else') from None
        else:
            if replicas:
                self._record_scale(deployment, name, 0, replicas)
        self._remember(made)
        return made

    async def _scale(self, deployment: Obj, replicaset: Obj, replicas: int) -> Obj:
        before = at(replicaset, "spec", "replicas", default=0)
        if before == replicas:
            return replicaset
        self._replicasets.foresee(replicaset, replicas)
        patch = {"metadata": {"uid": meta.uid(replicaset)}, "spec": {"replicas": replicas}}
        # If this fails it is tried again in a moment; only if it goes on failing is the foresight forgotten.
        made = await self._client.patch(REPLICA_SETS, meta.name(replicaset), patch, meta.namespace(replicaset))
        self._remember(made)
        self._record_scale(deployment, meta.name(replicaset), before, replicas)
        return made

    def _record_scale(self, deployment: Obj, name: str, before: int, after: int) -> None:
        direction = "up" if after > before else "down"
        text = f"Scaled {direction} replica set {name} from {before} to {after}"
        self._record(deployment, "Normal", "ScalingReplicaSet", text)

    async def _write_status(self, deployment: Obj, new: Obj | None, sets: Sequence[Obj], bounds: Surge) -> None:
        now = self._clock.wall()
        status = progress.status(deployment, new, sets, bounds.max_unavailable, now)
        desired = {**deployment, "status": {**(deployment.get("status") or {}), **status}}
        key = Key.of(deployment)
        if desired["status"] == deployment.get("status"):
            self._pace.settled(key)
        elif self._pace.must_wait(key):
            return
        try:
            await write_status(self._client, DEPLOYMENTS, deployment, desired)
        except NotFound:
            return
        if (limit := progress.deadline(desired)) is not None:
            self.controller.enqueue_after(key, max(0.0, limit - now) + 1.0)

    async def _clean_up(self, deployment: Obj, new: Obj | None, sets: Sequence[Obj]) -> None:
        """Delete ReplicaSets of earlier templates that have nothing left, beyond the history that is wanted."""
        keep: int = at(deployment, "spec", "revisionHistoryLimit", default=_HISTORY)
        idle = [
            one
            for one in sorted(sets, key=_revision)
            if one is not new
            and not at(one, "spec", "replicas", default=0)
            and not at(one, "status", "replicas", default=0)
            and at(one, "status", "observedGeneration", default=0) >= meta.generation(one)
        ]
        for one in idle[: max(0, len(idle) - keep)]:
            try:
                await self._client.delete(REPLICA_SETS, meta.name(one), meta.namespace(one), uid=meta.uid(one))
            except (NotFound, Conflict):
                continue


def _with_hash(selector: Obj, hash_: str) -> Obj:
    return {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), HASH_LABEL: hash_}}


def _revision(replicaset: Obj) -> int:
    text = meta.annotations(replicaset).get(REVISION, "0")
    return int(text) if text.isdecimal() else 0


def _owned_by(replicaset: Obj, key: Key) -> bool:
    owner = meta.controller_of(replicaset) or {}
    return (meta.namespace(replicaset), owner.get("name")) == key
