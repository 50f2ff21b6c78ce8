"""The two listeners: who may say what, and which texts come back (serving §5.2)."""

import orjson
import pytest

from activator.app import DROP_PUBLIC
from kncore.api.kingress import spec_hash

HELLO = ("default", "hello-1")
POD = "10.1.0.1:8012"


def ingress(name="hello", *, tag="", public=True, percent=None, **path):
    """The KIngress that a Route makes for a service."""
    shares = percent or {f"{name}-1": 100}
    splits = [
        {
            "serviceName": revision,
            "serviceNamespace": "default",
            "servicePort": 80,
            "percent": share,
            "appendHeaders": {"Knative-Serving-Revision": revision, "Knative-Serving-Namespace": "default"},
        }
        for revision, share in shares.items()
    ]
    paths = [{"splits": splits, **path}]
    local = [f"{name}.default", f"{name}.default.svc", f"{name}.default.svc.cluster.local"]
    rules = [{"hosts": local, "visibility": "ClusterLocal", "http": {"paths": paths}}]
    if public:
        rules.append({"hosts": [f"{name}.default.localhost"], "visibility": "ExternalIP", "http": {"paths": paths}})
    return {"metadata": {"namespace": "default", "name": name}, "spec": {"rules": rules}}


def get(host, *lines, target="/", method="GET"):
    head = "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *lines])
    return f"{head}\r\n\r\n".encode("latin-1")


@pytest.fixture
def hello(world):
    """A world with the service `hello`, which has a pod; returns the pod."""
    world.proxy.table.put(ingress())
    (pod,) = world.pods(world.revision(), POD)
    return pod


def sent_fields(exchange) -> dict[str, str]:
    """What the pod would receive."""
    lines = [*exchange.head.passing(exchange.drop), *exchange.add]
    return {line.partition(b":")[0].decode().lower(): line.partition(b":")[2].decode().strip() for line in lines}


# routing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["hello.default.localhost", "hello.default.localhost:8080", "HELLO.Default.LOCALHOST", "hello.default.localhost."],
)
def test_public_host_reaches_the_service(world, hello, host: str) -> None:
    exchange = world.outside(get(host))
    assert hello.sent == [exchange]
    assert exchange.authority == host.encode(), "the app sees the host that was typed"


def test_private_host_does_not_exist_outside(world, hello) -> None:
    for host in ("hello.default.svc.cluster.local", "hello.default", "hello-1.default.svc.cluster.local"):
        assert world.outside(get(host)).status == 404
    assert hello.sent == []


@pytest.mark.parametrize("host", ["hello.default", "hello.default.svc", "hello.default.svc.cluster.local:80"])
def test_cluster_names_work_inside(world, hello, host: str) -> None:
    assert hello.sent == [world.inside(get(host))]


def test_revision_is_reached_by_its_own_cluster_name(world, hello) -> None:
    assert hello.sent == [world.inside(get("hello-1.default.svc.cluster.local"))]


def test_absolute_form_is_how_pods_use_their_proxy(world, hello) -> None:
    raw = get("whatever.example.com", target="http://hello.default.svc.cluster.local/x?y=1")
    exchange = world.inside(raw)
    assert hello.sent == [exchange]
    assert (exchange.target, exchange.authority) == (b"/x?y=1", b"hello.default.svc.cluster.local")


def test_any_domain_only_where_allowed(world, hello) -> None:
    assert world.outside(get("hello.default.example.com")).status == 404
    world.proxy._any_domain = True
    exchange = world.outside(get("hello.default.example.com"))
    assert hello.sent == [exchange]
    assert world.outside(get("other.default.example.com")).status == 404


def test_any_domain_does_not_open_a_private_service(world) -> None:
    world.proxy._any_domain = True
    world.proxy.table.put(ingress(public=False))
    world.pods(world.revision(), POD)
    assert world.outside(get("hello.default.example.com")).status == 404
    assert world.outside(get("hello.default.svc.cluster.local")).status == 404


def test_unknown_hosts_are_told_what_to_do(world) -> None:
    exchange = world.outside(get("nobody.example.com"))
    assert exchange.status == 404
    assert exchange.text == (
        b"no service answers for the host 'nobody.example.com'; `kubectl get ksvc -A` lists the URLs there are\n"
    )
    assert world.proxy.statistics()["unrouted"] == 1


def test_unknown_revision_has_the_original_text(world) -> None:
    world.proxy.table.put(ingress())
    expected = b'Error getting active endpoint: revision.serving.knative.dev "hello-1" not found\n'
    by_route = world.outside(get("hello.default.localhost"))
    by_header = world.send()
    by_host = world.inside(get("hello-1.default.svc.cluster.local"))
    for exchange in (by_route, by_header, by_host):
        assert (exchange.status, exchange.text) == (404, expected)


