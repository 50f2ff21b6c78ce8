"""`torpor run -- CMD`: a command with the names of the cluster.

Cluster names do not resolve on a laptop; the activator's internal listener is an HTTP proxy that knows them. The
command gets it as `http_proxy`, as pods do, so a program that posts to
`http://broker-ingress.knative-eventing.svc.cluster.local/...` runs unchanged.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from kncore.errors import KnError
from torpor.environment import cluster_names
from torpor.state import StateDir

__all__ = ["run"]


def run(command: Sequence[str], state_dir: Path) -> int:
    """Replace this process by the command.

    Raises:
        NotRunning: no platform runs.
        KnError: the command cannot be started.
    """
    running = StateDir(state_dir).running()
    environment = {**os.environ, **cluster_names(running.internal), "KUBECONFIG": running.kubeconfig}
    try:
        os.execvpe(command[0], list(command), environment)
    except OSError as exc:
        raise KnError(f"cannot run {command[0]}: {exc.strerror}") from exc
