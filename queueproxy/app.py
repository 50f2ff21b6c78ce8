"""A queue-proxy put together: listeners, layers, background parts, and the order of leaving."""

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kncore import runtime
from kncore.breaker import Breaker
from kncore.errors import ConfigError
from kncore.net import requestlog
from kncore.net.exchange import Handler, Upstream
from kncore.net.heads import RequestLimits
from kncore.net.http1 import Limits
from kncore.net.overload import Turns
from kncore.net.pool import Pool, PoolLimits
from kncore.net.server import Server
from kncore.net.ticker import Ticker
from queueproxy import drain, probe, proxy, stats
from queueproxy.config import Config

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from kncore.net.tls import CertificateFiles
    from queueproxy.telemetry import Telemetry

__all__ = ["serve", "stack"]

log = logging.getLogger("queueproxy")

QUEUE_PER_SLOT: Final = 10
"""Requests that may wait for each place in the app (serving §6.4)."""
LIMITS: Final = Limits(head=RequestLimits(head_bytes=72 * 1024, head_lines=160))
"""A little more than others allow: an activator adds lines, and what it has let pass must pass here too."""
TUNNELS: Final = 60.0
"""How long upgraded connections are waited for when leaving, seconds."""
FLUSH: Final = 10.0
"""How long telemetry may take to leave at the end, seconds."""


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
    prober = probe.Prober(config.probes, detect_http2=config.detect_http2)
    stream = None
    if config.stats_url:
        from kncore.net.statstream import StatStream  # wsproto is a megabyte: only who pushes pays for it

        stream = StatStream(config.stats_url)
    counter = stats.Counter(
        loop.time(), pod=config.pod, namespace=config.namespace, revision=config.revision, sender=stream
    )
    telemetry = telemetry_of(config)
    concurrency = config.container_concurrency
    limits = PoolLimits(idle=max(concurrency, 1000), idle_per_upstream=concurrency or 1000)
    ticker.add(drainer.visit)
    async with Pool(limits, ticker=ticker) as pool:
        breaker = breaker_of(config)
        path, app = request_path(
            config,
            ticker,
            drainer,
            prober,
            counter,
            pool.upstream("127.0.0.1", config.user_port, http2=config.http2),
            breaker=breaker,
            telemetry=telemetry,
        )
        handler = stack(path, proxy.forward(app))
        main = Server(handler, ticker=ticker, limits=LIMITS)
        admin = Server(drain.admin(drainer, ticker), ticker=ticker)
        metrics = Server(stats.serve(counter), ticker=ticker)
        listeners = [(main, config.serving_port), (admin, config.admin_port), (metrics, config.metrics_port)]
        shown = {"main": main}
        if telemetry is not None:
            telemetry.watch(shown, pool, breaker, counter.requests)
            if telemetry.scraped:
                from kncore.net import introspect

                scraped = Server(introspect.metrics(telemetry.registry), ticker=ticker)
                listeners.append((scraped, config.user_metrics_port))
        if config.profiling:
            from kncore.net import introspect
            from kncore.telemetry.profile import Profiler

            listeners.append((Server(introspect.profiles(Profiler()), ticker=ticker), config.profiling_port))
        for server, port in listeners:
            await listen(server, config.listen_host, port)
        certificate = certificate_of(config)
        fronts = [main]
        if certificate is not None:
            from queueproxy.tls import marked

            secure = Server(marked(handler), ticker=ticker, limits=LIMITS)
            fronts.append(secure)
            shown["https"] = secure
            await listen(secure, config.listen_host, config.https_port, tls=certificate.current)
        log.info("queue-proxy listening", extra={"port": config.serving_port, "app": config.user_port})

        async def leave() -> None:
            await drainer.drained(loop.time(), ticker)
            now = loop.time()
            async with asyncio.TaskGroup() as group:
                for server in fronts:
                    group.create_task(server.drain(now + max(config.timeout, TUNNELS), tunnels=now + TUNNELS))
            for server, _ in listeners[1:]:
                await server.drain(loop.time() + 1.0)
            if telemetry is not None and telemetry.push is not None:
                await telemetry.push.flush(FLUSH)

        parts: list[runtime.Part] = [prober, counter]
        if stream is not None:
            parts.append(stream)
        if telemetry is not None and telemetry.push is not None:
            parts.append(telemetry.push)
        if certificate is not None:
            parts.append(certificate)
        await runtime.serve(parts, stop, drain=leave)
    ticker.close()


