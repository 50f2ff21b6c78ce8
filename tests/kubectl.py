"""The kubectl binaries that tests drive: where they are found, and how one is built where there is none.

`$KUBECTL` names them, as a path list. Without it they are the `kubectl` on PATH, the versions installed beside it
(`kubectl.1.29`, ...) and those built before; where that gives fewer than two versions and Go is present, they are
built from the Go modules pinned in `data/kubectl` into the user's cache, once. The oldest and the newest supported one
at hand are driven, every one with `KUBECTL_ALL=1`.

Building takes a minute or three, more than a test may take, so it happens after collection (see `conftest.py`), and
only if a test that was selected needs it. `python tests/kubectl.py` builds what tests would build beforehand, and the
newest in any case: what is installed may be old.
"""

import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

OLDEST = (1, 29)
"""The oldest supported version: those before ask for OpenAPI v2 as gnostic protobuf."""

MODULES = Path(__file__).parent / "data" / "kubectl"
BUILD_SECONDS = 900.0


@dataclass(frozen=True, kw_only=True)
class Kubectl:
    """One version; `path` may have to be built first from the Go module in `module`."""

    version: tuple[int, int]
    path: Path
    module: Path | None = None

    def __str__(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"


def binary(kubectl: Kubectl) -> str:
    """The path of one version; skips the test, saying why, if it had to be built and could not be."""
    if not kubectl.path.exists():
        pytest.skip(f"no kubectl {kubectl} on PATH, and building it failed: see {kubectl.path}.log")
    return str(kubectl.path)


def parameters() -> list[Any]:
    """A parameter `Kubectl` for each version to drive; one that is skipped, saying why, where there is none."""
    found = chosen()
    if not found:
        wanted = f"{OLDEST[0]}.{OLDEST[1]} or newer"
        reason = f"no kubectl {wanted} in $KUBECTL or on PATH, and no Go new enough to build one"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    return [pytest.param(one, id=str(one)) for one in found]


@functools.cache
def chosen() -> tuple[Kubectl, ...]:
    """The versions to drive, oldest first."""
    if named := os.environ.get("KUBECTL"):
        return tuple(sorted(supported(located(named.split(os.pathsep))), key=lambda one: one.version))
    versions = {one.version: one for one in supported((*pinned(), *on_path()))}
    ready = [version for version, one in versions.items() if one.path.exists()]
    if os.environ.get("KUBECTL_ALL"):
        picked = set(versions)
    elif len(ready) > 1:
        picked = {min(ready), max(ready)}
    elif ready:
        picked = {*ready, max(versions) if max(versions) > ready[0] else min(versions)}
    else:
        picked = {min(versions), max(versions)} if versions else set()
    return tuple(versions[version] for version in sorted(picked))


def supported(found: Iterable[Kubectl]) -> list[Kubectl]:
    return [one for one in found if one.version >= OLDEST]


def on_path() -> list[Kubectl]:
    """The `kubectl` on PATH and its siblings, whose names tell their versions."""
    plain = shutil.which("kubectl")
    if plain is None:
        return []
    siblings = []
    for path in Path(plain).resolve().parent.glob("kubectl.1.*"):
        if matched := re.fullmatch(r"kubectl\.(\d+)\.(\d+)", path.name):
            siblings.append(Kubectl(version=(int(matched[1]), int(matched[2])), path=path))
    return [*siblings, *located([plain])]


def located(paths: Iterable[str]) -> list[Kubectl]:
    """Binaries that tell their version when run; others are left out."""
    found = []
    for path in paths:
        told = run_quietly([path, "version", "--client", "-o", "json"])
        try:
            matched = re.match(r"v(\d+)\.(\d+)", json.loads(told)["clientVersion"]["gitVersion"])
        except (ValueError, KeyError):
            continue
        if matched:
            found.append(Kubectl(version=(int(matched[1]), int(matched[2])), path=Path(path)))
    return found


def pinned() -> list[Kubectl]:
    """The versions pinned here that were built before, and those that this machine's Go can build."""
    go = go_version()
    found = []
    for module in sorted(MODULES.glob("1.*/go.mod")):
        text = module.read_text()
        needs = re.search(r"^go (\d+)\.(\d+)", text, re.MULTILINE)
        release = re.search(r"k8s\.io/kubectl v0\.(\d+\.\d+)", text)
        assert needs is not None, module
        assert release is not None, module
        major, minor = module.parent.name.split(".")
        path = cache() / f"kubectl-v1.{release[1]}"
        if path.exists() or go >= (int(needs[1]), int(needs[2])):
            found.append(Kubectl(version=(int(major), int(minor)), path=path, module=module.parent))
    return found


@functools.cache
def go_version() -> tuple[int, int]:
    """(1, 24) of Go on PATH; (0, 0) without."""
    matched = re.search(r"go(\d+)\.(\d+)", run_quietly(["go", "env", "GOVERSION"]))
    return (int(matched[1]), int(matched[2])) if matched else (0, 0)


def cache() -> Path:
    """Where built binaries are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torpor" / "kubectl"


def run_quietly(command: list[str]) -> str:
    """The stdout of a command; empty if it cannot be run or fails."""
    try:
        environment = {**os.environ, "GOTOOLCHAIN": "local"}
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, env=environment).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def build(wanted: Iterable[Kubectl]) -> None:
    """Build those that are not there yet, telling progress on stderr; what went wrong is in a log beside the binary.

    Only one process builds at a time; others (of pytest-xdist) wait and find the work done.
    """
    missing = [one for one in wanted if one.module is not None and not one.path.exists()]
    if not missing:
        return
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for one in missing:
            if not one.path.exists():
                compile_(one)


def compile_(kubectl: Kubectl) -> None:
    assert kubectl.module is not None
    print(f"building kubectl {kubectl} with Go, once, into {kubectl.path}", file=sys.stderr, flush=True)
    source = kubectl.path.with_name(kubectl.path.name + ".src")
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for file in (MODULES / "main.go", kubectl.module / "go.mod", kubectl.module / "go.sum"):
        shutil.copy(file, source)
    release = kubectl.path.name.removeprefix("kubectl-")
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion={release}"
    command = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", "kubectl", "."]
    with kubectl.path.with_name(kubectl.path.name + ".log").open("w") as log:
        environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
        try:
            subprocess.run(
                command, cwd=source, env=environment, stdout=log, stderr=log, timeout=BUILD_SECONDS, check=True
            )
            (source / "kubectl").replace(kubectl.path)
        except (OSError, subprocess.SubprocessError) as error:
            print(error, file=log)
            print(f"kubectl {kubectl} cannot be built: see {log.name}", file=sys.stderr, flush=True)
    shutil.rmtree(source, ignore_errors=True)


if __name__ == "__main__":
    build((*chosen(), *sorted(pinned(), key=lambda one: one.version)[-1:]))
