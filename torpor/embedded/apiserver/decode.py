"""Request bodies as objects: JSON, YAML or Kubernetes protobuf, and what strict callers want to know about them."""

import json
from typing import Any

import orjson
import yaml

from torpor.embedded.apiserver.builtin import Kind
from torpor.embedded.apiserver.errors import bad_request, unsupported_media_type
from torpor.embedded.apiserver.protobuf import decode as decode_protobuf

__all__ = ["MEDIA_TYPES", "decode", "decode_object", "duplicates"]

Obj = dict[str, Any]

MEDIA_TYPES = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf")


_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, ten times faster, is in every wheel


class _Loader(_Fast):  # type: ignore[misc]  # a base class that is only known at run time
    """YAML as Kubernetes reads it: dates stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

_YAML = ("application/yaml", "application/apply-patch+yaml", "application/x-yaml", "text/yaml")


def decode(body: bytes, media_type: str) -> Any:
    """The value a body holds; JSON unless the media type says otherwise.

    Raises:
        StatusError: 400 for what cannot be read, 415 for a media type we do not read.
    """
    try:
        if media_type in _YAML:
            # nearly every "YAML" body is JSON, which YAML contains and which is read 100 times faster
            if body.lstrip()[:1] == b"{":
                try:
                    return orjson.loads(body)
                except orjson.JSONDecodeError:
                    pass
            if b"*" in body and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(body, _Loader)):
                raise yaml.YAMLError("aliases are not accepted")  # they could make gigabytes of one small body
            return yaml.load(body, _Loader)
        if media_type == "application/vnd.kubernetes.protobuf":
            return decode_protobuf(body)
        if media_type in ("", "application/json") or media_type.endswith("+json"):
            return orjson.loads(body)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise bad_request(f"the body of the request cannot be read: {error}") from error
    raise unsupported_media_type(MEDIA_TYPES)


def decode_object(kind: Kind, body: bytes, media_type: str) -> Obj:
    """The object of a create or update, with `apiVersion`, `kind` and `metadata` in place.

    Raises:
        StatusError: 400 when it is no object, or one of another kind.
    """
    obj = decode(body, media_type)
    if not isinstance(obj, dict):
        raise bad_request(f"the body of the request must be an object of kind {kind.kind}")
    complete(kind, obj)
    return obj


def complete(kind: Kind, obj: Obj) -> None:
    """Check an object's type against the URL's and fill in what was left out, in place.

    Raises:
        StatusError: 400, with the text of the apiserver's decoder.
    """
    api_version = obj.setdefault("apiVersion", kind.api_version)
    if api_version != kind.api_version:
        raise bad_request(
            f"the API version in the data ({api_version}) does not match the expected API version ({kind.api_version})"
        )
    name = obj.setdefault("kind", kind.kind)
    if name != kind.kind:
        raise bad_request(f"{name} in version {json.dumps(kind.version)} cannot be handled as a {kind.kind}")
    metadata = obj.get("metadata")
    if metadata is None:
        obj["metadata"] = {}
    elif not isinstance(metadata, dict):
        raise bad_request(f"{name} in version {json.dumps(kind.version)} cannot be handled: metadata is not an object")


def duplicates(body: bytes) -> list[str]:
    """Paths of fields that a JSON body names twice (the last one counts), as strict validation reports them."""
    found: list[str] = []

    class Twice(dict[str, Any]):
        names: tuple[str, ...] = ()

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = Twice(items)
        if len(made) != len(items):
            keys = [key for key, _ in items]
            made.names = tuple(key for key in made if keys.count(key) > 1)
        return made

    def walk(node: Any, path: str) -> None:
        if isinstance(node, Twice):
            found.extend(f"{path}.{name}" if path else name for name in node.names)
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else key)
        elif isinstance(node, list):
            for index, value in enumerate(node):
                walk(value, f"{path}[{index}]")

    try:
        walk(json.loads(body, object_pairs_hook=pairs), "")
    except (ValueError, RecursionError):
        return []  # not JSON: the decoder says so
    return found
