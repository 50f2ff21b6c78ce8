"""Command line and environment of an activator."""

import os
import socket
from pathlib import Path
from ssl import TLSVersion

import pytest

from activator.__main__ import _listener
from activator.config import Config
from kncore.errors import ConfigError

ENV = {"POD_NAME": "activator-1", "POD_IP": "10.0.0.1", "SYSTEM_NAMESPACE": "knative-serving"}


def test_defaults_are_a_clusters() -> None:
    made = Config.read([], ENV)
    assert (made.public, made.internal) == (("0.0.0.0", 8080), ("0.0.0.0", 8012))
    assert made.autoscaler_url == "ws://autoscaler.knative-serving.svc.cluster.local:8080"
    assert made.classes == {"torpor.ingress.networking.knative.dev"}
    assert (made.idle_connections, made.idle_connections_per_pod) == (1000, 100)
    assert not made.any_domain


def test_everything_given() -> None:
    made = Config.read(
        ["--public", "[::1]:80", "--internal", "127.0.0.1:0", "--classes", "a, b", "--any-domain", "--drain", "0"],
        {
            **ENV,
            "AUTOSCALER_URL": "ws://127.0.0.1:1",
            "CLUSTER_DOMAIN": "example.org",
            "MAX_IDLE_PROXY_CONNS": "5",
            "MAX_IDLE_PROXY_CONNS_PER_HOST": "2",
            "NAMESPACE_WEIGHTS": "payments=4, batch=1",
        },
    )
    assert made.weights == {"payments": 4, "batch": 1}
    assert (made.public, made.internal) == (("::1", 80), ("127.0.0.1", 0))
    assert (made.classes, made.any_domain, made.drain_seconds) == ({"a", "b"}, True, 0.0)
    assert (made.autoscaler_url, made.cluster_domain) == ("ws://127.0.0.1:1", "example.org")
    assert (made.idle_connections, made.idle_connections_per_pod) == (5, 2)


def test_all_classes() -> None:
    assert Config.read(["--classes", "all"], ENV).classes is None


@pytest.mark.parametrize("address", ["8080", "host", "host:", ":x", "host:70000", "host:-1"])
def test_addresses_must_be_complete(address: str) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        Config.read([f"--public={address}"], ENV)


def test_missing_variables_are_all_named() -> None:
    with pytest.raises(ConfigError, match="POD_IP, SYSTEM_NAMESPACE"):
        Config.read([], {"POD_NAME": "x"})


def test_numbers_must_be_numbers() -> None:
    with pytest.raises(ConfigError, match="MAX_IDLE_PROXY_CONNS=many"):
        Config.read([], {**ENV, "MAX_IDLE_PROXY_CONNS": "many"})


def test_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--public 127.0.0.1:{port}: Address already in use"):
            _listener(("127.0.0.1", port), None, "--public")


def test_free_port_is_bound_before_anything_is_served() -> None:
    with _listener(("127.0.0.1", 0), None, "--internal") as bound:
        socket.create_connection(bound.getsockname(), timeout=1).close()


def test_inherited_socket_is_used_as_it_is() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as made,
        _listener(("192.0.2.1", 1), os.dup(made.fileno()), "--public") as inherited,
    ):
        assert inherited.getsockname() == made.getsockname()


@pytest.mark.parametrize("weights", ["payments", "payments=", "=2", "payments=0", "payments=101", "payments=-1"])
def test_weights_must_be_named_numbers(weights: str) -> None:
    with pytest.raises(ConfigError, match="NAMESPACE_WEIGHTS"):
        Config.read([], {**ENV, "NAMESPACE_WEIGHTS": weights})


def test_tls_in_a_cluster_and_elsewhere() -> None:
    made = Config.read([], ENV)
    assert (made.https, made.internal_https, made.https_port) == (("0.0.0.0", 8443), ("0.0.0.0", 8112), 443)
    assert (made.tls.minimum, made.internal_tls.minimum) == (TLSVersion.TLSv1_2, TLSVersion.TLSv1_3)
    assert made.certificate is None
    assert Config.read([], {**ENV, "KUBECONFIG": "x"}).https is None
    made = Config.read(
        ["--https", "[::1]:1", "--https-port", "8443", "--certificate", "d", "--internal", "127.0.0.2:8012"],
        {**ENV, "KUBECONFIG": "x", "ACTIVATOR_TLS_MIN_VERSION": "1.2", "ACTIVATOR_TLS_MAX_VERSION": "1.2"},
    )
    assert (made.https, made.internal_https, made.https_port) == (("::1", 1), ("127.0.0.2", 8112), 8443)
    assert made.certificate == Path("d")
    assert made.internal_tls.minimum == made.tls.maximum == TLSVersion.TLSv1_2
    with pytest.raises(ConfigError, match=r"ACTIVATOR_TLS_MIN_VERSION=2: expected one of 1.2, 1.3"):
        Config.read([], {**ENV, "ACTIVATOR_TLS_MIN_VERSION": "2"})
