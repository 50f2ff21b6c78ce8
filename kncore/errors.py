"""The root of the exception tree.

The branch says whose fault it is: `ConfigError` the operator's, `ApiError` what the Kubernetes API server answered
(`kncore.kube.errors` has its leaves), `ProxyError` a request that could not be served. Messages are lower case: what
happened, to what, what to do next.
"""

from typing import ClassVar

__all__ = ["ConfigError", "KnError", "ProxyError"]


class KnError(Exception):
    """Root of every error Torpor raises on purpose."""


class ConfigError(KnError):
    """A configuration that cannot be used; the last good one stays in force."""


class ProxyError(KnError):
    """A request that cannot be answered by the upstream; `status` is what the client gets."""

    status: ClassVar[int] = 502