async def listen(
    server: Server, host: str | None, port: int, *, tls: "Callable[[], ssl.SSLContext] | None" = None
) -> None:
    """Listen, or say why not.

    Raises:
        ConfigError: the port cannot be had.
    """
    try:
        await server.listen(host, port, tls=tls)
    except OSError as exc:
        why = os.strerror(exc.errno).lower() if exc.errno else str(exc)  # asyncio's text repeats the address
        raise ConfigError(f"cannot listen on {host or '*'}:{port}: {why}") from exc


def certificate_of(config: Config) -> "CertificateFiles | None":
    """What the pod proves itself with; None if it was given nothing, and then TLS is not even loaded."""
    if not os.path.lexists(os.path.join(config.certificates, "tls.crt")):
        return None
    from queueproxy.tls import certificate

    return certificate(config.certificates, config.environ)


def telemetry_of(config: Config) -> "Telemetry | None":
    """What measures requests; None if nobody wants to know, and then nothing of it is even loaded."""
    metrics, tracing = config.request_metrics, config.tracing
    if metrics.protocol != "prometheus" and not metrics.pushes and not tracing.pushes:
        return None
    from queueproxy.telemetry import Telemetry

    return Telemetry(config, config.environ)


def breaker_of(config: Config) -> Breaker | None:
    """The limit in front of the app; None for none."""
    places = config.container_concurrency
    if not places:
        return None
    return Breaker(max_concurrency=places, queue_depth=QUEUE_PER_SLOT * places, initial_capacity=places)


def request_path(
    config: Config,
    ticker: Ticker,
    drainer: drain.Drainer,
    prober: probe.Prober,
    counter: stats.Counter,
    app: Upstream,
    *,
    breaker: Breaker | None,
    telemetry: "Telemetry | None" = None,
) -> tuple[list[proxy.Layer], Upstream]:
    """The layers around the app, outermost first, and the app as the innermost one sees it."""
    loop = asyncio.get_running_loop()
    answer_probes = probe.answer(prober, drainer)
    path: list[proxy.Layer] = []
    if config.request_log:
        log_requests = requestlog.write(
            requestlog.renderer(config.request_log_template), identity_of(config), requestlog.Writer(1, loop)
        )
        # above everything that may answer, so that refused requests are logged too; above the probes only if asked
        path += (log_requests, answer_probes) if config.probe_request_log else (answer_probes, log_requests)
    else:
        path.append(answer_probes)  # first of all: nothing below counts, limits or delays a probe
    path.append(drain.watch(drainer))  # a request restarts the quiet period, whatever becomes of it
    if telemetry is not None:
        from queueproxy.telemetry import Traced, note_turn, time_requests

        if telemetry.tracer is not None:
            traced = Traced(telemetry.tracer, app, limited=breaker is not None)
            path.append(traced.layer)
            app = traced
        if telemetry.requests is not None:
            path.append(time_requests(telemetry.requests, loop.time))  # all that we do is time the client waits
    path += (
        proxy.time_out(  # above the limit: time spent waiting for a place in the app counts
            ticker, total=config.timeout, first_byte=config.response_start_timeout, idle=config.idle_timeout
        ),
        stats.count(counter, loop),  # above the limit: waiting requests are concurrency the autoscaler must see
    )
    if breaker is not None:
        path.append(proxy.limit(breaker))
    else:  # nothing else bounds how much comes at once
        path.append(proxy.take_turns(Turns(loop)))
    if telemetry is not None and telemetry.requests is not None:
        path.append(note_turn(loop.time))  # below the limit: what is left is the app's time
    return path, app


def identity_of(config: Config) -> requestlog.Identity:
    """Whose requests they are, for the request log."""
    return requestlog.Identity(
        name=config.revision,
        namespace=config.namespace,
        service=config.service,
        configuration=config.configuration,
        pod=config.pod,
        pod_ip=config.pod_ip,
    )
