"""Finding the API server: kubeconfigs as kubectl reads them, and a pod's own files."""

import base64
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from kncore.errors import ConfigError
from kncore.kube import kubeconfig
from kncore.kube.auth import Delegated, Fixed, TokenFile

CA = trustme.CA()
PEM = CA.cert_pem.bytes()


def document(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "dev",
        "contexts": [{"name": "dev", "context": {"cluster": "here", "user": "me", "namespace": "apps"}}],
        "clusters": [{"name": "here", "cluster": {"server": "http://127.0.0.1:8001/"}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
    }
    return made | changes


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def user(**entry: Any) -> list[dict[str, Any]]:
    return [{"name": "me", "user": entry}]


def cluster(**entry: Any) -> list[dict[str, Any]]:
    return [{"name": "here", "cluster": entry}]


def test_a_plain_kubeconfig(tmp_path: Path) -> None:
    found = kubeconfig.load(write(tmp_path / "config", document()))
    assert found.server == "http://127.0.0.1:8001"
    assert found.namespace == "apps"
    assert found.tls is None
    assert found.credentials.authorization == "Bearer secret"


def test_tls_settings(tmp_path: Path) -> None:
    ours = CA.issue_cert("admin")
    encoded = {
        "client-certificate-data": base64.b64encode(ours.cert_chain_pems[0].bytes()).decode(),
        "client-key-data": base64.b64encode(ours.private_key_pem.bytes()).decode(),
    }
    content = document(
        clusters=cluster(
            **{
                "server": "https://10.0.0.1:6443",
                "certificate-authority-data": base64.b64encode(PEM).decode(),
                "tls-server-name": "kubernetes",
                "proxy-url": "http://proxy:3128",
            }
        ),
        users=user(**encoded),
    )
    found = kubeconfig.load(write(tmp_path / "config", content))
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_REQUIRED
    assert [cert["subject"] for cert in found.tls.get_ca_certs()] == [
        ((("organizationName", f"trustme v{trustme.__version__}"),), (("organizationalUnitName", mark(found.tls)),))
    ]
    assert (found.server_name, found.proxy) == ("kubernetes", "http://proxy:3128")
    assert found.credentials.authorization == ""


def mark(context: ssl.SSLContext) -> str:
    """The random part of trustme's subject."""
    subject: Any = context.get_ca_certs()[0]["subject"]
    return str(subject[1][0][1])


def test_an_insecure_cluster_accepts_any_certificate(tmp_path: Path) -> None:
    content = document(clusters=cluster(**{"server": "https://x", "insecure-skip-tls-verify": True}))
    found = kubeconfig.load(write(tmp_path / "config", content))
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("entry", "kind", "authorization"),
    [
        ({"token": "a", "tokenFile": "b"}, Fixed, "Bearer a"),
        ({"tokenFile": "token"}, TokenFile, ""),
        ({"username": "me", "password": "pw"}, Fixed, "Basic bWU6cHc="),
        ({"exec": {"command": "aws"}}, Delegated, ""),
        ({"auth-provider": {"name": "oidc"}}, Delegated, ""),
        ({}, Fixed, ""),
    ],
)
def test_how_a_user_logs_in(tmp_path: Path, entry: dict[str, Any], kind: type, authorization: str) -> None:
    found = kubeconfig.load(write(tmp_path / "config", document(users=user(**entry))))
    assert type(found.credentials) is kind
    assert found.credentials.authorization == authorization


def test_files_are_merged_and_the_first_entry_counts(tmp_path: Path) -> None:
    one = write(tmp_path / "one", document(**{"current-context": "", "users": user(token="first")}))
    two = write(tmp_path / "two", document(**{"current-context": "dev", "users": user(token="second")}))
    environ = {"KUBECONFIG": f"{one}:{tmp_path / 'missing'}:{two}"}
    assert kubeconfig.load(environ=environ).credentials.authorization == "Bearer first"


def test_another_context_can_be_named(tmp_path: Path) -> None:
    contexts = [
        {"name": "dev", "context": {"cluster": "here", "user": "me"}},
        {"name": "anonymous", "context": {"cluster": "here"}},
    ]
    path = write(tmp_path / "config", document(contexts=contexts))
    found = kubeconfig.load(path, context="anonymous")
    assert (found.namespace, found.credentials.authorization) == ("default", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"current-context": ""}, "no current context; name one"),
        ({"current-context": "prod"}, "no context named 'prod'"),
        ({"clusters": []}, "no cluster named 'here'"),
        ({"users": []}, "no user named 'me'"),
        ({"clusters": cluster()}, "cluster 'here' has no server URL"),
        ({"clusters": cluster(server="ftp://x")}, "cluster 'here' has no server URL"),
        (
            {"clusters": cluster(**{"server": "https://x", "certificate-authority": "nowhere.crt"})},
            "certificate-authority in the kubeconfig cannot be read",
        ),
        (
            {"clusters": cluster(**{"server": "https://x", "certificate-authority-data": "bm90IGEgY2VydA=="})},
            "unusable certificate or key",
        ),
        (
            {"clusters": cluster(server="https://x"), "users": user(**{"client-certificate-data": "bm9uZQ=="})},
            "unusable certificate or key",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kubeconfig.load(write(tmp_path / "config", document(**changes)))


def test_files_that_are_not_kubeconfigs(tmp_path: Path) -> None:
    path = tmp_path / "config"
    with pytest.raises(ConfigError, match="no kubeconfig at"):
        kubeconfig.load(path)
    with pytest.raises(ConfigError, match="no kubeconfig found at"):
        kubeconfig.load(environ={"KUBECONFIG": f"{path}:{path}2"})
    for content, message in (("- a\n", "is not a kubeconfig"), ("a: [", "cannot read"), ("", "no current context")):
        path.write_text(content)
        with pytest.raises(ConfigError, match=message):
            kubeconfig.load(path)


def test_a_pods_own_account(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(PEM)
    (tmp_path / "namespace").write_text("knative-serving\n")
    found = kubeconfig.in_cluster(
        {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, account=tmp_path
    )
    assert found.server == "https://[fd00::1]:6443"
    assert found.namespace == "knative-serving"
    assert isinstance(found.credentials, TokenFile)
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_HOST is not set"):
        kubeconfig.in_cluster({}, account=tmp_path)
    with pytest.raises(ConfigError, match="cannot read the cluster's CA"):
        kubeconfig.in_cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, account=tmp_path / "none")


@pytest.mark.looptime
async def test_a_token_file_is_read_every_minute_and_survives_its_absence(tmp_path: Path) -> None:
    path = tmp_path / "token"
    credentials = TokenFile(path)
    with pytest.raises(ConfigError, match="cannot read the token"):
        await credentials.renew()
    path.write_text("one\n")
    await credentials.renew()
    assert credentials.authorization == "Bearer one"
    assert credentials.expires == pytest.approx(60.0, abs=1.0)
    path.unlink()
    await credentials.renew()
    assert credentials.authorization == "Bearer one"


def test_nothing_heavy_is_imported() -> None:
    """Embedded processes read plain kubeconfigs and must not pay for kubernetes_asyncio."""
    code = "import sys, kncore.kube.cluster, kncore.kube.auth; print('kubernetes_asyncio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path.cwd(),
        env={"PYTHONPATH": "."},
    )
    assert done.stdout == "False\n"
