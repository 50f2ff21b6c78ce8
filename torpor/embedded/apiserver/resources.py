"""The verbs of the API on stored objects: what a create, an update, a patch, a delete, a list or a watch means.

HTTP stands on top of this class and the background parts (garbage collection, namespaces) call it directly. A write
runs in one synchronous step from reading the current object to handing the new one to the store, so that two writers
of one object never see each other halfway; only then does it wait for the disk. In that step, in this order: the
body's unknown fields and defaults (the schema), what callers may not touch (`lifecycle`), field ownership (before
admission, as in Kubernetes: what admission adds belongs to nobody), what one kind needs (`strategy`), admission, and
whether anything changed at all: a write that changes nothing is answered with the object as it is and produces no
event.

Only the top-level fields that differ from the stored object are walked: what is stored was valid when it was, and a
status update of a large object stays cheap.
"""

import copy
import functools
import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from kncore.clock import Clock, rfc3339
from torpor.embedded.apiserver import lifecycle, ownership, schema, strategy, views
from torpor.embedded.apiserver.addresses import ClusterIps
from torpor.embedded.apiserver.admission import Admission
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.errors import (
    StatusError,
    already_exists,
    bad_request,
    conflict,
    expired,
    forbidden,
    generic_not_found,
    invalid,
    not_found,
)
from torpor.embedded.apiserver.lifecycle import Deletion
from torpor.embedded.apiserver.patching import How, patched
from torpor.embedded.apiserver.registry import Registry, collection_of
from torpor.embedded.apiserver.scale import apply_scale, to_scale
from torpor.embedded.apiserver.schema import Cause
from torpor.embedded.apiserver.selectors import FieldSelector, LabelSelector
from torpor.embedded.apiserver.store import Collection, Key, Match, Record, Store, Watcher

__all__ = ["Page", "Resources", "Selection", "Write"]

log = logging.getLogger(__name__)

Obj = dict[str, Any]

PROTECTED_NAMESPACES = frozenset({"default", "kube-system", "kube-public", "knative-serving", "knative-eventing"})
"""Never deleted. Kubernetes protects the first three; without the others the platform would not run."""

EVERY_LABEL = LabelSelector()
EVERY_FIELD = FieldSelector()

NAME_ATTEMPTS = 8
"""Tries for a generated name that is free; one nearly always does."""


