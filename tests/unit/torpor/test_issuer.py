"""Certificates that follow the objects: the ingress's hosts, and namespaces with revisions."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509

from kncore.api.resources import INGRESSES, REVISIONS, SECRETS
from kncore.config.store import Store
from kncore.kube.informers import Informers
from kncore.testing.kube import MemoryClient
from torpor.embedded.authority import LOCAL, Authority
from torpor.embedded.issuer import DataPlaneCertificates, IngressCertificate


def names(pem: bytes) -> list[str]:
    found = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [name.value for name in found.value if isinstance(name, x509.DNSName)]


def ingress(name: str, *hosts: str, visibility: str = "ExternalIP"):
    return {
        "apiVersion": INGRESSES.api_version,
        "kind": INGRESSES.kind,
        "metadata": {"namespace": "default", "name": name},
        "spec": {"rules": [{"hosts": list(hosts), "visibility": visibility, "http": {"paths": []}}]},
    }


def revision(namespace: str):
    return {
        "apiVersion": REVISIONS.api_version,
        "kind": REVISIONS.kind,
        "metadata": {"namespace": namespace, "name": "hello-1"},
        "spec": {},
    }


@asynccontextmanager
async def running(*parts) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(part.run()) for part in parts]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  what is waited for has no event of its own
            await asyncio.sleep(0.002)


async def test_the_ingress_has_a_wildcard_for_every_domain_of_its_hosts(tmp_path: Path) -> None:
    client, said = MemoryClient(), list[str]()
    informers = Informers(client)
    authority = Authority.load_or_make(tmp_path, "ca", LOCAL)
    IngressCertificate(informers, authority, tmp_path / "ingress", "localhost", said.append)
    shown = tmp_path / "ingress" / "tls.crt"
    assert names(shown.read_bytes()) == ["*.default.localhost", "localhost"], "there before the first service"
    assert (tmp_path / "ingress" / "tls.key").stat().st_mode & 0o777 == 0o600
    async with running(informers):
        await informers.wait_synced()
        first = shown.read_bytes()
        await client.create(INGRESSES, ingress("hello", "hello.default.localhost"))
        await client.create(INGRESSES, ingress("inside", "inside.there.svc.cluster.local", visibility="ClusterLocal"))
        await client.create(INGRESSES, ingress("web", "web.other.localhost", "web.other.example.com"))
        await until(lambda: shown.read_bytes() != first)
        assert names(shown.read_bytes()) == [
            "*.default.localhost",
            "*.other.example.com",
            "*.other.localhost",
            "localhost",
        ]
        await client.create(INGRESSES, ingress("mine", "mine.bank.com"))
        await until(lambda: said)
    assert said[0].startswith("no certificate for *.bank.com: this platform's authority vouches for names in")
    assert "*.bank.com" not in names(shown.read_bytes())


@pytest.fixture
def store() -> Store:
    return Store.of({"config-network": {"system-internal-tls": "enabled"}})


async def test_the_data_plane_gets_certificates_when_it_is_to_speak_tls(tmp_path: Path) -> None:
    client, store = MemoryClient(), Store()
    informers = Informers(client)
    inside = DataPlaneCertificates(client, informers, store, tmp_path)
    await client.create(REVISIONS, revision("default"))
    async with running(informers, inside):
        await informers.wait_synced()
        assert (await client.list(SECRETS)).items == []
        assert list(tmp_path.iterdir()) == [], "not even an authority"
        store.apply("config-network", {"system-internal-tls": "enabled"})
        secrets = informers.of(SECRETS, labels="networking.knative.dev/certificate-type=system-internal")
        await until(lambda: len(secrets.list()) == 2)
        await client.create(REVISIONS, revision("other"))
        await until(lambda: len(secrets.list()) == 3)
        given = {secret["metadata"]["namespace"]: secret for secret in secrets.list()}
    expected = {
        "knative-serving": ("routing-serving-certs", ["data-plane.knative.dev", "kn-routing"]),
        "default": ("serving-certs", ["data-plane.knative.dev", "kn-user-default"]),
        "other": ("serving-certs", ["data-plane.knative.dev", "kn-user-other"]),
    }
    for namespace, (name, covered) in expected.items():
        secret = given[namespace]
        assert secret["metadata"]["name"] == name
        assert names(base64.b64decode(secret["data"]["tls.crt"])) == covered
        assert secret["data"]["ca.crt"] == given["default"]["data"]["ca.crt"]


async def test_a_deleted_certificate_is_made_anew_and_a_user_s_own_is_left_alone(tmp_path: Path, store: Store) -> None:
    client = MemoryClient()
    informers = Informers(client)
    inside = DataPlaneCertificates(client, informers, store, tmp_path)
    own = {"metadata": {"name": "serving-certs", "namespace": "mine"}, "data": {"tls.crt": "", "tls.key": ""}}
    await client.create(SECRETS, {"apiVersion": "v1", "kind": "Secret", **own})
    for namespace in ("default", "mine"):
        await client.create(REVISIONS, revision(namespace))
    async with running(informers, inside):
        await informers.wait_synced()
        secrets = informers.of(SECRETS, labels="networking.knative.dev/certificate-type=system-internal")
        await until(lambda: len(secrets.list()) == 2)
        before = secrets.get("serving-certs", "default")
        assert before is not None
        await client.delete(SECRETS, "serving-certs", "default")
        await until(lambda: secrets.get("serving-certs", "default") not in (None, before))
        assert (await client.get(SECRETS, "serving-certs", "mine"))["data"] == own["data"]
