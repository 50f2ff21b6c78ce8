"""Which revision a request is for: host, path, headers, then weight.

The table is built from KIngress objects and changed one object at a time, so that a thousand services cost nothing
when one of them changes. A host belongs to one KIngress: a second one claiming it gets nothing for that host until
the first lets go (the older wins, serving §7.6). Visibility separates two tables: `internal` knows every host,
`public` only those with ExternalIP.

Whoever may write a KIngress chooses hosts and headers, so nothing of it is trusted: what could break a message it is
put into is left out, and a rule that makes no sense serves nobody.

Pure data: no sockets, no clock. Looking up costs one dict access for the usual rule (one path, no header conditions).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from activator.split import Rotation
from kncore.api import keys, kingress, meta
from kncore.kube.client import Obj
from kncore.net.headers import FRAMING, HOP_BY_HOP

__all__ = ["Host", "Path", "Table", "Target", "compile_ingress"]

Lookup = Callable[[bytes], bytes]
"""A request's header by lower-case name; empty if absent."""
Key = tuple[str, str]

_ROUTING: Final = {keys.HEADER_REVISION.lower(), keys.HEADER_NAMESPACE.lower()}
_OURS: Final = frozenset(name.decode() for name in HOP_BY_HOP | FRAMING | {b"host", b"trailer"})
"""Headers that say where a message ends or whom it is for: never a KIngress's to write."""
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[^\0-\x08\x0a-\x1f\x7f]*")
_AUTHORITY: Final = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Target:
    """One revision of a split."""

    key: Key
    """(namespace, revision)."""
    lines: tuple[bytes, ...] = ()
    """Header lines this split adds."""
    names: frozenset[bytes] = frozenset()
    """Lower-case names of those lines: what a client sent under them is dropped."""


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

    ingress: Key
    """The KIngress this came from."""
    hash: str
    """Hash of that version of it, for readiness probes."""
    paths: tuple[Path, ...]
    public: bool
    only: Path | None = None
    """The path, when there is just one without conditions."""
    secure: bool = False
    """Who comes from outside without TLS is sent to https."""

    def find(self, target: bytes, header: Lookup) -> Path | None:
        """The first path that fits; they are sorted, most demanding first."""
        if self.only is not None:
            return self.only
        for path in self.paths:
            if target.startswith(path.prefix) and all(header(name) == value for name, value in path.conditions):
                return path
        return None


def compile_ingress(ingress: Obj) -> dict[str, Host]:
    """The hosts of one KIngress, without the paths and rules that cannot be served."""
    key = (meta.namespace(ingress), meta.name(ingress))
    made = kingress.spec_hash(ingress)
    redirected = meta.at(ingress, "spec", "httpOption") == "Redirected"
    hosts: dict[str, Host] = {}
    for rule in meta.at(ingress, "spec", "rules", default=[]):
        paths = sorted(_paths(rule, key[0]), key=lambda path: (-len(path.prefix), -len(path.conditions)))
        if not paths:
            continue
        only = paths[0] if len(paths) == 1 and not paths[0].prefix and not paths[0].conditions else None
        public = rule.get("visibility", "ExternalIP") != "ClusterLocal"
        for host in rule.get("hosts") or ():
            hosts[host.lower().rstrip(".")] = Host(key, made, tuple(paths), public, only, public and redirected)
    return hosts


def _paths(rule: Obj, namespace: str) -> Iterable[Path]:
    for path in meta.at(rule, "http", "paths", default=[]):
        authority = path.get("rewriteHost") or ""
        try:
            rotation = Rotation(
                [(_target(split, path, namespace), split.get("percent") or 0) for split in path.get("splits") or ()]
            )
        except ValueError:
            continue
        if authority and not _AUTHORITY.fullmatch(authority):
            continue
        conditions = tuple(
            (name.lower().encode(), str(match.get("exact", "")).encode())
            for name, match in (path.get("headers") or {}).items()
        )
        prefix = path.get("path") or ""
        yield Path(
            b"" if prefix == "/" else prefix.encode(), conditions, authority.encode() if authority else None, rotation
        )


