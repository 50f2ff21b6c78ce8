"""The proxy: a few listeners, one path.

    public    -> [strip] [to https]                                 -> route -> Passage
    https     -> [strip]                                            -> route -> Passage
    internal  -> [health] [network probe] [component probe] [wakes] -> route -> Passage -> else: elsewhere

The public listener is for the world: internal headers from there are dropped, so nobody outside chooses a revision or
passes for a probe, and only hosts with external visibility exist there. With TLS it is the same; without, hosts that
want it (`httpOption: Redirected`) answer with their https address. The internal listener is for pods and for the
control plane: it knows every host, trusts routing headers, answers probes, and is the HTTP proxy that makes cluster
names work where no resolver knows them.
"""

import html
from collections.abc import Callable, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Final
from urllib.parse import parse_qs

import orjson

from activator.observed import Observed, Observer
from activator.revision import Key, Passage, Revision, not_found
from activator.routes import Host, Table, Target
from activator.wakes import Wakes
from kncore.net.exchange import Exchange, Upstream
from kncore.net.headers import HOP_BY_HOP, forwarded_for

__all__ = ["Proxy"]

PROXIED: Final = b"K-Proxy-Request: activator"
_PROTO: Final = {b"http": b"X-Forwarded-Proto: http", b"https": b"X-Forwarded-Proto: https"}
ACME: Final = b"/.well-known/acme-challenge/"
VIA: Final = b"1.1 torpor-activator"
JSON: Final = (b"Content-Type: application/json",)

_INTERNAL_NAMES: Final = frozenset(
    {
        b"k-kubelet-probe",
        b"k-network-hash",
        b"k-network-probe",
        b"k-original-host",
        b"k-passthrough-lb",
        b"k-proxy-request",
        b"knative-direct-lb",
        b"knative-serving-default-route",
        b"knative-serving-namespace",
        b"knative-serving-revision",
    }
)
"""Headers that mean something between our own parts; from outside they mean nothing."""
_REPLACED: Final = HOP_BY_HOP | {b"host", b"x-forwarded-for", b"k-proxy-request"}
"""Written anew on every request."""
DROP_PUBLIC: Final = _REPLACED | _INTERNAL_NAMES
DROP_HTTPS: Final = DROP_PUBLIC | {b"x-forwarded-proto"}
"""With TLS ending here nobody else knows better how the request came."""
DROP_INTERNAL: Final = _REPLACED | {b"k-network-hash", b"knative-serving-namespace", b"knative-serving-revision"}
DROP_ELSEWHERE: Final = HOP_BY_HOP | {b"host"}


class Way:
    """What a request head comes to at one target; kept with the head, for it may come again."""

    __slots__ = ("add", "drop", "target")

    def __init__(self, target: Target, drop: frozenset[bytes], add: Sequence[bytes]) -> None:
        self.target = target
        self.drop = drop
        self.add = add


