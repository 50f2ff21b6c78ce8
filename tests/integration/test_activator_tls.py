"""An activator as a process that takes its certificates from an API server, asked by curl."""

import asyncio
import base64
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ports import free_ports
from kncore.api.resources import CONFIG_MAPS, ENDPOINT_SLICES, INGRESSES, NAMESPACES, REVISIONS, SECRETS
from kncore.kube.client import Patch
from kncore.kube.cluster import HttpClient
from kncore.net.tls import Pair, Settings, server_context
from tests import certificates
from torpor.embedded.apiserver.server import ApiServer

ROOT = Path(__file__).parents[2]
SYSTEM = "knative-serving"
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


def secret(name: str, pair: Pair | None, *, namespace: str = "default", ca: bytes = b"", labelled: bool = False):
    data = {"ca.crt": ca, "tls.crt": pair.chain if pair else b"broken", "tls.key": pair.key if pair else b"broken"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"networking.internal.knative.dev/certificate-uid": "1"} if labelled else {},
        },
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def ingress(name: str, *hosts: str, tls: dict[str, str] | None = None, namespace: str = "default", **spec: Any):
    """Args: tls: Secret by host."""
    path = {"splits": [{"serviceName": "hello-1", "serviceNamespace": namespace, "servicePort": 80, "percent": 100}]}
    where = spec.pop("secrets_in", namespace)
    entries = [
        {"hosts": [host], "secretName": secret_name, "secretNamespace": where}
        for host, secret_name in (tls or {}).items()
    ]
    return {
        "apiVersion": INGRESSES.api_version,
        "kind": INGRESSES.kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"networking.knative.dev/ingress.class": "torpor.ingress.networking.knative.dev"},
        },
        "spec": {
            "rules": [{"hosts": list(hosts), "visibility": "ExternalIP", "http": {"paths": [path]}}],
            "tls": entries,
            **spec,
        },
    }


def revision(namespace: str = "default"):
    return {
        "apiVersion": REVISIONS.api_version,
        "kind": REVISIONS.kind,
        "metadata": {"name": "hello-1", "namespace": namespace},
        "spec": {"containers": [{"image": "dev.local/hello"}], "timeoutSeconds": 10},
    }


def slice_(address: str, namespace: str = "default"):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "hello-1",
            "namespace": namespace,
            "labels": {
                "serving.knative.dev/revision": "hello-1",
                "networking.internal.knative.dev/serviceType": "Private",
                "kubernetes.io/service-name": "hello-1-private",
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8012}, {"name": "https", "port": 8112}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }


class Pod:
    """A queue-proxy: probes and requests in clear on 8012, requests in TLS on 8112 of an address of its own."""

    def __init__(self, address: str, pair: Pair | None) -> None:
        self.address = address
        self.pair = pair
        self.clear = self.secure = 0
        self.heads: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Pod"]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(await asyncio.start_server(self._serve, self.address, 8012))
            if self.pair is not None:
                context = server_context(Settings(minimum=ssl.TLSVersion.TLSv1_3), pair=self.pair, tickets=0)
                await stack.enter_async_context(
                    await asyncio.start_server(self._serve, self.address, 8112, ssl=context)
                )
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if "K-Network-Probe: queue" in head:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nqueue")
                    break
                self.heads.append(head.lower())
                if writer.get_extra_info("ssl_object") is None:
                    self.clear += 1
                else:
                    self.secure += 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  another process
            await asyncio.sleep(0.02)


