"""Requests per second and CPU per request on the way to a pod, beside nginx doing the same number of hops.

    two hops:  wrk -> activator -> queue-proxy -> backend     wrk -> nginx -> nginx -> backend
    one hop:   wrk -> queue-proxy -> backend                  wrk -> nginx -> backend
    control:   wrk -> backend

The two hops are also measured with a request id in every request, so that no head is like another: ours remember the
last heads, and a load generator that always says the same would show only that.

The backend, the same process in all cases, is an nginx that returns 12 bytes (a bare uvloop protocol where there is
none): part of a pod of the measured platform, so ours go the way of any request. Every proxy is one single-threaded
process. With two or more processors wrk and the backend share the first and all proxies share the second: proxies are
then measured against one processor, neither side can borrow time of the other, and whoever needs less of it per request
wins. All take turns, round after round, so drift of the machine meets all; ratios are taken within a round.

Requests per second need a machine that does nothing else. CPU per request hardly minds company; "per CPU second" is
what a whole processor would carry at that cost.
"""

import asyncio
import contextlib
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks import nginx
from benchmarks.load import wrk
from benchmarks.load.report import Load
from benchmarks.platform import NotMeasured, Platform, hello, platform
from benchmarks.procfs import command, cpu_seconds, descendants, listener, pin
from benchmarks.report import Report
from benchmarks.samples import table
from kncore.api import meta

__all__ = ["measure"]

IMAGE = "bench.local/fast:latest"
AWAKE = {"autoscaling.knative.dev/min-scale": "1", "autoscaling.knative.dev/max-scale": "1"}
VARIED = "{}, heads differ"
PAIRS = {
    "two hops": ("activator + queue-proxy", "nginx x2"),
    "two hops, heads differ": (VARIED.format("activator + queue-proxy"), VARIED.format("nginx x2")),
    "one hop": ("queue-proxy", "nginx"),
}
"""Ours, and what it is compared with."""
SECONDS = 5
WARM_UP = 2
ENTRY = {"K-Proxy-Request": "activator"}
"""What the activator adds to a request; with it the queue-proxy alone does exactly its part."""


