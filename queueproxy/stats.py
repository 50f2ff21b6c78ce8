"""What the autoscaler hears from this pod: a report a second, served on request and, if told where to, pushed.

    requests -> RequestStats --cut every second--> Stat --> GET :9090/metrics (scraped by the original autoscaler)
                                                        `-> StatStream (pushed to ours; misses no pod, costs no polling)

The first request after an idle second is pushed at once, as an activator does (serving §5.6): the autoscaler need not
wait for the tick to learn that the pod has work. The next report leaves that request out.

Source: knative/serving pkg/queue/protobuf_stats_reporter.go (serving §6.7).
"""

import asyncio
from dataclasses import replace
from typing import Final, Protocol

from kncore.net.exchange import Exchange, Handler
from kncore.stats import RequestStats
from kncore.wire import Stat, encode_messages, encode_stat
from queueproxy.proxy import Layer, Plan

__all__ = ["Counter", "Sender", "count", "serve"]

PERIOD: Final = 1.0


class Sender(Protocol):
    """Where reports are pushed to: a StatStream."""

    def send_nowait(self, message: bytes) -> bool:
        """Send one frame; False if it had to be dropped."""


class Counter:
    """Counts requests and cuts a report from them every second."""

    name = "stats"

    def __init__(self, now: float, *, pod: str, namespace: str, revision: str, sender: Sender | None = None) -> None:
        self.requests = RequestStats(now)
        self.idle = True
        """No request was here during the last period."""
        self._started = now
        self._pod = pod
        self._key = (namespace, revision)
        self._sender = sender
        self._early: Stat | None = None
        self.latest = Stat(pod_name=pod)

    def woken(self, *, proxied: bool) -> None:
        """The first request after an idle period arrived."""
        self.idle = False
        if self._sender is not None:
            one = Stat(
                pod_name=self._pod,
                average_concurrent_requests=1.0,
                average_proxied_concurrent_requests=float(proxied),
                request_count=1.0,
                proxied_request_count=float(proxied),
            )
            if self._sender.send_nowait(encode_messages([(*self._key, one)])):
                self._early = one

    def cut(self, now: float) -> Stat:
        """End the period: its report becomes the latest one, and is pushed."""
        report = self.requests.report(now)
        stat = self.latest = Stat(
            pod_name=self._pod,
            average_concurrent_requests=report.average_concurrency,
            average_proxied_concurrent_requests=report.average_proxied_concurrency,
            request_count=report.request_count / PERIOD,
            proxied_request_count=report.proxied_request_count / PERIOD,
            process_uptime=now - self._started,
        )
        self.idle = not report.request_count and not self.requests.concurrency
        if self._sender is not None:
            early, self._early = self._early, None
            if early is not None:
                stat = replace(
                    stat,
                    average_concurrent_requests=_less(stat.average_concurrent_requests, 1.0),
                    average_proxied_concurrent_requests=_less(
                        stat.average_proxied_concurrent_requests, early.average_proxied_concurrent_requests
                    ),
                    request_count=_less(stat.request_count, 1.0),
                    proxied_request_count=_less(stat.proxied_request_count, early.proxied_request_count),
                )
            self._sender.send_nowait(encode_messages([(*self._key, stat)]))
        return self.latest

    async def run(self) -> None:
        """Cut once a second, on the second of our own clock."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += PERIOD
            await asyncio.sleep(due - loop.time())
            self.cut(loop.time())


def _less(value: float, told: float) -> float:
    return max(0.0, value - told)


def count(counter: Counter, loop: asyncio.AbstractEventLoop) -> Layer:
    """Count requests in flight, those waiting for a place in the app included."""
    requests, clock = counter.requests, loop.time

    def left(_: Exchange) -> None:
        requests.leave(clock())

    def left_proxied(_: Exchange) -> None:
        requests.leave(clock(), True)

    def layer(inner: Handler) -> Handler:
        def handle(exchange: Exchange) -> None:
            plan: Plan = exchange.head.plan
            requests.arrive(exchange.started, plan.proxied)
            exchange.on_done(left_proxied if plan.proxied else left)
            if counter.idle:
                counter.woken(proxied=plan.proxied)
            inner(exchange)

        return handle

    return layer


_PROTOBUF: Final = (b"Content-Type: application/protobuf",)


def serve(counter: Counter) -> Handler:
    """The metrics port: the latest report as a protobuf Stat, whatever `Accept` says."""

    def handle(exchange: Exchange) -> None:
        if exchange.target.partition(b"?")[0] == b"/metrics":
            exchange.respond(200, encode_stat(counter.latest), _PROTOBUF)
        else:
            exchange.respond(404, b"404 page not found\n")

    return handle
