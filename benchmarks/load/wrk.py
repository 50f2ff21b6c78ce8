"""wrk: a closed loop over kept connections, HTTP/1.1."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping

from benchmarks.load.report import Load, NoTool

__all__ = ["CONNECTIONS", "parse", "run", "script"]

CONNECTIONS = 64
TELL = """
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "us": %d, "errors": %d, "p50": %d, "p99": %d, "p999": %d, "max": %d}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max))
end
"""
VARY = """
local number = 0
request = function()
  number = number + 1
  wrk.headers["X-Request-Id"] = tostring(number)
  return wrk.format()
end
"""


def script(*, body: int | None = None, vary: bool = False) -> str:
    """The Lua that wrk runs: what to send, and a report to be read by `parse`.

    Args:
        body: POST so many bytes; None is GET.
        vary: every request has a header that no other has, as with trace ids, so that no head equals the one before.
    """
    post = f'wrk.method = "POST"\nwrk.body = string.rep("x", {body})\n' if body is not None else ""
    return post + (VARY if vary else "") + TELL


def run(
    url: str,
    headers: Mapping[str, str],
    *,
    seconds: float,
    connections: int = CONNECTIONS,
    processor: int | None = None,
    body: int | None = None,
    vary: bool = False,
) -> Load:
    """Load a URL with one thread and connections that are kept open.

    Args:
        seconds: at least 1; whole ones, as wrk knows no others.
        processor: where wrk runs; None leaves that to the kernel.
        body, vary: see `script`.
    Raises:
        NoTool: wrk is not there.
    """
    program = shutil.which("wrk")
    if program is None:
        raise NoTool("wrk is not installed (Debian: apt-get install wrk)")
    given = [argument for name, value in headers.items() for argument in ("-H", f"{name}: {value}")]
    pinned = ["taskset", "-c", str(processor)] if processor is not None else []
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script(body=body, vary=vary))
        file.flush()
        command = [
            *(*pinned, program, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"),
            *("-s", file.name, *given, url),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    return parse(done.stdout)


def parse(text: str) -> Load:
    """Read what `script` made wrk print, after what it prints anyway.

    Raises:
        ValueError: it is not that.
    """
    try:
        told = json.loads(text.rstrip().rpartition("\n")[2])
        return Load(
            requests=told["requests"],
            seconds=told["us"] / 1e6,
            errors=told["errors"],
            **{name: told[name] / 1e6 for name in ("p50", "p99", "p999")},
            longest=told["max"] / 1e6,
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise ValueError(f"not a report of wrk: {text[:200]!r}") from exc
