"""One hop through a proxy, ours beside the original's and others': requests/s, CPU, latency, throughput, memory.

    generator and backend on one processor -> the proxy on another, alone

Every proxy is one single-threaded process in front of the same backend, under the same loads (`loads.py`): our
queue-proxy beside the original's, nginx, Go's httputil.ReverseProxy and an aiohttp server with an aiohttp client, then
our activator beside the original's. The backend (`peers/go/backend`) carries several times what any proxy does.

Whatever is not there (no Go, no nginx, a protocol that a proxy does not speak) is left out and said. `--only` takes
names of loads, `queue-proxy` and `activator`.
"""

import contextlib

from benchmarks.contest import ABSENT, Contest, processors
from benchmarks.peers import programs, sidecars
from benchmarks.peers.activators import activators
from benchmarks.peers.cluster import HTTP1, HTTP2, cluster
from benchmarks.peers.isolation import isolate
from benchmarks.peers.programs import NotBuilt
from benchmarks.platform import NotMeasured
from benchmarks.report import Report

__all__ = ["measure"]

COMPONENTS = frozenset({"queue-proxy", "activator"})


async def measure(report: Report) -> None:
    """Compare queue-proxies and what else forwards to an app, then activators."""
    for name in programs.PROGRAMS:  # before the network is left
        with contextlib.suppress(NotBuilt):  # said when it is missed
            programs.built(name)
    if why := isolate():
        report.note(why)
    generator, _ = processors()
    with contextlib.ExitStack() as stack:
        try:
            backend = stack.enter_context(sidecars.backend(generator))
        except ABSENT as exc:
            raise NotMeasured(f"no backend: {exc}") from exc
        if report.options.chosen("queue-proxy", COMPONENTS):
            Contest(report, "queue-proxy", sidecars.PROXIES, backend.address).run()
        if report.options.chosen("activator", COMPONENTS):
            place = stack.enter_context(cluster(dict.fromkeys((HTTP1, HTTP2), backend.address), generator))
            Contest(report, "activator", activators(place), backend.address).run()
