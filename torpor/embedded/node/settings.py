"""What the node agent is told once, at its start."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torpor.embedded.node.host import Network

__all__ = ["Settings", "machine_room"]


def machine_room() -> tuple[int, int]:
    """(CPU in thousandths of a core, memory in bytes) of this machine."""
    return (os.cpu_count() or 1) * 1000, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _no_token(_: str, __: int) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Configuration of the node agent."""

    network: Network
    directory: Path
    """Below it, `pods/<uid>` holds each pod's volumes and logs."""
    node_name: str = "torpor"
    cpu_milli: int
    """Allocatable CPU, thousandths of a core."""
    memory_bytes: int
    """Allocatable memory."""
    user_env: Mapping[str, str] = field(default_factory=dict)
    """Added to every user container unless it sets them itself: proxies, the API server's address."""
    queue_proxy_env: Mapping[str, str] = field(default_factory=dict)
    """Added to every queue-proxy, e.g. where to push stats."""
    home: str = "/"
    """`HOME` of containers whose image does not say."""
    token: Callable[[str, int], str] = _no_token
    """(audience, seconds) -> a service account token for projected volumes."""
    heartbeat: float = 10.0
    """Seconds between two renewals of the node's Lease."""