@dataclass(frozen=True, kw_only=True)
class Path:
    """One way to the backend."""

    name: str
    url: str
    host: str
    pids: Sequence[int]
    """The proxies on it."""
    headers: Mapping[str, str] = field(default_factory=dict)
    vary: bool = False
    """No request head is like another."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """One run over one path."""

    load: Load
    cpu_us: Sequence[float]
    """CPU per request of each proxy on the path, microseconds."""


async def measure(report: Report) -> None:
    """Take the samples and summarise them."""
    async with platform() as running:
        service = hello("fast", image=IMAGE, annotations=AWAKE)
        scratch = {"name": "SCRATCH", "value": str(running.started.state.path.parent)}
        service["spec"]["template"]["spec"]["containers"][0]["env"].append(scratch)
        await running.apply(service)
        await asyncio.sleep(1)
        paths = await _ours(running)
        backend = paths.backend
        with contextlib.ExitStack() as stack:
            inner, inner_address = stack.enter_context(nginx.proxy(backend))
            outer, outer_address = stack.enter_context(nginx.proxy(inner_address))
            host = paths.two.host
            nginx_two = Path(name="nginx x2", url=_url(outer_address), host=host, pids=(outer.pid, inner.pid))
            every = [
                paths.two,
                nginx_two,
                replace(paths.two, name=VARIED.format(paths.two.name), vary=True),
                replace(nginx_two, name=VARIED.format(nginx_two.name), vary=True),
                paths.one,
                Path(name="nginx", url=_url(inner_address), host=host, pids=(inner.pid,)),
                Path(name="backend alone", url=_url(backend), host=host, pids=()),
            ]
            pinned = _pin(every, paths.backend_pids)
            await asyncio.to_thread(_rounds, report, every, pinned)


@dataclass(frozen=True, kw_only=True)
class _Ours:
    two: Path
    one: Path
    backend: tuple[str, int]
    backend_pids: Sequence[int]


async def _ours(running: Platform) -> _Ours:
    """The ways through the platform, and the backend at their end."""
    (pod,) = await running.pods("fast")
    pod_ip = str(meta.at(pod, "status", "podIP"))
    root = running.started.process.pid
    family = list(descendants(root))
    activator = listener(*running.ingress, family)
    queue = listener(pod_ip, 8012, family)
    backends = [pid for pid in family if "nginx" in command(pid) or "fast.py" in command(pid)]
    if activator is None or queue is None or not backends:
        raise NotMeasured(f"activator {activator}, queue-proxy {queue}, backend {backends}: not all were found")
    port = _port_of(backends[0])
    host = running.host("fast")
    return _Ours(
        two=Path(name="activator + queue-proxy", url=_url(running.ingress), host=host, pids=(activator, queue)),
        one=Path(name="queue-proxy", url=_url((pod_ip, 8012)), host=host, pids=(queue,), headers=ENTRY),
        backend=("127.0.0.1", port),
        backend_pids=backends,
    )


def _port_of(pid: int) -> int:
    """The port of 127.0.0.1 on which a process listens."""
    for port in _listening():
        if listener("127.0.0.1", port, [pid]) == pid:
            return port
    raise NotMeasured(f"process {pid} ({command(pid)}) does not listen")


def _listening() -> Iterable[int]:
    with open("/proc/net/tcp", encoding="ascii") as lines:
        next(lines)
        for line in lines:
            words = line.split()
            if words[3] == "0A":
                yield int(words[1].rpartition(":")[2], 16)


def _url(address: tuple[str, int]) -> str:
    return f"http://{address[0]}:{address[1]}/"


def _pin(paths: Sequence[Path], backends: Sequence[int]) -> bool:
    """Share out the processors as the module says; False if there is only one."""
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        return False
    pin(backends, {processors[0]})
    pin({pid for path in paths for pid in path.pids}, {processors[1]})
    return True


def _rounds(report: Report, paths: Sequence[Path], pinned: bool) -> None:
    rounds = report.options.samples(full=7, quick=2)
    seconds = 1 if report.options.quick else SECONDS
    processor = min(os.sched_getaffinity(0)) if pinned else None
    for path in paths:
        _run(path, 1 if report.options.quick else WARM_UP, processor)
    taken: dict[str, list[Taken]] = {path.name: [] for path in paths}
    for number in range(rounds):
        # every other round backwards, so that nobody always runs in the wake of the same other
        for path in paths if number % 2 == 0 else reversed(paths):
            taken[path.name].append(_run(path, seconds, processor))
        rates = "  ".join(f"{name} {runs[-1].load.rate:,.0f}" for name, runs in taken.items())
        report.note(f"round {number + 1} of {rounds}: {rates} requests/s")
    _summarise(report, taken, seconds=seconds, pinned=pinned)


def _run(path: Path, seconds: int, processor: int | None) -> Taken:
    before = [cpu_seconds([pid]) for pid in path.pids]
    headers = {"Host": path.host, **path.headers}
    result = wrk.run(path.url, headers, seconds=seconds, processor=processor, vary=path.vary)
    after = [cpu_seconds([pid]) for pid in path.pids]
    if result.errors:
        raise NotMeasured(f"{path.name}: {result.errors} of {result.requests} requests failed")
    return Taken(
        load=result,
        cpu_us=[(now - then) * 1e6 / result.requests for then, now in zip(before, after, strict=True)],
    )


def _summarise(report: Report, taken: dict[str, list[Taken]], *, seconds: int, pinned: bool) -> None:
    rows: dict[str, Sequence[float | str]] = {}
    for name, runs in taken.items():
        rates = [run.load.rate for run in runs]
        cpu = [statistics.median(each) for each in zip(*(run.cpu_us for run in runs), strict=True)]
        rows[name] = (
            statistics.median(rates),
            min(rates),
            max(rates),
            " + ".join(f"{one:.1f}" for one in cpu) or "-",
            f"{1e6 / sum(cpu):,.0f}" if cpu else "-",
            f"{statistics.median(run.load.p50 for run in runs) * 1000:.2f}",
            f"{statistics.median(run.load.p99 for run in runs) * 1000:.2f}",
        )
        report.samples[name] = [{**run.load.to_json(), "cpu_us": list(run.cpu_us)} for run in runs]
        report.summary[name] = _facts(rates, cpu)
    ratios = {f"{name}, ours / nginx": _ratio(taken[ours], taken[theirs]) for name, (ours, theirs) in PAIRS.items()}
    efforts = {
        f"{name}, nginx / ours": _ratio(taken[theirs], taken[ours], _effort) for name, (ours, theirs) in PAIRS.items()
    }
    report.summary["ratios"] = ratios
    report.summary["cpu_ratios"] = efforts
    report.summary["pinned"] = pinned
    count = len(next(iter(taken.values())))
    report.say(
        f"wrk, {wrk.CONNECTIONS} connections, {count} interleaved runs of {seconds} s each; "
        + ("wrk and backend on one processor, all proxies on another" if pinned else "nothing pinned"),
        *table(("requests/s", "min", "max", "CPU us/request", "per CPU second", "p50 ms", "p99 ms"), rows, digits=0),
        *_ratio_lines("requests/s", ratios, count),
        *_ratio_lines("CPU per request", efforts, count),
    )


def _facts(rates: Sequence[float], cpu: Sequence[float]) -> dict[str, Any]:
    return {
        "requests_per_second": round(statistics.median(rates)),
        "min": round(min(rates)),
        "max": round(max(rates)),
        "cpu_us_per_request": [round(one, 2) for one in cpu],
    }


def _rate(taken: Taken) -> float:
    return taken.load.rate


def _effort(taken: Taken) -> float:
    return sum(taken.cpu_us)


def _ratio_lines(what: str, ratios: Mapping[str, Mapping[str, float]], count: int) -> list[str]:
    return [
        f"{what}, {name}: {ratio['median']:.2f} (median of {count} rounds, {ratio['min']:.2f} to {ratio['max']:.2f})"
        for name, ratio in ratios.items()
    ]


def _ratio(left: Sequence[Taken], right: Sequence[Taken], figure: Callable[[Taken], float] = _rate) -> dict[str, float]:
    """Of one figure, round by round."""
    ratios = [figure(mine) / figure(other) for mine, other in zip(left, right, strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
    }
