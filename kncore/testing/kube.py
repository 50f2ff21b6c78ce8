"""An API server in a dict: the `Client` that unit tests give to informers, reconcilers and the autoscaler.

It keeps the semantics that controllers depend on, and nothing of HTTP: one monotonic resourceVersion, uid, generation
that counts spec changes only, conflicts on stale versions, the status and scale subresources, finalizers and
deletionTimestamp, grace periods of pods, garbage collection by owner, selectors, watches with a bounded history. The
contract test in tests/conformance runs against it and against the embedded server alike.

Differences from a real server, on purpose: garbage is collected before `delete` returns; namespaces need not exist; a
strategic patch of a built-in kind is read as a merge patch; an apply patch merges without tracking who owns a field.

Every call yields to the event loop once (or for `latency` seconds), so that races that exist show up. Faults are made
with `fail_next`, `break_watches` and `expire_history`; `calls` remembers what was asked.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, cast

import jsonpatch
import orjson

from kncore.api import resources
from kncore.api.resources import Resource
from kncore.clock import Clock, SystemClock, rfc3339
from kncore.kube.client import EventType, Key, Obj, ObjectList, Patch, PatchBody, WatchEvent
from kncore.kube.errors import (
    AlreadyExists,
    ApiError,
    BadRequest,
    Conflict,
    Gone,
    Invalid,
    NotFound,
    UnsupportedMediaType,
)
from kncore.kube.patch import merge_patch
from kncore.kube.selectors import selects

__all__ = ["Admit", "Call", "MemoryClient"]

T = TypeVar("T")

Admit: TypeAlias = Callable[[Literal["CREATE", "UPDATE"], Obj, Obj | None, str], Obj]
"""Defaulting and validation: (operation, new, old, subresource) -> the object to store, or raises ApiError."""

_Objects: TypeAlias = list[Obj]
_Owned: TypeAlias = list[tuple[Resource, Obj]]

_NO_STATUS = {
    one.group_resource
    for one in (
        resources.CONFIG_MAPS,
        resources.SECRETS,
        resources.ENDPOINTS,
        resources.ENDPOINT_SLICES,
        resources.EVENTS,
        resources.LEASES,
        resources.SERVICE_ACCOUNTS,
    )
}
_SCALABLE = {resources.DEPLOYMENTS.group_resource, resources.REPLICA_SETS.group_resource}
_POD_GRACE = 30  # seconds; Kubernetes' default terminationGracePeriodSeconds
_CALLS_KEPT = 10_000


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request as it was made."""

    verb: str
    """`get`, `list`, `watch`, `create`, `update`, `patch` or `delete`."""
    resource: Resource
    namespace: str
    name: str = ""
    subresource: str = ""
    body: Any = None


@dataclass(kw_only=True)
class _Fault:
    error: ApiError
    verb: str
    resource: Resource | None
    name: str
    times: int


@dataclass(frozen=True, slots=True)
class _Record:
    """One committed change."""

    version: int
    collection: str
    type: EventType
    object: Obj
    old: Obj | None


@dataclass(kw_only=True)
class _Watcher:
    collection: str
    namespace: str | None
    matches: Callable[[Obj], bool]
    pending: deque[WatchEvent] = field(default_factory=deque)
    ended: bool = False
    error: ApiError | None = None
    wake: asyncio.Future[None] | None = None

    def nudge(self) -> None:
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)


