"""`torpor run -- CMD`: a command with the names of the cluster.

Cluster names do not resolve on a laptop; the activator's internal listener is an HTTP proxy that knows them. The
command gets it as `http_proxy`, as pods do, so a program that asks `http://hello.default.svc.cluster.local/` runs
unchanged.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from torpor.cli.output import fail
from torpor.state import StateDir

__all__ = ["environment", "run"]

NO_PROXY = "localhost,127.0.0.1,127.0.0.0/8,::1"
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells, env and nohup have it


def environment(internal: str, kubeconfig: str) -> dict[str, str]:
    """Variables that make cluster names reachable; `internal` is the activator's internal host:port."""
    proxy = f"http://{internal}"
    return {
        "http_proxy": proxy,
        "HTTP_PROXY": proxy,
        "no_proxy": NO_PROXY,
        "NO_PROXY": NO_PROXY,
        "KUBECONFIG": kubeconfig,
    }


def run(command: Sequence[str], state_dir: Path) -> int:
    """Replace this process by the command; returns, with a shell's exit code, only if that is not possible.

    Raises:
        NotRunning: no platform runs.
    """
    running = StateDir(state_dir).running()
    try:
        os.execvpe(command[0], list(command), {**os.environ, **environment(running.internal, running.kubeconfig)})
    except OSError as exc:
        fail(f"cannot run {command[0]}: {exc.strerror}")
        return NOT_FOUND if isinstance(exc, FileNotFoundError) else NOT_EXECUTABLE
