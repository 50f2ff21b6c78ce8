"""`HttpClient` against a real HTTP server on loopback that behaves, and then does not."""

import asyncio
import contextlib
import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from aiohttp import web

from kncore.api import resources
from kncore.api.resources import CONFIG_MAPS, DEPLOYMENTS, PODS, Resource
from kncore.errors import ConfigError
from kncore.kube import kubeconfig
from kncore.kube.auth import TokenFile
from kncore.kube.client import Key, Obj, Patch
from kncore.kube.cluster import HttpClient
from kncore.kube.errors import (
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    InternalError,
    NotFound,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from kncore.kube.informer import Change, Informer
from kncore.testing.kube import MemoryClient

Script = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

_RESOURCES = {(one.group, one.version, one.plural): one for one in resources.ALL}


class Server:
    """An API server over a MemoryClient; `script` puts something else in front of the next requests."""

    def __init__(self) -> None:
        self.memory = MemoryClient()
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.scripted: deque[Script] = deque()
        self.url = ""

    def script(self, *steps: Script) -> None:
        """Answer the next requests with these; a step that returns None lets the server answer."""
        self.scripted.extend(steps)

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"{'https' if tls else 'http'}://{host}:{port}"
        try:
            yield
        finally:
            self.memory.break_watches()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        if self.scripted and (answer := await self.scripted.popleft()(request)) is not None:
            return answer
        try:
            return await self._answer(request)
        except ApiError as exc:
            return status(exc)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        resource, namespace, name, sub = _parse(request.path)
        query, body = request.query, orjson.loads(self.bodies[-1]) if self.bodies[-1] else None
        selectors = {"labels": query.get("labelSelector", ""), "fields": query.get("fieldSelector", "")}
        if "watch" in query:
            return await self._watch(request, resource, namespace, query["resourceVersion"], selectors)
        match request.method:
            case "GET" if name:
                return reply(await self.memory.get(resource, name, namespace, subresource=sub))
            case "GET":
                found = await self.memory.list(resource, namespace, **selectors)
                start, limit = int(query.get("continue", "0")), int(query.get("limit", "1000000"))
                items = [
                    {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
                    for obj in found.items[start : start + limit]
                ]
                meta = {"resourceVersion": found.resource_version}
                if start + limit < len(found.items):
                    meta["continue"] = str(start + limit)
                return reply({"kind": f"{resource.kind}List", "apiVersion": "v1", "metadata": meta, "items": items})
            case "POST":
                return reply(await self.memory.create(resource, body, namespace), 201)
            case "PUT":
                return reply(await self.memory.update(resource, body, subresource=sub))
            case "PATCH":
                how = Patch(request.content_type)
                return reply(await self.memory.patch(resource, name, body, namespace, how=how, subresource=sub))
            case _:
                uid = body.get("preconditions", {}).get("uid")
                grace, propagation = body.get("gracePeriodSeconds"), body["propagationPolicy"]
                await self.memory.delete(resource, name, namespace, propagation=propagation, uid=uid, grace=grace)
                return reply({"kind": "Status", "status": "Success"})

    async def _watch(
        self, request: web.Request, resource: Resource, namespace: str | None, version: str, selectors: dict[str, str]
    ) -> web.StreamResponse:
        answer = await streamed(request)
        stream = self.memory.watch(resource, namespace, resource_version=version, **selectors)
        try:
            async with contextlib.aclosing(stream):
                async for event in stream:
                    await answer.write(orjson.dumps({"type": event.type, "object": event.object}) + b"\n")
        except ApiError as exc:
            if not isinstance(exc, Gone):
                cut(request)
            await answer.write(orjson.dumps({"type": "ERROR", "object": exc.to_status()}) + b"\n")
        return answer


def _parse(path: str) -> tuple[Resource, str | None, str, str]:
    parts = path.strip("/").split("/")
    group, version = ("", parts[1]) if parts[0] == "api" else (parts[1], parts[2])
    rest = parts[2 if parts[0] == "api" else 3 :]
    namespace = None
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource = _RESOURCES[group, version, rest[0]]
    return resource, namespace, rest[1] if len(rest) > 1 else "", rest[2] if len(rest) > 2 else ""


def reply(obj: Any, code: int = 200, **headers: str) -> web.Response:
    return web.Response(body=orjson.dumps(obj), status=code, content_type="application/json", headers=headers)


def status(exc: ApiError, **headers: str) -> web.Response:
    return reply(exc.to_status(), exc.status_code, **headers)


async def streamed(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    answer.enable_chunked_encoding()
    await answer.prepare(request)
    return answer


def cut(request: web.Request) -> None:
    """Break the connection as a killed process does."""
    assert request.transport is not None
    request.transport.abort()


def answering(exc: ApiError, **headers: str) -> Script:
    async def step(request: web.Request) -> web.Response:
        return status(exc, **headers)

    return step


def writing(*pieces: bytes, then: Callable[[web.Request], None] | None = None) -> Script:
    """A 200 whose body comes in these pieces, after which the connection is cut, or ends well."""

    async def step(request: web.Request) -> web.StreamResponse:
        answer = await streamed(request)
        for piece in pieces:
            await answer.write(piece)
            await asyncio.sleep(0.01)
        if then is not None:
            then(request)
        return answer

    return step


async def dropped(request: web.Request) -> web.StreamResponse:
    cut(request)
    return web.Response()


async def passed(request: web.Request) -> None:
    return None


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with made.running():
        yield made


@pytest.fixture
async def client(server: Server) -> AsyncIterator[HttpClient]:
    made = HttpClient(server.url, timeout=5.0, page=2, event_bytes=1 << 16)
    yield made
    await made.aclose()
    assert made.statistics().under_way == 0
    assert made.statistics().streams == 0


def config(name: str, value: str = "1") -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": {"v": value},
    }


# -- calls ----------------------------------------------------------------------------------------------------------


async def test_what_goes_over_the_wire(server: Server, client: HttpClient) -> None:
    await client.create(CONFIG_MAPS, config("a"))
    await client.patch(CONFIG_MAPS, "a", {"data": {"v": "2"}}, "default")
    await client.patch(CONFIG_MAPS, "a", config("a"), "default", how=Patch.APPLY, field_manager="me", force=True)
    await client.list(CONFIG_MAPS, "default", labels="a in (b,c),d", fields="metadata.name!=x")
    await client.delete(CONFIG_MAPS, "a", "default", propagation="Foreground", uid=None, grace=3)
    sent = [(request.method, request.raw_path) for request in server.requests]
    path = "/api/v1/namespaces/default/configmaps"
    assert sent == [
        ("POST", path),
        ("PATCH", f"{path}/a?fieldManager=torpor"),
        ("PATCH", f"{path}/a?fieldManager=me&force=true"),
        ("GET", f"{path}?labelSelector=a%20in%20%28b%2Cc%29%2Cd&fieldSelector=metadata.name%21%3Dx&limit=2"),
        ("DELETE", f"{path}/a"),
    ]
    assert [request.content_type for request in server.requests[:3]] == [
        "application/json",
        "application/merge-patch+json",
        "application/apply-patch+yaml",
    ]
    assert orjson.loads(server.bodies[-1]) == {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "propagationPolicy": "Foreground",
        "gracePeriodSeconds": 3,
    }
    assert server.requests[0].headers["Accept"] == "application/json"
    assert "Authorization" not in server.requests[0].headers


async def test_calls_share_a_connection(server: Server, client: HttpClient) -> None:
    peers = set()

    async def note(request: web.Request) -> None:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))

    server.script(*[note] * 5)
    for number in range(5):
        await client.create(CONFIG_MAPS, config(f"c{number}"))
    assert len(peers) == 1


