"""Validation of whole objects: which rules a kind has, on create, on update and for its status.

Objects are decoded first, so everything behind this works on clean values; an object that cannot be decoded is refused
with one message, and nothing a client sends makes `validate` raise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kncore.api import keys
from kncore.api.changes import changes
from kncore.api.fielderror import OK, FieldError, Level, disallowed, generic, missing
from kncore.api.kinds import decode, shape
from kncore.api.meta import Obj, annotations
from kncore.api.settings import Settings
from kncore.api.shapes import DecodeError
from kncore.api.syntax import fully_qualified_domain_name
from kncore.api.validation import internal
from kncore.api.validation.metadata import creator_and_modifier, names, outside_template, owner_label, rollout_duration
from kncore.api.validation.scaling import scaling_annotations
from kncore.api.validation.template import name_change, revision_spec, template
from kncore.api.validation.traffic import traffic
from kncore.strconv import quote

__all__ = ["CLUSTER_DOMAIN", "Outcome", "validate"]

CLUSTER_DOMAIN: Final = "cluster.local"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What validation says: `error` refuses the object ("" accepts it), each warning is shown to the user."""

    error: str = ""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Change:
    """One request: the decoded object, the stored one on update, and the settings in force."""

    new: Obj
    old: Obj | None
    is_status: bool  # a status update leaves metadata and spec alone, and must not fail for older rules there
    config: Settings

    def spec_changed(self, shape_name: str) -> bool:
        return self.old is not None and not shape(shape_name).same(self.old["spec"], self.new["spec"])


def validate(
    obj: Any, *, old: Any = None, operation: str = "CREATE", subresource: str = "", config: Settings
) -> Outcome:
    """Whether a request's object, defaults already filled in, may be stored.

    Args:
        obj: the object as the client wants it; any JSON value.
        old: the stored object, on update.
        operation: CREATE, UPDATE or DELETE; the last is always fine.
        subresource: "" or "status".
        config: the ConfigMaps in force.
    """
    if operation == "DELETE":
        return Outcome()
    try:
        new = decode(obj)
        before = decode(old) if operation == "UPDATE" and old is not None else None
    except DecodeError as error:
        return Outcome(error=f"cannot decode incoming object: {error}")
    change = _Change(new=new, old=before, is_status=before is not None and subresource == "status", config=config)
    found = _RULES[new["kind"]](change)
    return Outcome(
        error=found.only(Level.ERROR).text(),
        warnings=[problem.text() for problem in found.only(Level.WARNING).merged()],
    )


def _service(change: _Change) -> FieldError:
    new, wrong = change.new, OK
    if not change.is_status:
        metadata = new["metadata"]
        about = outside_template(metadata) + rollout_duration(annotations(new)).via("annotations")
        wrong += about.via("metadata")
        spec = template(new["spec"]["template"], metadata, change.config).via("template")
        spec += traffic(new["spec"].get("traffic", ()), own_configuration=True).via("traffic")
        wrong += spec.via("spec")
    if change.old is not None:
        changed = change.spec_changed("ServiceSpec")
        wrong += creator_and_modifier(change.old, new, changed=changed).via("metadata.annotations")
        wrong += _name_change(change.old, new)
    return wrong


def _configuration(change: _Change) -> FieldError:
    new, wrong = change.new, OK
    if not change.is_status:
        metadata = new["metadata"]
        wrong += (outside_template(metadata) + owner_label(new, keys.SERVICE, "Service")).via("metadata")
        wrong += template(new["spec"]["template"], metadata, change.config).via("spec.template")
    if change.old is not None:
        if not _is_owned(new):
            changed = change.spec_changed("ConfigurationSpec")
            wrong += creator_and_modifier(change.old, new, changed=changed).via("metadata.annotations")
        wrong += _name_change(change.old, new)
    return wrong


def _name_change(old: Obj, new: Obj) -> FieldError:
    return name_change(old["spec"]["template"], new["spec"]["template"]).via("spec.template")


def _is_owned(obj: Obj) -> bool:
    """An owned object's creator is its owner's."""
    return bool(obj["metadata"].get("ownerReferences"))


def _route(change: _Change) -> FieldError:
    new = change.new
    about = outside_template(new["metadata"]) + owner_label(new, keys.SERVICE, "Service")
    about += rollout_duration(annotations(new)).via("annotations")
    wrong = about.via("metadata")
    wrong += traffic(new["spec"].get("traffic", ()), own_configuration=False).via("spec.traffic")
    if change.old is not None and not _is_owned(new):
        changed = change.spec_changed("RouteSpec")
        wrong += creator_and_modifier(change.old, new, changed=changed).via("metadata.annotations")
    return wrong


def _revision(change: _Change) -> FieldError:
    new = change.new
    about = names(new["metadata"]) + owner_label(new, keys.CONFIGURATION, "Configuration")
    about += scaling_annotations(annotations(new), change.config.autoscaler).via("annotations")
    if change.old is None:
        return about.via("metadata") + revision_spec(new["spec"], change.config).via("spec")
    if change.spec_changed("RevisionSpec"):
        # Alone, without the errors about metadata: nothing else can matter.
        details = changes(change.old["spec"], new["spec"])
        return generic("Immutable fields changed (-old +new)", "spec", details=details)
    return about.via("metadata")


def _domain_mapping(change: _Change) -> FieldError:
    new = change.new
    metadata = new["metadata"]
    name = metadata.get("name", "")
    about = disallowed("generateName") if metadata.get("generateName") else OK
    if problem := fully_qualified_domain_name(name, "name"):
        about += generic(f"invalid name {quote(name)}: {problem}", "name")
    if name.endswith(f".{CLUSTER_DOMAIN}"):
        text = f"must not be a subdomain of cluster local domain {quote(CLUSTER_DOMAIN)}"
        about += generic(f"invalid name {quote(name)}: {text}", "name")
    if change.old is not None:
        changed = change.spec_changed("DomainMappingSpec")
        about += creator_and_modifier(change.old, new, changed=changed).via("annotations")
    return about.via("metadata") + _target(new["spec"]["ref"], metadata.get("namespace", "")).via("spec.ref")


def _target(reference: Obj, namespace: str) -> FieldError:
    """What a domain leads to: complete, by apiVersion and not by group, in the mapping's own namespace."""
    wrong = OK
    if reference.get("group"):
        wrong += disallowed("group")
    absent = [name for name in ("name", "apiVersion", "kind") if not reference.get(name)]
    if absent:
        wrong += missing(*absent)
    there = reference.get("namespace", "")
    if there and namespace and there != namespace:
        details = f"parent namespace: {quote(namespace)} does not match ref: {quote(there)}"
        wrong += generic("mismatched namespaces", "namespace", details=details)
    return wrong


_RULES: Final[Mapping[str, Callable[[_Change], FieldError]]] = {
    "Service": _service,
    "Configuration": _configuration,
    "Route": _route,
    "Revision": _revision,
    "DomainMapping": _domain_mapping,
    "PodAutoscaler": lambda change: internal.pod_autoscaler(change.new, change.config),
    "Metric": lambda change: internal.metric(change.new, change.config),
    "ServerlessService": lambda change: internal.serverless_service(change.new),
    "Ingress": lambda change: internal.ingress(change.new),
    "Certificate": lambda change: internal.certificate(change.new),
}
