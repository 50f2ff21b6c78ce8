"""h2spec against our listeners: all of its cases, strict ones included."""

import asyncio
import functools
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from kncore.net.pool import Pool
from kncore.net.server import Server
from kncore.net.ticker import Ticker
from kncore.net.tls import ALPN, Settings, server_context
from kncore.testing.upstream import ScriptedUpstream
from tests import certificates, h2spec

pytestmark = pytest.mark.timeout(h2spec.BUILD_SECONDS + 60)

EXCEPTIONS = {
    "cleartext": {
        # The port speaks HTTP/1.1 too: a connection that begins with something else than HTTP/2's preface is answered
        # in HTTP/1.1 (400) and closed, and h2spec takes that answer for a malformed frame.
        ("3.5. HTTP/2 Connection Preface", "Sends invalid connection preface"),
    },
    "tls": set[tuple[str, str]](),
}
"""(section, case) of those that may fail, with the reason."""
CASES = 146


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


@asynccontextmanager
async def listening(kind: str) -> AsyncIterator[int]:
    """A proxy to an app that answers when it has the whole request."""
    ticker = Ticker()
    context = server_context(Settings(), pair=certificates.issue("localhost"), alpn=ALPN)
    async with ScriptedUpstream() as app, Pool(ticker=ticker) as pool:
        upstream = pool.upstream("127.0.0.1", app.port)
        server = Server(lambda exchange: exchange.forward(upstream), ticker=ticker)
        yield await server.listen("127.0.0.1", 0, tls=(lambda: context) if kind == "tls" else None)
        await server.drain(asyncio.get_running_loop().time() + 1.0)
    ticker.close()
    assert server.statistics().connections == 0


@pytest.mark.parametrize("kind", ["cleartext", "tls"])
@on_uvloop
async def test_h2spec(kind: str, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    async with listening(kind) as port:
        run = await asyncio.create_subprocess_exec(
            *(h2spec.binary(), "-h", "127.0.0.1", "-p", str(port), "-o", "2", "--strict", "-j", str(report)),
            *(("-t", "-k") if kind == "tls" else ()),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await run.communicate()
    suites = ET.parse(report).getroot()
    cases = [(suite.get("name", ""), case) for suite in suites.iter("testsuite") for case in suite.iter("testcase")]
    assert len(cases) == CASES, output.decode()
    failed = {
        (section, case.get("classname", ""))
        for section, case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }
    skipped = [case for _, case in cases if case.find("skipped") is not None]
    assert failed == EXCEPTIONS[kind], output.decode()
    assert not skipped
