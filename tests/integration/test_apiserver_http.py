"""The embedded API server over its sockets: watches, forms of answers, bounds, and streams of pods."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from torpor.embedded.apiserver import streams
from torpor.embedded.apiserver.app import Limits
from torpor.embedded.apiserver.errors import bad_request
from torpor.embedded.apiserver.pods import ExecSession, LogOptions
from torpor.embedded.apiserver.server import ApiServer

Obj = dict[str, Any]

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
SECRETS = "/api/v1/namespaces/default/secrets"
PODS = "/api/v1/namespaces/default/pods"


class Session:
    """A command that echoes its input in upper case on stdout, and reports sizes on stderr."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.output: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self.closed = 0
        self.code = int(command[1]) if command[0] == "exit" else 0
        if command[0] == "exit":
            self.output.put_nowait((1, b"bye\n"))
            self.output.put_nowait(None)

    async def read(self) -> tuple[int, bytes] | None:
        return await self.output.get()

    async def write(self, data: bytes) -> None:
        await self.output.put((1, data.upper()))

    async def close_stdin(self) -> None:
        await self.output.put(None)

    def resize(self, columns: int, rows: int) -> None:
        self.output.put_nowait((2, b"%dx%d" % (columns, rows)))

    async def wait(self) -> int:
        return self.code

    async def aclose(self) -> None:
        self.closed += 1


