"""Route -> KIngress (serving §7.2).

The KIngress names the public Service of each revision and the headers that tell the activator which revision is meant;
whether pods or activators stand behind that Service is decided elsewhere and never changes the KIngress.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.resources.metadata import child, without
from controller.rollout import Rollout
from controller.traffic import Target
from kncore.api import keys, meta
from kncore.api.meta import Obj
from kncore.api.resources import INGRESSES
from kncore.errors import KnError

__all__ = ["Hosts", "IncorrectHttpProtocol", "http_option", "make", "shares"]

_PORTS = {"http1": 80, "h2c": 81}
_TLS_PORT = 443


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """The names one target answers to."""

    local: tuple[str, ...]
    """Inside the cluster, sorted: `<h>.<ns>`, `<h>.<ns>.svc`, `<h>.<ns>.svc.<cluster domain>`."""
    external: tuple[str, ...] = ()
    """For everybody; empty for a target that is only local."""

    @property
    def primary_local(self) -> str:
        """The fully qualified local name."""
        return self.local[-1]


class IncorrectHttpProtocol(KnError):
    """The http-protocol annotation says neither enabled nor redirected."""

    def __init__(self, value: str) -> None:
        super().__init__(f"incorrect http-protocol annotation: {value}")


def http_option(route: Obj, default: str) -> str:
    """`httpOption` of the KIngress: the Route's annotation, else what config-network says.

    Args:
        default: `Enabled`, `Redirected` or "".
    Raises:
        IncorrectHttpProtocol: the annotation has another value.
    """
    wanted = keys.lookup(meta.annotations(route), keys.HTTP_PROTOCOL)
    if wanted is None:
        return default
    for option in ("Enabled", "Redirected"):
        if wanted.lower() == option.lower():
            return option
    raise IncorrectHttpProtocol(wanted)


def make(
    route: Obj,
    groups: Mapping[str, Sequence[Target]],
    hosts: Mapping[str, Hosts],
    rollout: Rollout,
    *,
    ingress_class: str,
    option: str,
    tag_header: bool = False,
    internal_tls: bool = False,
) -> Obj:
    """The KIngress that programs a Route.

    Args:
        groups: targets by tag ("" = the Route's own host).
        hosts: names by tag.
        rollout: shares in force of the targets that follow a latest revision.
        option: `httpOption`.
        tag_header: also route `Knative-Serving-Tag` on the main host.
        internal_tls: send to the TLS port of the revisions.
    """
    name = meta.name(route)
    annotations = without(meta.annotations(route), keys.LAST_APPLIED, keys.INGRESS_CLASS) | {
        keys.INGRESS_CLASS[0]: ingress_class,
        keys.ROLLOUT: rollout.dump(),
    }
    if tags := {tag: [h.primary_local, *h.external] for tag, h in sorted(hosts.items()) if tag and tag in groups}:
        annotations[keys.TAG_TO_HOST] = json.dumps(tags, separators=(",", ":"))
    rules: list[Obj] = []
    for tag in sorted(groups):
        paths = _paths(route, groups, tag, rollout, tag_header=tag_header, internal_tls=internal_tls)
        rules.append({"hosts": list(hosts[tag].local), "visibility": "ClusterLocal", "http": {"paths": paths}})
        # One rule per public host, so that a certificate's challenge path can be put on just its host.
        rules += [
            {"hosts": [host], "visibility": "ExternalIP", "http": {"paths": paths}} for host in hosts[tag].external
        ]
    spec: Obj = {"rules": rules}
    if option:
        spec["httpOption"] = option
    return {
        "apiVersion": INGRESSES.api_version,
        "kind": INGRESSES.kind,
        "metadata": child(
            route,
            name,
            labels=meta.labels(route) | {keys.ROUTE: name, keys.ROUTE_NAMESPACE: meta.namespace(route)},
            annotations=annotations,
        ),
        "spec": spec,
    }


def shares(target: Target, tag: str, rollout: Rollout) -> list[tuple[str, int]]:
    """(revision, percent) pairs a target stands for, oldest first; one pair unless it is rolling out.

    Args:
        tag: the group the target is looked at in.
    """
    if target.latest:
        for item in rollout.by_tag(tag):
            if item.configuration == target.configuration and item.revisions:
                return [(share.revision, share.percent) for share in item.revisions]
    return [(target.revision, target.percent)]


def _paths(
    route: Obj,
    groups: Mapping[str, Sequence[Target]],
    tag: str,
    rollout: Rollout,
    *,
    tag_header: bool,
    internal_tls: bool,
) -> list[Obj]:
    path: Obj = {"splits": _splits(route, groups[tag], tag, rollout, internal_tls=internal_tls)}
    if not tag_header:
        return [path]
    if tag:
        return [path | {"appendHeaders": {keys.HEADER_TAG: tag}}]
    by_header = [
        {
            "headers": {keys.HEADER_TAG: {"exact": other}},
            "splits": _splits(route, groups[other], other, rollout, internal_tls=internal_tls),
        }
        for other in sorted(groups)
        if other
    ]
    return [*by_header, path | {"appendHeaders": {keys.HEADER_ROUTE: "true"}}]


def _splits(route: Obj, targets: Sequence[Target], tag: str, rollout: Rollout, *, internal_tls: bool) -> list[Obj]:
    namespace = meta.namespace(route)
    return [
        {
            "serviceNamespace": namespace,
            "serviceName": revision,
            "servicePort": _TLS_PORT if internal_tls else _PORTS[target.protocol],
            "percent": percent,
            "appendHeaders": {keys.HEADER_REVISION: revision, keys.HEADER_NAMESPACE: namespace},
        }
        for target in targets
        if target.percent
        for revision, percent in shares(target, tag, rollout)
    ]
