"""The smuggling table against whole proxies on sockets, with an app that notes every byte it gets.

Twice: one proxy, and the chain of activator and queue-proxy. Behind every case whose connection goes on comes a request
that cannot be mistaken: if its answer is the wrong one, the connection is out of step.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import h11
import pytest
import uvloop

from kncore.testing.rawclient import RawClient, Response
from kncore.testing.upstream import Connection, ScriptedUpstream, ok
from tests.chain import chain
from tests.integration.test_http1_proxy import proxying
from tests.smuggling import ANSWERS, REQUESTS, Answer, Case

CANARY = b"GET /canary HTTP/1.1\r\nHost: h\r\n\r\n"


class Recorder(ScriptedUpstream):
    """An app that reads HTTP as h11 does, and answers each request with what it was."""

    def __init__(self) -> None:
        super().__init__(self._serve)
        self.seen: list[str] = []
        self.raw: list[bytearray] = []

    async def _serve(self, connection: Connection) -> None:
        raw = bytearray()
        self.raw.append(raw)
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=200_000)
        request: h11.Request | None = None
        size = 0
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                if reader.they_are_waiting_for_100_continue:
                    await connection.send(reader.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                data = await connection.reader.read(65536)
                raw += data
                reader.receive_data(data)
                if not data:
                    return
            elif isinstance(event, h11.Request):
                request, size = event, 0
            elif isinstance(event, h11.Data):
                size += len(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                what = f"{request.method.decode()} {request.target.decode('latin-1')} {size}"
                self.seen.append(what)
                body = what.encode("latin-1")
                answer = [h11.Response(status_code=200, headers=[("Content-Length", str(len(body)))])]
                answer += (
                    [h11.EndOfMessage()] if request.method == b"HEAD" else [h11.Data(data=body), h11.EndOfMessage()]
                )
                await connection.send(b"".join(reader.send(part) or b"" for part in answer))
                reader.start_next_cycle()
            else:
                raise AssertionError(f"h11 does not go on: {event}")


Ask = Callable[[], Awaitable[RawClient]]


@asynccontextmanager
async def one_proxy(app: Recorder) -> AsyncIterator[Ask]:
    async with proxying(app.port) as proxy:
        yield functools.partial(RawClient.connect, proxy.port)


@asynccontextmanager
async def the_chain(app: Recorder) -> AsyncIterator[Ask]:
    async with chain(app.port) as proxies:
        yield proxies.activator.client


async def converse(case: Case, client: RawClient) -> list[str]:
    """What went wrong."""
    await client.send(case.data)
    got: list[int] = []
    problems: list[str] = []
    for number, expected in enumerate(case.answers):
        method = case.app[number].split(" ")[0] if number < len(case.app) else "GET"
        while (response := await client.response(head=method == "HEAD")).status < 200:
            pass
        got.append(response.status)
        if response.status == 200 != expected:
            problems.append(f"answered with {response}")
        elif response.status == 200 and method != "HEAD" and response.body.decode("latin-1") != case.app[number]:
            problems.append(f"the answer to {case.app[number]} is {response.body!r}")
    if got != case.answers:
        problems.append(f"answers {got}")
    return problems


def goes_on(response: Response) -> bool:
    return response.status < 400 and response.headers.get("connection") != "close"


@pytest.mark.parametrize("proxies", [one_proxy, the_chain])
def test_requests(proxies: Callable[[Recorder], AsyncIterator[Ask]]) -> None:
    async def all_cases() -> None:
        failed: dict[str, list[str]] = {}
        async with Recorder() as app, proxies(app) as connect:  # type: ignore[attr-defined]
            for case in REQUESTS:
                before = len(app.seen)
                client = await connect()
                async with client:
                    try:
                        async with asyncio.timeout(5):
                            problems = await converse(case, client)
                            client.writer.write(CANARY)
                            tail = await client.response() if case.answers[-1] < 400 else None
                    except asyncio.IncompleteReadError as exc:
                        tail = None
                        if exc.partial:
                            problems.append(f"cut after {exc.partial!r}")
                    except TimeoutError:
                        problems = ["no answer in time"]
                    except ConnectionError:
                        tail = None
                expected = [*case.app]
                if tail is not None:
                    expected.append("GET /canary 0")
                    if tail.body != b"GET /canary 0":
                        problems.append(f"out of step: {tail}")
                if app.seen[before:] != expected:
                    problems.append(f"the app saw {app.seen[before:]}")
                if problems:
                    failed[case.id] = problems
            await asyncio.sleep(0.05)  # whatever is still on its way arrives
            assert len(app.seen) >= sum(len(case.app) for case in REQUESTS)
            assert not any("smuggled" in request for request in app.seen)
        assert failed == {}

    # uvloop does not like to be closed with the pipes of a subprocess
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if proxies is one_proxy else None) as runner:
        runner.run(all_cases())


def test_answers() -> None:
    """Hostile apps: what each sends, and behind it a request on the same client connection, to the same app."""

    async def script(connection: Connection) -> None:
        while True:
            request = await connection.request()
            if request.line.split(" ")[1] == "/canary":
                await connection.send(ok(b"canary"))
                continue
            case = ANSWERS[int(request.line.split(" ")[1][1:])]
            await connection.send(case.data)
            if case.closes:
                return

    async def judge(case: Answer, number: int, client: RawClient) -> list[str]:
        await client.send(f"{case.method} /{number} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        while (response := await client.response(head=case.method == "HEAD")).status < 200:
            pass
        body = "" if response.status == 502 else response.body.decode("latin-1")
        got = f"{response.status} {body}".strip() + ("" if response.complete else " cut")
        if got != case.client and (case.client != "502" or response.complete):
            return [got]
        if response.complete and case.client_kept:
            canary = await client.ask(CANARY)
            if (canary.status, canary.body) != (200, b"canary"):
                return [f"out of step: {canary}"]
        elif await client.rest() != b"":
            return ["more than an answer"]
        return []

    async def all_cases() -> None:
        failed: dict[str, list[str]] = {}
        async with ScriptedUpstream(script) as app, proxying(app.port) as proxy:
            for number, case in enumerate(ANSWERS):
                async with await RawClient.connect(proxy.port) as client:
                    accepted = app.accepted
                    try:
                        async with asyncio.timeout(5):
                            problems = await judge(case, number, client)
                    except (TimeoutError, asyncio.IncompleteReadError) as exc:
                        problems = [repr(exc)]
                    if case.client_kept and case.app_kept and app.accepted > accepted + 1:
                        problems.append("the app's connection was not used again")
                    if problems:
                        failed[case.id] = problems
        assert failed == {}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_cases())