def _target(split: Obj, path: Obj, namespace: str) -> Target:
    """A split's target: the revision its headers name, else the one its Service is named after.

    Raises:
        ValueError: it names neither, or one of another namespace: that would make public what its owner did not.
    """
    appended: dict[str, str] = {**(path.get("appendHeaders") or {}), **(split.get("appendHeaders") or {})}
    revision = appended.get(keys.HEADER_REVISION) or split.get("serviceName")
    if not revision:
        raise ValueError("a split names no Service")
    if (appended.get(keys.HEADER_NAMESPACE) or split.get("serviceNamespace") or namespace) != namespace:
        raise ValueError("a split leads to another namespace")
    added = {name: value for name, value in appended.items() if name.lower() not in _ROUTING and _fits(name, value)}
    lines = tuple(f"{name}: {value}".encode() for name, value in added.items())
    return Target((namespace, revision), lines, frozenset(name.lower().encode() for name in added))


def _fits(name: str, value: str) -> bool:
    """Whether this is one header line and nothing else, and not one of ours."""
    return bool(_TOKEN.fullmatch(name)) and bool(_VALUE.fullmatch(value)) and name.lower() not in _OURS


_Claim = tuple[str, str, Host]
"""(creation time, `namespace/name` of the KIngress, host): claims compare by age, and by name within one second, as
the controller that reports conflicts compares them."""


@dataclass
class Table:
    """Every host of every KIngress; see the module for who owns a host.

    Args:
        serves: whether an ingress class is ours.
    """

    serves: Callable[[str], bool] = lambda class_: True
    hosts: dict[str, Host] = field(default_factory=dict)
    """The host in force, by name without port."""
    _claims: dict[str, list[_Claim]] = field(default_factory=dict)
    """All claims on a host, the oldest first."""
    _of: dict[Key, tuple[Obj, Sequence[str]]] = field(default_factory=dict)
    """Each KIngress as it was put, and the hosts it claims."""

    def put(self, ingress: Obj) -> None:
        """Add or replace one KIngress; one whose routes did not change (its status did) keeps its place in every
        split.
        """
        key = (meta.namespace(ingress), meta.name(ingress))
        known = self._of.get(key)
        if known is not None and _same(known[0], ingress):
            return
        compiled = compile_ingress(ingress) if self.serves(_class(ingress)) else {}
        self.remove(key)
        created = meta.at(ingress, "metadata", "creationTimestamp", default="")
        for name, host in compiled.items():
            claims = self._claims.setdefault(name, [])
            claims.append((created, meta.key(ingress), host))
            claims.sort(key=lambda claim: claim[:2])
            self.hosts[name] = claims[0][2]
        if compiled:
            self._of[key] = ingress, tuple(compiled)

    def remove(self, key: Key) -> None:
        """Forget one KIngress; hosts it held go to the next claimant."""
        _, names = self._of.pop(key, (None, ()))
        for name in names:
            claims = [claim for claim in self._claims[name] if claim[2].ingress != key]
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
        for other in self._of[local.ingress][1]:
            host = self.hosts[other]
            if other.startswith(prefix) and host.public and host.ingress == local.ingress:
                return host
        return None

    def statistics(self) -> dict[str, int]:
        """Hosts in force, KIngresses served, and hosts that more than one of them claims."""
        return {
            "hosts": len(self.hosts),
            "ingresses": len(self._of),
            "contested": sum(len(claims) > 1 for claims in self._claims.values()),
        }


def _class(ingress: Obj) -> str:
    return keys.lookup(meta.annotations(ingress), keys.INGRESS_CLASS) or ""


def _same(one: Obj, other: Obj) -> bool:
    """Whether two versions of a KIngress route alike."""
    return (
        one.get("spec") == other.get("spec")
        and _class(one) == _class(other)
        and meta.at(one, "metadata", "creationTimestamp") == meta.at(other, "metadata", "creationTimestamp")
    )
