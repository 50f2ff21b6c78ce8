"""Domains, host names and visibility of Routes."""

from collections.abc import Callable
from typing import Any

from controller.urls import DomainNameError, Names
from kncore.api import meta
from kncore.config.domain import Domain
from kncore.config.network import Network
from kncore.errors import ConfigError

Obj = dict[str, Any]
Load = Callable[[str], dict[str, Any]]


def test_domains_are_chosen_as_recorded(vectors: Load) -> None:
    problems = []
    for case in of_kind(vectors, "domain_lookup"):
        domain = Domain.parse(case["config"]["config-domain"])
        got = [domain.lookup(labels or {}) for labels in case["label_sets"]]
        if got != case["expect"]:
            problems.append(f"{case['id']}: wanted {case['expect']}, got {got}")
    assert not problems, "\n".join(problems)


def test_hosts_are_as_recorded(vectors: Load) -> None:
    problems = []
    for case in of_kind(vectors, "urls"):
        got = hosts(case)
        problems += [
            f"{case['id']}: {part}: wanted {case['expect'].get(part)}, got {got.get(part)}"
            for part in sorted(case["expect"].keys() | got.keys())
            if case["expect"].get(part) != got.get(part)
        ]
    assert not problems, "\n".join(problems[:40])


def of_kind(vectors: Load, fn: str) -> list[Obj]:
    return [case for case in vectors("serving/names_urls.json")["cases"] if case["fn"] == fn]


def hosts(case: Obj) -> Obj:
    try:
        network = Network.parse(case["config"]["config-network"])
    except ConfigError as exc:
        return {"error": f"config-network: {exc}"}
    names = Names(route=case["route"], network=network, domain=Domain.parse(case["config"]["config-domain"]))
    tags = list(dict.fromkeys(["", *(target.get("tag", "") for target in case["route"]["spec"]["traffic"])]))
    local = names.visibility(tags, {meta.name(service): service for service in case["services"]})
    made: Obj = {
        "visibility": {tag: "ClusterLocal" if local[tag] else "ExternalIP" for tag in tags},
        "per_visibility": {f"{tag}/{kind}": of_tag(names, tag, kind) for tag in tags for kind in KINDS},
    }
    try:
        made["domain_to_tag"] = {names.primary(tag, local=local[tag]): tag for tag in tags}
    except DomainNameError as exc:
        made["domains_error"] = str(exc)
    return made


KINDS = {"ClusterLocal": True, "ExternalIP": False}


def of_tag(names: Names, tag: str, kind: str) -> Obj:
    try:
        primary = names.primary(tag, local=KINDS[kind])
        found = [*names.hosts(tag, local=True).local] if KINDS[kind] else [primary]
    except DomainNameError as exc:
        return {"error": str(exc)}
    return {"primary": primary, "hosts": found}