async def test_a_list_is_put_together_from_its_pages(server: Server, client: HttpClient) -> None:
    for number in range(5):
        await client.create(CONFIG_MAPS, config(f"c{number}"))
    server.requests.clear()
    listed = await client.list(CONFIG_MAPS)
    assert [obj["metadata"]["name"] for obj in listed.items] == [f"c{number}" for number in range(5)]
    assert listed.items[0]["kind"] == "ConfigMap"
    assert listed.resource_version == server.memory.resource_version
    assert len(server.requests) == 3


async def test_a_list_whose_snapshot_expires_between_pages_is_asked_for_in_one_piece(
    server: Server, client: HttpClient
) -> None:
    for number in range(5):
        await client.create(CONFIG_MAPS, config(f"c{number}"))
    server.script(passed, answering(Gone("the provided continue parameter is too old")))
    listed = await client.list(CONFIG_MAPS)
    assert [obj["metadata"]["name"] for obj in listed.items] == [f"c{number}" for number in range(5)]
    assert "limit" not in server.requests[-1].query


async def test_refusals_become_typed_errors(server: Server, client: HttpClient) -> None:
    with pytest.raises(NotFound) as caught:
        await client.get(DEPLOYMENTS, "x", "default")
    assert caught.value.details == {"name": "x", "group": "apps", "kind": "deployments"}

    async def html(request: web.Request) -> web.Response:
        return web.Response(text="<html>no</html>", status=403)

    server.script(html)
    with pytest.raises(Forbidden, match="403"):
        await client.get(DEPLOYMENTS, "x", "default")


