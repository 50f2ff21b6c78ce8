"""`python -m autoscaler`: the autoscaler of a cluster; embedded mode hosts the same parts in its control process.

Of several replicas one works, the holder of the only Lease; the others turn stat streams away, so that clients end up
at the one that needs them. A replica that loses the Lease forgets what it collected and sends its streams elsewhere.
"""

import asyncio
import logging
import sys

import aiohttp

from autoscaler import app
from autoscaler.config import Config
from kncore import runtime
from kncore.api.names import autoscaler_buckets
from kncore.clock import SystemClock
from kncore.config.store import Store
from kncore.errors import ConfigError
from kncore.kube import configs
from kncore.kube.cluster import HttpClient
from kncore.kube.informers import Informers
from kncore.kube.lease import Elector
from kncore.telemetry import logs

__all__ = ["main"]

logger = logging.getLogger("autoscaler")


class HandOver:
    """Lets go of everything when the Lease is lost."""

    name = "hand-over"

    def __init__(self, elector: Elector, autoscaler: app.Autoscaler) -> None:
        self._autoscaler = autoscaler
        self._lost = asyncio.Event()
        elector.subscribe(self._changed)

    def _changed(self, bucket: str, gained: bool) -> None:
        if not gained:
            self._autoscaler.forget()
            self._lost.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._lost.wait()
            self._lost.clear()
            await self._autoscaler.server.drop_streams()


async def main(config: Config) -> None:
    """Put the autoscaler together and run it until a signal."""
    stop = runtime.stop_on_signals()
    client = HttpClient.from_kubeconfig(config.kubeconfig) if config.kubeconfig else HttpClient.in_cluster()
    clock = SystemClock()
    informers = Informers(client)
    store = Store()
    configs.follow(informers, store, config.namespace)
    buckets = autoscaler_buckets(1)
    elector = Elector(client, buckets, identity=config.identity, namespace=config.namespace, clock=clock)
    try:
        async with aiohttp.ClientSession() as session:
            built = app.build(
                client,
                informers,
                store,
                clock,
                listen=config.listen,
                probe=app.public_service_probe(session, cluster_domain=config.cluster_domain),
                leader=elector,
                owns=lambda host: elector.holds(buckets[0]),
            )
            logger.info("autoscaler starts", extra={"identity": config.identity})
            await runtime.serve([informers, elector, HandOver(elector, built), *built.parts], stop)
    finally:
        await client.aclose()


if __name__ == "__main__":
    logs.configure("autoscaler")
    try:
        settings = Config.read()
    except ConfigError as exc:
        sys.exit(f"autoscaler: {exc}")
    runtime.run(lambda: main(settings))
