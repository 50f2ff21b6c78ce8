"""Builds the Go programs in `go/`, once, into the user's cache.

Among them are the original's queue-proxy and activator, pinned by version and checksum in `go/go.mod` and built from
there as any Go dependency is. That takes two minutes and a network the first time. A program named by an environment
variable (`TORPOR_BENCH_QUEUE=/path/to/queue`) is used as it is instead: any other build of it can be measured that way.
"""

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["PROGRAMS", "NotBuilt", "built", "cached", "versions"]

SOURCES = Path(__file__).parent / "go"
PROGRAMS = {
    "backend": "./backend",
    "pace": "./pace",
    "reverseproxy": "./reverseproxy",
    "queue": "knative.dev/serving/cmd/queue",
    "activator": "knative.dev/serving/cmd/activator",
}
BUILD_SECONDS = 900.0
OURS = ("backend", "pace", "reverseproxy")
"""Built from `go/` itself: rebuilt when that changes."""


class NotBuilt(Exception):
    """There is no Go, or it could not build a program."""


def built(name: str) -> Path:
    """The executable; it is built first if it is not there.

    Args:
        name: one of `PROGRAMS`.
    Raises:
        NotBuilt: saying why.
    """
    if given := os.environ.get(f"TORPOR_BENCH_{name.upper()}"):
        if not Path(given).exists():
            raise NotBuilt(f"TORPOR_BENCH_{name.upper()}={given} is not there")
        return Path(given)
    path = cached(name)
    if path.exists():
        return path
    go = shutil.which("go")
    if go is None:
        raise NotBuilt(f"{name} needs Go to be built")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits and finds it done
        if not path.exists():
            _compile(go, name, path)
    return path


def cached(name: str) -> Path:
    """Where a program is kept once it was built."""
    return _cache() / f"{name}-{_fingerprint(name)}"


def _compile(go: str, name: str, path: Path) -> None:
    print(f"building {name} with Go, once, into {path}", file=sys.stderr, flush=True)
    half = path.with_suffix(".part")
    environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
    command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(half), PROGRAMS[name]]
    try:
        done = subprocess.run(
            command,
            cwd=SOURCES,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BUILD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NotBuilt(f"{name} could not be built: {exc}") from exc
    if done.returncode:
        raise NotBuilt(f"{name} could not be built: {done.stderr.strip()[-500:]}")
    half.replace(path)


def versions() -> dict[str, str]:
    """What the programs are, for the file of results."""
    text = (SOURCES / "go.mod").read_text()
    pinned = re.search(r"knative\.dev/serving (\S+)", text)
    given = {name: os.environ.get(f"TORPOR_BENCH_{name.upper()}") for name in ("queue", "activator")}
    return {
        "go": _go_version(),
        "knative.dev/serving": pinned[1] if pinned else "unknown",
        **{f"{name} (given)": path for name, path in given.items() if path},
    }


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torpor" / "benchmarks"


def _fingerprint(name: str) -> str:
    """Tells apart builds from different sources or by different compilers."""
    digest = hashlib.sha256(_go_version().encode())
    files = [SOURCES / "go.mod", SOURCES / "go.sum"]
    if name in OURS:
        files += sorted((SOURCES / name).glob("*.go"))
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def _go_version() -> str:
    try:
        done = subprocess.run(
            ["go", "env", "GOVERSION"],
            env={**os.environ, "GOTOOLCHAIN": "local"},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "no Go"
    return done.stdout.strip()