async def test_an_answer_that_is_not_json_is_an_error(server: Server, client: HttpClient) -> None:
    server.script(writing(b"<html>"), writing(b"[]"))
    for _ in range(2):
        with pytest.raises(InternalError, match="the API server answered what is not"):
            await client.get(PODS, "a", "default")


async def test_warnings_are_handed_on(server: Server) -> None:
    heard: list[str] = []
    client = HttpClient(server.url, on_warning=heard.append)

    async def warn(request: web.Request) -> web.Response:
        return reply(config("a"), Warning='299 - "spec.x is \\"deprecated\\"", 299 - "b"')

    server.script(warn)
    await client.get(CONFIG_MAPS, "a", "default")
    assert heard == ['spec.x is "deprecated"', "b"]
    await client.aclose()


# -- attempts -------------------------------------------------------------------------------------------------------


async def test_a_busy_server_is_asked_again_whatever_the_call(server: Server, client: HttpClient) -> None:
    server.script(*[answering(TooManyRequests("slow down"))] * 2)
    await client.create(CONFIG_MAPS, config("a"))
    assert len(server.requests) == 3
    assert client.statistics().repeated == 2


async def test_a_retry_after_is_waited_for(server: Server, client: HttpClient) -> None:
    server.script(answering(TooManyRequests("slow down"), **{"Retry-After": "1"}))
    started = asyncio.get_running_loop().time()
    await client.create(CONFIG_MAPS, config("a"))
    assert asyncio.get_running_loop().time() - started >= 1.0


async def test_a_retry_after_that_is_too_long_is_the_callers_to_wait(server: Server, client: HttpClient) -> None:
    server.script(answering(Unavailable("come back later"), **{"Retry-After": "100"}))
    with pytest.raises(Unavailable) as caught:
        await client.list(PODS)
    assert caught.value.retry_after == 100.0


async def test_only_calls_that_may_be_repeated_are(server: Server, client: HttpClient) -> None:
    await client.create(CONFIG_MAPS, config("a"))
    cases: list[tuple[Callable[[], Awaitable[object]], bool]] = [
        (lambda: client.get(CONFIG_MAPS, "a", "default"), True),
        (lambda: client.list(CONFIG_MAPS), True),
        (lambda: client.patch(CONFIG_MAPS, "a", {"data": {"v": "9"}}, "default"), True),
        (lambda: client.patch(CONFIG_MAPS, "a", {"metadata": {"resourceVersion": "1"}}, "default"), False),
        (
            lambda: client.patch(
                CONFIG_MAPS, "a", [{"op": "replace", "path": "/data/v", "value": "8"}], "default", how=Patch.JSON
            ),
            True,
        ),
        (
            lambda: client.patch(
                CONFIG_MAPS, "a", [{"op": "add", "path": "/data/w", "value": "8"}], "default", how=Patch.JSON
            ),
            False,
        ),
        (lambda: client.create(CONFIG_MAPS, config("new")), False),
    ]
    for call, repeatable in cases:
        for fault in (answering(Unavailable("starting")), dropped):
            server.script(fault)
            if repeatable:
                await call()
            else:
                with pytest.raises(Unavailable):
                    await call()
    assert server.scripted == deque()
    assert server.memory.peek(CONFIG_MAPS, "new", "default") is None


