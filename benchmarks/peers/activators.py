"""Activators of one revision whose pod is the backend: ours, and the original's.

Both read the same API server and report to the same stat server. Requests reach ours as an ingress gets them, with a
public host that it has to route; the original stands behind an ingress, so it gets the headers that one would add.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from benchmarks.peers import programs
from benchmarks.peers.cluster import HTTP1, HTTP2, SYSTEM, Cluster, host
from benchmarks.peers.process import Address, Running, answers, process
from benchmarks.peers.sidecars import GO
from benchmarks.ports import free_ports

__all__ = ["ORIGINAL", "OURS", "activators"]

OURS = "torpor activator"
ORIGINAL = "knative activator"
ORIGINAL_PORT = 8012  # fixed, as are 8013, 8008 and 9090: there is only one at a time


def activators(given: Cluster) -> Mapping[str, Callable[[Address, int | None], AbstractContextManager[Running]]]:
    """How to start each; the backend's address is the cluster's already. Ours first."""
    return {
        OURS: lambda backend, processor: ours(given, processor),
        ORIGINAL: lambda backend, processor: original(given, processor),
    }


def _environment(given: Cluster) -> dict[str, str]:
    return {
        "POD_NAME": "activator-0",
        "POD_IP": "127.0.0.1",
        "SYSTEM_NAMESPACE": SYSTEM,
        "KUBECONFIG": str(given.kubeconfig),
        "CONFIG_LOGGING_NAME": "config-logging",
        "CONFIG_OBSERVABILITY_NAME": "config-observability",
        "METRICS_DOMAIN": "knative.dev/internal/serving",
        "AUTOSCALER_URL": f"ws://{given.autoscaler[0]}:{given.autoscaler[1]}",  # ours; the original looks up a name
    }


def ours(given: Cluster, processor: int | None) -> AbstractContextManager[Running]:
    """Torpor's activator; metrics are at /metrics of the port that its `admin` says."""
    public, internal, metrics = free_ports(3)
    address = ("127.0.0.1", public)
    command = [
        *(sys.executable, "-P", "-m", "activator"),
        *("--public", f"127.0.0.1:{public}", "--internal", f"127.0.0.1:{internal}"),
    ]
    return process(
        OURS,
        command,
        address,
        processor=processor,
        environment={**_environment(given), "METRICS_PROMETHEUS_PORT": str(metrics)},
        admin=("127.0.0.1", metrics),
        host=host(HTTP1),
        http2=Running(name=OURS, address=address, pid=0, host=host(HTTP2)),
        ready=answers(address, host=host(HTTP1)),
    )


def original(given: Cluster, processor: int | None) -> AbstractContextManager[Running]:
    """The original's activator.

    Raises:
        NotBuilt.
    """
    address = ("127.0.0.1", ORIGINAL_PORT)
    return process(
        ORIGINAL,
        [str(programs.built("activator"))],
        address,
        processor=processor,
        environment={**_environment(given), **GO},
        headers=_routed(HTTP1),
        host=host(HTTP1),
        http2=Running(name=ORIGINAL, address=address, pid=0, host=host(HTTP2), headers=_routed(HTTP2)),
        ready=answers(address, host=f"{HTTP1}.default.svc.cluster.local"),
    )


def _routed(revision: str) -> dict[str, str]:
    """What an ingress adds."""
    return {"Knative-Serving-Revision": revision, "Knative-Serving-Namespace": "default"}
