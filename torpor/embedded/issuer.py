"""Certificates of a platform on one machine: for the ingress always, for its own parts if config-network wants TLS
inside.

    KIngress hosts --> *.<namespace>.<domain> --> one certificate in two files --> the activator, which follows them
    system-internal-tls --> Secrets routing-serving-certs and serving-certs of every namespace with revisions

In a cluster cert-manager does this. Here an authority of the platform's own does: the one people may trust for the
ingress, and another one, that nobody outside sees, inside.

The ingress has one certificate with a wildcard for every domain that hosts are in; a host in a new domain means a new
certificate, before its service is ready.
"""

import asyncio
import base64
import datetime
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from kncore.api import keys, meta
from kncore.api.resources import INGRESSES, REVISIONS, SECRETS
from kncore.config.store import Store
from kncore.kube.client import Client, Obj
from kncore.kube.errors import AlreadyExists, ApiError
from kncore.kube.informer import Change
from kncore.kube.informers import Informers
from kncore.net.tls import Pair
from torpor.embedded.apiserver.tls import write_private
from torpor.embedded.authority import LEAF_LIFETIME, Authority
from torpor.embedded.seed import SYSTEM_NAMESPACE

__all__ = ["DataPlaneCertificates", "IngressCertificate", "wildcard"]

MOST: Final = 500
"""Names in the ingress's certificate: it travels with every handshake."""
CHECK: Final = 3600.0
"""Seconds between looks at a certificate's age."""
ALSO: Final = ("localhost",)
TYPE: Final = "system-internal"
ROUTING: Final = ("kn-routing", "data-plane.knative.dev")

log = logging.getLogger(__name__)


def wildcard(host: str) -> str:
    """The name in a certificate that covers a host and its neighbours: `*.default.localhost`.

    Clients take no wildcard directly below a top-level domain: there it is the host itself.
    """
    _, _, domain = host.partition(".")
    return f"*.{domain}" if "." in domain else host


class IngressCertificate:
    """Keeps the ingress's certificate good for every public host.

    Args:
        directory: gets tls.crt and tls.key.
        domain: suffix of public hosts, for a first service.
        say: tells the person in front of the platform.
    """

    name = "ingress certificate"

    def __init__(
        self, informers: Informers, authority: Authority, directory: Path, domain: str, say: Callable[[str], None]
    ) -> None:
        self._authority = authority
        self._directory = directory
        self._say = say
        self._names = {*ALSO, wildcard(f"x.default.{domain}")}
        self._issued_at = datetime.datetime.now(datetime.UTC)
        self.issue()
        informers.of(INGRESSES).add_handler(self._ingress_changed)

    def issue(self) -> None:
        """Write a certificate for all names there are.

        No addresses: services have none, and BoringSSL (that is gRPC's libraries) refuses every certificate with one
        from an authority that is limited to some.
        """
        pair = self._authority.issue({name for name in self._names if self._authority.may(name)})
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            write_private(self._directory / "tls.key", pair.key.decode())
            write_private(self._directory / "tls.crt", pair.chain.decode())
        except OSError as exc:
            log.warning("the ingress's certificate cannot be written", extra={"error": str(exc)})
            return
        self._issued_at = datetime.datetime.now(datetime.UTC)

    async def run(self) -> None:
        """Renew in time, until cancelled."""
        while True:
            await asyncio.sleep(CHECK)
            if datetime.datetime.now(datetime.UTC) - self._issued_at > LEAF_LIFETIME / 2:
                self.issue()

    def _ingress_changed(self, change: Change) -> None:
        if change.resync or change.type == "deleted":
            return
        found = {wildcard(host) for host in _public(change.object)} - self._names
        if not found:
            return
        if foreign := sorted(name for name in found if not self._authority.may(name)):
            self._say(
                f"no certificate for {', '.join(foreign)}: this platform's authority vouches for names in "
                f"{', '.join(self._authority.domains)} only (give a --domain of your own for others)"
            )
        if len(self._names) + len(found) > MOST:
            log.warning("too many domains for one certificate", extra={"names": sorted(found)})
            return
        self._names |= found
        if len(foreign) < len(found):
            self.issue()


def _public(ingress: Obj) -> Iterable[str]:
    for rule in meta.at(ingress, "spec", "rules", default=[]):
        if rule.get("visibility") != "ClusterLocal":
            yield from rule.get("hosts") or ()


class DataPlaneCertificates:
    """Gives the data plane its certificates while config-network wants TLS inside; does nothing otherwise.

    Args:
        directory: of the authority, which is made when first needed.
    """

    name = "data plane certificates"

    def __init__(self, client: Client, informers: Informers, config: Store, directory: Path) -> None:
        self._client = client
        self._config = config
        self._directory = directory
        self._authority: Authority | None = None
        self._wanted = asyncio.Event()
        self._revisions = informers.of(REVISIONS)
        self._revisions.add_handler(self._revision_changed)
        self._secrets = informers.of(SECRETS, labels=f"{keys.CERTIFICATE_TYPE}={TYPE}")
        self._secrets.add_handler(self._secret_changed)
        config.subscribe(lambda name: self._wanted.set())

    def _revision_changed(self, change: Change) -> None:
        if change.type == "added" and not change.resync:
            self._wanted.set()

    def _secret_changed(self, change: Change) -> None:
        if change.type == "deleted":  # as people do who want a new one
            self._wanted.set()

    async def run(self) -> None:
        """Give certificates until cancelled."""
        self._wanted.set()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if not self._config.network.system_internal_tls:
                continue
            try:
                await self._give(SYSTEM_NAMESPACE, "routing-serving-certs", ROUTING)
                for namespace in sorted({meta.namespace(revision) for revision in self._revisions.list()}):
                    names = (f"kn-user-{namespace.lower()}", "data-plane.knative.dev")
                    await self._give(namespace, "serving-certs", names)
            except ApiError as exc:
                log.warning("certificates of the data plane cannot be stored", extra={"error": exc.message})
                await asyncio.sleep(1.0)
                self._wanted.set()

    async def _give(self, namespace: str, name: str, names: Iterable[str]) -> None:
        if self._secrets.get(name, namespace) is not None:
            return
        if self._authority is None:
            self._authority = Authority.load_or_make(self._directory, "data-plane")
        pair = self._authority.issue([*names])
        with suppress(AlreadyExists):  # the user's own
            await self._client.create(SECRETS, _secret(namespace, name, pair, self._authority.pem))


def _secret(namespace: str, name: str, pair: Pair, authority: bytes) -> Obj:
    data = {"tls.crt": pair.chain, "tls.key": pair.key, "ca.crt": authority}
    return {
        "apiVersion": SECRETS.api_version,
        "kind": SECRETS.kind,
        "metadata": {"name": name, "namespace": namespace, "labels": {keys.CERTIFICATE_TYPE: TYPE}},
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(content).decode() for key, content in data.items()},
    }
