"""`python -m controller`: the Serving controllers of a cluster, one of any number of replicas.

Environment: `SYSTEM_NAMESPACE` (default `knative-serving`), `POD_NAME` (who we are in Leases), `CLUSTER_DOMAIN`
(default what `/etc/resolv.conf` says, else `cluster.local`). Credentials: the pod's service account, else a kubeconfig.
"""

import asyncio
import logging
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from controller import app
from controller.digest import TagsAsTheyAre
from kncore import runtime
from kncore.api.names import bucket_names
from kncore.clock import SystemClock
from kncore.config.store import Store
from kncore.kube.cluster import HttpClient
from kncore.kube.events import Recorder
from kncore.kube.informers import Informers
from kncore.kube.lease import Elector
from kncore.telemetry import logs

__all__ = ["cluster_domain", "main"]

logger = logging.getLogger("controller")

_LEASE = "controller.knative.dev.serving.pkg.reconciler.{}.reconciler"


def cluster_domain(environ: Mapping[str, str], resolv_conf: str) -> str:
    """The suffix of names inside the cluster: what the environment says, else the search list's `svc.` entry."""
    if named := environ.get("CLUSTER_DOMAIN"):
        return named
    for line in resolv_conf.splitlines():
        word, *domains = line.split() or [""]
        if word == "search":
            for domain in domains:
                if match := re.fullmatch(r"svc\.(.+?)\.?", domain):
                    return match[1]
    return "cluster.local"


async def _serve(environ: Mapping[str, str]) -> None:
    stop = runtime.stop_on_signals()
    namespace = environ.get("SYSTEM_NAMESPACE", "knative-serving")
    identity = environ.get("POD_NAME") or socket.gethostname()
    try:
        resolv_conf = await asyncio.to_thread(Path("/etc/resolv.conf").read_text)
    except OSError:
        resolv_conf = ""
    in_cluster = "KUBERNETES_SERVICE_HOST" in environ
    client = HttpClient.in_cluster() if in_cluster else HttpClient.from_kubeconfig(environ.get("KUBECONFIG"))
    try:
        clock = SystemClock()
        informers = Informers(client)
        recorder = Recorder(client, "controller")
        electors: list[Elector] = []

        def leader(name: str) -> Elector:
            made = Elector(
                client, bucket_names(_LEASE.format(name), 1), identity=identity, namespace=namespace, clock=clock
            )
            electors.append(made)
            return made

        parts = app.build(
            client,
            informers,
            Store(),
            clock=clock,
            recorder=recorder,
            resolver=TagsAsTheyAre(),
            system_namespace=namespace,
            cluster_domain=cluster_domain(environ, resolv_conf),
            leader=leader,
        )
        logger.info("controllers start", extra={"identity": identity, "namespace": namespace})
        await runtime.serve([informers, recorder, *electors, *parts], stop)
    finally:
        await client.aclose()


def main() -> None:
    """Run until a signal."""
    logs.configure("controller")
    runtime.run(lambda: _serve(os.environ))


if __name__ == "__main__":
    main()
