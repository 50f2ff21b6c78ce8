"""ConfigMap config-domain: which domain a route's host names end in (serving §3.6)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Self

from kncore.config.reader import EXAMPLE, Reader
from kncore.config.yamltext import load_mapping, string_map, text

__all__ = ["CLUSTER_DOMAIN", "Domain", "Rule"]

CLUSTER_DOMAIN: Final = "cluster.local"
"""Suffix of names inside a cluster, unless it was set up with another."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which routes a domain is for."""

    selector: Mapping[str, str] = field(default_factory=dict)
    """Labels a route must have; empty = every route."""
    type: str = ""
    """`wildcard` for a default domain: one certificate may cover a namespace in it."""


def _cluster_only() -> dict[str, Rule]:
    return {f"svc.{CLUSTER_DOMAIN}": Rule(type="wildcard")}


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Domains by name. Without a default domain, routes that match none are only reachable inside the cluster."""

    domains: Mapping[str, Rule] = field(default_factory=_cluster_only)
    cluster_domain: str = CLUSTER_DOMAIN

    @classmethod
    def parse(cls, data: Mapping[str, str], *, cluster_domain: str = CLUSTER_DOMAIN) -> Self:
        """The configuration in a ConfigMap's data: every key is a domain.

        Raises:
            InvalidConfig: naming every bad key.
        """
        read = Reader(data)
        domains: dict[str, Rule] = {}
        for name in sorted(data):
            if name != EXAMPLE:
                domains[name] = read.attempt(partial(_rule, data[name]), Rule(), name)
        read.finish()
        if all(rule.selector for rule in domains.values()):
            domains[f"svc.{cluster_domain}"] = Rule(type="wildcard")
        return cls(domains=domains, cluster_domain=cluster_domain)

    def lookup(self, labels: Mapping[str, str]) -> str:
        """The domain for a route with these labels: most selector labels wins, then the first by name."""
        if labels.get("networking.knative.dev/visibility") == "cluster-local":
            return f"svc.{self.cluster_domain}"
        fitting = [
            (-len(rule.selector), name)
            for name, rule in self.domains.items()
            if all(labels.get(key) == value for key, value in rule.selector.items())
        ]
        return min(fitting)[1] if fitting else ""


def _rule(source: str) -> Rule:
    entry = load_mapping(source, "config.DomainConfig")
    selector = string_map(entry.get("selector"))
    return Rule(selector=selector, type=text(entry.get("type")) if selector else "wildcard")
