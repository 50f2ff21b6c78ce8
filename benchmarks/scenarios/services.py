"""Services of the app `work`, whose requests take as long as they say."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.client import poll_health
from benchmarks.platform import Platform
from benchmarks.ports import free_port
from kncore.api import meta

__all__ = ["IMAGE", "bare", "queue_proxies", "settle", "target", "work"]

IMAGE = "bench.local/work:latest"
APP = Path(__file__).parents[1] / "apps" / "work" / "work.py"
SCALING = "autoscaling.knative.dev"


def work(
    name: str,
    *,
    scaling: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    concurrency: int = 0,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A Knative Service.

    Args:
        scaling: annotations of the template without their prefix, e.g. {"min-scale": "5"}.
        annotations: of the Service itself.
        concurrency: containerConcurrency.
    """
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "annotations": dict(annotations or {})},
        "spec": {
            "template": {
                "metadata": {"annotations": {f"{SCALING}/{key}": value for key, value in (scaling or {}).items()}},
                "spec": {
                    "containerConcurrency": concurrency,
                    "containers": [
                        {
                            "image": IMAGE,
                            "env": [{"name": key, "value": value} for key, value in (environment or {}).items()],
                        }
                    ],
                },
            }
        },
    }


def target(running: Platform, name: str, *, sleep_ms: int = 100, size: int = 0) -> tuple[str, str]:
    """Host and path of a request that takes `sleep_ms`."""
    return running.host(name), f"/?sleep={sleep_ms}" + (f"&size={size}" if size else "")


async def queue_proxies(running: Platform, name: str) -> list[tuple[str, int]]:
    """Addresses of a service's pods that are not being stopped."""
    pods = [pod for pod in await running.pods(name) if not meta.is_deleting(pod)]
    return [(str(meta.at(pod, "status", "podIP")), 8012) for pod in pods]


@contextlib.contextmanager
def bare() -> Iterator[tuple[str, int]]:
    """The same app by itself: what this machine makes of the load without a platform."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(APP)],
        env={**os.environ, "PORT": str(port)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        poll_health(("127.0.0.1", port))
        yield "127.0.0.1", port
    finally:
        process.kill()
        process.wait(10)


async def settle(seconds: float = 2.0) -> None:
    """Let the machine come to rest after pods were started."""
    await asyncio.sleep(seconds)