def test_path_that_no_rule_has(world) -> None:
    world.proxy.table.put(ingress(path="/api"))
    world.pods(world.revision(), POD)
    assert world.outside(get("hello.default.localhost", target="/other")).status == 404
    assert world.outside(get("hello.default.localhost", target="/api/x")).status == 0


def test_split_is_exact(world) -> None:
    world.proxy.table.put(ingress("web", percent={"web-1": 90, "web-2": 10}))
    for name in ("web-1", "web-2"):
        world.pods(world.revision(("default", name)), f"{name}:8012")
    for _ in range(1000):
        world.outside(get("web.default.localhost"))
    assert len(world.upstreams["web-1:8012"].sent) == 900
    assert len(world.upstreams["web-2:8012"].sent) == 100


def test_rewritten_host_and_added_headers(world) -> None:
    made = ingress(rewriteHost="hello.default.svc.cluster.local", appendHeaders={"K-Original-Host": "my.example.com"})
    world.proxy.table.put(made)
    (pod,) = world.pods(world.revision(), POD)
    exchange = world.outside(get("hello.default.localhost", "K-Original-Host: evil.example.com"))
    assert pod.sent == [exchange]
    assert exchange.authority == b"hello.default.svc.cluster.local"
    assert sent_fields(exchange)["k-original-host"] == "my.example.com"


# headers -------------------------------------------------------------------------------------------------------------


def test_forwarded_headers_name_the_client(world, hello) -> None:
    fields = sent_fields(world.outside(get("hello.default.localhost"), peer="203.0.113.9"))
    assert fields["x-forwarded-for"] == "203.0.113.9"
    assert fields["x-forwarded-proto"] == "http"
    assert fields["k-proxy-request"] == "activator"


def test_forwarded_headers_of_proxies_before_us_are_kept(world, hello) -> None:
    raw = get("hello.default.localhost", "X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https")
    fields = sent_fields(world.outside(raw, peer="203.0.113.9"))
    assert fields["x-forwarded-for"] == "198.51.100.1, 203.0.113.9"
    assert fields["x-forwarded-proto"] == "https"


INTERNAL = sorted(name.decode() for name in DROP_PUBLIC if name.startswith((b"k-", b"kn")))


@pytest.mark.parametrize("name", INTERNAL)
def test_internal_headers_from_outside_mean_nothing_and_go_nowhere(world, hello, name: str) -> None:
    world.pods(world.revision(("default", "secret-1")), "10.1.0.9:8012")
    lines = [f"{name.title()}: secret-1"]
    if name == "knative-serving-revision":
        lines.append("Knative-Serving-Namespace: default")
    exchange = world.outside(get("hello.default.localhost", *lines))
    assert hello.sent == [exchange]
    fields = sent_fields(exchange)
    assert fields.get(name, "activator") == "activator"
    assert "secret-1" not in fields.values()


def test_kubelets_user_agent_from_outside_is_a_client_like_any_other(world, hello) -> None:
    assert hello.sent == [world.outside(get("hello.default.localhost", "User-Agent: kube-probe/1.30"))]


def test_connection_header_cannot_remove_what_we_add(world, hello) -> None:
    raw = get("hello.default.localhost", "Connection: K-Proxy-Request, X-Forwarded-For", "X-Forwarded-For: 1.2.3.4")
    fields = sent_fields(world.outside(raw))
    assert fields["k-proxy-request"] == "activator"
    assert "192.0.2.7" in fields["x-forwarded-for"]


def test_routing_headers_are_trusted_inside_and_not_passed_on(world, hello) -> None:
    exchange = world.inside(
        get(
            "anything.example.com",
            "Knative-Serving-Revision: hello-1",
            "Knative-Serving-Namespace: default",
            "K-Network-Hash: override",
            "K-Original-Host: original.example.com",
        )
    )
    assert hello.sent == [exchange]
    fields = sent_fields(exchange)
    assert not {"knative-serving-revision", "knative-serving-namespace", "k-network-hash"} & set(fields)
    assert fields["k-original-host"] == "original.example.com"


@pytest.mark.parametrize(
    "lines",
    [
        ["Knative-Serving-Revision: hello-1"],
        ["Knative-Serving-Revision:", "Knative-Serving-Namespace: default"],
        ["Knative-Serving-Revision: hello-1", "Knative-Serving-Namespace:"],
    ],
)
def test_half_a_routing_header_is_none(world, hello, lines: list[str]) -> None:
    assert hello.sent == [world.inside(get("hello.default", *lines))]


# probes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["User-Agent: kube-probe/1.30", "K-Kubelet-Probe: queue"])
def test_kubelet_learns_whether_we_are_fit(world, hello, line: str) -> None:
    exchange = world.inside(get("hello.default", line))
    assert (exchange.status, exchange.text) == (200, b"")
    world.unfit = "connection has not yet been established"
    exchange = world.inside(get("hello.default", line))
    assert (exchange.status, exchange.text) == (500, b"connection has not yet been established")
    assert hello.sent == []


