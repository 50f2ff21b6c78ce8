"""A container's environment, command and arguments, from its spec: pure, given what the references point to.

Order and texts are the kubelet's: `envFrom` first, then `env` in order, where each value may use `$(NAME)` of what came
before; `$$` is a literal dollar sign, and a reference to an unknown name stays as written. A missing ConfigMap, Secret
or key that is not optional keeps the container waiting with `CreateContainerConfigError`.
Source: kubernetes pkg/kubelet/kubelet_pods.go, makeEnvironmentVariables; third_party/forked/golang/expansion.
"""

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kncore.api import meta
from kncore.api.meta import Obj, at
from kncore.errors import KnError
from kncore.quantity import parse_quantity

__all__ = [
    "ConfigMissing",
    "Facts",
    "References",
    "Resolved",
    "expand",
    "field_value",
    "make_environment",
    "resource_value",
]

_REFERENCE = re.compile(r"\$(\$|\(([^)]*)\))")
_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


class ConfigMissing(KnError):
    """Something a container's configuration refers to does not exist (yet)."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the downward API may tell that is not in the pod object yet, and what the node offers."""

    pod_ip: str
    host_ip: str
    cpu_milli: int
    """Allocatable; stands in for a limit that is not set."""
    memory_bytes: int


@dataclass(frozen=True)
class References:
    """How to look up what a pod refers to; each returns None for an object that does not exist."""

    config_map: Callable[[str], Obj | None]
    secret: Callable[[str], Obj | None]


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A complete environment."""

    variables: dict[str, str]
    skipped: list[str] = field(default_factory=list)
    """One text per `envFrom` source with keys that cannot be variable names."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """The text with every `$(NAME)` replaced that is known."""

    def replace(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return variables.get(match[2], match[0])

    return _REFERENCE.sub(replace, text)


def make_environment(
    container: Obj, pod: Obj, facts: Facts, references: References, base: Mapping[str, str] | None = None
) -> Resolved:
    """The variables a container gets.

    Args:
        base: what is there before the container's own; also usable in `$(NAME)`.
    Raises:
        ConfigMissing: a reference that is not optional leads nowhere.
    """
    variables = dict(base or {})
    skipped = []
    for source in container.get("envFrom") or ():
        found, bad = _env_from(source, pod, references)
        variables |= found
        if bad:
            skipped.append(bad)
    for one in container.get("env") or ():
        if "valueFrom" not in one or not one["valueFrom"]:
            variables[one["name"]] = expand(str(one.get("value") or ""), variables)
            continue
        value = _value_from(one["valueFrom"], container, pod, facts, references)
        if value is not None:
            variables[one["name"]] = value
    return Resolved(variables=variables, skipped=skipped)


def _env_from(source: Obj, pod: Obj, references: References) -> tuple[dict[str, str], str]:
    prefix = source.get("prefix") or ""
    if reference := source.get("configMapRef"):
        name, kind, found = reference["name"], "configmap", references.config_map(reference["name"])
        data = dict((found or {}).get("data") or {})
    elif reference := source.get("secretRef"):
        name, kind, found = reference["name"], "secret", references.secret(reference["name"])
        data = {key: _decoded(value) for key, value in ((found or {}).get("data") or {}).items()}
    else:
        return {}, ""
    if found is None:
        if reference.get("optional"):
            return {}, ""
        raise ConfigMissing(f'{kind} "{name}" not found')
    good = {prefix + key: value for key, value in data.items() if _NAME.fullmatch(prefix + key)}
    bad = sorted(prefix + key for key in data if prefix + key not in good)
    if not bad:
        return good, ""
    return good, (
        f"Keys [{', '.join(bad)}] from the EnvFrom {kind} {meta.namespace(pod)}/{name} were skipped since they are "
        "considered invalid environment variable names."
    )


def _value_from(source: Obj, container: Obj, pod: Obj, facts: Facts, references: References) -> str | None:
    if reference := source.get("fieldRef"):
        return field_value(pod, reference["fieldPath"], facts)
    if reference := source.get("resourceFieldRef"):
        return resource_value(pod, container, reference, facts)
    if reference := source.get("configMapKeyRef"):
        kind, found = "ConfigMap", references.config_map(reference["name"])
        value = at(found, "data", reference["key"])
    elif reference := source.get("secretKeyRef"):
        kind, found = "Secret", references.secret(reference["name"])
        encoded = at(found, "data", reference["key"])
        value = None if encoded is None else _decoded(encoded)
    else:
        return None
    if value is not None:
        return str(value)
    if reference.get("optional"):
        return None
    if found is None:
        raise ConfigMissing(f'{kind.lower()} "{reference["name"]}" not found')
    raise ConfigMissing(f"couldn't find key {reference['key']} in {kind} {meta.namespace(pod)}/{reference['name']}")


def field_value(pod: Obj, path: str, facts: Facts) -> str:
    """What a `fieldRef` path says, as text; maps as sorted `key="value"` lines.

    Raises:
        ConfigMissing: no such field.
    """
    plain: dict[str, Callable[[], str]] = {
        "metadata.name": lambda: meta.name(pod),
        "metadata.namespace": lambda: meta.namespace(pod),
        "metadata.uid": lambda: meta.uid(pod),
        "metadata.labels": lambda: _lines(meta.labels(pod)),
        "metadata.annotations": lambda: _lines(meta.annotations(pod)),
        "spec.nodeName": lambda: at(pod, "spec", "nodeName", default=""),
        "spec.serviceAccountName": lambda: at(pod, "spec", "serviceAccountName", default="default"),
        "status.hostIP": lambda: facts.host_ip,
        "status.hostIPs": lambda: facts.host_ip,
        "status.podIP": lambda: facts.pod_ip,
        "status.podIPs": lambda: facts.pod_ip,
    }
    if path in plain:
        return plain[path]()
    if match := _SUBSCRIPT.fullmatch(path):
        found = meta.labels(pod) if match[1] == "labels" else meta.annotations(pod)
        return found.get(match[2], "")
    raise ConfigMissing(f"unsupported fieldPath: {path}")


def resource_value(pod: Obj, container: Obj, reference: Obj, facts: Facts) -> str:
    """What a `resourceFieldRef` says: a request or limit in units of the divisor, rounded up.

    Raises:
        ConfigMissing: no such container or resource.
    """
    name = reference.get("containerName")
    if name:
        containers: Sequence[Obj] = [
            *at(pod, "spec", "containers", default=[]),
            *at(pod, "spec", "initContainers", default=[]),
        ]
        chosen = next((one for one in containers if one["name"] == name), None)
        if chosen is None:
            raise ConfigMissing(f"container {name} not found")
        container = chosen
    kind, _, resource = str(reference["resource"]).partition(".")
    amount: Any = at(container, "resources", kind, resource)
    if amount is None and kind == "limits":
        amount = {"cpu": f"{facts.cpu_milli}m", "memory": str(facts.memory_bytes)}.get(resource)
    quantity = parse_quantity(str(amount if amount is not None else "0"))
    divisor = parse_quantity(str(reference.get("divisor") or "1"))
    if not divisor.nanos:
        divisor = parse_quantity("1")
    return str(math.ceil(quantity.nanos / divisor.nanos))


def _lines(found: Mapping[str, str]) -> str:
    """Source: kubernetes pkg/fieldpath/fieldpath.go, FormatMap."""
    escape = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return "\n".join(
        f'{key}="{"".join(escape.get(char, char) for char in value)}"' for key, value in sorted(found.items())
    )


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""