class Proxy:
    """Routes requests to revisions; `public` and `internal` are the handlers of the two listeners.

    Args:
        healthy: None while this process is fit to serve, else why it is not.
        any_domain: accept `<name>.<namespace>.<anything>`, for a platform on one machine.
        elsewhere: an upstream for a host that is none of ours, None if there is no such host; only asked for requests
            from inside. None refuses all: in a cluster, where pods have a network of their own and policies about it,
            an open proxy would be a way around them.
        https_port: where clients reach the https listener.
    """

    def __init__(
        self,
        table: Table,
        wakes: Wakes,
        *,
        healthy: Callable[[], str | None],
        cluster_domain: str = "cluster.local",
        any_domain: bool = False,
        elsewhere: Callable[[bytes], Upstream | None] | None = None,
        https_port: int = 443,
    ) -> None:
        self.table = table
        self.revisions: dict[Key, Revision] = {}
        self._wakes = wakes
        self._healthy = healthy
        self._suffix = f".svc.{cluster_domain}"
        self._any_domain = any_domain
        self._elsewhere = elsewhere
        self._https_port = https_port
        self._names: dict[bytes, str] = {}
        self._drops: dict[tuple[frozenset[bytes], frozenset[bytes]], frozenset[bytes]] = {}
        self._unrouted = 0
        self.observer: Observer | None = None
        """Who wants to know about every request; None is nobody, and the usual case."""

    # listeners -------------------------------------------------------------------------------------------------------

    def public(self, exchange: Exchange) -> None:
        """A request from outside."""
        name = self._name(exchange.host)
        host = self.host(name)
        if host is None or not host.public:
            self._unknown(exchange, name)
        else:
            if host.secure and self._to_https(exchange, name):
                return
            self._follow(exchange, host, DROP_PUBLIC)

    def https(self, exchange: Exchange) -> None:
        """A request from outside, in TLS."""
        exchange.scheme = b"https"
        name = self._name(exchange.host)
        host = self.host(name)
        if host is None or not host.public:
            self._unknown(exchange, name)
        else:
            self._follow(exchange, host, DROP_HTTPS)

    def internal(self, exchange: Exchange) -> None:
        """A request from a pod or from the control plane."""
        fields = exchange.fields
        if exchange.value(b"user-agent").startswith(b"kube-probe/") or exchange.value(b"k-kubelet-probe"):
            self._answer_kubelet(exchange)
            return
        if b"k-network-probe" in fields and (probe := exchange.value(b"k-network-probe")):
            self._answer_probe(exchange, probe)
            return
        if b"knative-serving-revision" in fields:
            revision = exchange.value(b"knative-serving-revision").decode("latin-1")
            namespace = exchange.value(b"knative-serving-namespace").decode("latin-1")
            if revision and namespace:
                self._enter(exchange, (namespace, revision))
                return
        name = self._name(exchange.host)
        host = self.host(name)
        if host is not None:
            self._follow(exchange, host, DROP_INTERNAL)
        elif (named := self._revision_of(name)) is not None:
            self._enter(exchange, named)
        elif exchange.target.partition(b"?")[0] == b"/_torpor/wakes":
            self._show_wakes(exchange)
        elif self._elsewhere is not None and not name.endswith(self._suffix):
            self._leave(exchange, name)
        else:
            self._unknown(exchange, name)

    # public layers ---------------------------------------------------------------------------------------------------

    def _to_https(self, exchange: Exchange, name: str) -> bool:
        """Send the client to the same address in https; False for what must be answered here.

        What a load balancer in front decrypted came in TLS. Authorities that prove who owns a host ask for their
        challenge in clear, for there may be no certificate yet.
        """
        if exchange.value(b"x-forwarded-proto") == b"https" or exchange.target.startswith(ACME):
            return False
        port = b"" if self._https_port == 443 else b":%d" % self._https_port
        target = exchange.target if exchange.target.startswith(b"/") else b"/"
        exchange.respond(301, b"", (b"Location: https://" + name.encode("latin-1") + port + target,))
        return True

    # internal layers -------------------------------------------------------------------------------------------------

    def _answer_kubelet(self, exchange: Exchange) -> None:
        unfit = self._healthy()
        exchange.respond(200 if unfit is None else 500, (unfit or "").encode())

    def _answer_probe(self, exchange: Exchange, probe: bytes) -> None:
        if probe == b"probe":
            sent = exchange.value(b"k-network-hash")
            if not sent:
                exchange.respond(400, b'a probe request must contain a non-empty "K-Network-Hash" header\n')
                return
            if sent == b"override":
                name = self._name(exchange.host)
                host = self.table.hosts.get(name)
                if host is None:
                    self._unknown(exchange, name)
                    return
                sent = host.hash.encode()
            exchange.respond(200, b"", (b"K-Network-Hash: " + sent,))
        elif probe == b"activator":
            exchange.respond(200, b"activator")
        else:
            shown = html.escape(probe.decode("latin-1")).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")  # as Go
            exchange.respond(400, f'unexpected probe header value: "{shown}"\n'.encode("latin-1"))

    def _leave(self, exchange: Exchange, name: str) -> None:
        """Be a pod's HTTP proxy to the outside world."""
        assert self._elsewhere is not None
        via = exchange.value(b"via")
        if VIA in via:
            # An address of our own, by whatever name: without this the request would come back for ever.
            exchange.respond(508, f"no service answers for the host {name!r}, which is this proxy itself\n".encode())
        elif (upstream := self._elsewhere(exchange.host)) is not None:
            exchange.forward(upstream, drop=DROP_ELSEWHERE, add=(b"Via: " + VIA,))
        else:
            self._unknown(exchange, name)

    def _show_wakes(self, exchange: Exchange) -> None:
        query = parse_qs(exchange.target.partition(b"?")[2].decode("latin-1"))
        chosen = self._wakes.select(query.get("namespace", [""])[0], query.get("revision", [""])[0])
        exchange.respond(200, orjson.dumps([wake.to_json() for wake in chosen]), JSON)

    # routing ---------------------------------------------------------------------------------------------------------

    def _name(self, authority: bytes) -> str:
        """The host name of an authority: no port, lower case, no trailing dot."""
        name = self._names.get(authority)
        if name is None:
            text = authority.decode("latin-1").lower()
            if not text.endswith("]"):
                text = text.rpartition(":")[0] or text
            name = text.rstrip(".")
            if len(self._names) >= 10_000:  # names are the client's choice
                self._names.clear()
            self._names[authority] = name
        return name

    def host(self, name: str) -> Host | None:
        """Who has a host name, in lower case and without port."""
        host = self.table.hosts.get(name)
        if host is None and self._any_domain:
            host = self.table.guess(name)
        return host

    def _revision_of(self, name: str) -> Key | None:
        """`<revision>.<namespace>.svc.<cluster domain>` as a key."""
        if not name.endswith(self._suffix):
            return None
        labels = name[: -len(self._suffix)].split(".")
        return (labels[1], labels[0]) if len(labels) == 2 else None

    def _follow(self, exchange: Exchange, host: Host, drop: frozenset[bytes]) -> None:
        entered = perf_counter() if b"prefer" in exchange.fields else 0.0
        path = host.only or host.find(exchange.target, exchange.value)
        if path is None:
            self._unknown(exchange, self._name(exchange.host))
            return
        target = path.split.pick()
        revision = self.revisions.get(target.key)
        if revision is None:
            exchange.respond(404, not_found(target.key))
            return
        way: Way | None = exchange.head.plan
        if way is None or way.target is not target:
            add = _added(exchange, drop)
            if target.lines:
                drop = self._drop(drop, target)
                add = (*add, *target.lines)
            way = exchange.head.plan = Way(target, drop, add)
        if entered or self.observer is not None:
            Observed(exchange, revision, way.drop, way.add, path.authority, self.observer, entered).start()
        else:
            Passage(exchange, revision, way.drop, way.add, path.authority).start()

    def _drop(self, drop: frozenset[bytes], target: Target) -> frozenset[bytes]:
        """What is not passed on when the target adds lines of its own."""
        drops = self._drops.get((drop, target.names))
        if drops is None:
            if len(self._drops) >= 1_000:
                self._drops.clear()
            drops = self._drops[drop, target.names] = drop | target.names
        return drops

    def _enter(self, exchange: Exchange, key: Key) -> None:
        revision = self.revisions.get(key)
        if revision is None:
            exchange.respond(404, not_found(key))
        elif b"prefer" in exchange.fields or self.observer is not None:
            add = _added(exchange, DROP_INTERNAL)
            Observed(exchange, revision, DROP_INTERNAL, add, None, self.observer, perf_counter()).start()
        else:
            Passage(exchange, revision, DROP_INTERNAL, _added(exchange, DROP_INTERNAL), None).start()

    def _unknown(self, exchange: Exchange, name: str) -> None:
        self._unrouted += 1
        text = f"no service answers for the host {name!r}; `kubectl get ksvc -A` lists the URLs there are\n"
        exchange.respond(404, text.encode("latin-1", "replace"))

    def statistics(self) -> dict[str, int]:
        """Revisions, hosts, and requests for a host that nobody knows."""
        return {"revisions": len(self.revisions), "unrouted": self._unrouted, **self.table.statistics()}


def _added(exchange: Exchange, drop: frozenset[bytes]) -> Sequence[bytes]:
    """Header lines that every forwarded request gets."""
    fields = exchange.fields
    proto = b"x-forwarded-proto" not in fields or drop is DROP_HTTPS
    if proto and b"x-forwarded-for" not in fields:
        return _told(exchange.peer, exchange.scheme)
    lines = (PROXIED, forwarded_for(exchange.value(b"x-forwarded-for"), exchange.peer.encode()))
    return (*lines, _PROTO[exchange.scheme]) if proto else lines


@lru_cache(maxsize=4096)
def _told(peer: str, scheme: bytes) -> Sequence[bytes]:
    """The lines for a request without any of them; remembered, for clients send more than one."""
    return PROXIED, forwarded_for(None, peer.encode()), _PROTO[scheme]
