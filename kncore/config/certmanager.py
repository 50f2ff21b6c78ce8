"""ConfigMap config-certmanager: who signs certificates (serving §3.10)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

from kncore.config.reader import Reader
from kncore.config.yamltext import load_mapping, text

__all__ = ["CertManager", "IssuerRef"]


@dataclass(frozen=True, kw_only=True)
class IssuerRef:
    """Reference to a cert-manager issuer."""

    name: str = "knative-selfsigned-issuer"
    kind: str = "ClusterIssuer"
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class CertManager:
    """Issuers by where a certificate is used."""

    issuer: IssuerRef = IssuerRef()
    """Names outside the cluster."""
    cluster_local_issuer: IssuerRef = IssuerRef()
    system_internal_issuer: IssuerRef = IssuerRef()
    """Between activator and queue-proxy."""

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> Self:
        """The configuration in a ConfigMap's data; what a reference leaves out keeps its default.

        Raises:
            InvalidConfig: naming every bad key.
        """
        read = Reader(data)
        issuer, local, internal = (
            read.attempt(partial(_issuer, data.get(key, "")), IssuerRef(), key)
            for key in ("issuerRef", "clusterLocalIssuerRef", "systemInternalIssuerRef")
        )
        read.finish()
        return cls(issuer=issuer, cluster_local_issuer=local, system_internal_issuer=internal)


def _issuer(source: str) -> IssuerRef:
    entry = load_mapping(source, "v1.IssuerReference")
    return IssuerRef(**{key: text(entry[key]) for key in ("name", "kind", "group") if entry.get(key) is not None})
