"""Certificates by name: KIngresses say which Secret proves which host, Secrets bring certificates, handshakes ask.

    KIngress spec.tls --put--> Certificates --want--> Secrets --(informers)--> secret --> contexts
                                    ^
    handshake (SNI) -----find-------+--> exact host, else *.domain, else the default, else no certificate

A KIngress decides only about hosts that it holds in the routing table, so nobody can present a certificate for a host
of somebody else, and it may only name Secrets of its own namespace. A Secret that cannot be used is logged and changes
nothing: the last good certificate stays, also when its Secret is deleted (a rotation deletes and creates), until no
KIngress names it any more. The change to a new certificate is a change of one dict entry; connections that exist keep
theirs.

Only Secrets that are named are read: those that carry Knative's label for certificates through one stream, the others
(a user's own) through one small stream each, so that a role may allow them by name.

Trust: whoever may write KIngresses and Secrets of one namespace; nothing of it reaches another namespace's hosts.
"""

import asyncio
import base64
import binascii
import logging
import ssl
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from activator.routes import Host
from kncore.api import keys, meta
from kncore.api.resources import SECRETS
from kncore.kube.client import Client, Key, Obj
from kncore.kube.informer import Change, Informer, NotSynced
from kncore.net.tls import BadCertificate, Pair, Settings, server_context, warn_of_dates

__all__ = ["Certificates", "Secrets", "Statistics", "hush_odd_names", "pair_of"]

OWN_STREAMS: Final = 200
"""Secrets without Knative's label that are followed; each is a connection to the API server."""
PATIENCE: Final = 5.0
"""How long the labelled ones are waited for before the others are asked for by name, seconds."""

log = logging.getLogger(__name__)


def pair_of(secret: Obj) -> Pair:
    """The certificate in a Secret of type kubernetes.io/tls.

    Raises:
        BadCertificate: `tls.crt` or `tls.key` is missing or no base64.
    """
    data = secret.get("data") or {}
    try:
        return Pair(*(base64.b64decode(data.get(name) or "", validate=True) for name in ("tls.crt", "tls.key")))
    except (binascii.Error, TypeError, ValueError):
        raise BadCertificate("tls.crt or tls.key is no base64") from None


