"""Discovery documents: which groups, versions and resources there are, aggregated in one answer or piece by piece.

Pure renderings of a list of kinds. kubectl asks for the aggregated form in the newest version it knows and must be
given exactly one that it offered: answering v2 to a client that only knows v2beta1 leaves it without any resource.
"""

from collections.abc import Iterable
from typing import Any

from torpor.embedded.apiserver.builtin import Kind

__all__ = ["aggregated", "core_versions", "group", "group_list", "resource_list"]

Obj = dict[str, Any]

_SCALE = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
_SUBRESOURCE_VERBS = {
    "status": ["get", "patch", "update"],
    "scale": ["get", "patch", "update"],
    "log": ["get"],
    "exec": ["create", "get"],
    "finalize": ["update"],
}


def _groups(kinds: Iterable[Kind], core: bool) -> dict[str, dict[str, list[Kind]]]:
    """Group -> version -> kinds, in the order of the kinds; only the core group, or only the others."""
    found: dict[str, dict[str, list[Kind]]] = {}
    for kind in kinds:
        if (kind.group == "") is core:
            found.setdefault(kind.group, {}).setdefault(kind.version, []).append(kind)
    return found


def aggregated(kinds: Iterable[Kind], version: str, *, core: bool) -> Obj:
    """`GET /api` (core) or `GET /apis` as an APIGroupDiscoveryList.

    Args:
        version: `v2` or `v2beta1`, whichever the client asked for.
    """
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": name, "creationTimestamp": None} if name else {"creationTimestamp": None},
                "versions": [
                    {
                        "version": one,
                        "resources": [_aggregated_resource(kind) for kind in members],
                        "freshness": "Current",
                    }
                    for one, members in versions.items()
                ],
            }
            for name, versions in _groups(kinds, core).items()
        ],
    }


def _aggregated_resource(kind: Kind) -> Obj:
    made: Obj = {
        "resource": kind.plural,
        "responseKind": _identity(kind),
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": sorted(kind.verbs),
    }
    if kind.short_names:
        made["shortNames"] = list(kind.short_names)
    if kind.categories:
        made["categories"] = list(kind.categories)
    if kind.subresources:
        made["subresources"] = [
            {
                "subresource": name,
                "responseKind": _SCALE if name == "scale" else _identity(kind),
                "verbs": _SUBRESOURCE_VERBS.get(name, ["get"]),
            }
            for name in kind.subresources
        ]
    return made


def _identity(kind: Kind) -> Obj:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def core_versions(address: str) -> Obj:
    """`GET /api` for clients without aggregated discovery."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group_list(kinds: Iterable[Kind]) -> Obj:
    """`GET /apis` for clients without aggregated discovery."""
    groups = _groups(kinds, core=False)
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(name, list(versions)) for name, versions in groups.items()],
    }


def group(name: str, versions: list[str]) -> Obj:
    """`GET /apis/<group>`."""
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)}


def _group(name: str, versions: list[str]) -> Obj:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def resource_list(group_version: str, kinds: Iterable[Kind]) -> Obj:
    """`GET /api/v1` or `GET /apis/<group>/<version>`: resources and subresources, flat."""
    resources: list[Obj] = []
    for kind in kinds:
        entry: Obj = {
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": sorted(kind.verbs),
        }
        if kind.short_names:
            entry["shortNames"] = list(kind.short_names)
        if kind.categories:
            entry["categories"] = list(kind.categories)
        resources.append(entry)
        for name in kind.subresources:
            scale = name == "scale"
            resources.append(
                {
                    "name": f"{kind.plural}/{name}",
                    "singularName": "",
                    "namespaced": kind.namespaced,
                    **({"group": "autoscaling", "version": "v1"} if scale else {}),
                    "kind": "Scale" if scale else kind.kind,
                    "verbs": _SUBRESOURCE_VERBS.get(name, ["get"]),
                }
            )
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}
