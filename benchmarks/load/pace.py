"""Our own generators (`peers/go/pace`): an open loop without coordinated omission, echoes over WebSockets and gRPC
streams, and large bodies.

The open loop exists because wrk sends a request only after the answer to the one before, so that a slow server is
asked less often and its slowness is seen less often.
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from benchmarks.load.report import Load
from benchmarks.peers import programs

__all__ = ["bulk", "messages", "open_loop", "parse", "stages", "streams"]


def open_loop(
    address: tuple[str, int],
    host: str,
    headers: Mapping[str, str],
    *,
    rate: float,
    seconds: float,
    connections: int = 64,
    processor: int | None = None,
) -> Load:
    """GET at a constant rate; latencies count from when a request was due.

    Requests that were due and found no free connection until the end are errors.

    Raises:
        NotBuilt.
    """
    return _run(
        address,
        host,
        headers,
        seconds,
        connections,
        processor,
        "-rate",
        f"{rate:.1f}",
        "-warm",
        "0.3",
        "-patience",
        "2",
    )


def stages(
    addresses: Sequence[tuple[str, int]],
    targets: Sequence[tuple[str, str]],
    *,
    rates: Sequence[float],
    seconds: float,
    connections: int,
    patience: float = 10.0,
) -> Load:
    """GET at one rate after another, `seconds` at each; requests take turns among targets, connections among addresses.

    Args:
        targets: (host, path), in the order in which they are asked for.
        patience: seconds after the end within which answers still count.
    Raises:
        NotBuilt.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".targets") as file:
        file.write("".join(f"{host} {path}\n" for host, path in targets))
        file.flush()
        command = [
            str(programs.built("pace")),
            *("-address", ",".join(f"{host}:{port}" for host, port in addresses), "-targets", file.name),
            *("-rate", ",".join(f"{rate:g}" for rate in rates), "-seconds", f"{seconds:g}"),
            *("-connections", str(connections), "-patience", f"{patience:g}"),
        ]
        within = seconds * len(rates) + patience + 60
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=within)
    return parse(done.stdout)


def messages(
    address: tuple[str, int],
    host: str,
    headers: Mapping[str, str],
    *,
    seconds: float,
    connections: int = 64,
    size: int = 64,
    processor: int | None = None,
) -> Load:
    """WebSocket messages of `size` bytes and their echoes, one at a time on each connection.

    Raises:
        NotBuilt.
    """
    return _run(address, host, headers, seconds, connections, processor, "-websocket", "-size", str(size))


def streams(
    address: tuple[str, int],
    host: str,
    headers: Mapping[str, str],
    *,
    seconds: float,
    connections: int = 8,
    each: int = 16,
    size: int = 100,
    processor: int | None = None,
) -> Load:
    """gRPC messages of `size` bytes and their echoes, one at a time on each of `each` streams of a connection.

    Raises:
        NotBuilt.
    """
    mode = ("-grpc", str(each), "-size", str(size), "-path", "/bench.Echo/Stream")
    return _run(address, host, headers, seconds, connections, processor, *mode)


def bulk(
    address: tuple[str, int],
    host: str,
    headers: Mapping[str, str],
    *,
    upload: int = 0,
    path: str = "/",
    connections: int = 4,
    times: int = 1,
    processor: int | None = None,
) -> Load:
    """Large bodies, `times` over each connection: `upload` bytes up, or what `path` sends down. As long as it takes.

    Raises:
        NotBuilt.
    """
    mode = ("-bulk", "-upload", str(upload), "-path", path, "-times", str(times))
    return _run(address, host, headers, 60.0, connections, processor, *mode)


def _run(
    address: tuple[str, int],
    host: str,
    headers: Mapping[str, str],
    seconds: float,
    connections: int,
    processor: int | None,
    *mode: str,
) -> Load:
    pinned = ["taskset", "-c", str(processor)] if processor is not None else []
    given = [argument for name, value in headers.items() for argument in ("-header", f"{name}: {value}")]
    command = [
        *(*pinned, str(programs.built("pace")), "-address", f"{address[0]}:{address[1]}", "-host", host),
        *("-seconds", str(seconds), "-connections", str(connections), *mode, *given),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    return parse(done.stdout)


def parse(text: str) -> Load:
    """Read the JSON object that `pace` prints.

    Raises:
        ValueError: it is none.
    """
    told = json.loads(text)
    return Load(
        requests=told["requests"],
        seconds=told["seconds"],
        errors=told["errors"] + told["late"],
        **{name: told[name] for name in ("p50", "p99", "p999")},
        longest=told["max"],
        p95=told["p95"],
        failures=told.get("failures") or {},
    )
