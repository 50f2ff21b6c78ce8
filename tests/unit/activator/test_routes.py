"""What a KIngress leads to."""

import pytest

from activator.routes import Table, compile_ingress

REVISION = "Knative-Serving-Revision"
NAMESPACE = "Knative-Serving-Namespace"


def split(revision, percent=100, **headers):
    return {
        "serviceName": f"{revision}-service",
        "serviceNamespace": "default",
        "servicePort": 80,
        "percent": percent,
        "appendHeaders": {REVISION: revision, NAMESPACE: "default", **headers},
    }


def rule(*hosts, paths, visibility="ExternalIP"):
    return {"hosts": list(hosts), "visibility": visibility, "http": {"paths": paths}}


def ingress(*rules, name="hello", created="2024-01-01T00:00:00Z", class_=None):
    annotations = {"networking.knative.dev/ingress.class": class_} if class_ else {}
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "creationTimestamp": created,
            "annotations": annotations,
        },
        "spec": {"rules": list(rules)},
    }


def plain(host, revision, **more):
    return ingress(rule(host, paths=[{"splits": [split(revision)]}]), **more)


def found(table, host, target=b"/", **headers):
    """The revision that a request leads to."""
    fields = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    path = table.hosts[host].find(target, lambda name: fields.get(name, b""))
    return path and path.split.pick().key[1]


def test_revision_comes_from_the_headers_else_from_the_service() -> None:
    by_service = {"serviceName": "hello-7", "serviceNamespace": "default", "percent": 100}
    hosts = compile_ingress(
        ingress(
            rule("a.example.com", paths=[{"splits": [split("hello-1")]}]),
            rule("b.example.com", paths=[{"splits": [by_service]}]),
        )
    )
    assert hosts["a.example.com"].paths[0].split.pick().key == ("default", "hello-1")
    assert hosts["b.example.com"].paths[0].split.pick().key == ("default", "hello-7")


def test_routing_headers_are_not_passed_on_but_others_are() -> None:
    made = ingress(
        rule(
            "a.example.com",
            paths=[
                {"splits": [split("hello-1", **{"X-Split": "s"})], "appendHeaders": {"Knative-Serving-Tag": "blue"}}
            ],
        )
    )
    target = compile_ingress(made)["a.example.com"].paths[0].split.pick()
    assert set(target.lines) == {b"Knative-Serving-Tag: blue", b"X-Split: s"}
    assert target.names == {b"knative-serving-tag", b"x-split"}


def test_visibility() -> None:
    hosts = compile_ingress(
        ingress(
            rule("hello.default", paths=[{"splits": [split("hello-1")]}], visibility="ClusterLocal"),
            rule("hello.example.com", paths=[{"splits": [split("hello-1")]}]),
        )
    )
    assert {name: host.public for name, host in hosts.items()} == {"hello.default": False, "hello.example.com": True}


def test_longest_prefix_wins_then_most_conditions_then_order() -> None:
    table = Table()
    tagged = {"headers": {"Knative-Serving-Tag": {"exact": "blue"}}}
    both = {"headers": {"Knative-Serving-Tag": {"exact": "blue"}, "X-Beta": {"exact": "1"}}}
    table.put(
        ingress(
            rule(
                "a.example.com",
                paths=[
                    {"splits": [split("plain")]},
                    {"splits": [split("never")]},
                    {"splits": [split("tagged")], **tagged},
                    {"splits": [split("both")], **both},
                    {"path": "/api", "splits": [split("api")]},
                    {"path": "/api/v2", "splits": [split("v2")]},
                ],
            )
        )
    )
    assert found(table, "a.example.com") == "plain"
    assert found(table, "a.example.com", knative_serving_tag="blue") == "tagged"
    assert found(table, "a.example.com", knative_serving_tag="Blue") == "plain"
    assert found(table, "a.example.com", knative_serving_tag="blue", x_beta="1") == "both"
    assert found(table, "a.example.com", b"/api/v1?x=1") == "api"
    assert found(table, "a.example.com", b"/api/v2/x", knative_serving_tag="blue") == "v2"


def test_no_path_fits() -> None:
    table = Table()
    table.put(ingress(rule("a.example.com", paths=[{"path": "/api", "splits": [split("api")]}])))
    assert found(table, "a.example.com", b"/other") is None


@pytest.mark.parametrize("path", ["", "/", None])
def test_one_plain_path_is_taken_without_looking(path) -> None:
    hosts = compile_ingress(ingress(rule("a.example.com", paths=[{"path": path, "splits": [split("hello-1")]}])))
    assert hosts["a.example.com"].only is hosts["a.example.com"].paths[0]


def test_names_are_compared_in_lower_case_without_final_dot() -> None:
    assert set(compile_ingress(plain("Hello.Example.COM.", "hello-1"))) == {"hello.example.com"}


