"""What Tab offers after `torpor get` and friends.

Kinds are a fixed list, so that the first Tab is quick and works without a platform; names are asked for, and a server
that does not answer at once has none to offer. Nothing here may print: the shell is in the middle of a line.
"""

from collections.abc import Iterable

from kncore.errors import KnError

__all__ = ["KINDS", "kinds", "services"]

KINDS = {
    "ksvc": "Knative Services",
    "revision": "Revisions",
    "route": "Routes",
    "configuration": "Configurations",
    "kpa": "PodAutoscalers: scale wanted and there",
    "sks": "ServerlessServices: who is in the path",
    "king": "Ingresses: hosts and splits",
    "pod": "Pods",
    "deployment": "Deployments",
    "configmap": "ConfigMaps",
    "event": "Events",
    "namespace": "Namespaces",
    "all": "everything of a person's",
    "knative": "all Knative kinds",
}
PATIENCE = 1.0  # seconds


def kinds(incomplete: str) -> list[tuple[str, str]]:
    """Kinds that begin with what was typed, each with what it is."""
    return [(name, text) for name, text in KINDS.items() if name.startswith(incomplete)]


def services(incomplete: str) -> list[str]:
    """Names of the default namespace's Services that begin with what was typed."""
    return sorted(name for name in _ask() if name.startswith(incomplete))


def _ask() -> Iterable[str]:
    import asyncio

    try:
        return asyncio.run(_names())
    except (KnError, OSError, TimeoutError):
        return ()


async def _names() -> list[str]:
    import asyncio

    from kncore.api import meta
    from kncore.api.resources import KSERVICES
    from torpor.cli.api import connect

    async with asyncio.timeout(PATIENCE), connect() as api:
        return [meta.name(one) for one in (await api.client.list(KSERVICES, api.client.namespace)).items]
