"""How cluster names work where no resolver knows them.

The activator's internal listener is an HTTP proxy that knows `*.svc.cluster.local`. Pods get it as `http_proxy`, and
so do commands run by `torpor run`; a program that posts to
`http://broker-ingress.knative-eventing.svc.cluster.local/...` runs unchanged in both.
"""

__all__ = ["cluster_names"]

NO_PROXY = "localhost,127.0.0.1,127.0.0.0/8,::1"


def cluster_names(internal: str) -> dict[str, str]:
    """Environment variables that make cluster names reachable.

    Args:
        internal: the activator's internal listener, host:port.
    """
    proxy = f"http://{internal}"
    return {"http_proxy": proxy, "HTTP_PROXY": proxy, "no_proxy": NO_PROXY, "NO_PROXY": NO_PROXY}
