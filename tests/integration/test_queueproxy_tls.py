"""The queue-proxy's listener in TLS: there with a certificate, followed, drained like the other (serving §6.10)."""

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.ports import free_ports
from kncore.testing.rawclient import RawClient
from kncore.testing.upstream import Connection, ScriptedUpstream, ok
from tests import certificates

ROOT = Path(__file__).parents[2]
NAME = "data-plane.knative.dev"
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
OURS = certificates.issue("kn-user-ns", NAME)


class Sidecar:
    """A queue-proxy as a process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, https: int) -> None:
        self.process = process
        self.port = port
        self.https = https

    async def secure(self, maximum: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> RawClient:
        """A connection in TLS that trusts the tests' authority."""
        context = ssl.create_default_context(cadata=certificates.authority().cert_pem.bytes().decode())
        context.maximum_version = maximum
        return RawClient(*await asyncio.open_connection("127.0.0.1", self.https, ssl=context, server_hostname=NAME))


@asynccontextmanager
async def sidecar(app_port: int, **environ: str) -> AsyncIterator[Sidecar]:
    port, https, admin, metrics = free_ports(4)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "queueproxy"),
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "SERVING_NAMESPACE": "ns",
            "SERVING_REVISION": "rev",
            "SERVING_POD": "pod",
            "SERVING_POD_IP": "127.0.0.1",
            "USER_PORT": str(app_port),
            "QUEUE_SERVING_PORT": str(port),
            "QUEUE_SERVING_TLS_PORT": str(https),
            "TORPOR_ADMIN_PORT": str(admin),
            "TORPOR_METRICS_PORT": str(metrics),
            "TORPOR_DRAIN_QUIET": "0.2",
            **environ,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        line = await process.stderr.readline()
        assert b"queue-proxy listening" in line, line + await process.stderr.read()
        yield Sidecar(process, port, https)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """A directory with a certificate of the namespace."""
    certificates.put(tmp_path, OURS)
    return tmp_path


async def test_tls_beside_clear(mounted: Path) -> None:
    async with ScriptedUpstream() as app, sidecar(app.port, TORPOR_CERTIFICATES=str(mounted)) as proxy:
        async with await RawClient.connect(proxy.port) as client:
            assert (await client.ask(GET)).body == b"GET /x HTTP/1.1"
        async with await proxy.secure() as client:
            assert (await client.ask(GET)).body == b"GET /x HTTP/1.1"
            tls = client.writer.get_extra_info("ssl_object")
            assert tls.version() == "TLSv1.3"
            names = {value for _, value in tls.getpeercert()["subjectAltName"]}
            assert names == {"kn-user-ns", NAME}
            probe = GET.replace(b"\r\n\r\n", b"\r\nUser-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n\r\n")
            assert (await client.ask(probe)).body == b"queue"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await proxy.secure(ssl.TLSVersion.TLSv1_2)


async def test_where_nothing_can_be_mounted_the_node_shows_volumes_elsewhere(tmp_path: Path) -> None:
    place = tmp_path / "var/lib/knative/certs"
    place.mkdir(parents=True)
    certificates.put(place, OURS)
    async with (
        ScriptedUpstream() as app,
        sidecar(app.port, TORPOR_MOUNT_ROOT=str(tmp_path)) as proxy,
        await proxy.secure() as client,
    ):
        assert (await client.ask(GET)).status == 200


async def test_other_versions_if_asked_for(mounted: Path) -> None:
    older = {"QUEUE_PROXY_TLS_MIN_VERSION": "1.2", "QUEUE_PROXY_TLS_MAX_VERSION": "1.2"}
    async with (
        ScriptedUpstream() as app,
        sidecar(app.port, TORPOR_CERTIFICATES=str(mounted), **older) as proxy,
        await proxy.secure() as client,
    ):
        assert client.writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        assert (await client.ask(GET)).status == 200


async def test_without_a_certificate_there_is_no_such_port(tmp_path: Path) -> None:
    async with ScriptedUpstream() as app, sidecar(app.port, TORPOR_CERTIFICATES=str(tmp_path)) as proxy:
        with pytest.raises(ConnectionRefusedError):
            await proxy.secure()


@pytest.mark.parametrize(
    ("files", "environ", "text"),
    [
        ({"tls.key": certificates.issue("x").key}, {}, "the key does not belong to the certificate"),
        ({"tls.crt": b"garbage"}, {}, "there is no PEM certificate in it"),
        ({}, {"QUEUE_PROXY_TLS_MIN_VERSION": "1.1"}, "QUEUE_PROXY_TLS_MIN_VERSION=1.1: expected one of 1.2, 1.3"),
    ],
)
async def test_a_certificate_that_cannot_be_used_is_said_at_the_start(
    mounted: Path, files: dict[str, bytes], environ: dict[str, str], text: str
) -> None:
    for name, content in files.items():
        (mounted / name).write_bytes(content)
    with pytest.raises(AssertionError, match=text):
        async with sidecar(1, TORPOR_CERTIFICATES=str(mounted), **environ):
            pass


async def test_leaving_lets_requests_in_tls_end(mounted: Path) -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        arrived.set()
        await release.wait()
        await connection.send(ok(b"in the end"))

    async with (
        ScriptedUpstream(script) as app,
        sidecar(app.port, TORPOR_CERTIFICATES=str(mounted)) as proxy,
        await proxy.secure() as client,
        await proxy.secure() as idle,
    ):
        await client.send(GET)
        await arrived.wait()
        proxy.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await idle.rest() == b"", "ended in order once nobody asks any more"
        with pytest.raises(ConnectionRefusedError):
            await proxy.secure()
        release.set()
        answer = await client.response()
        assert (answer.body, answer.headers["connection"]) == (b"in the end", "close")
        async with asyncio.timeout(10):
            assert await proxy.process.wait() == 0
