"""Proxies of one hop to one backend: our queue-proxy, the original's, and what else people put in front of an app.

All are single processes (GOMAXPROCS=1, one nginx worker). Ours and the original's have everything on: a breaker that is
never full, all three timeouts, request statistics, request metrics in Prometheus form. The others do only what they
are: they forward, with keep-alive both ways.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from benchmarks import nginx
from benchmarks.peers import programs
from benchmarks.peers.process import Address, Running, process
from benchmarks.ports import free_ports

__all__ = ["GO", "OURS", "PROXIES", "backend", "original", "ours"]

GO = {"GOMAXPROCS": "1"}
OURS = "torpor queue-proxy"
H2C_PORT = 8013
ENTRY = {"K-Proxy-Request": "activator"}
"""What an activator adds to a request; with it a queue-proxy does exactly its part."""


def backend(processor: int | None) -> AbstractContextManager[Running]:
    """The backend of everything here.

    Raises:
        NotBuilt, NotStarted.
    """
    address = ("127.0.0.1", free_ports(1)[0])
    command = [str(programs.built("backend")), "-listen", f"{address[0]}:{address[1]}"]
    return process("backend", command, address, processor=processor, environment=GO)


@contextlib.contextmanager
def ours(to: Address, processor: int | None) -> Iterator[Running]:
    """Torpor's queue-proxy: one for HTTP/1.1, and one as in pods whose port is `h2c`, which its own port tells it."""
    with _ours(to, processor, H2C_PORT) as second, _ours(to, processor, free_ports(1)[0]) as first:
        yield replace(first, http2=second)


def _ours(to: Address, processor: int | None, serving: int) -> AbstractContextManager[Running]:
    admin, metrics, shown = free_ports(3)
    environment = {
        **_sidecar_environment(to, serving),
        "SERVING_POD_IP": "127.0.0.1",
        "TORPOR_ADMIN_PORT": str(admin),
        "TORPOR_METRICS_PORT": str(metrics),
        "TORPOR_USER_METRICS_PORT": str(shown),
        "OBSERVABILITY_CONFIG": json.dumps({"requestMetrics": {"protocol": "prometheus"}}),
    }
    return process(
        OURS,
        [sys.executable, "-m", "queueproxy"],
        ("127.0.0.1", serving),
        processor=processor,
        environment=environment,
        headers=ENTRY,
        admin=("127.0.0.1", shown),
    )


def original(to: Address, processor: int | None) -> AbstractContextManager[Running]:
    """The original's queue-proxy. Three of its ports are fixed (8022, 9090, 9091), so there is only one at a time.

    Raises:
        NotBuilt.
    """
    (serving,) = free_ports(1)
    environment = {
        **_sidecar_environment(to, serving),
        **GO,
        "SERVING_POD_IP": "127.0.0.1",
        "QUEUE_SERVING_TLS_PORT": str(free_ports(1)[0]),
        "SERVING_REQUEST_METRICS_BACKEND": "prometheus",
    }
    address = ("127.0.0.1", serving)
    command = [str(programs.built("queue"))]
    return process("knative queue-proxy", command, address, processor=processor, environment=environment, headers=ENTRY)


def _sidecar_environment(to: Address, serving: int) -> dict[str, str]:
    """What both queue-proxies are told (serving §6.2)."""
    return {
        **dict.fromkeys(("SERVING_NAMESPACE", "SERVING_SERVICE", "SERVING_CONFIGURATION"), "default"),
        "SERVING_REVISION": "bench-00001",
        "SERVING_POD": "bench-00001-deployment-0",
        "HOST_IP": "127.0.0.1",
        "QUEUE_SERVING_PORT": str(serving),
        "USER_PORT": str(to[1]),
        "CONTAINER_CONCURRENCY": "1000",  # a breaker, and one that never stops the largest load
        "REVISION_TIMEOUT_SECONDS": "300",
        "REVISION_RESPONSE_START_TIMEOUT_SECONDS": "300",
        "REVISION_IDLE_TIMEOUT_SECONDS": "300",
        "SERVING_LOGGING_CONFIG": "",
        "SERVING_LOGGING_LEVEL": "error",
        "SERVING_READINESS_PROBE": json.dumps({"tcpSocket": {"host": "127.0.0.1", "port": to[1]}}),
        "SYSTEM_NAMESPACE": "knative-serving",
    }


def reverse_proxy(to: Address, processor: int | None) -> AbstractContextManager[Running]:
    """Go's httputil.ReverseProxy.

    Raises:
        NotBuilt.
    """
    address = ("127.0.0.1", free_ports(1)[0])
    command = [
        str(programs.built("reverseproxy")),
        *("-listen", f"{address[0]}:{address[1]}", "-backend", f"{to[0]}:{to[1]}"),
    ]
    return process("go reverse proxy", command, address, processor=processor, environment=GO)


def aiohttp_proxy(to: Address, processor: int | None) -> AbstractContextManager[Running]:
    """A server and a client of aiohttp on uvloop."""
    address = ("127.0.0.1", free_ports(1)[0])
    command = [
        *(sys.executable, "-m", "benchmarks.peers.aiohttp_proxy"),
        *(f"{address[0]}:{address[1]}", f"{to[0]}:{to[1]}"),
    ]
    return process("aiohttp", command, address, processor=processor)


@contextlib.contextmanager
def nginx_proxy(to: Address, processor: int | None) -> Iterator[Running]:
    """nginx, one process.

    Raises:
        NoNginx.
    """
    with tempfile.TemporaryDirectory(prefix="torpor-nginx-") as folder:
        address = ("127.0.0.1", free_ports(1)[0])
        path = Path(folder, "nginx.conf")
        path.write_text(nginx.configuration(folder, address[1], to))
        command = [nginx.program(), "-p", folder, "-c", str(path)]
        with process("nginx", command, address, processor=processor) as running:
            yield running


PROXIES: dict[str, Callable[[Address, int | None], AbstractContextManager[Running]]] = {
    OURS: ours,
    "knative queue-proxy": original,
    "nginx": nginx_proxy,
    "go reverse proxy": reverse_proxy,
    "aiohttp": aiohttp_proxy,
}
"""Ours first."""
