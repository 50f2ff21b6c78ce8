"""OpenAPI v3: the index of documents and one document per group version, as kubectl reads them.

kubectl wants three things of a document: a PATCH operation per kind whose parameters include `fieldValidation` and
`dryRun` (that is how it learns the server validates), a way from a resource's path to its kind, and schemas for
`explain` and strategic patches. Names of schemas are upstream's. A document is built from the linked schemas, so a part
several kinds share is emitted once and referred to; building takes tens of milliseconds, so the caller caches it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from torpor.embedded.apiserver import definitions
from torpor.embedded.apiserver.builtin import OBJECT_META, Kind
from torpor.embedded.apiserver.definitions import Definition

__all__ = ["document", "index"]

_FORMAT = b"1"
"""Part of every hash: change it when documents change without their kinds changing."""

_REF = "#/components/schemas/"
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"

_API_VERSION = "The version of the schema this object is written in."
_KIND = "The REST resource this object represents, in CamelCase."
_METADATA = "Standard object's metadata."


def index(kinds: Iterable[Kind]) -> dict[str, Any]:
    """The body of `GET /openapi/v3`: where the document of each group version is, with a hash of what made it."""
    groups: dict[str, list[Kind]] = {}
    for kind in kinds:
        groups.setdefault(_root(kind).lstrip("/"), []).append(kind)
    return {
        "paths": {
            path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={fingerprint(members)}"}
            for path, members in sorted(groups.items())
        }
    }


def fingerprint(kinds: Iterable[Kind]) -> str:
    """A hash that changes when a document of these kinds would."""
    digest = hashlib.sha256(_FORMAT)
    for kind in sorted(kinds, key=lambda kind: (kind.kind, kind.plural)):
        facts = [kind.definition, kind.plural, kind.namespaced, kind.subresources, kind.verbs, kind.declared]
        digest.update(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest().upper()


def document(group: str, version: str, kinds: Sequence[Kind]) -> dict[str, Any]:
    """The OpenAPI document of one group version.

    Args:
        kinds: all kinds served; those of other group versions are left out.
    """
    members = [kind for kind in kinds if (kind.group, kind.version) == (group, version)]
    paths: dict[str, Any] = {}
    schemas = _Schemas()
    for kind in members:
        paths |= _paths(kind)
        schemas.add(kind)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.32.0"},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": schemas.emit()},
    }


# ----------------------------------------------------------------------------------------------------------- paths


def _root(kind: Kind) -> str:
    return f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"


def _parameter(name: str, where: str = "query", kind: str = "string", text: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "in": where, "schema": {"type": kind, "uniqueItems": True}}
    if where == "path":
        made["required"] = True
    if text:
        made["description"] = text
    return made


_DRY_RUN = _parameter("dryRun", text="`All` processes the request without persisting anything.")
_FIELD_MANAGER = _parameter("fieldManager", text="A name for the actor making these changes.")
_FIELD_VALIDATION = _parameter("fieldValidation", text="What to do about unknown fields: `Ignore`, `Warn` or `Strict`.")
_FORCE = _parameter("force", kind="boolean", text="Take over fields that other managers own; apply patches only.")
_WRITE = [_DRY_RUN, _FIELD_MANAGER, _FIELD_VALIDATION]
_LIST = [
    *(_parameter(name) for name in ("fieldSelector", "labelSelector", "continue", "resourceVersion")),
    *(_parameter(name, kind="integer") for name in ("limit", "timeoutSeconds")),
    *(_parameter(name, kind="boolean") for name in ("watch", "allowWatchBookmarks", "sendInitialEvents")),
]
_DELETE = [
    _DRY_RUN,
    _parameter("gracePeriodSeconds", kind="integer"),
    _parameter("propagationPolicy"),
]
_PATCHES = ("application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json")


def _paths(kind: Kind) -> dict[str, Any]:
    """The path items of a kind: its collection, and one object with its subresources."""
    namespace = [_parameter("namespace", "path")] if kind.namespaced else []
    name = [*namespace, _parameter("name", "path")]
    collection = _root(kind) + ("/namespaces/{namespace}/" if kind.namespaced else "/") + kind.plural
    paths = {
        collection: _item(kind, namespace, {"get": ("list", _LIST), "post": ("create", _WRITE)}),
        f"{collection}/{{name}}": _item(kind, name, _SINGLE),
    }
    if kind.namespaced and "list" in kind.verbs:
        paths[f"{_root(kind)}/{kind.plural}"] = _item(kind, [], {"get": ("list", _LIST)})
    if "status" in kind.subresources:
        changes = {method: entry for method, entry in _SINGLE.items() if method != "delete"}
        paths[f"{collection}/{{name}}/status"] = _item(kind, name, changes)
    return {path: item for path, item in paths.items() if item.keys() > {"parameters"}}


_SINGLE: Mapping[str, tuple[str, list[dict[str, Any]]]] = {
    "get": ("get", []),
    "put": ("update", _WRITE),
    "patch": ("patch", [*_WRITE, _FORCE]),
    "delete": ("delete", _DELETE),
}


def _item(
    kind: Kind, parameters: list[dict[str, Any]], methods: Mapping[str, tuple[str, list[dict[str, Any]]]]
) -> dict[str, Any]:
    item: dict[str, Any] = {"parameters": parameters}
    for method, (verb, query) in methods.items():
        if verb not in kind.verbs:
            continue
        operation: dict[str, Any] = {
            "x-kubernetes-action": verb,
            "x-kubernetes-group-version-kind": _identity(kind),
            "parameters": query,
            "responses": {"200": {"description": "OK", "content": _content("application/json", kind)}},
        }
        if method in ("post", "put"):
            operation["requestBody"] = {"required": True, "content": _content("application/json", kind)}
        elif method == "patch":
            types = _PATCHES if kind.custom else (*_PATCHES, "application/strategic-merge-patch+json")
            operation["requestBody"] = {"required": True, "content": {media: {"schema": {}} for media in types}}
        item[method] = operation
    return item


def _identity(kind: Kind) -> dict[str, str]:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _content(media: str, kind: Kind) -> dict[str, Any]:
    return {media: {"schema": {"$ref": _REF + kind.definition}}}


# --------------------------------------------------------------------------------------------------------- schemas


class _Schemas:
    """Collects schemas and everything they refer to; `emit` turns the linked graph back into named parts."""

    def __init__(self) -> None:
        self._texts = definitions.descriptions()
        self._roots: dict[str, Kind] = {}
        self._made: dict[str, Any] = {}
        self._waiting: list[Definition] = []

    def add(self, kind: Kind) -> None:
        self._roots[kind.definition] = kind

    def emit(self) -> dict[str, Any]:
        """All schemas by name, sorted."""
        for name, kind in self._roots.items():
            schema = kind.schema
            if schema is None:
                continue
            made = self._made[name] = self._node(schema, self._texts.get(name, {}) if not kind.custom else _CUSTOM)
            made["x-kubernetes-group-version-kind"] = [_identity(kind)]
        while self._waiting:
            part = self._waiting.pop()
            if part.name not in self._made:
                self._made[part.name] = self._node(part, self._texts.get(part.name, {}))
        if (meta := self._made.get(OBJECT_META)) is not None:
            meta.setdefault("description", self._texts.get(OBJECT_META, {}).get("", ""))
        return dict(sorted(self._made.items()))

    def _node(self, schema: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
        """A schema with its properties described; `texts` is keyed by property, empty for the schema itself."""
        made: dict[str, Any] = {}
        if texts.get("") and "description" not in schema:
            made["description"] = texts[""]
        for key, value in schema.items():
            if key == "properties":
                made[key] = {name: self._part(part, texts.get(name, "")) for name, part in value.items()}
            elif key in ("items", "additionalProperties", "not") and isinstance(value, Mapping):
                made[key] = self._part(value)
            elif key in ("allOf", "anyOf", "oneOf"):
                made[key] = [self._part(part) for part in value]
            else:
                made[key] = value
        if isinstance(schema, Definition) and schema.name == _INT_OR_STRING:
            # structural schemas have their own word for it, OpenAPI has not
            return {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}
        return made

    def _part(self, schema: Mapping[str, Any], text: str = "") -> dict[str, Any]:
        """A nested schema: a reference if it has a name, with what is said of this use of it beside."""
        if not isinstance(schema, Definition):
            return self._node(schema, {"": text})
        whole = definitions.load(schema.name)
        self._waiting.append(whole)
        beside = {} if schema is whole else {key: item for key, item in schema.items() if whole.get(key) is not item}
        if text:
            beside["description"] = text
        reference = {"$ref": _REF + schema.name}
        return {**beside, "allOf": [reference]} if beside else reference


_CUSTOM = {"apiVersion": _API_VERSION, "kind": _KIND, "metadata": _METADATA}
