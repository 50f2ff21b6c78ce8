"""h2spec, the conformance test for HTTP/2 servers: found on PATH, or built from its Go module, once, into the user's
cache. Its versions are pinned in `data/h2spec`. `python -m tests.h2spec` builds it beforehand: that takes a minute.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = Path(__file__).parent / "data" / "h2spec"
PACKAGE = "github.com/summerwind/h2spec/cmd/h2spec"
BUILD_SECONDS = 280.0

__all__ = ["BUILD_SECONDS", "binary"]


def binary() -> str:
    """The program's path; skips the test, saying why, if it is not there and cannot be built."""
    found = shutil.which("h2spec")
    if found is not None:
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torpor" / "h2spec"
    built = cache / "h2spec-2.2.1"
    if not built.exists():
        if shutil.which("go") is None:
            pytest.skip("no h2spec on PATH, and no Go to build one")
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process builds, the others (of pytest-xdist) find the work done
            if not built.exists():
                _build(built)
    if not built.exists():
        pytest.skip(f"no h2spec on PATH, and building it failed: see {built}.log")
    return str(built)


def _build(built: Path) -> None:
    source = built.with_name("source")
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for name in ("go.mod", "go.sum"):
        shutil.copy(MODULE / name, source)
    environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
    command = ["go", "build", "-trimpath", "-buildvcs=false", "-o", "h2spec", PACKAGE]
    with Path(f"{built}.log").open("w") as log:
        try:
            subprocess.run(
                command, cwd=source, env=environment, stdout=log, stderr=log, timeout=BUILD_SECONDS, check=True
            )
            (source / "h2spec").replace(built)
        except (OSError, subprocess.SubprocessError) as error:
            print(error, file=log)
    shutil.rmtree(source, ignore_errors=True)


if __name__ == "__main__":
    sys.stdout.write(binary() + "\n")
