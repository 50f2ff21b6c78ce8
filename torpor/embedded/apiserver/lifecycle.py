"""What the server itself writes into objects: identity, generation, deletion; and which half a caller may touch.

Pure functions over plain objects. They follow apiserver `pkg/registry/rest` (BeforeCreate, BeforeUpdate, BeforeDelete)
and apimachinery's name rules; texts are upstream's, since people search for them.
"""

import re
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kncore.clock import rfc3339
from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.schema import Cause

__all__ = [
    "FOREGROUND",
    "ORPHAN",
    "Deletion",
    "bump_generation",
    "check_metadata",
    "check_update",
    "generated_name",
    "has_generation",
    "keep_spec",
    "keep_status",
    "mark_deleted",
    "stamp",
    "unchanged",
]

Obj = dict[str, Any]

FOREGROUND = "foregroundDeletion"
"""Finalizer: dependents go first."""
ORPHAN = "orphan"
"""Finalizer: dependents are to lose their reference first."""

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
"""Letters of generated names: no vowels and no look-alikes, so that no words come out."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")

_LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_LABEL_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_QUALIFIED_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)

ANNOTATION_BYTES = 256 << 10
"""Size of all annotations of one object together; upstream's TotalAnnotationSizeLimitB."""


def generated_name(prefix: str) -> str:
    """A name from `metadata.generateName`: the prefix, cut to 58 characters, and five random letters."""
    return prefix[:58] + "".join(secrets.choice(_SUFFIX) for _ in range(5))


# ------------------------------------------------------------------------------------------------- name rules


def _subdomain(name: str) -> list[str]:
    return _rule(name, 253, _SUBDOMAIN, _SUBDOMAIN_TEXT)


def _label(name: str) -> list[str]:
    return _rule(name, 63, _LABEL, _LABEL_TEXT)


def _label_1035(name: str) -> list[str]:
    return _rule(name, 63, _LABEL_1035, _LABEL_1035_TEXT)


def _path_segment(name: str) -> list[str]:
    if name in (".", ".."):
        return [f"may not be '{name}'"]
    return [f"may not contain '{char}'" for char in "/%" if char in name]


def _rule(name: str, longest: int, pattern: re.Pattern[str], text: str) -> list[str]:
    faults = [f"must be no more than {longest} characters"] if len(name) > longest else []
    return faults if pattern.fullmatch(name) else [*faults, text]


_NAME_RULES: dict[str, Callable[[str], list[str]]] = {
    "namespaces": _label,
    "services": _label_1035,
    "roles.rbac.authorization.k8s.io": _path_segment,
    "rolebindings.rbac.authorization.k8s.io": _path_segment,
    "clusterroles.rbac.authorization.k8s.io": _path_segment,
    "clusterrolebindings.rbac.authorization.k8s.io": _path_segment,
}


def check_metadata(kind: Kind, obj: Obj) -> list[Cause]:
    """What is wrong with an object's name, labels, annotations, finalizers and owner references."""
    metadata = obj["metadata"]
    name = metadata.get("name", "")
    if not name:
        return [Cause("metadata.name", "FieldValueRequired", "Required value: name or generateName is required")]
    causes = [
        Cause("metadata.name", "FieldValueInvalid", f'Invalid value: "{name}": {fault}')
        for fault in _NAME_RULES.get(kind.resource, _subdomain)(name)
    ]
    for key, value in (metadata.get("labels") or {}).items():
        if fault := _qualified_fault(key):
            causes.append(Cause("metadata.labels", "FieldValueInvalid", f'Invalid value: "{key}": {fault}'))
        elif len(value) > 63:
            text = f'Invalid value: "{value}": must be no more than 63 bytes'
            causes.append(Cause("metadata.labels", "FieldValueInvalid", text))
        elif not _LABEL_VALUE.fullmatch(value):
            causes.append(Cause("metadata.labels", "FieldValueInvalid", f'Invalid value: "{value}": {_VALUE_TEXT}'))
    size = 0
    for key, value in (metadata.get("annotations") or {}).items():
        size += len(key) + len(value)
        if fault := _qualified_fault(key.lower()):
            causes.append(Cause("metadata.annotations", "FieldValueInvalid", f'Invalid value: "{key}": {fault}'))
    if size > ANNOTATION_BYTES:
        text = f"Too long: may not be more than {ANNOTATION_BYTES} bytes"
        causes.append(Cause("metadata.annotations", "FieldValueTooLong", text))
    controllers = 0
    for index, owner in enumerate(metadata.get("ownerReferences") or ()):
        path = f"metadata.ownerReferences[{index}]"
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                causes.append(Cause(f"{path}.{key}", "FieldValueInvalid", 'Invalid value: "": must not be empty'))
        controllers += owner.get("controller") is True
    if controllers > 1:
        text = "Invalid value: only one reference can have Controller set to true"
        causes.append(Cause("metadata.ownerReferences", "FieldValueInvalid", text))
    return causes


