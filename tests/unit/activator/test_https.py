"""Redirects to https, and requests that came in TLS (serving §7.6)."""

from typing import Any

import pytest

from activator.routes import compile_ingress

POD = "10.1.0.1:8012"
HOST = "hello.default.localhost"


def ingress(option: str | None = "Redirected") -> dict[str, Any]:
    paths = [{"splits": [{"serviceName": "hello-1", "serviceNamespace": "default", "percent": 100}]}]
    spec: dict[str, Any] = {
        "rules": [
            {"hosts": ["hello.default"], "visibility": "ClusterLocal", "http": {"paths": paths}},
            {"hosts": [HOST], "visibility": "ExternalIP", "http": {"paths": paths}},
        ]
    }
    if option is not None:
        spec["httpOption"] = option
    return {"metadata": {"namespace": "default", "name": "hello"}, "spec": spec}


def get(host: str, *lines: str, target: str = "/", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


@pytest.fixture
def hello(world):
    """The service `hello`, redirected, with a pod; returns the pod."""
    world.proxy.table.put(ingress())
    (pod,) = world.pods(world.revision(), POD)
    return pod


def sent(exchange) -> list[bytes]:
    return [*exchange.head.passing(exchange.drop), *exchange.add]


@pytest.mark.parametrize(
    ("raw", "location"),
    [
        (get(HOST), f"https://{HOST}/"),
        (get(HOST, target="/a/b?c=d&e=%20f"), f"https://{HOST}/a/b?c=d&e=%20f"),
        (get(HOST, target="/?x=http://evil.example/"), f"https://{HOST}/?x=http://evil.example/"),
        (get(HOST, target="//evil.example/"), f"https://{HOST}//evil.example/"),
        (get(f"{HOST}:8080"), f"https://{HOST}/"),
        (get(HOST.upper()), f"https://{HOST}/"),
        (get(f"{HOST}."), f"https://{HOST}/"),
        (get("x", target=f"http://{HOST}/p?q"), f"https://{HOST}/p?q"),
        (get(HOST, target="*", method="OPTIONS"), f"https://{HOST}/"),
        (get(HOST, "Content-Length: 0", method="POST"), f"https://{HOST}/"),
        (get(HOST, method="HEAD"), f"https://{HOST}/"),
        (get(HOST, "Connection: Upgrade", "Upgrade: websocket"), f"https://{HOST}/"),
        (get(HOST, "X-Forwarded-Proto: http"), f"https://{HOST}/"),
        (get(HOST, "K-Network-Probe: probe", "K-Network-Hash: override"), f"https://{HOST}/"),
        (get(HOST, target="/.well-known/other"), f"https://{HOST}/.well-known/other"),
    ],
)
def test_in_clear_from_outside_is_sent_to_https(world, hello, raw: bytes, location: str) -> None:
    exchange = world.outside(raw)
    assert (exchange.status, exchange.text) == (301, b"")
    assert exchange.lines == [b"Location: " + location.encode()]
    assert hello.sent == []


def test_the_port_of_https_is_told_where_it_is_not_the_usual_one(world, hello) -> None:
    world.proxy._https_port = 8443
    assert world.outside(get(f"{HOST}:8080", target="/x?y")).lines == [f"Location: https://{HOST}:8443/x?y".encode()]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(get(HOST, "X-Forwarded-Proto: https"), id="a load balancer ended TLS"),
        pytest.param(get(HOST, target="/.well-known/acme-challenge/token"), id="ACME"),
    ],
)
def test_what_must_be_answered_in_clear_is(world, hello, raw: bytes) -> None:
    assert hello.sent == [world.outside(raw)]


def test_callers_inside_are_not_redirected(world, hello) -> None:
    assert hello.sent == [world.inside(get("hello.default")), world.inside(get(HOST))]


@pytest.mark.parametrize("option", [None, "", "Enabled"])
def test_both_are_served_without_the_option(world, option: str | None) -> None:
    world.proxy.table.put(ingress(option))
    (pod,) = world.pods(world.revision(), POD)
    assert pod.sent == [world.outside(get(HOST)), world.secure(get(HOST))]


def test_a_change_of_the_option_is_in_force_at_once(world) -> None:
    world.pods(world.revision(), POD)
    for option, status in (("Enabled", 0), ("Redirected", 301), ("Enabled", 0)):
        world.proxy.table.put(ingress(option))
        assert world.outside(get(HOST)).status == status


def test_only_hosts_for_everybody_are_redirected() -> None:
    assert {name: host.secure for name, host in compile_ingress(ingress()).items()} == {
        "hello.default": False,
        HOST: True,
    }


@pytest.mark.parametrize("claimed", [(), ("X-Forwarded-Proto: http",), ("X-Forwarded-Proto: gopher",)])
def test_apps_are_told_that_it_came_in_tls_whatever_the_client_says(world, hello, claimed: tuple[str, ...]) -> None:
    exchange = world.secure(get(HOST, *claimed))
    assert [line for line in sent(exchange) if line.lower().startswith(b"x-forwarded-proto")] == [
        b"X-Forwarded-Proto: https"
    ]


def test_the_https_listener_strips_and_hides_as_the_public_one(world, hello) -> None:
    exchange = world.secure(get(HOST, "Knative-Serving-Revision: other", "K-Network-Probe: queue"))
    assert hello.sent == [exchange]
    assert not [line for line in sent(exchange) if line.startswith((b"Knative-Serving-Revision", b"K-Network-Probe"))]
    assert world.secure(get("hello.default")).status == 404
    assert world.secure(get("nobody.example.com")).status == 404