class MemoryClient:
    """A `kncore.kube.client.Client` over objects in memory.

    Args:
        objects: what is there from the start, stored as `seed` stores it.
        clock: for creation and deletion timestamps.
        history: how many changes a watch can go back.
        admit: called before every write of a spec or status, as admission webhooks are.
    """

    def __init__(
        self,
        objects: Iterable[Obj] = (),
        *,
        clock: Clock | None = None,
        history: int = 1000,
        admit: Admit | None = None,
    ) -> None:
        self.calls: deque[Call] = deque(maxlen=_CALLS_KEPT)
        self.latency = 0.0
        """Seconds that every call takes."""
        self._clock = clock or SystemClock()
        self._admit = admit
        self._version = 1  # zero would mean "any version" to a watch
        self._collections: dict[str, dict[Key, Obj]] = {}
        self._known: dict[str, Resource] = {}
        self._history: deque[_Record] = deque()
        self._history_size = history
        self._forgotten = 0
        """Version of the newest change that the history no longer holds."""
        self._watchers: list[_Watcher] = []
        self._faults: list[_Fault] = []
        self.seed(*objects)

    # -- what tests do to it ----------------------------------------------------------------------------------------

    def seed(self, *objects: Obj) -> None:
        """Store objects as they are, status included, creating or replacing; watchers see it, nothing is recorded."""
        for given in objects:
            resource = resources.of_kind(given.get("apiVersion", ""), given.get("kind", ""))
            if resource is None:
                raise ValueError(f"no resource for {given.get('apiVersion')} {given.get('kind')}")
            obj = _copy(given)
            key = self._key(resource, obj, None)
            old = self._collection(resource).get(key)
            if old is None:
                self._fill_in(resource, obj)
            else:
                for name in ("uid", "creationTimestamp"):
                    obj["metadata"].setdefault(name, old["metadata"][name])
            self._commit(resource, "MODIFIED" if old else "ADDED", obj, old)

    def objects(self, resource: Resource, namespace: str | None = None) -> _Objects:
        """Copies of what is stored, in order of namespace and name, without a recorded call."""
        stored = self._collection(resource)
        return [_copy(stored[key]) for key in sorted(stored) if namespace is None or key.namespace == namespace]

    def peek(self, resource: Resource, name: str, namespace: str = "") -> Obj | None:
        """A copy of one stored object, or None, without a recorded call."""
        obj = self._collection(resource).get(Key(namespace, name))
        return _copy(obj) if obj is not None else None

    def fail_next(
        self, error: ApiError, *, verb: str = "", resource: Resource | None = None, name: str = "", times: int = 1
    ) -> None:
        """Make the next matching call(s) raise `error` instead of doing anything; empty arguments match everything."""
        self._faults.append(_Fault(error=error, verb=verb, resource=resource, name=name, times=times))

    def break_watches(self, error: ApiError | None = None, *, resource: Resource | None = None) -> None:
        """End the open watch streams, with an error or as if the server had closed them.

        Changes that the watchers have not read yet are lost on the way, as on a broken connection.
        """
        for watcher in list(self._watchers):
            if resource is None or watcher.collection == resource.group_resource:
                watcher.pending.clear()
                watcher.ended, watcher.error = True, error
                self._watchers.remove(watcher)
                watcher.nudge()

    def expire_history(self) -> None:
        """Forget all past changes: a watch that wants them gets `Gone`."""
        self._history.clear()
        self._forgotten = self._version

    def send_bookmarks(self) -> None:
        """Tell every open watch the current resource version."""
        for watcher in self._watchers:
            bookmark = {"metadata": {"resourceVersion": str(self._version)}}
            watcher.pending.append(WatchEvent("BOOKMARK", bookmark))
            watcher.nudge()

    @property
    def watching(self) -> int:
        """How many watch streams are open."""
        return len(self._watchers)

    @property
    def resource_version(self) -> str:
        """Of the latest change."""
        return str(self._version)

    # -- the Client -------------------------------------------------------------------------------------------------

    async def get(self, resource: Resource, name: str, namespace: str | None = None, *, subresource: str = "") -> Obj:
        await self._enter(Call(verb="get", resource=resource, namespace=namespace or "", name=name))
        obj = self._stored(resource, name, namespace)
        return _scale_of(obj) if subresource == "scale" else _copy(obj)

    async def list(
        self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> ObjectList:
        await self._enter(Call(verb="list", resource=resource, namespace=namespace or ""))
        matches = selects(labels, fields)
        return ObjectList([obj for obj in self.objects(resource, namespace) if matches(obj)], str(self._version))

    async def create(self, resource: Resource, obj: Obj, namespace: str | None = None) -> Obj:
        obj = _copy(obj)
        metadata = obj.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        call = Call(
            verb="create",
            resource=resource,
            namespace=namespace or metadata.get("namespace", ""),
            name=metadata.get("name", ""),
            body=_copy(obj),
        )
        await self._enter(call)
        key = self._key(resource, obj, namespace)
        if metadata.get("resourceVersion"):
            raise BadRequest("resourceVersion should not be set on objects to be created")
        if key in self._collection(resource):
            raise AlreadyExists.of(resource, key.name)
        if resource.group_resource not in _NO_STATUS:
            obj.pop("status", None)
        if self._admit is not None:
            obj = self._admit("CREATE", obj, None, "")
        for name in ("uid", "creationTimestamp", "generation", "deletionTimestamp", "selfLink"):
            obj["metadata"].pop(name, None)
        self._fill_in(resource, obj)
        self._commit(resource, "ADDED", obj, None)
        return _copy(obj)

    async def update(self, resource: Resource, obj: Obj, *, subresource: str = "") -> Obj:
        obj = _copy(obj)
        metadata = obj.get("metadata", {})
        name, namespace = metadata.get("name", ""), metadata.get("namespace", "")
        await self._enter(
            Call(
                verb="update",
                resource=resource,
                namespace=namespace,
                name=name,
                subresource=subresource,
                body=_copy(obj),
            )
        )
        old = self._stored(resource, name, namespace)
        if not metadata.get("resourceVersion") and ".knative.dev" in resource.group and subresource != "scale":
            raise Invalid(
                f'{resource.kind}.{resource.group} "{name}" is invalid: metadata.resourceVersion: '
                "Invalid value: 0: must be specified for an update"
            )
        return self._replace(resource, old, obj, subresource)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: PatchBody,
        namespace: str | None = None,
        *,
        how: Patch = Patch.MERGE,
        subresource: str = "",
        field_manager: str = "torpor",
        force: bool = False,
    ) -> Obj:
        patch = _copy(patch)
        await self._enter(
            Call(
                verb="patch",
                resource=resource,
                namespace=namespace or "",
                name=name,
                subresource=subresource,
                body=_copy(patch),
            )
        )
        if how is Patch.APPLY and not subresource and self.peek(resource, name, namespace or "") is None:
            return await self.create(resource, cast("Obj", patch), namespace)
        old = self._stored(resource, name, namespace)
        if how is Patch.STRATEGIC and ".knative.dev" in resource.group:
            raise UnsupportedMediaType(
                "the body of the request was in an unknown format - accepted media types include: "
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            )
        before = _scale_of(old) if subresource == "scale" else old
        if isinstance(patch, list):
            if how is not Patch.JSON:
                raise BadRequest(f"a list is not a {how}")
            try:
                new = jsonpatch.apply_patch(_copy(before), patch)
            except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as exc:
                raise Invalid(f"the server rejected our request due to an error in our request: {exc}") from exc
        else:
            if how is Patch.JSON:
                raise BadRequest("a JSON patch is a list of operations")
            new = _copy(merge_patch(before, patch))
        return self._replace(resource, old, new, subresource)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        propagation: str = "Background",
        uid: str | None = None,
        grace: int | None = None,
    ) -> None:
        options = {"propagationPolicy": propagation, "uid": uid, "gracePeriodSeconds": grace}
        await self._enter(Call(verb="delete", resource=resource, namespace=namespace or "", name=name, body=options))
        obj = self._stored(resource, name, namespace)
        if uid is not None and obj["metadata"]["uid"] != uid:
            raise Conflict.about(resource, name, f"has another uid: Precondition failed: UID in precondition: {uid}")
        self._delete(resource, obj, propagation, grace)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        labels: str = "",
        fields: str = "",
    ) -> AsyncGenerator[WatchEvent, None]:
        await self._enter(Call(verb="watch", resource=resource, namespace=namespace or "", body=resource_version))
        collection = resource.group_resource
        watcher = _Watcher(collection=collection, namespace=namespace, matches=selects(labels, fields))
        if resource_version in ("", "0"):
            watcher.pending.extend(
                WatchEvent("ADDED", obj) for obj in self.objects(resource, namespace) if watcher.matches(obj)
            )
        else:
            if int(resource_version) < self._forgotten:
                raise Gone(f"too old resource version: {resource_version} ({self._forgotten})")
            for record in self._history:
                if record.version > int(resource_version):
                    self._offer(watcher, record)
        self._watchers.append(watcher)
        try:
            while True:
                while watcher.pending:
                    yield watcher.pending.popleft()
                if watcher.ended:
                    break
                watcher.wake = asyncio.get_running_loop().create_future()
                await watcher.wake
            if watcher.error is not None:
                raise watcher.error
        finally:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    async def aclose(self) -> None:
        self.break_watches()

    # -- semantics --------------------------------------------------------------------------------------------------

    async def _enter(self, call: Call) -> None:
        self.calls.append(call)
        await asyncio.sleep(self.latency)
        for fault in self._faults:
            if (
                fault.verb in ("", call.verb)
                and (fault.resource is None or fault.resource == call.resource)
                and fault.name in ("", call.name)
            ):
                fault.times -= 1
                if fault.times <= 0:
                    self._faults.remove(fault)
                raise fault.error

    def _collection(self, resource: Resource) -> dict[Key, Obj]:
        self._known.setdefault(resource.group_resource, resource)
        return self._collections.setdefault(resource.group_resource, {})

    def _stored(self, resource: Resource, name: str, namespace: str | None) -> Obj:
        key = Key((namespace or "") if resource.namespaced else "", name)
        try:
            return self._collection(resource)[key]
        except KeyError:
            raise NotFound.of(resource, name) from None

    def _key(self, resource: Resource, obj: Obj, namespace: str | None) -> Key:
        """The key of an object that is about to be stored, after checking and completing its identity."""
        metadata = obj.setdefault("metadata", {})
        if obj.setdefault("apiVersion", resource.api_version) != resource.api_version:
            raise BadRequest(f"the API version in the data ({obj['apiVersion']}) does not match {resource.api_version}")
        if obj.setdefault("kind", resource.kind) != resource.kind:
            raise BadRequest(f"{obj['kind']} in version {resource.api_version} cannot be handled as a {resource.kind}")
        if not metadata.get("name"):
            raise Invalid(
                f"{resource.kind} is invalid: metadata.name: Required value: name or generateName is required"
            )
        if not resource.namespaced:
            metadata.pop("namespace", None)
            return Key("", metadata["name"])
        if namespace is not None and metadata.setdefault("namespace", namespace) != namespace:
            raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
        return Key(metadata.setdefault("namespace", "default"), metadata["name"])

    def _fill_in(self, resource: Resource, obj: Obj) -> None:
        metadata = obj["metadata"]
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", rfc3339(self._clock.wall()))
        if resource.group_resource not in _NO_STATUS:
            metadata.setdefault("generation", 1)

    def _replace(self, resource: Resource, old: Obj, new: Obj, subresource: str) -> Obj:
        """Store `new` over `old` as far as the subresource allows."""
        name = old["metadata"]["name"]
        given = new.get("metadata", {})
        if given.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
            raise Conflict.of(resource, name)
        if given.get("uid") not in (None, "", old["metadata"]["uid"]):
            raise Conflict.about(resource, name, "has another uid: the object was deleted and created again")
        if given.get("name", name) != name:
            raise BadRequest(f"the name of the object ({given['name']}) does not match the name on the URL ({name})")
        separate = resource.group_resource not in _NO_STATUS
        if subresource == "scale":
            if resource.group_resource not in _SCALABLE:
                raise NotFound("the server could not find the requested resource")
            replicas = new.get("spec", {}).get("replicas", 0)
            if not isinstance(replicas, int) or replicas < 0:
                raise Invalid(f'Scale.autoscaling "{name}" is invalid: spec.replicas: Invalid value: {replicas}')
            merged = _copy(old)
            merged.setdefault("spec", {})["replicas"] = replicas
        elif subresource == "status":
            if not separate:
                raise NotFound("the server could not find the requested resource")
            merged = _copy(old)
            merged.pop("status", None)
            if "status" in new:
                merged["status"] = new["status"]
        elif subresource:
            raise NotFound("the server could not find the requested resource")
        else:
            merged = new
            merged.setdefault("apiVersion", resource.api_version)
            merged.setdefault("kind", resource.kind)
            if separate:
                merged.pop("status", None)
                if "status" in old:
                    merged["status"] = _copy(old["status"])
            metadata = merged["metadata"]
            for field_name in (
                "uid",
                "creationTimestamp",
                "generation",
                "namespace",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
            ):
                metadata.pop(field_name, None)
                if field_name in old["metadata"]:
                    metadata[field_name] = old["metadata"][field_name]
            if "deletionTimestamp" in metadata:
                extra = set(metadata.get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ())
                if extra:
                    raise Invalid(
                        f'{resource.kind} "{name}" is invalid: metadata.finalizers: Forbidden: no new finalizers '
                        f"can be added if the object is being deleted, found new finalizers {sorted(extra)}"
                    )
        if self._admit is not None and subresource != "scale":
            merged = self._admit("UPDATE", merged, _copy(old), subresource)
        merged["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if merged == old:
            return _copy(old) if subresource != "scale" else _scale_of(old)
        if separate and _body(merged) != _body(old):
            merged["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if (
            "deletionTimestamp" in merged["metadata"]
            and not merged["metadata"].get("finalizers")
            and not (resource == resources.PODS and merged["metadata"].get("deletionGracePeriodSeconds"))
        ):
            self._vanish(resource, merged, old)
        else:
            self._commit(resource, "MODIFIED", merged, old)
        return _scale_of(merged) if subresource == "scale" else _copy(merged)

    def _delete(self, resource: Resource, obj: Obj, propagation: str, grace: int | None) -> None:
        finalizers = list(obj["metadata"].get("finalizers") or ())
        dependents = self._dependents(obj["metadata"]["uid"])
        if propagation == "Orphan":
            for owned, dependent in dependents:
                self._disown(owned, dependent, obj["metadata"]["uid"])
        elif propagation == "Foreground" and dependents and "foregroundDeletion" not in finalizers:
            finalizers.append("foregroundDeletion")
        seconds = 0
        if resource == resources.PODS and (obj.get("spec") or {}).get("nodeName"):
            seconds = obj["spec"].get("terminationGracePeriodSeconds", _POD_GRACE) if grace is None else grace
        if finalizers or seconds:
            if "deletionTimestamp" not in obj["metadata"] or seconds < obj["metadata"].get(
                "deletionGracePeriodSeconds", 0
            ):
                marked = _copy(obj)
                metadata = marked["metadata"]
                metadata["deletionTimestamp"] = rfc3339(self._clock.wall() + seconds)
                metadata["deletionGracePeriodSeconds"] = seconds
                if finalizers:
                    metadata["finalizers"] = finalizers
                if "generation" in metadata:
                    metadata["generation"] += 1
                self._commit(resource, "MODIFIED", marked, obj)
                if propagation == "Foreground":
                    for owned, dependent in dependents:
                        self._delete(owned, dependent, "Foreground", None)
                    self._finish_foreground(obj["metadata"]["uid"])
        else:
            self._vanish(resource, obj, obj)

    def _vanish(self, resource: Resource, last: Obj, old: Obj) -> None:
        """Remove an object for good, then what only it owned."""
        owners = [ref["uid"] for ref in last["metadata"].get("ownerReferences") or ()]
        self._commit(resource, "DELETED", _copy(last), old)
        uid = last["metadata"]["uid"]
        for owned, dependent in self._dependents(uid):
            others = [ref for ref in dependent["metadata"]["ownerReferences"] if ref["uid"] != uid]
            if any(self._exists(ref["uid"]) for ref in others):
                self._disown(owned, dependent, uid)
            elif "deletionTimestamp" not in dependent["metadata"]:
                self._delete(owned, dependent, "Background", None)
        for owner in owners:
            self._finish_foreground(owner)

    def _finish_foreground(self, uid: str) -> None:
        """Let an owner that waits for its dependents go once none is left."""
        for collection, stored in self._collections.items():
            for obj in list(stored.values()):
                metadata = obj["metadata"]
                if metadata["uid"] != uid or "foregroundDeletion" not in (metadata.get("finalizers") or ()):
                    continue
                if not self._dependents(uid):
                    freed = _copy(obj)
                    freed["metadata"]["finalizers"].remove("foregroundDeletion")
                    self._replace(self._known[collection], obj, freed, "")
                return

    def _dependents(self, uid: str) -> _Owned:
        return [
            (self._known[collection], obj)
            for collection, stored in self._collections.items()
            for obj in list(stored.values())
            if any(ref.get("uid") == uid for ref in obj["metadata"].get("ownerReferences") or ())
        ]

    def _exists(self, uid: str) -> bool:
        return any(obj["metadata"]["uid"] == uid for stored in self._collections.values() for obj in stored.values())

    def _disown(self, resource: Resource, obj: Obj, uid: str) -> None:
        freed = _copy(obj)
        freed["metadata"]["ownerReferences"] = [ref for ref in obj["metadata"]["ownerReferences"] if ref["uid"] != uid]
        self._commit(resource, "MODIFIED", freed, obj)

    def _commit(self, resource: Resource, type_: EventType, obj: Obj, old: Obj | None) -> None:
        """The one place where state changes: give the next version, store, remember, tell the watchers."""
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        stored = self._collection(resource)
        key = Key.of(obj)
        if type_ == "DELETED":
            del stored[key]
        else:
            stored[key] = obj
        record = _Record(self._version, resource.group_resource, type_, obj, old)
        self._history.append(record)
        while len(self._history) > self._history_size:
            self._forgotten = self._history.popleft().version
        for watcher in self._watchers:
            self._offer(watcher, record)

    def _offer(self, watcher: _Watcher, record: _Record) -> None:
        """Queue the change as this watcher, with its selectors, sees it."""
        if watcher.collection != record.collection:
            return
        if watcher.namespace is not None and record.object["metadata"].get("namespace", "") != watcher.namespace:
            return
        old = record.old
        before = old is not None and watcher.matches(old)
        after = record.type != "DELETED" and watcher.matches(record.object)
        if after:
            watcher.pending.append(WatchEvent("MODIFIED" if before else "ADDED", _copy(record.object)))
        elif old is not None and before:
            gone = _copy(record.object if record.type == "DELETED" else old)
            gone["metadata"]["resourceVersion"] = str(record.version)
            watcher.pending.append(WatchEvent("DELETED", gone))
        else:
            return
        watcher.nudge()


def _copy(value: T) -> T:
    """A deep copy; also proves that the value is JSON, which is all that could have travelled."""
    return cast("T", orjson.loads(orjson.dumps(value)))


def _body(obj: Obj) -> Obj:
    return {name: value for name, value in obj.items() if name not in ("metadata", "status")}


def _scale_of(obj: Obj) -> Obj:
    """The Scale view of a workload."""
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    labels = ((obj.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {name: obj["metadata"][name] for name in kept if name in obj["metadata"]},
        "spec": {"replicas": (obj.get("spec") or {}).get("replicas", 1)},
        "status": {
            "replicas": (obj.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{name}={value}" for name, value in sorted(labels.items())),
        },
    }
