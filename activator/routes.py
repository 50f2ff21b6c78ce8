"""Which revision a request is for: host, path, headers, then weight.

The table is built from KIngress objects and changed one object at a time, so that a thousand services cost nothing
when one of them changes. A host belongs to one KIngress: a second one claiming it gets nothing for that host until
the first lets go (the older wins, serving §7.6). Visibility separates two tables: `internal` knows every host,
`public` only those with ExternalIP.

Pure data: no sockets, no clock. Looking up costs one dict access for the usual rule (one path, no header conditions).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from activator.split import Rotation
from kncore.api import keys, kingress, meta
from kncore.kube.client import Obj

__all__ = ["Host", "Path", "Table", "Target", "compile_ingress"]

Lookup = Callable[[bytes], bytes]
"""A request's header by lower-case name; empty if absent."""

_ROUTING = {keys.HEADER_REVISION.lower(), keys.HEADER_NAMESPACE.lower()}


@dataclass(frozen=True, slots=True)
class Target:
    """One revision of a split."""

    namespace: str
    revision: str
    lines: tuple[bytes, ...] = ()
    """Header lines this split adds."""
    names: frozenset[bytes] = frozenset()
    """Lower-case names of those lines: what a client sent under them is dropped."""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.revision


@dataclass(frozen=True, slots=True)
class Path:
    """One path of a rule."""

    prefix: bytes
    conditions: tuple[tuple[bytes, bytes], ...]
    """Headers that must have exactly these values."""
    authority: bytes | None
    """`Host` for the upstream; None keeps the client's."""
    split: Rotation[Target]


@dataclass(frozen=True, slots=True)
class Host:
    """What one host name leads to."""

    ingress: tuple[str, str]
    hash: str
    """Hash of the KIngress this came from, for readiness probes."""
    paths: tuple[Path, ...]
    public: bool
    only: Path | None = None
    """The path, when there is just one without conditions."""

    def find(self, target: bytes, header: Lookup) -> Path | None:
        """The first path that fits; they are sorted, most demanding first."""
        if self.only is not None:
            return self.only
        for path in self.paths:
            if target.startswith(path.prefix) and all(header(name) == value for name, value in path.conditions):
                return path
        return None


def compile_ingress(ingress: Obj) -> dict[str, Host]:
    """The hosts of one KIngress. Rules that are not usable are left out: they were admitted by someone who knows
    more.
    """
    key = (meta.namespace(ingress), meta.name(ingress))
    made = kingress.spec_hash(ingress)
    hosts: dict[str, Host] = {}
    for rule in meta.at(ingress, "spec", "rules", default=[]):
        paths = sorted(_paths(rule, key[0]), key=lambda path: (-len(path.prefix), -len(path.conditions)))
        if not paths:
            continue
        only = paths[0] if len(paths) == 1 and not paths[0].prefix and not paths[0].conditions else None
        public = rule.get("visibility", "ExternalIP") != "ClusterLocal"
        for host in rule.get("hosts") or ():
            hosts[host.lower()] = Host(key, made, tuple(paths), public, only)
    return hosts


def _paths(rule: Obj, namespace: str) -> Iterable[Path]:
    for path in meta.at(rule, "http", "paths", default=[]):
        targets = [(_target(split, path, namespace), split.get("percent", 0)) for split in path.get("splits") or ()]
        try:
            rotation = Rotation(targets)
        except (ValueError, IndexError):
            continue
        conditions = tuple(
            (name.lower().encode(), str(match.get("exact", "")).encode())
            for name, match in (path.get("headers") or {}).items()
        )
        authority = path.get("rewriteHost")
        prefix = path.get("path") or ""
        yield Path(
            b"" if prefix == "/" else prefix.encode(), conditions, authority.encode() if authority else None, rotation
        )


def _target(split: Obj, path: Obj, namespace: str) -> Target:
    """A split's target: the revision its headers name, else the one its Service is named after."""
    appended: dict[str, str] = {**(path.get("appendHeaders") or {}), **(split.get("appendHeaders") or {})}
    revision = appended.get(keys.HEADER_REVISION) or split["serviceName"]
    space = appended.get(keys.HEADER_NAMESPACE) or split.get("serviceNamespace") or namespace
    added = {name: value for name, value in appended.items() if name.lower() not in _ROUTING}
    lines = tuple(f"{name}: {value}".encode() for name, value in added.items() if _is_clean(name, value))
    return Target(space, revision, lines, frozenset(name.lower().encode() for name in added))


def _is_clean(name: str, value: str) -> bool:
    """A header line that cannot break the message it is put into."""
    return bool(name) and all(c > " " and c not in ":\x7f" for c in name) and not set(value) & {"\r", "\n", "\0"}


@dataclass
class Table:
    """Every host of every KIngress; see the module for who owns a host.

    Args:
        serves: whether an ingress class is ours.
    """

    serves: Callable[[str], bool] = lambda class_: True
    hosts: dict[str, Host] = field(default_factory=dict)
    """The host in force, by name without port."""
    _claims: dict[str, list[tuple[str, tuple[str, str], Host]]] = field(default_factory=dict)
    """All claims on a host: (creation time, KIngress, host), the oldest first."""
    _of: dict[tuple[str, str], Sequence[str]] = field(default_factory=dict)

    def put(self, ingress: Obj) -> None:
        """Add or replace one KIngress."""
        key = (meta.namespace(ingress), meta.name(ingress))
        self.remove(key)
        if not self.serves(keys.lookup(meta.annotations(ingress), keys.INGRESS_CLASS) or ""):
            return
        compiled = compile_ingress(ingress)
        created = meta.at(ingress, "metadata", "creationTimestamp", default="")
        for name, host in compiled.items():
            claims = self._claims.setdefault(name, [])
            claims.append((created, key, host))
            claims.sort(key=lambda claim: claim[:2])
            self.hosts[name] = claims[0][2]
        self._of[key] = tuple(compiled)

    def remove(self, key: tuple[str, str]) -> None:
        """Forget one KIngress; hosts it held go to the next claimant."""
        for name in self._of.pop(key, ()):
            claims = [claim for claim in self._claims[name] if claim[1] != key]
            if claims:
                self._claims[name] = claims
                self.hosts[name] = claims[0][2]
            else:
                del self._claims[name], self.hosts[name]

    def guess(self, name: str) -> Host | None:
        """The public host of the same service under another domain: `hello.default.example.com` for
        `hello.default.localhost`.

        Only for a platform on one machine, where any domain may be typed.
        """
        labels = name.split(".", 2)
        if len(labels) < 3:
            return None
        local = self.hosts.get(f"{labels[0]}.{labels[1]}")
        if local is None:
            return None
        prefix = f"{labels[0]}.{labels[1]}."
        return next(
            (
                host
                for other in self._of.get(local.ingress, ())
                if other.startswith(prefix) and (host := self.hosts.get(other)) is not None and host.public
            ),
            None,
        )

    def revisions(self) -> Mapping[tuple[str, str], int]:
        """How many hosts lead to each revision."""
        counted: dict[tuple[str, str], int] = {}
        for host in self.hosts.values():
            for target in {target.key for path in host.paths for target in path.split.targets}:
                counted[target] = counted.get(target, 0) + 1
        return counted

    def statistics(self) -> dict[str, Any]:
        return {"hosts": len(self.hosts), "ingresses": len(self._of)}
