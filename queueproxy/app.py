"""A queue-proxy put together: listeners, layers, background parts, and the order of leaving."""

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Final

from kncore import runtime
from kncore.breaker import Breaker
from kncore.errors import ConfigError
from kncore.net.exchange import Handler
from kncore.net.pool import Pool, PoolLimits
from kncore.net.server import Server
from kncore.net.ticker import Ticker
from queueproxy import drain, probe, proxy, requestlog, stats
from queueproxy.config import Config

__all__ = ["serve", "stack"]

log = logging.getLogger("queueproxy")

QUEUE_PER_SLOT: Final = 10
"""Requests that may wait for each place in the app (serving §6.4)."""
TUNNELS: Final = 60.0
"""How long upgraded connections are waited for when leaving, seconds."""


def stack(layers: Sequence[proxy.Layer], innermost: Handler) -> Handler:
    """One handler from layers, outermost first."""
    handler = innermost
    for layer in reversed(layers):
        handler = layer(handler)
    return handler


async def serve(config: Config) -> None:
    """Run until SIGTERM, then drain and return.

    Raises:
        ConfigError: a port cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    stop = runtime.stop_on_signals()
    ticker = Ticker()
    drainer = drain.Drainer(config.drain_quiet)
    prober = probe.Prober(config.probes)
    stream = None
    if config.stats_url:
        from kncore.net.statstream import StatStream  # wsproto is a megabyte: only who pushes pays for it

        stream = StatStream(config.stats_url)
    counter = stats.Counter(
        loop.time(), pod=config.pod, namespace=config.namespace, revision=config.revision, sender=stream
    )
    concurrency = config.container_concurrency
    limits = PoolLimits(idle=max(concurrency, 1000), idle_per_upstream=concurrency or 1000)
    ticker.add(drainer.visit)
    async with Pool(limits, ticker=ticker) as pool:
        handler = stack(
            request_path(config, ticker, drainer, prober, counter),
            proxy.forward(pool.upstream("127.0.0.1", config.user_port)),
        )
        main = Server(handler, ticker=ticker)
        admin = Server(drain.admin(drainer, ticker), ticker=ticker)
        metrics = Server(stats.serve(counter), ticker=ticker)
        for server, port in ((main, config.serving_port), (admin, config.admin_port), (metrics, config.metrics_port)):
            try:
                await server.listen(config.listen_host, port)
            except OSError as exc:
                why = os.strerror(exc.errno).lower() if exc.errno else str(exc)  # asyncio's text repeats the address
                raise ConfigError(f"cannot listen on {config.listen_host or '*'}:{port}: {why}") from exc
        log.info("queue-proxy listening", extra={"port": config.serving_port, "app": config.user_port})

        async def leave() -> None:
            await drainer.drained(loop.time(), ticker)
            now = loop.time()
            await main.drain(now + max(config.timeout, TUNNELS), tunnels=now + TUNNELS)
            for server in (admin, metrics):
                await server.drain(loop.time() + 1.0)

        parts: list[runtime.Part] = [prober, counter]
        if stream is not None:
            parts.append(stream)
        await runtime.serve(parts, stop, drain=leave)
    ticker.close()


def request_path(
    config: Config, ticker: Ticker, drainer: drain.Drainer, prober: probe.Prober, counter: stats.Counter
) -> list[proxy.Layer]:
    """The layers around the app, outermost first."""
    loop = asyncio.get_running_loop()
    answer_probes = probe.answer(prober, drainer)
    path: list[proxy.Layer] = []
    if config.request_log:
        log_requests = requestlog.write(requestlog.renderer(config), requestlog.Writer(1, loop), loop)
        # above everything that may answer, so that refused requests are logged too; above the probes only if asked
        path += (log_requests, answer_probes) if config.probe_request_log else (answer_probes, log_requests)
    else:
        path.append(answer_probes)  # first of all: nothing below counts, limits or delays a probe
    path += (
        drain.watch(drainer),  # a request restarts the quiet period, whatever becomes of it
        proxy.time_out(  # above the limit: time spent waiting for a place in the app counts
            ticker, total=config.timeout, first_byte=config.response_start_timeout, idle=config.idle_timeout
        ),
        stats.count(counter, loop),  # above the limit: waiting requests are concurrency the autoscaler must see
    )
    if config.container_concurrency:
        limit = Breaker(
            max_concurrency=config.container_concurrency,
            queue_depth=QUEUE_PER_SLOT * config.container_concurrency,
            initial_capacity=config.container_concurrency,
        )
        path.append(proxy.limit(limit))
    return path