class Node:
    """Pods that exist only here."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, LogOptions]] = []
        self.sessions: list[Session] = []
        self.following = 0

    async def log(self, namespace: str, pod: str, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        self.asked.append((pod, container, options))
        if options.previous:
            raise bad_request(f'previous terminated container "{container}" in pod "{pod}" not found')
        yield b"line 1\n"
        yield b"line 2\n"
        if options.follow:
            self.following += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.following -= 1

    async def exec(
        self, namespace: str, pod: str, container: str, command: tuple[str, ...], *, stdin: bool, tty: bool
    ) -> ExecSession:
        if command[0] == "missing":
            raise bad_request("no such command")
        session = Session(command)
        self.sessions.append(session)
        return session


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
async def server(tmp_path: Path, node: Node) -> AsyncIterator[ApiServer]:
    made = ApiServer(tmp_path / "state", knative=False, pods=node, limits=Limits(watches=8, body_bytes=100_000))
    await made.start()
    yield made
    await made.stop()


def session(server: ApiServer, **headers: str) -> aiohttp.ClientSession:
    context = ssl.create_default_context(cadata=server.ca_pem)
    return aiohttp.ClientSession(
        server.url,
        headers={"Authorization": f"Bearer {server.token}", **headers},
        connector=aiohttp.TCPConnector(ssl=context, limit=0),
        timeout=aiohttp.ClientTimeout(total=20),
    )


@pytest.fixture
async def http(server: ApiServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with session(server) as made:
        yield made


async def call(
    http: aiohttp.ClientSession, method: str, path: str, body: Any = None, **options: Any
) -> tuple[int, Any]:
    headers = options.pop("headers", {})
    data = None if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
    if data is not None:
        headers = {"Content-Type": "application/json", **headers}
    async with http.request(method, path, data=data, headers=headers, **options) as answer:
        raw = await answer.read()
        return answer.status, orjson.loads(raw) if "json" in answer.content_type and raw else raw


async def secret(http: aiohttp.ClientSession, name: str, **labels: str) -> Obj:
    code, made = await call(http, "POST", SECRETS, {"metadata": {"name": name, "labels": labels}})
    assert code == 201
    return dict(made)


async def pod(http: aiohttp.ClientSession, name: str, *containers: str) -> None:
    listed = [{"name": one, "image": "dev.local/app"} for one in containers]
    code, _ = await call(http, "POST", PODS, {"metadata": {"name": name}, "spec": {"containers": listed}})
    assert code == 201


@contextlib.asynccontextmanager
async def watch(http: aiohttp.ClientSession, path: str, **options: Any) -> AsyncIterator[AsyncIterator[Obj]]:
    """The events of a watch; iteration ends with the stream."""
    headers = {"Accept": options.pop("accept", "application/json")}
    async with http.get(path, params={"watch": "true", **options}, headers=headers) as answer:
        assert answer.status == 200, await answer.text()

        async def events() -> AsyncIterator[Obj]:
            while line := await answer.content.readline():
                yield orjson.loads(line)

        yield events()


async def take(events: AsyncIterator[Obj], count: int) -> list[tuple[str, str]]:
    """Type and name of the next events."""
    async with asyncio.timeout(5.0):
        return [
            (event["type"], event["object"]["metadata"].get("name", ""))
            for event in [await anext(events) for _ in range(count)]
        ]


# ---------------------------------------------------------------------------------------------------------- watches


async def test_a_watch_goes_on_where_its_list_ended(http: aiohttp.ClientSession) -> None:
    await secret(http, "a")
    _, listed = await call(http, "GET", SECRETS)
    await secret(http, "b")
    async with watch(http, SECRETS, resourceVersion=listed["metadata"]["resourceVersion"]) as events:
        assert await take(events, 1) == [("ADDED", "b")]
        await call(http, "DELETE", f"{SECRETS}/a")
        await secret(http, "c")
        assert await take(events, 2) == [("DELETED", "a"), ("ADDED", "c")]


async def test_a_watch_without_a_version_begins_with_what_is_there(http: aiohttp.ClientSession) -> None:
    await secret(http, "a", app="x")
    await secret(http, "b", app="y")
    async with watch(http, SECRETS, labelSelector="app=x") as events:
        assert await take(events, 1) == [("ADDED", "a")]
        patch = {"metadata": {"labels": {"app": "x"}}}
        merge = {"Content-Type": "application/merge-patch+json"}
        await call(http, "PATCH", f"{SECRETS}/b", patch, headers=merge)
        await call(http, "PATCH", f"{SECRETS}/a", {"metadata": {"labels": {"app": "z"}}}, headers=merge)
        assert await take(events, 2) == [("ADDED", "b"), ("DELETED", "a")]


async def test_initial_events_end_with_their_bookmark(http: aiohttp.ClientSession) -> None:
    await secret(http, "a")
    options = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with watch(http, SECRETS, **options) as events:
        assert await take(events, 1) == [("ADDED", "a")]
        bookmark = await anext(events)
        assert bookmark["type"] == "BOOKMARK"
        assert bookmark["object"]["kind"] == "Secret"
        assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        version = bookmark["object"]["metadata"]["resourceVersion"]
    await secret(http, "b")
    async with watch(http, SECRETS, resourceVersion=version) as events:
        assert await take(events, 1) == [("ADDED", "b")]
    code, fault = await call(http, "GET", SECRETS, params={"watch": "1", "sendInitialEvents": "true"})
    assert code == 422
    assert "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan" in fault["message"]


async def test_a_watch_ends_in_time_with_a_last_bookmark(http: aiohttp.ClientSession, server: ApiServer) -> None:
    version = str(server.core.store.version)
    options = {"timeoutSeconds": "1", "allowWatchBookmarks": "true", "resourceVersion": version}
    async with watch(http, SECRETS, **options) as events:
        received = [event async for event in events]
    assert [event["type"] for event in received] == ["BOOKMARK"]
    assert int(received[0]["object"]["metadata"]["resourceVersion"]) >= int(version)
    assert server.statistics().app.watches == 0


async def test_a_watch_from_before_history_is_told_to_list_again(
    http: aiohttp.ClientSession, server: ApiServer
) -> None:
    await secret(http, "a")
    server.core.store.collection("secrets").since = server.core.store.version
    async with watch(http, SECRETS, resourceVersion="1") as events:
        (event,) = [event async for event in events]
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
    assert event["object"]["message"].startswith("too old resource version: 1 (")


async def deaf_watch(server: ApiServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A watch of secrets by a client with small buffers that has read the head of the answer and now stops reading."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    raw.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    raw.setblocking(False)
    context = ssl.create_default_context(cadata=server.ca_pem)
    reader, writer = await asyncio.open_connection(sock=raw, ssl=context, server_hostname="localhost", limit=1024)
    writer.write(
        f"GET {SECRETS}?watch=1&resourceVersion={server.core.store.version} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {server.token}\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_a_client_that_does_not_read_is_cut_and_told(server: ApiServer, http: aiohttp.ClientSession) -> None:
    """Its events stop gathering at a bound; nobody else notices."""
    reader, writer = await deaf_watch(server)
    (slow,) = server.core.store.collection("secrets").watchers
    slow.depth = 20
    filler = {"data": {"x": "QUFB" * 20_000}}
    async with watch(http, SECRETS, resourceVersion=str(server.core.store.version)) as events:
        for index in range(120):
            code, _ = await call(http, "POST", SECRETS, {"metadata": {"name": f"n{index}"}, **filler})
            assert code == 201
        assert len(await take(events, 120)) == 120
    assert server.statistics().store.watchers_cut == 1
    received = b""
    async with asyncio.timeout(10.0):
        while not received.endswith(b"0\r\n\r\n"):  # now it reads, to the end of the chunked body
            received = received[-2000:] + await reader.read(65_536)
    assert b'"type":"ERROR"' in received
    assert b'"reason":"Expired"' in received
    writer.transport.abort()


async def test_a_client_that_never_reads_loses_its_connection(
    server: ApiServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "WRITE_DEADLINE", 0.3)
    _, writer = await deaf_watch(server)
    filler = {"data": {"x": "QUFB" * 20_000}}
    for index in range(100):
        await call(http, "POST", SECRETS, {"metadata": {"name": f"n{index}"}, **filler})
    async with asyncio.timeout(5.0):
        while server.statistics().app.watches:  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0.02)
    writer.transport.abort()


async def test_watches_are_counted_bounded_and_given_back(http: aiohttp.ClientSession, server: ApiServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(watch(http, SECRETS, resourceVersion=str(server.core.store.version)))
        code, fault = await call(http, "GET", SECRETS, params={"watch": "1"})
        assert (code, fault["reason"]) == (429, "TooManyRequests")
        assert server.statistics().app.watches == 8
    async with asyncio.timeout(5.0):
        while server.statistics().app.watches:  # noqa: ASYNC110 (an idle watch must notice that its client left)
            await asyncio.sleep(0.01)
    assert server.statistics().store.watchers == 0
    assert (await call(http, "GET", SECRETS))[0] == 200


async def test_watches_as_tables_name_their_columns_once(http: aiohttp.ClientSession) -> None:
    await secret(http, "a")
    async with watch(http, SECRETS, accept=TABLE) as events:
        first = await anext(events)
        await secret(http, "b")
        second = await anext(events)
    assert first["object"]["columnDefinitions"][0]["name"] == "Name"
    assert not second["object"]["columnDefinitions"]
    assert second["object"]["rows"][0]["cells"][0] == "b"


# ---------------------------------------------------------------------------------------------------------- answers


async def test_lists_as_tables_metadata_and_yaml(http: aiohttp.ClientSession) -> None:
    await secret(http, "a")
    _, table = await call(http, "GET", SECRETS, headers={"Accept": TABLE}, params={"includeObject": "Object"})
    assert table["kind"] == "Table"
    assert table["rows"][0]["object"]["type"] == "Opaque"
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    _, partial = await call(http, "GET", SECRETS, headers={"Accept": accept})
    assert partial["kind"] == "PartialObjectMetadataList"
    assert sorted(partial["items"][0]) == ["apiVersion", "kind", "metadata"]
    _, text = await call(http, "GET", f"{SECRETS}/a", headers={"Accept": "application/yaml"})
    assert b"kind: Secret" in text


async def test_discovery_and_openapi_are_cached_by_tag(http: aiohttp.ClientSession, server: ApiServer) -> None:
    async with http.get("/openapi/v3/apis/apps/v1") as answer:
        tag = answer.headers["ETag"]
        assert "io.k8s.api.apps.v1.Deployment" in (await answer.json())["components"]["schemas"]
    async with http.get("/openapi/v3/apis/apps/v1", headers={"If-None-Match": tag}) as answer:
        assert answer.status == 304
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    async with http.get("/apis", headers={"Accept": accept}) as answer:
        assert answer.headers["Content-Type"] == "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        before = len((await answer.json())["items"])
    schema = {"openAPIV3Schema": {"type": "object"}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    names = {"plural": "widgets", "kind": "Widget"}
    spec = {"group": "x.io", "scope": "Cluster", "names": names, "versions": [version]}
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    assert (await call(http, "POST", path, {"metadata": {"name": "widgets.x.io"}, "spec": spec}))[0] == 201
    async with http.get("/apis", headers={"Accept": accept}) as answer:
        assert len((await answer.json())["items"]) == before + 1
    assert (await call(http, "GET", "/apis/x.io/v1/widgets"))[1]["kind"] == "WidgetList"
    for path in ("/openapi/v2", "/apis/nothing.io", "/apis/nothing.io/v1", "/apis/apps/v9", "/nothing"):
        code, fault = await call(http, "GET", path)
        assert (code, fault["message"]) == (404, "the server could not find the requested resource")


async def test_warnings_and_strictness(http: aiohttp.ClientSession) -> None:
    body = b'{"metadata": {"name": "w"}, "odd": 1, "type": "a", "type": "Opaque"}'
    headers = {"Content-Type": "application/json"}
    async with http.post(SECRETS, data=body, headers=headers, params={"dryRun": "All"}) as answer:
        assert answer.status == 201
        assert answer.headers.getall("Warning") == ['299 - "unknown field \\"odd\\""']
    code, fault = await call(http, "POST", SECRETS, body, params={"fieldValidation": "Strict"})
    assert code == 400
    assert fault["message"].endswith('strict decoding error: unknown field "odd", duplicate field "type"')
    for params in ({"fieldValidation": "Maybe"}, {"dryRun": "Some"}, {"fieldManager": "x" * 129}):
        assert (await call(http, "POST", SECRETS, body, params=params))[0] == 422


async def test_deletion_answers(http: aiohttp.ClientSession) -> None:
    made = await secret(http, "a")
    code, status = await call(http, "DELETE", f"{SECRETS}/a")
    details = {"name": "a", "kind": "secrets", "uid": made["metadata"]["uid"]}
    assert (code, status["status"], status["details"]) == (200, "Success", details)
    await pod(http, "p", "app")
    _, deleted = await call(http, "DELETE", f"{PODS}/p")
    assert deleted["kind"] == "Pod"
    for name in ("b", "c"):
        await secret(http, name, app="x")
    await secret(http, "d")
    _, gone = await call(http, "DELETE", SECRETS, params={"labelSelector": "app=x"})
    assert [one["metadata"]["name"] for one in gone["items"]] == ["b", "c"]
    _, left = await call(http, "GET", SECRETS)
    assert [one["metadata"]["name"] for one in left["items"]] == ["d"]
    assert (await call(http, "DELETE", f"{SECRETS}/d", {"propagationPolicy": "Sideways"}))[0] == 422


async def test_reviews_say_yes(http: aiohttp.ClientSession) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    code, review = await call(http, "POST", path, {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}})
    assert (code, review["status"]["allowed"]) == (201, True)
    _, who = await call(http, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert who["status"]["userInfo"]["username"] == "kubernetes-admin"
    assert (await call(http, "GET", path))[0] == 405


async def test_what_is_refused_at_the_door(server: ApiServer, http: aiohttp.ClientSession) -> None:
    assert (await call(http, "GET", SECRETS, headers={"Authorization": "Bearer wrong"}))[0] == 401
    assert (await call(http, "GET", SECRETS, headers={"Host": "evil.example"}))[0] == 403
    assert (await call(http, "GET", SECRETS, headers={"Origin": "https://evil.example"}))[0] == 403
    assert await call(http, "GET", "/readyz", headers={"Authorization": ""}) == (200, b"ok")
    big = {"metadata": {"name": "big"}, "data": {"x": "QUFB" * 40_000}}
    assert (await call(http, "POST", SECRETS, big))[0] == 413

    async def pieces() -> AsyncIterator[bytes]:  # a body without a length is counted as it comes
        for _ in range(20):
            yield b" " * 10_000

    async with http.post(SECRETS, data=pieces(), headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 413
    deep = b'{"metadata": {"name": "deep"}, "data": ' + b'{"a":' * 500 + b"1" + b"}" * 501
    assert (await call(http, "POST", SECRETS, deep))[0] in (400, 422)
    assert (await call(http, "PUT", SECRETS, {}))[0] == 405
    assert (await call(http, "PATCH", f"{SECRETS}/a", {}, headers={"Content-Type": "text/plain"}))[0] == 415
    assert server.statistics().app.failed == 0


async def test_a_strategic_patch_of_a_custom_kind_is_415(tmp_path: Path) -> None:
    server = ApiServer(tmp_path / "other")
    await server.start()
    async with session(server) as http:
        path = "/apis/serving.knative.dev/v1/namespaces/default/services/x"
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        code, fault = await call(http, "PATCH", path, {}, headers=headers)
        assert (code, fault["reason"]) == (415, "UnsupportedMediaType")
        assert fault["message"] == (
            "the body of the request was in an unknown format - accepted media types include: "
            "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
        )
    await server.stop()


async def test_scale_over_http(http: aiohttp.ClientSession) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "x", "image": "y"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    path = "/apis/apps/v1/namespaces/default/deployments"
    assert (await call(http, "POST", path, {"metadata": {"name": "d"}, "spec": spec}))[0] == 201
    _, scale = await call(http, "GET", f"{path}/d/scale")
    assert scale["spec"]["replicas"] == 1
    scale["spec"]["replicas"] = 2
    assert (await call(http, "PUT", f"{path}/d/scale", scale))[1]["spec"]["replicas"] == 2
    assert (await call(http, "PUT", f"{path}/d/scale", scale))[0] == 409  # its version is an old one by now
    patch = [{"op": "replace", "path": "/spec/replicas", "value": 7}]
    headers = {"Content-Type": "application/json-patch+json"}
    code, scale = await call(http, "PATCH", f"{path}/d/scale", patch, headers=headers)
    assert (code, scale["spec"]["replicas"]) == (200, 7)
    merge = {"Content-Type": "application/merge-patch+json"}
    assert (await call(http, "PATCH", f"{path}/d/scale", {"spec": {"replicas": 0}}, headers=merge))[0] == 200
    assert (await call(http, "GET", f"{path}/d"))[1]["spec"]["replicas"] == 0


async def test_plain_http_is_there_when_asked_for(tmp_path: Path) -> None:
    server = ApiServer(tmp_path / "plain", tls=False, knative=False)
    await server.start()
    assert server.url.startswith("http://")
    async with aiohttp.ClientSession(server.url, headers={"Authorization": f"Bearer {server.token}"}) as http:
        assert (await call(http, "GET", SECRETS))[0] == 200
    await server.stop()
    await server.stop()


async def test_a_socket_that_outlives_its_server_keeps_clients_waiting(tmp_path: Path) -> None:
    """As the supervisor does it: the socket is its own, the server gets a copy; between two servers none is refused."""
    with socket.create_server(("127.0.0.1", 0)) as kept:
        for _ in range(2):
            async with asyncio.timeout(10.0):
                _, writer = await asyncio.open_connection(*kept.getsockname())  # before anybody accepts
                server = ApiServer(tmp_path / "state", listen=kept.getsockname(), sock=kept.dup(), knative=False)
                await server.start()
                assert server.url.endswith(f":{kept.getsockname()[1]}")
                async with session(server) as http:
                    assert (await call(http, "GET", SECRETS))[0] == 200
                writer.close()
                await server.stop()


# ------------------------------------------------------------------------------------------------------------- pods


async def test_logs(http: aiohttp.ClientSession, node: Node) -> None:
    await pod(http, "p", "app")
    await pod(http, "two", "a", "b")
    assert await call(http, "GET", f"{PODS}/p/log", params={"tailLines": "3"}) == (200, b"line 1\nline 2\n")
    assert node.asked[-1] == ("p", "app", LogOptions(tail_lines=3))
    async with http.get(f"{PODS}/two/log", params={"container": "b", "follow": "true"}) as answer:
        assert await answer.content.readline() == b"line 1\n"
        assert await answer.content.readline() == b"line 2\n"
        assert node.following == 1
        answer.close()
    async with asyncio.timeout(5.0):
        while node.following:  # noqa: ASYNC110 (the reader must notice that its client left)
            await asyncio.sleep(0.01)
    for path, params, code in (
        ("two/log", {}, 400),
        ("two/log", {"container": "c"}, 400),
        ("p/log", {"previous": "true"}, 400),
        ("nobody/log", {}, 404),
    ):
        assert (await call(http, "GET", f"{PODS}/{path}", params=params))[0] == code


async def received(socket: aiohttp.ClientWebSocketResponse) -> tuple[int, bytes]:
    data = await socket.receive_bytes(timeout=5.0)
    return data[0], data[1:]


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
async def test_exec_carries_both_ways_and_tells_the_exit_code(
    http: aiohttp.ClientSession, node: Node, protocol: str
) -> None:
    await pod(http, "p", "app")
    async with http.ws_connect(f"{PODS}/p/exec?command=exit&command=3&stdout=true", protocols=(protocol,)) as socket:
        assert socket.protocol == protocol
        assert await received(socket) == (1, b"bye\n")
        channel, data = await received(socket)
        status = orjson.loads(data)
        assert (channel, status["reason"]) == (3, "NonZeroExitCode")
        assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
        assert (await socket.receive(timeout=5.0)).type is aiohttp.WSMsgType.CLOSE
    async with http.ws_connect(f"{PODS}/p/exec?command=cat&stdin=true&tty=true", protocols=(protocol,)) as socket:
        await socket.send_bytes(b"\x00hello")
        assert await received(socket) == (1, b"HELLO")
        await socket.send_bytes(b'\x04{"Width": 80, "Height": 24}')
        assert await received(socket) == (2, b"80x24")
        await socket.send_bytes(b"\x04nonsense")
        await socket.send_bytes(b"\xff\x00")
        assert await received(socket) == (3, b'{"metadata":{},"status":"Success"}')
    assert [one.closed for one in node.sessions] == [1, 1]


async def test_a_client_that_leaves_ends_its_command(http: aiohttp.ClientSession, node: Node) -> None:
    await pod(http, "p", "app")
    socket = await http.ws_connect(f"{PODS}/p/exec?command=cat&stdin=true", protocols=("v5.channel.k8s.io",))
    await socket.close()
    async with asyncio.timeout(5.0):
        while not node.sessions[0].closed:  # noqa: ASYNC110 (the session tells nobody)
            await asyncio.sleep(0.01)


async def test_exec_that_cannot_be_is_an_ordinary_error(http: aiohttp.ClientSession) -> None:
    await pod(http, "p", "app")
    # kubectl asks over WebSocket, is refused, asks again in its old way, and prints what it is told then
    code, fault = await call(http, "POST", f"{PODS}/p/exec?command=ls", headers={"Upgrade": "SPDY/3.1"})
    assert (code, fault["message"]) == (500, 'Internal error occurred: container not found ("app")')
    status = {"status": {"containerStatuses": [{"name": "app", "state": {"running": {}}}]}}
    merge = {"Content-Type": "application/merge-patch+json"}
    assert (await call(http, "PATCH", f"{PODS}/p/status", json=status, headers=merge))[0] == 200
    code, fault = await call(http, "POST", f"{PODS}/p/exec?command=ls", headers={"Upgrade": "SPDY/3.1"})
    assert code == 400
    assert "exec is served over WebSocket only" in fault["message"]
    for query in ("command=missing", "", "command=ls&container=c"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await http.ws_connect(f"{PODS}/p/exec?{query}", protocols=("v5.channel.k8s.io",))
        assert caught.value.status == 400
