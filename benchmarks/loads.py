"""The loads that each proxy gets: what is sent, how, and what is read off.

Every load runs one way against any proxy. Requests/s and latencies are the generator's; CPU is the proxy's own, from
the scheduler. A load that a proxy does not carry (HTTP/2 through nginx to an HTTP/2 backend) raises `NotCarried`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.load import h2load, pace, wrk
from benchmarks.load.report import Load
from benchmarks.peers.process import Running
from benchmarks.procfs import cpu_seconds

__all__ = ["LOADS", "NotCarried", "Setting", "Workload"]

BIG = 100 * 1024 * 1024
FEW_FAILURES = 0.001
"""Share of failed requests with which a run still counts; beyond it the figure would be of something else."""


class NotCarried(Exception):
    """A proxy does not serve this load, or fails it."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a load is run now."""

    seconds: float
    processor: int | None
    """Of the generator."""
    rate: float = 0.0
    """Requests/s, for open loops."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One load."""

    name: str
    text: str
    run: Callable[[Running, Setting], Load]
    bytes_each: int = 0
    """Body bytes per request, where throughput is the point."""
    http2: bool = False
    share: float = 0.0
    """Open loop at so much of a rate measured before."""
    of_original: bool = False
    """The rate is the original's, for everybody; otherwise each proxy's own."""
    widely: bool = False
    """Beside every peer; otherwise beside the original and nginx, as time is short."""

    def sample(self, proxy: Running, setting: Setting) -> dict[str, float]:
        """Run it and read off the figures.

        Raises:
            NotCarried: more than one in a thousand requests failed.
        """
        target = proxy.http2 if self.http2 and proxy.http2 else proxy
        pid = target.pid or proxy.pid
        before = cpu_seconds([pid])
        load = self.run(target, setting)
        used = cpu_seconds([pid]) - before
        if load.requests == 0 or load.errors > load.requests * FEW_FAILURES:
            raise NotCarried(f"{proxy.name}, {self.name}: {load.errors} errors beside {load.requests} answers")
        told = {
            "errors": float(load.errors),
            "busy": used / load.seconds,
        }  # the share of a processor that the proxy used
        latencies = {"p50 ms": load.p50 * 1e3, "p99 ms": load.p99 * 1e3, "p99.9 ms": load.p999 * 1e3}
        if self.bytes_each:
            moved = load.requests * self.bytes_each / 1e6
            return {"MB/s": moved / load.seconds, "CPU ms/100 MB": used / moved * 1e5, **told}
        if self.share:
            return {"offered/s": setting.rate, **latencies, **told}
        cpu = used / load.requests * 1e6
        return {"requests/s": load.rate, "CPU us/request": cpu, **latencies, **told}


def _url(proxy: Running, path: str = "/") -> str:
    return f"http://{proxy.address[0]}:{proxy.address[1]}{path}"


def _headers(proxy: Running) -> dict[str, str]:
    return {"Host": proxy.host, **(proxy.headers or {})}


def _get(connections: int, *, vary: bool = False) -> Callable[[Running, Setting], Load]:
    def run(proxy: Running, setting: Setting) -> Load:
        return wrk.run(
            _url(proxy),
            _headers(proxy),
            seconds=setting.seconds,
            connections=connections,
            processor=setting.processor,
            vary=vary,
        )

    return run


def _post(size: int, connections: int) -> Callable[[Running, Setting], Load]:
    def run(proxy: Running, setting: Setting) -> Load:
        return wrk.run(
            _url(proxy),
            _headers(proxy),
            seconds=setting.seconds,
            connections=connections,
            processor=setting.processor,
            body=size,
        )

    return run


def _bulk(proxy: Running, setting: Setting, *, upload: int = 0, path: str = "/") -> Load:
    return pace.bulk(
        proxy.address,
        proxy.host,
        proxy.headers or {},
        upload=upload,
        path=path,
        times=max(1, round(2 * setting.seconds)),
        processor=setting.processor,
    )


def _download(proxy: Running, setting: Setting) -> Load:
    return _bulk(proxy, setting, path=f"/bytes/{BIG}")


def _upload(proxy: Running, setting: Setting) -> Load:
    return _bulk(proxy, setting, upload=BIG)


def _http2(body: bytes | None, headers: Mapping[str, str]) -> Callable[[Running, Setting], Load]:
    def run(proxy: Running, setting: Setting) -> Load:
        given = {**(proxy.headers or {}), **headers}
        if proxy.host != "localhost":
            given[":authority"] = proxy.host
        try:
            return h2load.run(
                _url(proxy, "/bench.Echo/Unary"),
                given,
                seconds=setting.seconds,
                body=body,
                processor=setting.processor,
            )
        except ValueError as exc:
            raise NotCarried(f"{proxy.name}: no answer over HTTP/2 ({exc})") from exc

    return run


def _websocket(proxy: Running, setting: Setting) -> Load:
    return pace.messages(
        proxy.address, proxy.host, proxy.headers or {}, seconds=setting.seconds, processor=setting.processor
    )


def _streams(proxy: Running, setting: Setting) -> Load:
    return pace.streams(
        proxy.address, proxy.host, proxy.headers or {}, seconds=setting.seconds, processor=setting.processor
    )


def _open(proxy: Running, setting: Setting) -> Load:
    return pace.open_loop(
        proxy.address,
        proxy.host,
        proxy.headers or {},
        rate=setting.rate,
        seconds=setting.seconds,
        processor=setting.processor,
    )


LOADS: Sequence[Workload] = (
    Workload(name="get-64", text="GET of 12 bytes, 64 connections", run=_get(64), widely=True),
    Workload(name="get-1", text="GET of 12 bytes, 1 connection", run=_get(1)),
    Workload(name="get-1000", text="GET of 12 bytes, 1,000 connections", run=_get(1000), widely=True),
    Workload(name="get-64-varied", text="GET, 64 connections, no two heads alike", run=_get(64, vary=True)),
    Workload(name="post-1k", text="POST of 1 KiB, 64 connections", run=_post(1024, 64)),
    Workload(name="post-64k", text="POST of 64 KiB, 64 connections", run=_post(65536, 64), widely=True),
    Workload(name="download", text="GET of 100 MB, 4 connections", run=_download, bytes_each=BIG, widely=True),
    Workload(name="upload", text="POST of 100 MB, 4 connections", run=_upload, bytes_each=BIG, widely=True),
    Workload(name="h2c-get", text="HTTP/2 GET, 8 connections x 16 streams", run=_http2(None, {}), http2=True),
    Workload(
        name="grpc-unary",
        text="gRPC unary of 100 bytes, 8 connections x 16 streams",
        run=_http2(h2load.message(100), h2load.GRPC),
        http2=True,
        widely=True,
    ),
    Workload(
        name="grpc-stream",
        text="gRPC stream echo of 100 bytes, 8 connections x 16 streams",
        run=_streams,
        http2=True,
    ),
    Workload(name="websocket", text="WebSocket echo of 64 bytes, 64 connections", run=_websocket, widely=True),
    Workload(name="open-50", text="open loop at 50 % of the proxy's own peak", run=_open, share=0.5),
    Workload(name="open-90", text="open loop at 90 % of the proxy's own peak", run=_open, share=0.9),
    Workload(
        name="open-same",
        text="open loop at 90 % of the original's peak, the same for all",
        run=_open,
        share=0.9,
        of_original=True,
    ),
)
