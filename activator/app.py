"""The proxy: two listeners, one path.

    public    -> [strip]                                            -> route -> Revision
    internal  -> [health] [network probe] [component probe] [wakes] -> route -> Revision

The public listener is for the world: internal headers from there are dropped, so nobody outside chooses a revision or
passes for a probe. The internal listener is for pods and for the control plane: it knows every host, trusts routing
headers, answers probes, and is the HTTP proxy that makes cluster names work where no resolver knows them.
"""

from collections.abc import Callable, Collection
from urllib.parse import parse_qs

import orjson

from activator.revision import Key, Passage, Revision
from activator.routes import Host, Table
from activator.wakes import Wakes
from kncore.net.exchange import TEXT, Exchange, Upstream
from kncore.net.headers import HOP_BY_HOP, forwarded_for

__all__ = ["Proxy"]

PROXIED = b"K-Proxy-Request: activator"
JSON = (b"Content-Type: application/json",)

_INTERNAL_NAMES = frozenset(
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
_REPLACED = HOP_BY_HOP | {b"host", b"x-forwarded-for", b"k-proxy-request"}
"""Written anew on every request."""
DROP_PUBLIC = _REPLACED | _INTERNAL_NAMES
DROP_INTERNAL = _REPLACED | {b"k-network-hash", b"knative-serving-namespace", b"knative-serving-revision"}


class Proxy:
    """Routes requests to revisions; `public` and `internal` are the handlers of the two listeners.

    Args:
        healthy: None while this process is fit to serve, else why it is not.
        any_domain: accept `<name>.<namespace>.<anything>`, for a platform on one machine.
        elsewhere: an upstream for a host that is none of ours, None to refuse; only asked for requests from inside.
    """

    def __init__(
        self,
        table: Table,
        wakes: Wakes,
        *,
        healthy: Callable[[], str | None],
        cluster_domain: str = "cluster.local",
        any_domain: bool = False,
        elsewhere: Callable[[bytes], Upstream | None] = lambda authority: None,
    ) -> None:
        self.table = table
        self.revisions: dict[Key, Revision] = {}
        self._wakes = wakes
        self._healthy = healthy
        self._suffix = f".svc.{cluster_domain}"
        self._any_domain = any_domain
        self._elsewhere = elsewhere
        self._names: dict[bytes, str] = {}
        self._unrouted = 0

    # listeners -------------------------------------------------------------------------------------------------------

    def public(self, exchange: Exchange) -> None:
        """A request from outside."""
        name = self._name(exchange.host)
        host = self.table.hosts.get(name)
        if host is None and self._any_domain:
            host = self.table.guess(name)
        if host is None or not host.public:
            self._unknown(exchange, name)
        else:
            self._follow(exchange, host, DROP_PUBLIC)

    def internal(self, exchange: Exchange) -> None:
        """A request from a pod or from the control plane."""
        fields = exchange.fields
        if b"k-kubelet-probe" in fields or exchange.value(b"user-agent").startswith(b"kube-probe/"):
            self._answer_kubelet(exchange)
            return
        if b"k-network-probe" in fields:
            self._answer_probe(exchange)
            return
        if b"knative-serving-revision" in fields and b"knative-serving-namespace" in fields:
            key = (
                exchange.value(b"knative-serving-namespace").decode("latin-1"),
                exchange.value(b"knative-serving-revision").decode("latin-1"),
            )
            self._enter(exchange, key, DROP_INTERNAL)
            return
        name = self._name(exchange.host)
        host = self.table.hosts.get(name)
        if host is None and self._any_domain:
            host = self.table.guess(name)
        if host is not None:
            self._follow(exchange, host, DROP_INTERNAL)
        elif (named := self._revision_of(name)) in self.revisions:
            self._enter(exchange, named, DROP_INTERNAL)
        elif exchange.target.startswith(b"/_torpor/wakes"):
            self._show_wakes(exchange)
        elif not name.endswith(self._suffix) and (upstream := self._elsewhere(exchange.host)) is not None:
            exchange.forward(upstream, drop=_REPLACED)
        else:
            self._unknown(exchange, name)

    # internal layers -------------------------------------------------------------------------------------------------

    def _answer_kubelet(self, exchange: Exchange) -> None:
        unfit = self._healthy()
        exchange.respond(200 if unfit is None else 500, (unfit or "").encode())

    def _answer_probe(self, exchange: Exchange) -> None:
        probe = exchange.value(b"k-network-probe")
        if probe == b"probe":
            sent = exchange.value(b"k-network-hash")
            if not sent:
                exchange.respond(400, b'a probe request must contain a non-empty "K-Network-Hash" header\n')
                return
            if sent == b"override":
                host = self.table.hosts.get(self._name(exchange.host))
                if host is None:
                    self._unknown(exchange, self._name(exchange.host))
                    return
                sent = host.hash.encode()
            exchange.respond(200, b"", (b"K-Network-Hash: " + sent,))
            return
        if probe == b"activator":
            exchange.respond(200, b"activator")
            return
        shown = probe.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;").replace(b'"', b"&#34;")
        exchange.respond(400, b'unexpected probe header value: "' + shown + b'"\n')

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

    def _revision_of(self, name: str) -> Key:
        """`<revision>.<namespace>.svc.<cluster domain>` as a key; a key of nothing for any other name."""
        labels = name.removesuffix(self._suffix).split(".") if name.endswith(self._suffix) else []
        return (labels[1], labels[0]) if len(labels) == 2 else ("", "")

    def _follow(self, exchange: Exchange, host: Host, drop: Collection[bytes]) -> None:
        path = host.find(exchange.target, exchange.value)
        if path is None:
            self._unknown(exchange, self._name(exchange.host))
            return
        target = path.split.pick()
        revision = self.revisions.get(target.key)
        if revision is None:
            self._missing(exchange, target.key)
            return
        add = _added(exchange)
        if target.lines:
            drop = frozenset((*drop, *target.names))
            add.extend(target.lines)
        Passage(exchange, revision, drop, add, path.authority).start()

    def _enter(self, exchange: Exchange, key: Key, drop: Collection[bytes]) -> None:
        revision = self.revisions.get(key)
        if revision is None:
            self._missing(exchange, key)
        else:
            Passage(exchange, revision, drop, _added(exchange), None).start()

    def _missing(self, exchange: Exchange, key: Key) -> None:
        text = f'Error getting active endpoint: revision.serving.knative.dev "{key[1]}" not found\n'
        exchange.respond(404, text.encode("latin-1", "replace"))

    def _unknown(self, exchange: Exchange, name: str) -> None:
        self._unrouted += 1
        text = f"no service answers for the host {name!r}; `kubectl get ksvc -A` lists the URLs there are\n"
        exchange.respond(404, text.encode("latin-1", "replace"), TEXT)

    def statistics(self) -> dict[str, int]:
        return {"revisions": len(self.revisions), "unrouted": self._unrouted, **self.table.statistics()}


def _added(exchange: Exchange) -> list[bytes]:
    """Header lines that every forwarded request gets."""
    before = exchange.fields.get(b"x-forwarded-for")
    peer = exchange.peer.encode()
    lines = [PROXIED, forwarded_for(before and exchange.value(b"x-forwarded-for"), peer)]
    if b"x-forwarded-proto" not in exchange.fields:
        lines.append(b"X-Forwarded-Proto: " + exchange.scheme)
    return lines