def hush_odd_names() -> None:
    """Keep names that are no ASCII out of the log for the rest of this process.

    The ssl module refuses such a handshake by itself, but prints a traceback for each: any client could fill a disk.
    """
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs", /) -> None:
        if not isinstance(unraisable.exc_value, UnicodeDecodeError):
            before(unraisable)

    sys.unraisablehook = hook


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Certificates at one moment."""

    wanted: int
    """Secrets that KIngresses name."""
    loaded: int
    broken: int
    """Secrets whose present content cannot be used; an older one may be in force."""
    unknown_names: int
    """Handshakes for a name without a certificate, since the start."""


class Certificates:
    """The certificates of hosts.

    Args:
        host: who holds a name in the routing table.
        default: the context for names without one of their own, None if there is none; asked at every such handshake.
        inside: the same on the internal listener.
        serves: whether an ingress class is ours.
        alpn: protocols in the order we prefer them.
    """

    def __init__(
        self,
        host: Callable[[str], Host | None],
        settings: Settings,
        *,
        alpn: Sequence[str],
        default: Callable[[], ssl.SSLContext | None] = lambda: None,
        inside: Callable[[], ssl.SSLContext | None] = lambda: None,
        serves: Callable[[str], bool] = lambda class_: True,
    ) -> None:
        self._host = host
        self._settings = settings
        self._alpn = alpn
        self._default = default
        self._inside = inside
        self._serves = serves
        self._named: dict[tuple[str, str], dict[str, Key]] = {}
        """Of each KIngress: the Secret for a host or `*.domain`."""
        self._users: dict[Key, set[tuple[str, str]]] = {}
        self._contexts: dict[Key, ssl.SSLContext] = {}
        self._pairs: dict[Key, Pair | None] = {}
        """What each Secret held last, None for something that has no such parts."""
        self._broken: set[Key] = set()
        self._unknown = 0
        self.wanted: Callable[[Collection[Key]], None] = lambda secrets: None
        """Told whenever other Secrets are named."""

    # from KIngresses ------------------------------------------------------------------------------------------------
    def ingress_changed(self, change: Change) -> None:
        """For the informer of KIngresses."""
        if change.resync:
            return
        named = {} if change.type == "deleted" else self._entries(change.object)
        key = change.key.namespace, change.key.name
        if named == self._named.get(key, {}):
            return
        before = set(self._users)
        for secret in self._named.pop(key, {}).values():
            users = self._users.get(secret, set())
            users.discard(key)
            if not users:
                self._users.pop(secret, None)
        if named:
            self._named[key] = named
            for secret in named.values():
                self._users.setdefault(secret, set()).add(key)
        for gone in before - set(self._users):
            self._contexts.pop(gone, None)
            self._pairs.pop(gone, None)
            self._broken.discard(gone)
        if before != set(self._users):
            self.wanted(set(self._users))

    def _entries(self, ingress: Obj) -> dict[str, Key]:
        if not self._serves(keys.lookup(meta.annotations(ingress), keys.INGRESS_CLASS) or ""):
            return {}
        found: dict[str, Key] = {}
        for entry in meta.at(ingress, "spec", "tls", default=[]):
            namespace = entry.get("secretNamespace") or meta.namespace(ingress)
            name = entry.get("secretName")
            if not name:
                continue
            if namespace != meta.namespace(ingress):
                log.warning(
                    "a KIngress names a Secret of another namespace, which is not used",
                    extra={"key": meta.key(ingress), "secret": f"{namespace}/{name}"},
                )
                continue
            for host in entry.get("hosts") or ():
                found.setdefault(host.lower().rstrip("."), Key(namespace, name))
        return found

    # from Secrets ---------------------------------------------------------------------------------------------------
    def secret_changed(self, secret: Obj) -> None:
        """A Secret that is wanted has this content now."""
        key = Key.of(secret)
        if key not in self._users:
            return
        pair: Pair | None = None
        try:
            pair = pair_of(secret)
            if self._pairs.get(key) == pair:
                return
            self._contexts[key] = server_context(self._settings, pair=pair, alpn=self._alpn)
        except BadCertificate as exc:
            self._broken.add(key)
            log.warning(
                "the certificate in a Secret cannot be used",
                extra={"secret": str(key), "error": str(exc), "last_good": key in self._contexts},
            )
        else:
            self._broken.discard(key)
            warn_of_dates(pair.chain, str(key))
        self._pairs[key] = pair

    # for handshakes -------------------------------------------------------------------------------------------------
    def dispatcher(self, settings: Settings | None = None, *, inside: bool = False) -> ssl.SSLContext:
        """A context for a listener: it has no certificate and takes over the right context by the name asked for.

        Args:
            settings: of this listener, if they are not those of all certificates.
            inside: for our own parts and callers in the cluster: private hosts too, and no tickets.
        """
        context = server_context(settings or self._settings, tickets=0 if inside else 1, alpn=self._alpn)

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
            found = self.find(name or "", inside=inside)
            if found is None:
                self._unknown += 1
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            connection.context = found
            return None

        context.sni_callback = choose
        return context

    def find(self, name: str, *, inside: bool = False) -> ssl.SSLContext | None:
        """The context for a name (empty if the client gave none), or None."""
        name = name.lower().rstrip(".")
        host = self._host(name) if name else None
        if host is not None and (host.public or inside):
            named = self._named.get(host.ingress)
            if named:
                secret = named.get(name) or named.get("*." + name.partition(".")[2])
                found = self._contexts.get(secret) if secret is not None else None
                if found is not None:
                    return found
        return self._inside() if inside else self._default()

    def statistics(self) -> Statistics:
        """Counts of Secrets, and of names nobody has a certificate for."""
        return Statistics(
            wanted=len(self._users),
            loaded=len(self._contexts),
            broken=len(self._broken),
            unknown_names=self._unknown,
        )


class Secrets:
    """Follows Secrets that somebody wants, and no others.

    Args:
        tell: gets each as it is now and whenever it changes; not told of deletions.
    """

    name = "secrets"

    def __init__(self, client: Client, tell: Callable[[Obj], None]) -> None:
        self._client = client
        self._tell = tell
        self._wanted: set[Key] = set()
        self._changed = asyncio.Event()
        self._labelled: Informer | None = None
        self._own: dict[Key, asyncio.Task[None]] = {}

    def want(self, secrets: Collection[Key]) -> None:
        """Follow exactly these from now on."""
        self._wanted = set(secrets)
        self._changed.set()

    async def run(self) -> None:
        """Follow until cancelled; opens no stream while nothing is wanted."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self._wanted and self._labelled is None:
                    self._labelled = Informer(self._client, SECRETS, labels=keys.CERTIFICATE_UID)
                    self._labelled.add_handler(self._seen)
                    group.create_task(self._labelled.run(), name="secrets with certificates")
                    try:
                        await self._labelled.wait_synced(asyncio.get_running_loop().time() + PATIENCE)
                    except NotSynced as exc:
                        log.warning("certificates are looked for one by one", extra={"error": str(exc)})
                self._adjust(group)

    def _adjust(self, group: asyncio.TaskGroup) -> None:
        """Have a stream for each wanted Secret that the labelled ones do not hold."""
        held = self._labelled
        for key in self._wanted:
            found = held.get(key.name, key.namespace) if held is not None else None
            if found is not None:
                self._tell(found)
        unlabelled = {key for key in self._wanted if held is None or held.get(key.name, key.namespace) is None}
        for key in [key for key in self._own if key not in unlabelled]:
            self._own.pop(key).cancel()
        for key in sorted(unlabelled - self._own.keys()):
            if len(self._own) >= OWN_STREAMS:
                log.warning("too many Secrets without Knative's label to follow", extra={"secret": str(key)})
                break
            informer = Informer(self._client, SECRETS, namespace=key.namespace, fields=f"metadata.name={key.name}")
            informer.add_handler(self._seen)
            self._own[key] = group.create_task(informer.run(), name=f"secret {key}")

    def _seen(self, change: Change) -> None:
        if change.resync or change.key not in self._wanted:
            return
        if change.type == "deleted":
            self._changed.set()  # it may come back without its label
            return
        if change.type == "added" and change.key in self._own:
            self._changed.set()  # it may have got its label
        self._tell(change.object)

    def statistics(self) -> dict[str, int]:
        """Secrets wanted, and streams of their own."""
        return {"wanted": len(self._wanted), "streams": len(self._own) + (self._labelled is not None)}
