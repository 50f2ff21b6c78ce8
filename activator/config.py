"""The activator's settings, from its command line and environment, read once."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from ssl import TLSVersion

from kncore.api.keys import INGRESS_CLASS_TORPOR
from kncore.errors import ConfigError
from kncore.net.tls import Settings as TlsSettings

__all__ = ["Config"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """How one activator serves."""

    public: tuple[str, int]
    """Listener for the world."""
    internal: tuple[str, int]
    """Listener for pods and the control plane."""
    public_fd: int | None = None
    """Descriptor of a socket that listens on `public` already, kept open by whoever restarts us; None to make one."""
    internal_fd: int | None = None
    https: tuple[str, int] | None = None
    """Listener for the world in TLS; None for none."""
    https_fd: int | None = None
    https_port: int = 443
    """Where clients reach that listener, for redirects."""
    certificate: Path | None = None
    """Directory with the tls.crt and tls.key of hosts that have no certificate of their own."""
    internal_https: tuple[str, int]
    """Listener for pods and the control plane in TLS; used if config-network wants TLS inside."""
    tls: TlsSettings
    """For the world, from ACTIVATOR_TLS_MIN_VERSION and its like; TLS 1.2 at least unless they say otherwise."""
    internal_tls: TlsSettings
    """The same for our own parts: TLS 1.3."""
    system_namespace: str = "knative-serving"
    pod_name: str
    pod_ip: str
    autoscaler_url: str
    """Websocket of the stat server."""
    kubeconfig: str
    """Path; empty inside a cluster."""
    classes: frozenset[str] | None = frozenset({INGRESS_CLASS_TORPOR})
    """Ingress classes served; None is all."""
    any_domain: bool = False
    """One machine is all there is: any domain may be typed, and pods use us as their HTTP proxy to everywhere."""
    idle_connections: int = 1000
    idle_connections_per_pod: int = 100
    """Connections to pods kept for later requests."""
    weights: Mapping[str, int] = field(default_factory=dict)
    """Due of a namespace against others when they compete for this process; 1 if it is not named."""
    cluster_domain: str = "cluster.local"
    drain_seconds: float = 45.0
    """Served on after SIGTERM while readiness fails, for load balancers to notice; 0 where there is none in front."""
    grace_seconds: float = 600.0
    """For requests in flight after that."""

    @classmethod
    def read(cls, arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> "Config":
        """Parse the command line; the environment gives what Kubernetes tells a pod.

        Raises:
            ConfigError: a required variable is missing, an address is not HOST:PORT, or a number is none.
        """
        parser = argparse.ArgumentParser(prog="python -m activator", description="Ingress and activator.")
        parser.add_argument("--public", default="0.0.0.0:8080", metavar="HOST:PORT", help="listener for the world")
        parser.add_argument("--internal", default="0.0.0.0:8012", metavar="HOST:PORT", help="listener for pods")
        parser.add_argument("--public-fd", type=int, help="inherited descriptor of the public listening socket")
        parser.add_argument("--internal-fd", type=int, help="inherited descriptor of the internal listening socket")
        parser.add_argument(
            "--https",
            metavar="HOST:PORT",
            help="listener for the world in TLS (default: 0.0.0.0:8443 in a cluster, none elsewhere)",
        )
        parser.add_argument("--https-fd", type=int, help="inherited descriptor of the https listening socket")
        parser.add_argument(
            "--https-port", type=int, default=cls.https_port, help="port at which clients reach it, for redirects"
        )
        parser.add_argument(
            "--certificate",
            type=Path,
            metavar="DIR",
            help="tls.crt and tls.key for hosts without a certificate of their own; followed while in use",
        )
        parser.add_argument(
            "--internal-https",
            metavar="HOST:PORT",
            help="listener for pods in TLS, if config-network wants TLS inside (default: port 8112 beside --internal)",
        )
        parser.add_argument("--classes", default="", help="ingress classes to serve, comma-separated; all: every one")
        parser.add_argument(
            "--any-domain",
            action="store_true",
            help="for one machine: accept NAME.NAMESPACE.<anything> as a host, and be an HTTP proxy for pods",
        )
        parser.add_argument("--drain", type=float, default=cls.drain_seconds, help="seconds served on after SIGTERM")
        parser.add_argument("--grace", type=float, default=cls.grace_seconds, help="seconds for requests in flight")
        given = parser.parse_args(arguments)
        missing = [name for name in ("POD_NAME", "POD_IP", "SYSTEM_NAMESPACE") if not environ.get(name)]
        if missing:
            raise ConfigError(
                f"environment variables missing: {', '.join(missing)}; a Deployment sets them by fieldRef"
            )
        domain = environ.get("CLUSTER_DOMAIN", cls.cluster_domain)
        default_url = f"ws://autoscaler.{environ['SYSTEM_NAMESPACE']}.svc.{domain}:8080"
        kubeconfig = environ.get("KUBECONFIG", "")
        internal = _address(given.internal, "--internal")
        https = given.https or ("" if kubeconfig else "0.0.0.0:8443")
        named = frozenset(name.strip() for name in given.classes.split(",") if name.strip())
        return cls(
            public=_address(given.public, "--public"),
            internal=internal,
            public_fd=given.public_fd,
            internal_fd=given.internal_fd,
            https=_address(https, "--https") if https else None,
            https_fd=given.https_fd,
            https_port=given.https_port,
            certificate=given.certificate,
            internal_https=(
                _address(given.internal_https, "--internal-https") if given.internal_https else (internal[0], 8112)
            ),
            tls=TlsSettings.read(environ, "ACTIVATOR", minimum=TLSVersion.TLSv1_2),
            internal_tls=TlsSettings.read(environ, "ACTIVATOR", minimum=TLSVersion.TLSv1_3),
            system_namespace=environ["SYSTEM_NAMESPACE"],
            pod_name=environ["POD_NAME"],
            pod_ip=environ["POD_IP"],
            autoscaler_url=environ.get("AUTOSCALER_URL", default_url),
            kubeconfig=kubeconfig,
            classes=None if named == {"all"} else named or cls.classes,
            any_domain=given.any_domain,
            idle_connections=_number(environ, "MAX_IDLE_PROXY_CONNS", cls.idle_connections),
            idle_connections_per_pod=_number(environ, "MAX_IDLE_PROXY_CONNS_PER_HOST", cls.idle_connections_per_pod),
            weights=_weights(environ.get("NAMESPACE_WEIGHTS", "")),
            cluster_domain=domain,
            drain_seconds=given.drain,
            grace_seconds=given.grace,
        )


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(f"{name}={text}: expected a whole number")
    return int(text)


def _weights(text: str) -> dict[str, int]:
    """`namespace=weight`, separated by commas."""
    made = {}
    for part in text.replace(" ", "").split(","):
        if part:
            name, _, weight = part.partition("=")
            if not name or not weight.isdecimal() or not 1 <= int(weight) <= 100:
                raise ConfigError(f"NAMESPACE_WEIGHTS={text}: expected namespace=1..100, separated by commas")
            made[name] = int(weight)
    return made


def _address(text: str, option: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{option} {text}: expected HOST:PORT")
    return host.strip("[]"), int(port)