class World:
    """An API server with a platform's objects, and what an activator is started with."""

    def __init__(self, directory: Path, client: HttpClient) -> None:
        self.directory = directory
        self.client = client
        self.public, self.https, self.internal, self.internal_https = free_ports(4)
        self.authority = directory / "ca.crt"
        certificates.authority().cert_pem.write_to_path(str(self.authority))
        self.log = directory / "activator.log"

    @asynccontextmanager
    async def activator(self, *arguments: str, wait: bool = True) -> AsyncIterator[asyncio.subprocess.Process]:
        with self.log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "activator", "--drain", "0", "--grace", "1"),
                *("--public", f"127.0.0.1:{self.public}", "--internal", f"127.0.0.1:{self.internal}"),
                *("--https", f"127.0.0.1:{self.https}", "--https-port", str(self.https)),
                *("--internal-https", f"127.0.0.1:{self.internal_https}", *arguments),
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(ROOT),
                    "KUBECONFIG": str(self.directory / "kubeconfig"),
                    "POD_NAME": "activator-1",
                    "POD_IP": "127.0.0.1",
                    "SYSTEM_NAMESPACE": SYSTEM,
                    "AUTOSCALER_URL": "ws://127.0.0.1:1",
                },
                stdout=log,
                stderr=log,
            )
        try:
            if wait:
                await self.eventually("hello", "-k")
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    async def curl(self, *arguments: str, host: str = "hello.default.example.com", path: str = "/") -> str:
        """Body, or `curl: (code)` and why not."""
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--noproxy", "*", "--max-time", "10", "--cacert", str(self.authority)),
            *("--connect-to", f"::127.0.0.1:{self.https}", *arguments, f"https://{host}:{self.https}{path}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        return (out or err).decode()

    async def eventually(self, text: str, *arguments: str, host: str = "hello.default.example.com") -> None:
        """Ask until the answer begins like that."""
        last = ""
        try:
            async with asyncio.timeout(15):
                while not (last := await self.curl(*arguments, host=host)).startswith(text):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{text!r} wanted, last answer: {last}\n{self.log.read_text()}") from None


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    server = ApiServer(tmp_path / "state")
    await server.start()
    server.write_kubeconfig(tmp_path / "kubeconfig")
    client = HttpClient.from_kubeconfig(str(tmp_path / "kubeconfig"))
    try:
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
        await client.create(REVISIONS, revision())
        yield World(tmp_path, client)
    finally:
        await client.aclose()
        await server.stop()


async def test_certificates_of_ingresses(world: World, tmp_path: Path) -> None:
    """One pass through the life of certificates, on one activator: starting one costs a second."""
    client = world.client
    default = tmp_path / "default"
    default.mkdir()
    certificates.put(default, certificates.issue("hello.default.example.com"))
    host = "web.default.example.com"
    async with Pod("127.77.0.2", None).running() as pod:
        await client.create(ENDPOINT_SLICES, slice_(pod.address))
        await client.create(INGRESSES, ingress("hello", "hello.default.example.com"))
        async with world.activator("--certificate", str(default)):
            # the default certificate, for hosts without one of their own
            assert await world.curl() == "hello"
            assert "x-forwarded-proto: https\r\n" in pod.heads[-1]
            assert await world.curl("-w", "%{http_version}") == "hello2"
            assert await world.curl("--tls-max", "1.2", "--http1.1", "-w", "%{http_version}") == "hello1.1"

            # a Secret that comes after its KIngress; an exact name and a wildcard
            tls = {host: "own", "*.many.example.com": "wild"}
            await client.create(INGRESSES, ingress("web", host, "a.many.example.com", tls=tls))
            assert "no alternative certificate subject name" in await world.curl(host=host)
            await client.create(SECRETS, secret("own", certificates.issue(host)))
            await client.create(SECRETS, secret("wild", certificates.issue("*.many.example.com"), labelled=True))
            await world.eventually("hello", host=host)
            await world.eventually("hello", host="a.many.example.com")
            assert "no alternative certificate" in await world.curl(host="b.many.example.com"), (
                "not a host of anybody's"
            )

            # a broken Secret changes nothing, and is reported; neither does one that is deleted
            await client.patch(SECRETS, "own", {"data": secret("own", None)["data"]}, "default", how=Patch.MERGE)
            await until(lambda: "the certificate in a Secret cannot be used" in world.log.read_text())
            assert await world.curl(host=host) == "hello"
            await client.delete(SECRETS, "own", "default")
            await asyncio.sleep(0.1)
            assert await world.curl(host=host) == "hello"

            # a new one is in force at once, and connections that exist go on
            context = ssl.create_default_context(cadata=world.authority.read_text())
            reader, writer = await asyncio.open_connection("127.0.0.1", world.https, ssl=context, server_hostname=host)
            foreign = certificates.issue(host, ca="somebody else")
            await client.create(SECRETS, secret("own", foreign))
            await world.eventually("curl: (60)", host=host)
            writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK\r\n")
            writer.transport.abort()

            # nobody presents certificates for hosts of others, or Secrets of others
            thief = ingress("thief", host, tls={host: "stolen"}, namespace="other")
            await client.create(SECRETS, secret("stolen", certificates.issue(host), namespace="other"))
            await client.create(INGRESSES, thief)
            borrower = ingress(
                "borrower", "b.other.example.com", tls={"b.other.example.com": "wild"}, namespace="other"
            )
            borrower["spec"]["tls"][0]["secretNamespace"] = "default"
            await client.create(INGRESSES, borrower)
            await until(lambda: "names a Secret of another namespace" in world.log.read_text())
            assert (await world.curl(host=host)).startswith("curl: (60)"), "the older KIngress has the host"

            # redirects
            await client.patch(INGRESSES, "hello", {"spec": {"httpOption": "Redirected"}}, "default", how=Patch.MERGE)
            location = f"https://hello.default.example.com:{world.https}/a?b=c"
            async with asyncio.timeout(5):
                while location not in await in_clear(world, "/a?b=c"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert await world.curl() == "hello"

            # the files of the default certificate
            certificates.put(default, certificates.issue("x.example.com"))
            assert "no alternative certificate" in await world.curl()


async def in_clear(world: World, target: str) -> str:
    """The answer to a request without TLS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.public)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: hello.default.example.com\r\nConnection: close\r\n\r\n".encode())
    try:
        return (await reader.read()).decode()
    finally:
        writer.close()


async def test_names_without_any_certificate_are_refused(world: World) -> None:
    await world.client.create(INGRESSES, ingress("hello", "hello.default.example.com"))
    async with world.activator(wait=False):
        await world.eventually("curl: (35)", "-k")
        assert "unrecognized name" in await world.curl("-k")

        # a name that is no ASCII is refused as well, and leaves nothing in the log
        reader, writer = await asyncio.open_connection("127.0.0.1", world.https)
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = ssl.create_default_context().wrap_bio(back, there, server_hostname="odd.example.com")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        writer.write(there.read().replace(b"odd.example.com", b"\xffdd.example.com"))
        assert (await reader.read())[:1] == b"\x15", "an alert"
        writer.close()
        assert "Traceback" not in world.log.read_text()


async def test_requests_to_pods_in_tls(world: World) -> None:
    """system-internal-tls: the pod must be of the revision's namespace, its authority one that we trust."""
    client = world.client
    ours = certificates.authority().cert_pem.bytes()
    enabled = {"system-internal-tls": "enabled"}
    await client.create(CONFIG_MAPS, config_map("config-network", enabled))
    async with world.activator(wait=False) as process:
        assert await process.wait() == 1
        assert "Secret knative-serving/routing-serving-certs does not exist" in world.log.read_text()

    routing = certificates.issue("kn-routing", "data-plane.knative.dev")
    await client.create(SECRETS, secret("routing-serving-certs", routing, namespace=SYSTEM, ca=ours))
    await client.create(REVISIONS, revision("other"))
    for name, host, namespace in (
        ("hello", "hello.default.example.com", "default"),
        ("theirs", "theirs.example.com", "other"),
    ):
        await client.create(INGRESSES, ingress(name, host, tls={host: "own"}, namespace=namespace))
        await client.create(SECRETS, secret("own", certificates.issue(host), namespace=namespace))
    good = Pod("127.77.0.3", certificates.issue("kn-user-default", "data-plane.knative.dev"))
    odd = Pod("127.77.0.4", certificates.issue("kn-user-default", "data-plane.knative.dev", ca="another"))
    async with good.running(), odd.running():
        await client.create(ENDPOINT_SLICES, slice_(good.address))
        await client.create(ENDPOINT_SLICES, slice_(good.address, "other"))
        async with world.activator():
            assert await world.curl() == "hello"
            assert (good.clear, good.secure > 0) == (0, True)

            # the pod of another namespace, at an address that was ours a moment ago
            answer = await world.curl(host="theirs.example.com")
            assert answer == (
                "connect to 127.77.0.3:8112: TLS: the certificate is for kn-user-default, data-plane.knative.dev, "
                "not for kn-user-other\n"
            )

            # an authority is trusted when a bundle says so
            served = good.secure
            moved = {"endpoints": slice_(odd.address)["endpoints"]}
            await client.patch(ENDPOINT_SLICES, "hello-1", moved, "default", how=Patch.MERGE)
            await world.eventually("connect to 127.77.0.4:8112: TLS: unable to get local issuer certificate")
            bundle = config_map("bundle", {"a": certificates.authority("another").cert_pem.bytes().decode()})
            bundle["metadata"]["labels"] = {"networking.knative.dev/trust-bundle": "true"}
            await client.create(CONFIG_MAPS, bundle)
            await world.eventually("hello")
            assert (good.secure, odd.secure > 0, odd.clear) == (served, True, 0)

            # our own listener in TLS, for callers inside
            context = ssl.create_default_context(cadata=ours.decode())
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", world.internal_https, ssl=context, server_hostname="data-plane.knative.dev"
            )
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            writer.write(b"GET / HTTP/1.1\r\nHost: hello.default.example.com\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"hello")
            writer.close()


def config_map(name: str, data: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": SYSTEM}, "data": data}