async def test_a_connection_that_the_server_closed_while_idle_costs_no_wait(server: Server, client: HttpClient) -> None:
    await client.create(CONFIG_MAPS, config("a"))
    server.script(dropped)
    started = asyncio.get_running_loop().time()
    await client.patch(CONFIG_MAPS, "a", {"data": {"v": "2"}}, "default")
    assert asyncio.get_running_loop().time() - started < 0.025  # less than the shortest back-off


async def test_attempts_are_limited(server: Server, client: HttpClient) -> None:
    server.script(*[answering(Unavailable("starting"))] * 20)
    with pytest.raises(Unavailable, match="starting"):
        await client.list(PODS)
    assert len(server.requests) == 5


async def test_slow_headers_end_at_the_deadline(server: Server) -> None:
    async def sleep(request: web.Request) -> None:
        await asyncio.sleep(30.0)

    client = HttpClient(server.url, timeout=0.1)
    server.script(sleep, sleep)
    with pytest.raises(Unreachable, match=r"GET /api/v1/pods: no answer within 0.1 s"):
        await client.list(PODS)
    with pytest.raises(Unreachable, match=r"no answer within 0.1 s"):
        await anext(client.watch(PODS, resource_version="1"))
    assert client.statistics().failed == 1
    await client.aclose()


async def test_nobody_listens() -> None:
    client = HttpClient("http://127.0.0.1:1", timeout=10.0)
    with pytest.raises(Unreachable) as caught:
        await client.create(CONFIG_MAPS, config("a"))
    assert caught.value.sent is False
    assert client.statistics().repeated == 4  # never sent: even a creation may be tried again
    await client.aclose()
    with pytest.raises(Unreachable, match="closed"):
        await client.list(PODS)


# -- credentials ----------------------------------------------------------------------------------------------------


async def test_a_token_file_is_read_again_after_a_refusal(server: Server, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")

    async def check(request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") != "Bearer new":
            token.write_text("new\n")
            return status(Unauthorized("token has expired"))
        return None

    client = HttpClient(connection=kubeconfig.Connection(server=server.url, credentials=TokenFile(token)))
    server.script(*[check] * 3)
    await client.list(PODS)
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer old", "Bearer new"]
    await client.list(PODS)
    assert len(server.requests) == 3
    await client.aclose()


async def test_a_refusal_that_a_new_token_does_not_cure_is_final(server: Server) -> None:
    client = HttpClient(server.url, token="wrong")
    server.script(*[answering(Unauthorized("who are you?"))] * 5)
    with pytest.raises(Unauthorized, match="who are you"):
        await client.list(PODS)
    assert len(server.requests) == 2
    await client.aclose()


async def test_a_watch_renews_its_token_for_the_next_attempt(server: Server, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    client = HttpClient(connection=kubeconfig.Connection(server=server.url, credentials=TokenFile(token)))
    await client.list(PODS)
    token.write_text("new")
    server.script(answering(Unauthorized("expired")))
    with pytest.raises(Unauthorized):
        await anext(client.watch(PODS, resource_version="1"))
    await client.list(PODS)
    assert server.requests[-1].headers["Authorization"] == "Bearer new"
    await client.aclose()


async def test_a_missing_token_says_so(server: Server, tmp_path: Path) -> None:
    connection = kubeconfig.Connection(server=server.url, credentials=TokenFile(tmp_path / "none"))
    client = HttpClient(connection=connection)
    with pytest.raises(Unauthorized, match=r"cannot read the token in .*none"):
        await client.list(PODS)
    await client.aclose()


async def test_tls_with_a_client_certificate_from_a_kubeconfig(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("kubernetes.default").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ours = authority.issue_cert("admin")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    ours.cert_chain_pems[0].write_to_path(tmp_path / "admin.crt")
    ours.private_key_pem.write_to_path(tmp_path / "admin.key")
    server = Server()
    async with server.running(context):
        cluster = {"server": server.url, "certificate-authority": "ca.crt", "tls-server-name": "kubernetes.default"}
        document = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "apps"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"client-certificate": "admin.crt", "client-key": "admin.key"}}],
        }
        path = tmp_path / "config"
        path.write_bytes(orjson.dumps(document))
        client = HttpClient.from_kubeconfig(path)
        assert client.namespace == "apps"
        await client.create(CONFIG_MAPS, config("a"))
        await client.aclose()

        stranger = HttpClient(server.url, ca=trustme.CA().cert_pem.bytes().decode(), timeout=5.0)
        with pytest.raises(Unreachable, match="certificate"):
            await stranger.list(PODS)
        await stranger.aclose()