def _qualified_fault(key: str) -> str:
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix or (slash and not prefix):
        return f"a qualified name {_QUALIFIED_TEXT} with an optional DNS subdomain prefix and '/'"
    if prefix and _subdomain(prefix):
        return f"prefix part {_subdomain(prefix)[0]}"
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 bytes"
    return "" if _QUALIFIED.fullmatch(name) else _QUALIFIED_TEXT


# ---------------------------------------------------------------------------------------------------- creation

_GENERATIONAL = frozenset({"apps", "batch", "networking.k8s.io", "policy", "admissionregistration.k8s.io"})


def has_generation(kind: Kind) -> bool:
    """Whether objects of a kind carry `metadata.generation`: custom ones and those built-in ones that have a spec to
    be observed."""
    return kind.custom or kind.group in _GENERATIONAL or kind.kind == "CustomResourceDefinition"


def stamp(kind: Kind, obj: Obj, namespace: str, now: float) -> None:
    """Give a new object its identity, in place; what callers may not choose is overwritten."""
    metadata = obj["metadata"]
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = generated_name(metadata["generateName"])
    for key in ("selfLink", "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
        metadata.pop(key, None)
    if kind.namespaced:
        metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = rfc3339(now)
    if has_generation(kind):
        metadata["generation"] = 1
    if "status" in kind.subresources and kind.kind not in _KEEP_STATUS:
        obj.pop("status", None)


_KEEP_STATUS = frozenset({"Node"})
"""A kubelet registers its node together with its status."""


# ------------------------------------------------------------------------------------------------------ update

_FIXED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName")


def keep_status(kind: Kind, new: Obj, old: Obj) -> None:
    """Make `new` an update of everything but the status, in place; identity comes from `old`."""
    _keep(new["metadata"], old["metadata"], (*_FIXED, "namespace"))
    new["metadata"].pop("selfLink", None)
    if "status" in kind.subresources:
        _keep(new, old, ("status",))


def keep_spec(kind: Kind, new: Obj, old: Obj) -> Obj:
    """The update of only the status that `new` asks for: `old` with the status of `new`.

    Built-in kinds also take labels and annotations along, as upstream's strategies do.
    """
    made = {**old}
    _keep(made, new, ("status",))
    metadata = {**old["metadata"]}
    if not kind.custom:
        _keep(metadata, new["metadata"], ("labels", "annotations"))
    _keep(metadata, new["metadata"], ("managedFields",))
    made["metadata"] = metadata
    return made


def _keep(into: Obj, source: Obj, keys: tuple[str, ...]) -> None:
    for key in keys:
        if key in source:
            into[key] = source[key]
        else:
            into.pop(key, None)


def check_update(new: Obj, old: Obj) -> list[Cause]:
    """What an update may not do to the metadata: nothing new may hold an object that is being deleted."""
    if "deletionTimestamp" not in old["metadata"]:
        return []
    before = old["metadata"].get("finalizers") or ()
    added = [one for one in new["metadata"].get("finalizers") or () if one not in before]
    if not added:
        return []
    listed = ", ".join(f'"{one}"' for one in added)
    text = (
        "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
        f"[]string{{{listed}}}"
    )
    return [Cause("metadata.finalizers", "FieldValueForbidden", text)]


_BESIDES = frozenset({"metadata", "status", "apiVersion", "kind"})


def bump_generation(kind: Kind, new: Obj, old: Obj) -> None:
    """Count a change of what a controller has to observe: anything but metadata and, where it is apart, status."""
    if not has_generation(kind):
        return
    besides = _BESIDES if "status" in kind.subresources else _BESIDES - {"status"}
    changed = any(new.get(key) != old.get(key) for key in (new.keys() | old.keys()) - besides)
    if changed:
        new["metadata"]["generation"] = int(old["metadata"].get("generation") or 0) + 1


def unchanged(new: Obj, old: Obj) -> bool:
    """Whether writing `new` over `old` would change nothing but versions and the times in managedFields."""
    if any(new.get(key) != old.get(key) for key in (new.keys() | old.keys()) - {"metadata"}):
        return False
    ours, theirs = new["metadata"], old["metadata"]
    for key in (ours.keys() | theirs.keys()) - {"resourceVersion", "managedFields"}:
        if ours.get(key) != theirs.get(key):
            return False
    return _untimed(ours.get("managedFields")) == _untimed(theirs.get("managedFields"))


def _untimed(entries: list[Obj] | None) -> list[Obj]:
    return [{key: value for key, value in entry.items() if key != "time"} for entry in entries or ()]


# ---------------------------------------------------------------------------------------------------- deletion


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """DeleteOptions."""

    propagation: str = ""
    """`Background`, `Foreground`, `Orphan`; empty: what the object's finalizers say, else background."""
    grace: int | None = None
    """Seconds a pod gets; None leaves it to the pod."""
    uid: str | None = None
    """Precondition."""
    resource_version: str | None = None
    """Precondition."""


def grace_of(kind: Kind, obj: Obj, asked: int | None) -> int:
    """Seconds an object gets between the request to delete it and its end; only pods get any.

    A pod that no node runs, or that has ended, goes at once.
    """
    if kind.resource != "pods":
        return 0
    spec = obj.get("spec") or {}
    if not spec.get("nodeName") or (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    if asked is not None:
        return max(asked, 0)
    default = spec.get("terminationGracePeriodSeconds")
    return 30 if default is None else max(int(default), 0)


def mark_deleted(kind: Kind, obj: Obj, options: Deletion, now: float) -> bool:
    """Record in `obj` (a private copy) that it is to go; whether it can go right now.

    False: finalizers or the grace period hold it; the copy, which now says so, is to be stored instead.
    """
    metadata = obj["metadata"]
    finalizers = [one for one in metadata.get("finalizers") or () if one not in (FOREGROUND, ORPHAN)]
    before = metadata.get("finalizers") or ()
    if options.propagation == "Foreground" or (not options.propagation and FOREGROUND in before):
        finalizers.append(FOREGROUND)
    elif options.propagation == "Orphan" or (not options.propagation and ORPHAN in before):
        finalizers.append(ORPHAN)
    if finalizers:
        metadata["finalizers"] = finalizers
    else:
        metadata.pop("finalizers", None)
    grace = grace_of(kind, obj, options.grace)
    if "deletionTimestamp" in metadata:
        # a later request can only shorten the wait
        if options.grace is None or grace >= int(metadata.get("deletionGracePeriodSeconds") or 0):
            grace = int(metadata.get("deletionGracePeriodSeconds") or 0)
        elif kind.resource == "pods":
            metadata["deletionTimestamp"] = rfc3339(now + grace)
            metadata["deletionGracePeriodSeconds"] = grace
    if not finalizers and grace == 0:
        return True
    if "deletionTimestamp" not in metadata:
        metadata["deletionTimestamp"] = rfc3339(now + grace)
        metadata["deletionGracePeriodSeconds"] = grace
        if has_generation(kind):
            metadata["generation"] = int(metadata.get("generation") or 0) + 1
    return False
