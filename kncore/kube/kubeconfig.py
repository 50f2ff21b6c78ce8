"""Where the API server is, from a kubeconfig or from inside a pod.

Reads what plain kubeconfigs hold (server, CA, token, client certificate, basic auth, proxy, TLS server name) and merges
the files of `$KUBECONFIG` as kubectl does: of two entries with one name the first counts. User entries that need a
program or a round trip to log in become `Delegated` credentials.
"""

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kncore.errors import ConfigError
from kncore.kube.auth import Credentials, Delegated, Fixed, TokenFile, basic, bearer

__all__ = ["Connection", "in_cluster", "load", "tls_context"]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How to reach an API server."""

    server: str
    """URL without a trailing slash; may have a path."""
    tls: ssl.SSLContext | None = None
    """None for plain HTTP."""
    server_name: str | None = None
    """Name in the server's certificate where it is not the URL's host."""
    credentials: Credentials = field(default_factory=Fixed)
    proxy: str | None = None
    namespace: str = "default"
    """The context's namespace, for commands that name none."""


def load(
    path: str | Path | None = None, *, context: str | None = None, environ: Mapping[str, str] = os.environ
) -> Connection:
    """The connection that a kubeconfig describes.

    Args:
        path: a file; None takes `$KUBECONFIG` (which may list several), else `~/.kube/config`.
        context: None takes the current one.
    Raises:
        ConfigError: a file is missing or malformed, or a name in it leads nowhere.
    """
    named = str(path) if path is not None else environ.get("KUBECONFIG", "")
    paths = [Path(one).expanduser() for one in named.split(os.pathsep) if one] or [Path("~/.kube/config").expanduser()]
    documents = [(one, _read(one)) for one in paths if len(paths) == 1 or one.exists()]
    if not documents:
        raise ConfigError(f"no kubeconfig found at {named}")
    shown = os.pathsep.join(str(one) for one, _ in documents)
    chosen = context or next((doc["current-context"] for _, doc in documents if doc.get("current-context")), "")
    if not chosen:
        raise ConfigError(f"{shown}: no current context; name one, or run `kubectl config use-context NAME`")
    _, entry = _find(documents, "contexts", "context", chosen, shown)
    base, cluster = _find(documents, "clusters", "cluster", entry.get("cluster", ""), shown)
    user_base: Path = base
    user: dict[str, Any] = {}
    if entry.get("user"):
        user_base, user = _find(documents, "users", "user", entry["user"], shown)
    server = str(cluster.get("server", "")).rstrip("/")
    if not server.startswith(("http://", "https://")):
        raise ConfigError(f"{shown}: cluster {entry.get('cluster')!r} has no server URL")
    credentials = _credentials(user, user_base, shown, chosen)
    tls = None
    if server.startswith("https://"):
        tls = tls_context(
            ca=_content(cluster, "certificate-authority", base),
            verify=not cluster.get("insecure-skip-tls-verify", False),
            certificate=_content(user, "client-certificate", user_base),
            key=_content(user, "client-key", user_base),
        )
    return Connection(
        server=server,
        tls=tls,
        server_name=cluster.get("tls-server-name"),
        credentials=credentials,
        proxy=cluster.get("proxy-url"),
        namespace=entry.get("namespace") or "default",
    )


def in_cluster(environ: Mapping[str, str] = os.environ, *, account: Path = SERVICE_ACCOUNT) -> Connection:
    """The connection that every pod is given through its environment and its service account's files.

    Raises:
        ConfigError: this is not a pod.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError("not in a cluster: KUBERNETES_SERVICE_HOST is not set; name a kubeconfig instead")
    try:
        ca = (account / "ca.crt").read_text(encoding="ascii")
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read the cluster's CA certificate: {exc}") from exc
    namespace = account / "namespace"
    return Connection(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        tls=tls_context(ca=ca),
        credentials=TokenFile(account / "token"),
        namespace=namespace.read_text(encoding="ascii").strip() if namespace.exists() else "default",
    )


def tls_context(
    *, ca: str | None = None, verify: bool = True, certificate: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """TLS settings for a client.

    Args:
        ca: certificates to trust, PEM; None trusts the system's.
        verify: False accepts any certificate.
        certificate: our own, PEM; needs `key`.
    Raises:
        ConfigError: the PEM is malformed, or the key does not fit.
    """
    try:
        context = ssl.create_default_context(cadata=ca)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate is not None:
            # The ssl module reads a client certificate from files only; they live for these two lines, readable by us.
            with tempfile.TemporaryDirectory(prefix="kubeconfig-") as folder:
                pem = Path(folder, "client.pem")
                pem.touch(mode=0o600)
                pem.write_text(f"{certificate}\n{key or ''}\n", encoding="ascii")
                context.load_cert_chain(pem)
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(f"unusable certificate or key in the kubeconfig: {exc}") from exc
    return context


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError as exc:
        raise ConfigError(f"no kubeconfig at {path}") from exc
    except (OSError, ValueError, yaml.YAMLError) as exc:
        raise ConfigError(f"cannot read the kubeconfig {path}: {exc}") from exc
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is not a kubeconfig")
    return document


def _find(
    documents: list[tuple[Path, dict[str, Any]]], section: str, content: str, name: str, shown: str
) -> tuple[Path, dict[str, Any]]:
    """The named entry's content, and the folder that file names in it are relative to."""
    for path, document in documents:
        for entry in document.get(section) or ():
            if isinstance(entry, dict) and entry.get("name") == name:
                found = entry.get(content) or {}
                if not isinstance(found, dict):
                    raise ConfigError(f"{path}: {content} {name!r} is not a mapping")
                return path.parent, found
    raise ConfigError(f"{shown}: no {content} named {name!r}")


def _credentials(user: dict[str, Any], base: Path, shown: str, context: str) -> Credentials:
    if "exec" in user or "auth-provider" in user:
        return Delegated(shown, context)
    if user.get("token"):
        return Fixed(bearer(str(user["token"])))
    if user.get("tokenFile"):
        return TokenFile(base / user["tokenFile"])
    if user.get("username"):
        return Fixed(basic(str(user["username"]), str(user.get("password", ""))))
    return Fixed()


def _content(entry: dict[str, Any], name: str, base: Path) -> str | None:
    """PEM text that is given in base64 under `<name>-data`, or in a file under `<name>`."""
    try:
        if data := entry.get(f"{name}-data"):
            return base64.b64decode(data, validate=False).decode("ascii")
        if path := entry.get(name):
            return Path(base, path).read_text(encoding="ascii")
    except (OSError, ValueError, binascii.Error) as exc:
        raise ConfigError(f"{name} in the kubeconfig cannot be read: {exc}") from exc
    return None