# -- watches --------------------------------------------------------------------------------------------------------


def line(type_: str, name: str, version: int) -> bytes:
    obj = {"kind": "ConfigMap", "metadata": {"name": name, "namespace": "default", "resourceVersion": str(version)}}
    return orjson.dumps({"type": type_, "object": obj}) + b"\n"


async def read(client: HttpClient, version: str = "1") -> list[tuple[str, str]]:
    stream = client.watch(CONFIG_MAPS, "default", resource_version=version)
    found: list[tuple[str, str]] = []
    try:
        async with contextlib.aclosing(stream), asyncio.timeout(5.0):
            async for event in stream:
                found.append((event.type, event.object["metadata"].get("name", "")))
    except ApiError as exc:
        found.append((type(exc).__name__, ""))
    return found


async def test_events_are_put_together_from_any_pieces(server: Server, client: HttpClient) -> None:
    data = line("ADDED", "a", 2) + line("MODIFIED", "a", 3) + line("DELETED", "a", 4)
    server.script(writing(data[:10], data[10:200], data[200:]))
    assert await read(client) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    query = server.requests[-1].query
    assert query["watch"] == "true"
    assert query["resourceVersion"] == "1"
    assert query["allowWatchBookmarks"] == "true"
    assert 300 <= int(query["timeoutSeconds"]) <= 600


async def test_a_stream_that_breaks_gives_what_came_and_then_the_error(server: Server, client: HttpClient) -> None:
    whole = line("ADDED", "a", 2)
    server.script(writing(whole, then=cut), writing(whole + whole[:20], then=cut), writing(whole + whole[:20]))
    for _ in range(3):
        assert await read(client) == [("ADDED", "a"), ("Unreachable", "")]


async def test_garbage_an_expired_version_and_an_oversize_line(server: Server, client: HttpClient) -> None:
    gone = orjson.dumps({"type": "ERROR", "object": Gone("too old").to_status()}) + b"\n"
    server.script(
        writing(line("ADDED", "a", 2), b"<html>\n"),
        writing(line("BOOKMARK", "", 9), gone),
        answering(Gone("too old")),
        writing(*[b"x" * 40_000] * 3),
    )
    assert await read(client) == [("ADDED", "a"), ("InternalError", "")]
    assert await read(client) == [("BOOKMARK", ""), ("Gone", "")]
    assert await read(client) == [("Gone", "")]
    assert await read(client) == [(TooLarge.__name__, "")]


async def test_a_silent_stream_counts_as_broken(server: Server, client: HttpClient) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        answer = await streamed(request)
        await answer.write(b"hello")
        await asyncio.sleep(1.0)
        return answer

    server.script(silent)
    stream = client.stream("/api/v1/namespaces/default/pods/a/log", {"follow": "true"}, silence=0.1)
    async with contextlib.aclosing(stream):
        assert await anext(stream) == b"hello"
        with pytest.raises(Unreachable):
            await anext(stream)


async def test_closing_a_watch_closes_its_connection(server: Server, client: HttpClient) -> None:
    await client.create(CONFIG_MAPS, config("a"))
    stream = client.watch(CONFIG_MAPS, resource_version="1")
    assert (await anext(stream)).type == "ADDED"
    assert (client.statistics().streams, server.memory.watching) == (1, 1)
    await stream.aclose()
    assert client.statistics().streams == 0
    transport = server.requests[-1].transport
    async with asyncio.timeout(5.0):
        while transport is not None and not transport.is_closing():  # noqa: ASYNC110 (aiohttp has no event for it)
            await asyncio.sleep(0.01)