def test_empty_probe_headers_are_no_probes(world, hello) -> None:
    exchange = world.inside(get("hello.default", "K-Kubelet-Probe:", "K-Network-Probe:"))
    assert hello.sent == [exchange]


def test_network_probe_returns_the_hash_of_the_version_in_force(world) -> None:
    made = ingress()
    world.proxy.table.put(made)
    raw = get("hello.default.localhost", "K-Network-Probe: probe", "K-Network-Hash: override")
    exchange = world.inside(raw)
    assert (exchange.status, exchange.text) == (200, b"")
    assert exchange.lines == [b"K-Network-Hash: " + spec_hash(made).encode()]
    world.proxy.table.put(ingress(percent={"hello-2": 100}))
    assert world.inside(raw).lines != exchange.lines
    world.proxy.table.remove(("default", "hello"))
    assert world.inside(raw).status == 404


def test_network_probe_echoes_any_other_hash(world) -> None:
    exchange = world.inside(get("nobody", "K-Network-Probe: probe", "K-Network-Hash: abc"))
    assert (exchange.status, exchange.lines) == (200, [b"K-Network-Hash: abc"])


def test_network_probe_needs_a_hash(world) -> None:
    exchange = world.inside(get("nobody", "K-Network-Probe: probe"))
    assert exchange.status == 400
    assert exchange.text == b'a probe request must contain a non-empty "K-Network-Hash" header\n'


def test_component_probe(world) -> None:
    exchange = world.inside(get("hello-1.default.svc.cluster.local", "K-Network-Probe: activator", target="//healthz"))
    assert (exchange.status, exchange.text) == (200, b"activator")
    exchange = world.inside(get("nobody", "K-Network-Probe: <queue>&\"'"))
    assert exchange.status == 400
    assert exchange.text == b'unexpected probe header value: "&lt;queue&gt;&amp;&#34;&#39;"\n'


# elsewhere -----------------------------------------------------------------------------------------------------------


def test_hosts_that_are_not_ours_are_refused_in_a_cluster(world) -> None:
    assert world.inside(get("example.com", target="http://example.com/")).status == 404


def test_pods_reach_other_hosts_where_allowed(world, hello) -> None:
    outside = world.elsewhere()
    exchange = world.inside(get("example.com:81", "K-Something: kept", "Proxy-Authorization: secret"))
    assert outside.sent == [exchange]
    fields = sent_fields(exchange)
    assert fields["via"] == "1.1 torpor-activator"
    assert fields["k-something"] == "kept"
    assert not {"proxy-authorization", "k-proxy-request", "x-forwarded-for"} & set(fields)
    outside.answer()
    assert exchange.status == 200


def test_the_world_does_not_reach_other_hosts_through_us(world, hello) -> None:
    outside = world.elsewhere()
    assert world.outside(get("example.com")).status == 404
    assert outside.sent == []


def test_request_that_comes_back_to_us_is_stopped(world) -> None:
    outside = world.elsewhere()
    assert world.inside(get("10.0.0.1:8012", "Via: 1.1 squid, 1.1 torpor-activator")).status == 508
    assert outside.sent == []


def test_host_that_is_none(world) -> None:
    world.elsewhere(exists=False)
    assert world.inside(get("x:99999")).status == 404


def test_unknown_cluster_names_do_not_leave_the_cluster(world) -> None:
    outside = world.elsewhere()
    assert world.inside(get("nobody.default.svc.cluster.local")).status == 404
    assert outside.sent == []


# wakes ---------------------------------------------------------------------------------------------------------------


def test_wakes_are_shown_inside_only(world) -> None:
    world.proxy.table.put(ingress())
    revision = world.revision()
    world.outside(get("hello.default.localhost"))
    (pod,) = world.pods(revision, POD)
    pod.answer()
    shown = orjson.loads(world.inside(get("10.0.0.1", target="/_torpor/wakes")).text)
    assert [(wake["namespace"], wake["revision"], wake["pod"]) for wake in shown] == [("default", "hello-1", POD)]
    for query, count in (("?namespace=default", 1), ("?namespace=other", 0), ("?revision=hello-1&namespace=", 1)):
        shown = orjson.loads(world.inside(get("10.0.0.1", target=f"/_torpor/wakes{query}")).text)
        assert len(shown) == count
    assert world.outside(get("10.0.0.1", target="/_torpor/wakes")).status == 404
    assert world.inside(get("10.0.0.1", target="/_torpor/wakes-not")).status == 404


def test_names_are_remembered_within_a_bound(world, hello) -> None:
    for number in range(10_050):
        world.outside(get(f"h{number}.example.com"))
    assert len(world.proxy._names) <= 10_000