@dataclass(frozen=True, kw_only=True)
class Write:
    """How a write is to be done, and what its caller is to be told beside the answer."""

    user: str = "system:admin"
    manager: str = "unknown"
    """Field manager, for `managedFields`."""
    validation: Literal["Strict", "Warn", "Ignore"] = "Warn"
    """What unknown fields are: an error, a warning, or nothing."""
    duplicates: tuple[str, ...] = ()
    """Fields the body named twice."""
    dry_run: bool = False
    force: bool = False
    """Apply only: take fields that others own."""
    warnings: list[str] = field(default_factory=list)
    """Filled in; sent as `Warning` headers."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which objects of a collection a list or a watch is about."""

    namespace: str | None = None
    """None: all namespaces."""
    labels: LabelSelector = EVERY_LABEL
    fields: FieldSelector = EVERY_FIELD

    @property
    def name(self) -> str | None:
        """The only name selected, if there is one."""
        return self.fields.exact("metadata.name")

    def match(self, kind: Kind) -> Match | None:
        """The predicate over records beyond namespace and name; None when everything matches."""
        labels, fields = self.labels, self.fields
        rest = FieldSelector(tuple(term for term in fields.terms if term[0] != "metadata.name" or not term[2]))
        if not labels.requirements and not rest.terms:
            return None
        if not rest.terms:
            return lambda record: labels(record.labels)
        return lambda record: labels(record.labels) and rest(views.obj_as(kind, record))


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of a list, as of one version."""

    records: list[Record]
    version: int
    continue_: str = ""
    """Token of the next page; empty on the last one."""
    remaining: int | None = None
    """Objects after this page, where it is known."""


class Resources:
    """All verbs on all kinds."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        admission: Admission,
        *,
        clock: Clock,
        cluster_ips: ClusterIps,
    ) -> None:
        self.store = store
        self.registry = registry
        self.admission = admission
        self.clock = clock
        self._cluster_ips = cluster_ips
        self.platform_definitions: frozenset[str] = frozenset()
        """CustomResourceDefinitions that are never deleted, since the platform would not run without them."""

    # -------------------------------------------------------------------------------------------------- reading

    def collection(self, kind: Kind) -> Collection:
        """Where a kind's objects are."""
        return self.store.collection(collection_of(kind))

    def get(self, kind: Kind, namespace: str, name: str) -> Record:
        """One object.

        Raises:
            StatusError: NotFound.
        """
        record = self.collection(kind).get(Key(namespace, name))
        if record is None:
            raise not_found(kind, name)
        return record

    def select(
        self,
        kind: Kind,
        selection: Selection,
        *,
        limit: int = 0,
        continue_: str = "",
        version: str = "",
        version_match: str = "",
    ) -> Page:
        """Objects of one resource in order of namespace and name; all pages show the version of the first.

        Raises:
            StatusError: BadRequest for a bad token or version, Expired for one that history no longer covers.
        """
        collection = self.collection(kind)
        after: Key | None = None
        if continue_:
            at, after = _read_token(continue_)
            try:
                records = collection.records_at(at, selection.namespace)
            except StatusError:
                raise expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start "
                    "a new list without the continue parameter."
                ) from None
        else:
            wanted = _version(version)
            if version_match and version_match not in ("Exact", "NotOlderThan"):
                raise bad_request(f'resourceVersionMatch: Unsupported value: "{version_match}"')
            if version_match and not version:
                raise bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided")
            if version_match == "Exact" and not wanted:
                raise bad_request('resourceVersionMatch "Exact" is forbidden for resourceVersion "0"')
            self.store.reached(wanted)
            exact = version_match == "Exact" or (limit and wanted and not version_match)
            at = wanted if exact else self.store.version
            records = collection.records_at(at, selection.namespace)
        name, match = selection.name, selection.match(kind)
        if name is not None:
            records = [record for record in records if record.key.name == name]
        if after is not None:
            records = [record for record in records if record.key > after]
        if match is not None:
            records = [record for record in records if match(record)]
        if not limit or len(records) <= limit:
            return Page(records=records, version=at)
        page = records[:limit]
        plain = not selection.labels.requirements and not selection.fields.terms
        return Page(
            records=page,
            version=at,
            continue_=_token(at, page[-1].key),
            remaining=len(records) - limit if plain else None,
        )

    def watch(
        self, kind: Kind, selection: Selection, *, version: str = "", initial: bool | None = None
    ) -> tuple[Watcher, list[Record] | None]:
        """A watcher, and the present objects if it begins with them (else None). Close the watcher.

        Args:
            version: continue after it; empty or `0`: the present objects first.
            initial: what `sendInitialEvents` says, None when it is absent.
        Raises:
            StatusError: Expired; history does not reach back to the version.
        """
        wanted = _version(version)
        self.store.reached(wanted)
        present = not wanted if initial is None else initial
        watcher = self.collection(kind).watch(
            after=wanted if wanted and not present else self.store.version,
            namespace=selection.namespace,
            name=selection.name,
            match=selection.match(kind),
        )
        return watcher, self.select(kind, selection).records if present else None

    # -------------------------------------------------------------------------------------------------- writing

    async def create(self, kind: Kind, namespace: str, obj: Obj, write: Write) -> Record:
        """A new object; takes `obj` over.

        Raises:
            StatusError: AlreadyExists, Invalid, NotFound (namespace), Forbidden, or what admission says.
        """
        metadata = obj["metadata"]
        self._check_namespace(kind, namespace, metadata)
        self._check_fields(kind, obj, None, write)
        generated = not metadata.get("name") and bool(metadata.get("generateName"))
        collection = self.collection(kind)
        for attempt in range(NAME_ATTEMPTS):
            lifecycle.stamp(kind, obj, namespace, self.clock.wall())
            key = Key(metadata.get("namespace", ""), metadata.get("name", ""))
            await self.store.settled(collection, key)
            if collection.get(key) is None:
                break
            if not generated or attempt == NAME_ATTEMPTS - 1:
                raise already_exists(kind, key.name)
            del metadata["name"]
        if kind.namespaced:
            self._check_open(kind, namespace, key.name)  # again: `settled` may have waited
        return await self._insert(kind, collection, key, obj, write)

    async def _insert(self, kind: Kind, collection: Collection, key: Key, obj: Obj, write: Write) -> Record:
        """The part of a create that must not be interrupted before the commit: the key is free and settled."""
        now = self.clock.wall()
        if write.manager:  # an apply keeps its own books
            ownership.record(kind, None, obj, write.manager, now=now)
        self._refuse(kind, key.name, lifecycle.check_metadata(kind, obj))
        strategy.prepare(kind, obj, None, now)
        self._refuse(kind, key.name, strategy.check(kind, obj, None))
        obj = self._admit("CREATE", kind, obj, None, write)
        obj = self._stored_form(kind, obj)
        address = self._allocate(kind, obj, write)
        if write.dry_run:
            return _unstored(key, obj)
        try:
            return await self.store.commit(collection, key, obj)
        except StatusError:
            if address:
                self._cluster_ips.release(address)
            raise

    async def update(
        self, kind: Kind, namespace: str, name: str, obj: Obj, write: Write, *, subresource: str = ""
    ) -> Record:
        """An object replaced as a whole (`status`: its status); takes `obj` over.

        Raises:
            StatusError: NotFound, Conflict, Invalid, or what admission says.
        """
        metadata = obj["metadata"]
        if (given := metadata.setdefault("name", name)) != name:
            raise bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")
        self._check_scope(kind, namespace, metadata)

        def change(record: Record) -> Obj:
            version = metadata.get("resourceVersion")
            if version in (None, "", "0") and kind.custom:
                text = "Invalid value: 0: must be specified for an update"
                raise invalid(kind, name, [Cause("metadata.resourceVersion", "FieldValueInvalid", text)])
            return obj

        return await self._change(kind, Key(namespace, name), change, write, subresource=subresource)

    async def patch(
        self, kind: Kind, namespace: str, name: str, how: How, body: Any, write: Write, *, subresource: str = ""
    ) -> tuple[Record, bool]:
        """An object with a patch applied, and whether an apply has created it.

        Raises:
            StatusError: NotFound, Conflict, Invalid, BadRequest, or what admission says.
        """
        key = Key(namespace, name)
        if how is How.APPLY:
            return await self._apply(kind, key, body, write, subresource)

        def change(record: Record) -> Obj:
            return patched(kind, how, views.fresh_as(kind, record), body)

        return await self._change(kind, key, change, write, subresource=subresource, patch=True), False

    async def _apply(self, kind: Kind, key: Key, body: Obj, write: Write, subresource: str) -> tuple[Record, bool]:
        self._check_namespace(kind, key.namespace, body["metadata"])
        if body["metadata"].setdefault("name", key.name) != key.name:
            given = body["metadata"]["name"]
            raise bad_request(f"the name of the object ({given}) does not match the name on the URL ({key.name})")
        self._check_declared(kind, key, body)
        collection = self.collection(kind)
        await self.store.settled(collection, key)
        record = collection.get(key)
        now = self.clock.wall()
        if record is None:
            if uid := body["metadata"].get("uid"):
                why = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                raise conflict(kind, key.name, why)
            if subresource:
                raise not_found(kind, key.name)
            if kind.namespaced:
                self._check_open(kind, key.namespace, key.name)
            obj = ownership.applied(kind, None, body, write.manager, force=write.force, now=now)
            self._check_fields(kind, obj, None, replace(write, validation="Ignore"))
            lifecycle.stamp(kind, obj, key.namespace, now)
            return await self._insert(kind, collection, key, obj, replace(write, manager="")), True

        def change(record: Record) -> Obj:
            live = views.fresh_as(kind, record)
            return ownership.applied(
                kind, live, body, write.manager, force=write.force, now=self.clock.wall(), subresource=subresource
            )

        written = replace(write, validation="Ignore", manager="")
        return await self._change(kind, key, change, written, subresource=subresource), False

    async def scale(self, kind: Kind, namespace: str, name: str, change: Callable[[Obj], Obj], write: Write) -> Obj:
        """The Scale of an object after `change` was applied to it.

        Raises:
            StatusError: NotFound, Conflict or Invalid.
        """

        def scaled(record: Record) -> Obj:
            obj = views.fresh_as(kind, record)
            scale = change(to_scale(kind, obj))
            version = (scale.get("metadata") or {}).get("resourceVersion")
            if version and version != obj["metadata"]["resourceVersion"]:
                raise conflict(kind, name)
            apply_scale(kind, obj, scale)
            return obj

        record = await self._change(kind, Key(namespace, name), scaled, write, subresource="scale")
        return to_scale(kind, views.obj_as(kind, record))

    async def _change(
        self,
        kind: Kind,
        key: Key,
        change: Callable[[Record], Obj],
        write: Write,
        *,
        subresource: str = "",
        patch: bool = False,
    ) -> Record:
        """Replace an object by what `change` makes of it; the heart of update, patch, apply and scale."""
        collection = self.collection(kind)
        await self.store.settled(collection, key)
        record = collection.get(key)
        if record is None:
            raise not_found(kind, key.name)
        old = views.obj_as(kind, record)
        new = change(record)
        self._check_identity(kind, key, new, old)
        if subresource == "status":
            new = lifecycle.keep_spec(kind, new, old)
        else:
            lifecycle.keep_status(kind, new, old)
        if subresource != "scale":  # a scale touches one number, which was checked
            self._check_fields(kind, new, old, write, patch=patch)
        if write.manager:
            ownership.record(kind, old, new, write.manager, subresource=subresource, now=self.clock.wall())
        if subresource == "":
            strategy.prepare(kind, new, old, self.clock.wall())
            self._refuse(
                kind,
                key.name,
                [
                    *lifecycle.check_update(new, old),
                    *(lifecycle.check_metadata(kind, new) if new["metadata"] != old["metadata"] else ()),
                    *strategy.check(kind, new, old),
                ],
            )
        new = self._admit("UPDATE", kind, new, old, write, subresource)
        lifecycle.bump_generation(kind, new, old)
        if lifecycle.unchanged(new, old):
            return record
        ends = _ends(kind, new)
        new = self._stored_form(kind, new)
        if write.dry_run:
            return _unstored(key, new)
        return await self.store.commit(collection, key, new, delete=ends)

    async def edit_metadata(self, kind: Kind, seen: Record, fields: Mapping[str, Any], write: Write) -> Record:
        """Set fields of an object's metadata (None removes one), for the server's own bookkeeping: no admission.

        Raises:
            StatusError: NotFound; Conflict when it is not the object that was seen.
        """
        collection, key = self.collection(kind), seen.key
        await self.store.settled(collection, key)
        record = collection.get(key)
        if record is None:
            raise not_found(kind, key.name)
        if record is not seen:
            raise conflict(kind, key.name)
        new = record.fresh()
        metadata = new["metadata"]
        for name, value in fields.items():
            if value is None:
                metadata.pop(name, None)
            else:
                metadata[name] = value
        if lifecycle.unchanged(new, record.obj):
            return record
        return await self.store.commit(collection, key, new, delete=_ends(kind, new))

    async def delete(
        self, kind: Kind, namespace: str, name: str, options: Deletion, write: Write
    ) -> tuple[Record, bool]:
        """Ask for an object's end: its last state, and whether it is gone already.

        Raises:
            StatusError: NotFound, Conflict (precondition), Forbidden.
        """
        collection, key = self.collection(kind), Key(namespace, name)
        await self.store.settled(collection, key)
        record = collection.get(key)
        if record is None:
            raise not_found(kind, name)
        self._check_deletable(kind, record, options)
        obj = record.fresh()
        self.admission.admit("DELETE", kind, obj, record.obj, subresource="", user=write.user, dry_run=write.dry_run)
        gone = lifecycle.mark_deleted(kind, obj, options, self.clock.wall())
        if kind.resource == "namespaces":
            if (obj.get("spec") or {}).get("finalizers"):
                gone = False
                obj["metadata"].setdefault("deletionTimestamp", rfc3339(self.clock.wall()))
                obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
        if write.dry_run:
            return _unstored(key, obj), gone
        if not gone and lifecycle.unchanged(obj, record.obj):
            return record, False
        return await self.store.commit(collection, key, obj, delete=gone), gone

    async def delete_collection(
        self, kind: Kind, selection: Selection, options: Deletion, write: Write
    ) -> list[Record]:
        """Delete all selected objects; the last state of each."""
        deleted = []
        for record in self.select(kind, selection).records:
            one = replace(options, uid=record.uid)
            try:
                last, _ = await self.delete(kind, record.key.namespace, record.key.name, one, write)
            except StatusError as error:
                if error.code in (404, 409):  # someone else was faster
                    continue
                raise
            deleted.append(last)
        return deleted

    async def finalize(self, namespace: str, obj: Obj, write: Write) -> Record:
        """`PUT namespaces/<name>/finalize`: set `spec.finalizers`; without any left, a terminating namespace ends."""
        kind = self._namespaces
        wanted = (obj.get("spec") or {}).get("finalizers") or []
        collection, key = self.collection(kind), Key("", namespace)
        await self.store.settled(collection, key)
        record = collection.get(key)
        if record is None:
            raise not_found(kind, namespace)
        new = record.fresh()
        new["spec"] = {"finalizers": wanted} if wanted else {}
        if write.dry_run or lifecycle.unchanged(new, record.obj):
            return _unstored(key, new) if write.dry_run else record
        return await self.store.commit(collection, key, new, delete=_ends(kind, new))

    # --------------------------------------------------------------------------------------------------- checks

    @functools.cached_property
    def _namespaces(self) -> Kind:
        kind = self.registry.find("", "v1", "namespaces")
        if kind is None:
            raise generic_not_found()
        return kind

    def _check_scope(self, kind: Kind, namespace: str, metadata: Obj) -> None:
        given = metadata.get("namespace") or ""
        if not kind.namespaced:
            metadata.pop("namespace", None)
        elif given and given != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        else:
            metadata["namespace"] = namespace

    def _check_namespace(self, kind: Kind, namespace: str, metadata: Obj) -> None:
        self._check_scope(kind, namespace, metadata)
        if kind.namespaced:
            self._check_open(kind, namespace, metadata.get("name") or metadata.get("generateName") or "")

    def _check_open(self, kind: Kind, namespace: str, name: str) -> None:
        """A namespace takes new objects while it exists and is not terminating."""
        record = self.store.collection("namespaces").get(Key("", namespace))
        if record is None:
            raise not_found(self._namespaces, namespace)
        if "deletionTimestamp" in record.obj["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = Cause("metadata.namespace", "NamespaceTerminating", f"namespace {namespace} is being terminated")
            raise forbidden(kind, name, why, [cause])

    def _check_identity(self, kind: Kind, key: Key, new: Obj, old: Obj) -> None:
        """A changed object is still the same one, and the caller has seen its current version, if it says any."""
        metadata, before = new.get("metadata"), old["metadata"]
        if not isinstance(metadata, dict):
            raise bad_request("metadata must be an object")
        if new.get("apiVersion") != kind.api_version or new.get("kind") != kind.kind:
            raise bad_request("apiVersion and kind of an object cannot be changed")
        for name in ("name", "namespace"):
            if metadata.get(name, "") != before.get(name, ""):
                text = f'Invalid value: "{metadata.get(name, "")}": field is immutable'
                raise invalid(kind, key.name, [Cause(f"metadata.{name}", "FieldValueInvalid", text)])
        if (uid := metadata.get("uid")) and uid != before["uid"]:
            raise conflict(
                kind, key.name, f"Precondition failed: UID in precondition: {uid}, UID in object meta: {before['uid']}"
            )
        version = metadata.get("resourceVersion")
        if version not in (None, "", "0", before["resourceVersion"]):
            if not str(version).isdigit():
                text = f'Invalid value: "{version}": must be an unsigned integer'
                raise invalid(kind, key.name, [Cause("metadata.resourceVersion", "FieldValueInvalid", text)])
            raise conflict(kind, key.name)
        metadata["resourceVersion"] = before["resourceVersion"]

    def _check_fields(self, kind: Kind, obj: Obj, old: Obj | None, write: Write, *, patch: bool = False) -> None:
        """Prune, default and validate the top-level fields that differ from the stored object, in place.

        Raises:
            StatusError: 400 (422 for a patch) for unknown fields when strict, 422 for wrong values.
        """
        declared = kind.schema
        if declared is None:
            return
        part = obj if old is None else {key: value for key, value in obj.items() if value != old.get(key)}
        if old is not None and not part and obj.keys() == old.keys():
            return
        view = dict(part)
        try:
            unknown = schema.prune(view, declared)
            schema.default(view, declared)
        except ValueError as error:
            raise bad_request(str(error)) from error
        for key in part.keys() - view.keys():
            obj.pop(key, None)
        for key in (view.keys() - part.keys()) & obj.keys():
            del view[key]  # the default of a field that has a value, which did not change
        obj.update(view)
        self._report(kind, unknown, obj, write, patch=patch)
        if old is not None:
            declared = _narrowed(declared, frozenset(view), frozenset(obj))
        self._refuse(kind, obj["metadata"].get("name", ""), schema.validate(view, declared))

    def _report(self, kind: Kind, unknown: list[str], obj: Obj, write: Write, *, patch: bool) -> None:
        """Unknown and repeated fields, as the caller wants them."""
        if write.validation == "Ignore" or not (unknown or write.duplicates):
            return
        told = [
            *(f'unknown field "{path}"' for path in unknown),
            *(f'duplicate field "{path}"' for path in write.duplicates),
        ]
        if write.validation == "Warn":
            write.warnings.extend(told)
            return
        text = f"strict decoding error: {', '.join(told)}"
        if patch:
            shown = orjson.dumps(obj).decode()
            raise invalid(None, "", [Cause("patch", "FieldValueInvalid", f"Invalid value: {_quoted(shown)}: {text}")])
        raise bad_request(f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {text}')

    def _check_declared(self, kind: Kind, key: Key, body: Obj) -> None:
        """An apply may only name fields that exist: ownership of others could not be kept."""
        if kind.schema is None:
            return
        try:
            unknown = schema.prune(copy.deepcopy(body), kind.schema)
        except ValueError as error:
            raise bad_request(str(error)) from error
        if unknown:
            subject = f"{key.namespace}/{key.name}" if key.namespace else f"/{key.name}"
            told = "\n".join(f".{path}: field not declared in schema" for path in unknown)
            raise bad_request(
                f"failed to create typed patch object ({subject}; {kind.api_version}, Kind={kind.kind}): {told}"
            )

    @staticmethod
    def _refuse(kind: Kind, name: str, causes: Iterable[Cause]) -> None:
        if listed := [*causes]:
            raise invalid(kind, name, listed)

    def _check_deletable(self, kind: Kind, record: Record, options: Deletion) -> None:
        name = record.key.name
        if options.uid is not None and options.uid != record.uid:
            raise conflict(
                kind,
                name,
                f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {record.uid}",
            )
        if options.resource_version is not None and options.resource_version != str(record.version):
            raise conflict(
                kind,
                name,
                "Precondition failed: ResourceVersion in precondition: "
                f"{options.resource_version}, ResourceVersion in object meta: {record.version}",
            )
        if kind.resource == "namespaces" and name in PROTECTED_NAMESPACES:
            raise forbidden(kind, name, "this namespace may not be deleted")
        if kind.resource == "customresourcedefinitions.apiextensions.k8s.io" and name in self.platform_definitions:
            raise forbidden(kind, name, "this definition is part of the platform")

    def _admit(self, operation: str, kind: Kind, obj: Obj, old: Obj | None, write: Write, subresource: str = "") -> Obj:
        admitted = self.admission.admit(
            operation, kind, obj, old, subresource=subresource, user=write.user, dry_run=write.dry_run
        )
        write.warnings.extend(admitted.warnings)
        return admitted.obj

    def _stored_form(self, kind: Kind, obj: Obj) -> Obj:
        if kind.storage and kind.resource == collection_of(kind):
            return obj
        for one in self.registry.stored():
            if collection_of(one) == collection_of(kind):
                return views.stored_form(one.api_version, obj)
        return obj

    def _allocate(self, kind: Kind, obj: Obj, write: Write) -> str:
        """Give a Service its cluster IP; the address, or empty when it needs none (a dry run takes none)."""
        if kind.resource != "services":
            return ""
        spec = obj["spec"]
        wanted = spec.get("clusterIP") or None
        if wanted == "None" or spec.get("type") == "ExternalName" or write.dry_run:
            return ""
        try:
            address = self._cluster_ips.allocate(wanted)
        except ValueError as error:
            listed = orjson.dumps([wanted] if wanted else []).decode()
            text = f"Invalid value: {listed}: {error}"
            fault = Cause("spec.clusterIPs", "FieldValueInvalid", text)
            raise invalid(kind, obj["metadata"]["name"], [fault]) from None
        spec["clusterIP"] = address
        spec["clusterIPs"] = [address]
        return address


def _ends(kind: Kind, obj: Obj) -> bool:
    """Whether nothing holds a deleted object any more: no finalizers and, for a pod, no grace."""
    metadata = obj["metadata"]
    return (
        "deletionTimestamp" in metadata
        and not metadata.get("finalizers")
        and not metadata.get("deletionGracePeriodSeconds")
        and not (kind.resource == "namespaces" and (obj.get("spec") or {}).get("finalizers"))
    )


def _unstored(key: Key, obj: Obj) -> Record:
    """The answer of a dry run."""
    return Record(key, obj, orjson.dumps(obj), 0)


@functools.lru_cache(maxsize=512)
def _narrow(declared: "_Identity", part: frozenset[str], present: frozenset[str]) -> Mapping[str, Any]:
    whole = declared.schema
    known = whole.get("properties") or {}
    return {
        **whole,
        "properties": {key: known[key] for key in part if key in known},
        "required": [key for key in whole.get("required") or () if key in part or key not in present],
    }


class _Identity:
    """A schema as a key of a cache: by identity, since schemas are shared and never change."""

    __slots__ = ("schema",)

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema

    def __hash__(self) -> int:
        return id(self.schema)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.schema is self.schema


def _narrowed(declared: Mapping[str, Any], part: frozenset[str], present: frozenset[str]) -> Mapping[str, Any]:
    """The schema of an object of which only some top-level fields are looked at."""
    return _narrow(_Identity(declared), part, present)


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def _version(text: str) -> int:
    """A resource version from a request; 0 for none.

    Raises:
        StatusError: it is not a number.
    """
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        fault = f'Invalid value: "{text}": must be an unsigned integer'
        raise invalid(None, "", [Cause("resourceVersion", "FieldValueInvalid", fault)])
    return int(text)


def _token(version: int, last: Key) -> str:
    """Where a list goes on: stateless, so a page can be asked of a restarted server, which may say Expired."""
    return urlsafe_b64encode(orjson.dumps({"rv": version, "after": [last.namespace, last.name]})).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, Key]:
    try:
        read = orjson.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = read["after"]
        return int(read["rv"]), Key(str(namespace), str(name))
    except (ValueError, KeyError, TypeError) as error:
        raise bad_request("continue key is not valid: it was not made by this server") from error