def test_rules_that_cannot_be_served_are_left_out_and_the_others_are_not() -> None:
    hosts = compile_ingress(
        ingress(
            rule("none.example.com", paths=[]),
            rule("empty.example.com", paths=[{"splits": []}]),
            rule("zero.example.com", paths=[{"splits": [split("a", 0), split("b", 0)]}]),
            rule("nameless.example.com", paths=[{"splits": [{"percent": 100}]}]),
            rule("huge.example.com", paths=[{"splits": [split("a", 2**31 - 1), split("b", 1)]}]),
            rule("good.example.com", paths=[{"splits": []}, {"splits": [split("hello-1")]}]),
            {"hosts": ["no-http.example.com"]},
        )
    )
    assert set(hosts) == {"good.example.com"}


def test_ingress_cannot_lead_into_another_namespace() -> None:
    by_header = split("theirs")
    by_header["appendHeaders"][NAMESPACE] = "other"
    by_service = {"serviceName": "theirs", "serviceNamespace": "other", "percent": 100}
    for stolen in (by_header, by_service):
        assert compile_ingress(ingress(rule("a.example.com", paths=[{"splits": [stolen]}]))) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "1\r\nX-Evil: 1"),
        ("X-A\r\nX-Evil", "1"),
        ("X-A: 1\r\nX-Evil", "1"),
        ("X A", "1"),
        ("", "1"),
        ("X-A", "nul\0"),
        ("Transfer-Encoding", "chunked"),
        ("content-length", "5"),
        ("Host", "evil.example.com"),
        ("Connection", "K-Proxy-Request"),
    ],
)
def test_header_that_could_break_a_message_is_not_added(name: str, value: str) -> None:
    made = ingress(rule("a.example.com", paths=[{"splits": [split("hello-1", **{name: value})]}]))
    assert compile_ingress(made)["a.example.com"].paths[0].split.pick().lines == ()


@pytest.mark.parametrize("authority", ["a\r\nX-Evil: 1", "a b", "a/b", "user@a", "a:port"])
def test_rewritten_host_must_be_one(authority: str) -> None:
    made = ingress(rule("a.example.com", paths=[{"splits": [split("hello-1")], "rewriteHost": authority}]))
    assert compile_ingress(made) == {}


def test_older_ingress_keeps_a_host_and_the_younger_gets_it_afterwards() -> None:
    table = Table()
    young = plain("a.example.com", "young", name="young", created="2024-01-02T00:00:00Z")
    old = plain("a.example.com", "old", name="old", created="2024-01-01T00:00:00Z")
    table.put(young)
    assert found(table, "a.example.com") == "young"
    table.put(old)
    assert found(table, "a.example.com") == "old"
    assert table.statistics() == {"hosts": 1, "ingresses": 2, "contested": 1}
    table.remove(("default", "old"))
    assert found(table, "a.example.com") == "young"
    table.remove(("default", "young"))
    table.remove(("default", "young"))
    assert table.hosts == {}
    assert table.statistics() == {"hosts": 0, "ingresses": 0, "contested": 0}


def test_put_replaces_what_the_ingress_had() -> None:
    table = Table()
    table.put(ingress(rule("a.example.com", "b.example.com", paths=[{"splits": [split("hello-1")]}])))
    table.put(ingress(rule("b.example.com", paths=[{"splits": [split("hello-2")]}])))
    assert set(table.hosts) == {"b.example.com"}
    assert found(table, "b.example.com") == "hello-2"


def test_ingress_of_another_class_is_not_served_and_lets_go_when_its_class_changes() -> None:
    table = Table(serves=lambda class_: class_ == "ours")
    table.put(plain("a.example.com", "hello-1", class_="theirs"))
    assert table.hosts == {}
    table.put(plain("a.example.com", "hello-1", class_="ours"))
    assert set(table.hosts) == {"a.example.com"}
    table.put(plain("a.example.com", "hello-1", class_="theirs"))
    assert table.hosts == {}


def test_hash_changes_with_the_spec_only() -> None:
    one, same = plain("a.example.com", "hello-1"), plain("a.example.com", "hello-1", created="2025-01-01T00:00:00Z")
    other = plain("a.example.com", "hello-2")
    hashes = [compile_ingress(made)["a.example.com"].hash for made in (one, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def service(name):
    paths = [{"splits": [split(f"{name}-1")]}]
    return ingress(
        rule(f"{name}.default", f"{name}.default.svc", paths=paths, visibility="ClusterLocal"),
        rule(f"{name}.default.localhost", paths=paths),
        name=name,
    )


def test_guess_finds_the_public_host_of_the_same_service() -> None:
    table = Table()
    table.put(service("hello"))
    assert table.guess("hello.default.example.com") is table.hosts["hello.default.localhost"]
    for unknown in ("hello.default", "hello", "", "hello.other.example.com", "other.default.example.com", "..."):
        assert table.guess(unknown) is None


def test_guess_does_not_make_a_private_service_public() -> None:
    table = Table()
    private = service("hello")
    private["spec"]["rules"].pop()
    table.put(private)
    assert table.guess("hello.default.example.com") is None


def test_guess_does_not_follow_somebody_elses_host() -> None:
    table = Table()
    older = plain("hello.default.localhost", "theirs", name="older", created="2023-01-01T00:00:00Z")
    table.put(older)
    table.put(service("hello"))
    assert table.guess("hello.default.example.com") is None
