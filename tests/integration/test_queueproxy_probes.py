"""Readiness of every kind, asked of a queue-proxy process that asks real servers (serving §6.6)."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from benchmarks.ports import free_ports
from kncore.net import probe
from kncore.testing.upstream import Connection, ScriptedUpstream, ok
from tests.integration.test_http1_probes import answering, grpc_server, soon
from tests.integration.test_queueproxy import PROBE, sidecar

KUBELET = PROBE
ACTIVATOR = PROBE.replace(b"kube-probe/1.30", b"Knative-Activator-Probe")
READY, UNREADY = (200, b"queue"), (503, b"")


class Http2Server:
    """Speaks HTTP/2 only, in clear, as the h2 library does; keeps what it was asked."""

    def __init__(self, *answers: Sequence[tuple[str, str]]) -> None:
        self.answers = answers
        self.requests: list[dict[str, str]] = []
        self.port = 0

    async def __aenter__(self) -> "Http2Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        try:
            while data := await reader.read(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        self.requests.append(dict(event.headers))
                        for answer in self.answers:
                            final = not answer[0][1].startswith("1")
                            connection.send_headers(event.stream_id, answer, end_stream=final)
                writer.write(connection.data_to_send())
        except (ConnectionError, h2.exceptions.ProtocolError):
            pass
        finally:
            writer.close()


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([[(":status", "200")]], None),
        ([[(":status", "103"), ("link", "</a>")], [(":status", "399"), ("x", "y" * 500)]], None),
        ([[(":status", "503")]], "status 503"),
    ],
)
async def test_http2_probe(answers: list[list[tuple[str, str]]], expected: str | None) -> None:
    headers = (("Host", "h.example"), ("X-Long", "v" * 300))
    async with Http2Server(*answers) as app:
        assert await probe.http2("127.0.0.1", app.port, "ready?a=b", soon(), headers=headers) == expected
    [request] = app.requests
    assert (request[":method"], request[":path"], request[":authority"]) == ("GET", "/ready?a=b", "h.example")
    assert (request["x-long"], request["user-agent"]) == ("v" * 300, "kube-probe/")


@pytest.mark.parametrize(
    "answer", [ok(), b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n", b"", b"\0" * 50]
)
async def test_http2_probe_of_what_is_no_http2_server(answer: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.reader.readexactly(24)
        await connection.send(answer)

    async with ScriptedUpstream(script) as app:
        assert await probe.http2("127.0.0.1", app.port, "/", soon()) in ("no HTTP/2 answer", "Connection lost")


@asynccontextmanager
async def probed(app_port: int, *probes: dict[str, Any], multi: bool = False, **environ: str) -> AsyncIterator[Any]:
    given = json.dumps(list(probes) if multi else probes[0])
    async with sidecar(app_port, SERVING_READINESS_PROBE=given, **environ) as proxy:
        yield proxy


async def test_autodetection_asks_in_http2_first_and_then_in_http1() -> None:
    given = {"httpGet": {"path": "/ready"}, "periodSeconds": 1}
    async with (
        Http2Server([(":status", "200")]) as app,
        probed(app.port, given, ENABLE_HTTP2_AUTO_DETECTION="true") as proxy,
    ):
        assert await proxy.ask(KUBELET) == READY
        assert app.requests[0]["user-agent"] == "kube-probe//"

    async def script(connection: Connection) -> None:
        head = await connection.head()
        if head.startswith(b"GET"):
            await connection.body(head)
            await connection.send(ok())
        else:
            prefaces.append(head)

    prefaces: list[bytes] = []
    async with (
        ScriptedUpstream(script) as old,
        probed(old.port, given, ENABLE_HTTP2_AUTO_DETECTION="true") as proxy,
    ):
        assert await proxy.ask(KUBELET) == READY
        assert await proxy.ask(KUBELET) == READY
        assert len(prefaces) == 1, "what an app once answered it is asked first again"
        assert [request.line for request in old.requests] == ["GET /ready HTTP/1.1"] * 2
    async with Http2Server([(":status", "200")]) as app, probed(app.port, given) as proxy:
        assert await proxy.ask(KUBELET) == UNREADY, "off by default"


async def test_http_probe_with_path_query_headers_and_another_port() -> None:
    async with ScriptedUpstream() as app, answering(b"HTTP/1.1 399 x\r\nContent-Length: 0\r\n\r\n") as other:
        given = {
            "httpGet": {
                "path": "health?full=1",
                "port": other.port,
                "host": "127.0.0.1",
                "scheme": "HTTP",
                "httpHeaders": [{"name": "X-Key", "value": "secret"}],
            },
            "periodSeconds": 1,
        }
        async with probed(app.port, given) as proxy:
            assert await proxy.ask(ACTIVATOR) == READY
            [request] = other.requests
            assert request.line == "GET /health?full=1 HTTP/1.1"
            assert (request.headers["x-key"], request.headers["user-agent"]) == ("secret", "kube-probe//")
            assert app.requests == []


async def test_tcp_probe() -> None:
    [port] = free_ports(1)
    async with probed(port, {"tcpSocket": {"host": "127.0.0.1"}, "periodSeconds": 1}) as proxy:
        assert await proxy.ask(KUBELET) == UNREADY
        app = ScriptedUpstream()
        app.port = port
        async with app:
            assert await proxy.ask(KUBELET) == READY


async def test_grpc_probe() -> None:
    async with grpc_server({b"": b"\x08\x01", b"down": b"\x08\x02"}) as port:
        async with probed(port, {"grpc": {"port": port}, "periodSeconds": 1, "timeoutSeconds": 5}) as proxy:
            assert await proxy.ask(KUBELET) == READY
        async with probed(
            port, {"grpc": {"port": port, "service": "down"}, "periodSeconds": 1, "timeoutSeconds": 5}
        ) as proxy:
            assert await proxy.ask(KUBELET) == UNREADY


async def test_a_probe_s_timeout_is_its_own() -> None:
    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.reader.read()

    async with (
        ScriptedUpstream(silent) as app,
        probed(app.port, {"httpGet": {}, "periodSeconds": 1, "timeoutSeconds": 1}) as proxy,
    ):
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await proxy.ask(KUBELET) == UNREADY
        assert loop.time() - started >= 1.0


async def test_all_containers_must_be_ready_and_are_asked_at_the_same_time() -> None:
    async with (
        ScriptedUpstream() as app,
        ScriptedUpstream() as side,
        grpc_server({b"": b"\x08\x01"}) as third,
        probed(
            app.port,
            {"httpGet": {"path": "/ready"}, "periodSeconds": 1},
            {"tcpSocket": {"port": side.port, "host": "127.0.0.1"}, "periodSeconds": 1},
            {"grpc": {"port": third}, "periodSeconds": 1, "timeoutSeconds": 5},
            multi=True,
            ENABLE_MULTI_CONTAINER_PROBES="true",
        ) as proxy,
    ):
        assert await proxy.ask(KUBELET) == READY
        assert await proxy.ask(ACTIVATOR) == READY
        side.refuse()
        assert await proxy.ask(KUBELET) == UNREADY
        assert await proxy.ask(KUBELET) == UNREADY
        assert len(app.requests) == 4


async def test_without_a_probe_it_is_always_ready() -> None:
    [port] = free_ports(1)
    async with sidecar(port, SERVING_READINESS_PROBE="") as proxy:
        assert await proxy.ask(KUBELET) == READY
