"""Activator and queue-proxy in a row before an app, as every request of a service passes them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.integration.test_activator import KEY, Activator, an_activator, until
from tests.integration.test_queueproxy import Sidecar, sidecar

__all__ = ["HOSTS", "Chain", "chain"]

HOSTS = ("h", "a", "b", "[::1]", "", "127.0.0.1", "localhost", "hello.default.localhost")


@dataclass(frozen=True)
class Chain:
    """Both proxies, running: the queue-proxy as a process, the activator in this one."""

    activator: Activator
    queue: Sidecar

    @property
    def port(self) -> int:
        """Where the world comes in."""
        return self.activator.public_port

    @property
    def in_flight(self) -> int:
        """Requests that the activator has at the pod."""
        return self.activator.proxy.revisions[KEY].throttler.statistics().in_flight


@asynccontextmanager
async def chain(app_port: int, hosts: Sequence[str] = HOSTS, **environ: str) -> AsyncIterator[Chain]:
    """One revision with one pod, reached under each of the hosts; `environ` is for the queue-proxy."""
    ingress = {
        "metadata": {"namespace": "default", "name": "hello"},
        "spec": {
            "rules": [
                {
                    "hosts": list(hosts),
                    "http": {"paths": [{"splits": [{"serviceName": "hello-1", "percent": 100}]}]},
                }
            ]
        },
    }
    async with sidecar(app_port, **environ) as queue, an_activator() as activator:
        activator.proxy.table.put(ingress)
        activator.revision()
        activator.pods(queue.port)
        await until(lambda: activator.proxy.revisions[KEY].throttler.capacity > 0)
        yield Chain(activator, queue)