async def test_many_watches_do_not_hold_up_calls(server: Server, client: HttpClient) -> None:
    await client.create(CONFIG_MAPS, config("a"))
    streams = [client.watch(CONFIG_MAPS, resource_version="1") for _ in range(100)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    assert client.statistics().streams == 100
    async with asyncio.timeout(2.0):
        await client.get(CONFIG_MAPS, "a", "default")
    for stream in streams:
        await stream.aclose()


async def test_an_informer_survives_everything_at_once(server: Server) -> None:
    """Writes while connections are cut, history expires, the server stalls and talks garbage: the cache ends equal."""
    dice = random.Random(7)
    client = HttpClient(server.url, timeout=0.5, page=3)
    informer = Informer(client, CONFIG_MAPS)
    changes: list[Change] = []
    informer.add_handler(changes.append)
    running = asyncio.create_task(informer.run())
    await informer.wait_synced(asyncio.get_running_loop().time() + 5.0)
    garbage = writing(b'{"type":"ADDED"}\n')
    for step in range(150):
        name = f"c{dice.randrange(8)}"
        stored = server.memory.peek(CONFIG_MAPS, name, "default")
        if stored is not None and dice.random() < 0.3:
            await server.memory.delete(CONFIG_MAPS, name, "default")
        else:
            server.memory.seed(config(name, str(step)))
        match dice.randrange(10):
            case 0:
                server.memory.break_watches(Unreachable("cut"))
            case 1:
                server.memory.break_watches()
            case 2:
                server.memory.expire_history()
                server.memory.break_watches()
            case 3:
                server.scripted.append(dice.choice([dropped, garbage, answering(Unavailable("down"))]))
                server.memory.break_watches()
        await asyncio.sleep(dice.random() * 0.01)
    server.scripted.clear()

    def equal() -> bool:
        return {Key.of(obj): obj for obj in informer.list()} == {
            Key.of(obj): obj for obj in server.memory.objects(CONFIG_MAPS)
        }

    async with asyncio.timeout(20.0):
        while not equal():  # noqa: ASYNC110 (the cache has no event for "equal to what the server holds")
            await asyncio.sleep(0.05)
    rebuilt: dict[Key, Obj] = {}
    for change in changes:
        assert (change.type == "added") == (change.key not in rebuilt)
        if change.type == "deleted":
            del rebuilt[change.key]
        else:
            rebuilt[change.key] = change.object
    assert rebuilt == {Key.of(obj): obj for obj in informer.list()}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await client.aclose()


# -- the contract's hard parts, over HTTP ---------------------------------------------------------------------------


async def test_conflicts_and_subresources_travel(server: Server, client: HttpClient) -> None:
    made = await client.create(
        DEPLOYMENTS, {"metadata": {"name": "a", "namespace": "default"}, "spec": {"replicas": 1}}
    )
    scale = [{"op": "replace", "path": "/spec/replicas", "value": 2}]
    await client.patch(DEPLOYMENTS, "a", scale, "default", how=Patch.JSON, subresource="scale")
    assert (await client.get(DEPLOYMENTS, "a", "default", subresource="scale"))["spec"]["replicas"] == 2
    with pytest.raises(Conflict):
        await client.update(DEPLOYMENTS, made)
    with pytest.raises(Conflict):
        await client.delete(DEPLOYMENTS, "a", "default", uid="another")
    done = await client.patch(DEPLOYMENTS, "a", {"status": {"replicas": 2}}, "default", subresource="status")
    assert done["status"] == {"replicas": 2}
    assert await client.raw("GET", "/apis/apps/v1/namespaces/default/deployments/a") == done


async def test_exec_credentials_come_from_the_plugin(server: Server, tmp_path: Path) -> None:
    """The one path that loads kubernetes_asyncio."""
    plugin = tmp_path / "plugin"
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "from the plugin"},
    }
    plugin.write_text(f"#!/bin/sh\ncat <<'EOF'\n{orjson.dumps(credential).decode()}\nEOF\n")
    plugin.chmod(0o700)
    command = {"apiVersion": credential["apiVersion"], "command": str(plugin), "interactiveMode": "Never"}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"exec": command}}],
    }
    path = tmp_path / "config"
    path.write_bytes(orjson.dumps(document))
    client = HttpClient.from_kubeconfig(path)
    await client.list(PODS)
    await client.list(PODS)
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer from the plugin"}
    await client.aclose()

    plugin.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    with pytest.raises((Unauthorized, ConfigError)):
        await HttpClient.from_kubeconfig(path).list(PODS)
