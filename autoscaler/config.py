"""The autoscaler's settings, from its environment, read once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from kncore.errors import ConfigError

__all__ = ["Config"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where one replica runs."""

    pod_name: str
    pod_ip: str
    namespace: str
    """System namespace: ConfigMaps and Leases are there."""
    kubeconfig: str = ""
    """Path; empty inside a cluster."""
    cluster_domain: str = "cluster.local"
    listen: tuple[str, int] = ("0.0.0.0", 8080)
    """Stat server."""

    @property
    def identity(self) -> str:
        """Who we are in Leases: others find our stat server by it (serving §4.12)."""
        return f"{self.pod_name}_{self.pod_ip}"

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> "Config":
        """From what Kubernetes tells a pod.

        Raises:
            ConfigError: naming every variable that is missing.
        """
        missing = [name for name in ("POD_NAME", "POD_IP", "SYSTEM_NAMESPACE") if not environ.get(name)]
        if missing:
            raise ConfigError(
                f"environment variables missing: {', '.join(missing)}; a Deployment sets them by fieldRef"
            )
        return cls(
            pod_name=environ["POD_NAME"],
            pod_ip=environ["POD_IP"],
            namespace=environ["SYSTEM_NAMESPACE"],
            kubeconfig="" if "KUBERNETES_SERVICE_HOST" in environ else environ.get("KUBECONFIG", ""),
            cluster_domain=environ.get("CLUSTER_DOMAIN", cls.cluster_domain),
        )
