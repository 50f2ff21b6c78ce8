"""h2load: a closed loop of HTTP/2 streams, cleartext with prior knowledge; unary gRPC is a POST of one message."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.load.report import Load, NoTool
from benchmarks.samples import percentile

__all__ = ["GRPC", "message", "parse", "run"]

GRPC = {"content-type": "application/grpc", "te": "trailers"}


def message(size: int) -> bytes:
    """A gRPC message of `size` bytes with its prefix: not compressed, then the length."""
    return b"\0" + size.to_bytes(4, "big") + b"x" * size


def run(
    url: str,
    headers: Mapping[str, str],
    *,
    seconds: float,
    connections: int = 8,
    streams: int = 16,
    body: bytes | None = None,
    processor: int | None = None,
) -> Load:
    """Load a URL with streams on kept connections.

    Args:
        body: POST it; None is GET.
        seconds: whole ones.
    Raises:
        NoTool: h2load is not there.
    """
    program = shutil.which("h2load")
    if program is None:
        raise NoTool("h2load is not installed (Debian: apt-get install nghttp2-client)")
    pinned = ["taskset", "-c", str(processor)] if processor is not None else []
    given = [argument for name, value in headers.items() for argument in ("-H", f"{name}: {value}")]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        if body is not None:
            Path(folder, "body").write_bytes(body)
            given += ["-d", f"{folder}/body"]
        command = [
            *(*pinned, program, f"-c{connections}", f"-m{streams}", f"-D{max(1, round(seconds))}s"),
            *(f"--log-file={log}", *given, url),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
        with log.open() as lines:
            return parse(done.stdout, lines)


def parse(text: str, log: Iterable[str]) -> Load:
    """Read a report, and the log of requests for their times.

    Args:
        log: lines of start (microseconds), status and duration (microseconds), tab-separated.
    Raises:
        ValueError: it is not a report, or nothing was answered.
    """
    found = re.search(r"^finished in ([\d.]+)(us|ms|s),", text, re.MULTILINE)
    counts = re.search(r"requests: .*?(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    took = sorted(int(words[2]) / 1e6 for line in log if len(words := line.split("\t")) >= 3 and words[1] != "-1")
    if found is None or counts is None or not took:
        raise ValueError(f"not a report of h2load: {text[:200]!r}")
    unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0}[found[2]]
    succeeded, failed, errored, timeouts = map(int, counts.groups())
    return Load(
        requests=succeeded,
        seconds=float(found[1]) * unit,
        errors=failed + errored + timeouts,
        p50=percentile(took, 50),
        p99=percentile(took, 99),
        p999=percentile(took, 99.9),
        longest=took[-1],
    )
