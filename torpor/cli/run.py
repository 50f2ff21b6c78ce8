"""`torpor run -- CMD`: a command with the names of the cluster.

Cluster names do not resolve on a laptop; the activator's internal listener is an HTTP proxy that knows them. The
command gets it as `http_proxy`, as pods do, so a program that posts to
`http://broker-ingress.knative-eventing.svc.cluster.local/...` runs unchanged.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from kncore.errors import KnError
from torpor.state import StateDir

__all__ = ["environment", "run"]

NO_PROXY = "localhost,127.0.0.1,127.0.0.0/8,::1"


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
    """Replace this process by the command.

    Raises:
        NotRunning: no platform runs.
        KnError: the command cannot be started.
    """
    running = StateDir(state_dir).running()
    try:
        os.execvpe(command[0], list(command), {**os.environ, **environment(running.internal, running.kubeconfig)})
    except OSError as exc:
        raise KnError(f"cannot run {command[0]}: {exc.strerror}") from exc
