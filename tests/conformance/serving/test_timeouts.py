"""The three clocks of a request, as a client sees them.

serving §6.5, §9.3 TestRevisionTimeout, TestWebSocketWithTimeout.
"""

import asyncio
import time

import aiohttp
import pytest


async def ask(http, at, path: str) -> tuple[int, str]:
    """Status and body of one request; a body that was cut ends in `<cut>`."""
    url, headers = at
    async with http.get(url.rstrip("/") + path, headers=headers) as response:
        body = b""
        try:
            async for piece in response.content.iter_any():
                body += piece
        except aiohttp.ClientPayloadError:
            body += b"<cut>"
        return response.status, body.decode()


async def test_total(http, deploy) -> None:
    """Also time spent sending counts: a body that outlives the timeout ends with its text."""
    at = await deploy("total", spec={"timeoutSeconds": 2})
    quick, late, long = await asyncio.gather(
        ask(http, at, "/slow?first=0.4"),
        ask(http, at, "/slow?first=4"),
        ask(http, at, "/slow?pauses=0.8,0.8,0.8,0.8"),
    )
    assert quick == (200, ".")
    assert late[0] == 504
    assert late[1] in ("request timeout", "activator request timeout")
    assert long[0] == 200
    assert long[1].startswith("...")
    assert long[1].endswith(("request timeout", "<cut>"))
    assert long[1].count(".") in (3, 4)


async def test_first_byte(http, deploy) -> None:
    """Once the answer has begun it may take its time."""
    at = await deploy("first", spec={"timeoutSeconds": 20, "responseStartTimeoutSeconds": 2})
    began = time.monotonic()
    quick, late, long = await asyncio.gather(
        ask(http, at, "/slow?first=0.5"),
        ask(http, at, "/slow?first=9"),
        ask(http, at, "/slow?pauses=1,1,1"),
    )
    assert (quick, long) == ((200, "."), (200, "...."))
    assert late[0] == 504
    assert time.monotonic() - began < 8


async def test_idle(http, deploy) -> None:
    """Pauses shorter than the timeout may add up to more."""
    at = await deploy("idle", spec={"timeoutSeconds": 20, "idleTimeoutSeconds": 2})
    steady, silent, stuck = await asyncio.gather(
        ask(http, at, "/slow?pauses=1,1,1"),
        ask(http, at, "/slow?first=9"),
        ask(http, at, "/slow?pauses=1,9"),
    )
    assert steady == (200, "....")
    assert silent[0] == 504
    assert stuck[0] == 200
    assert stuck[1].endswith(("request timeout", "<cut>"))


@pytest.mark.parametrize("clock", ["timeoutSeconds", "idleTimeoutSeconds"])
async def test_websocket(http, deploy, clock: str) -> None:
    """A WebSocket that talks is left alone; one that does not (or talks for too long) is closed.

    The time to the first byte ends with the handshake, so that clock has nothing to say here (knative/serving#16169).
    """
    url, headers = await deploy("talker", spec={"timeoutSeconds": 20, clock: 2})
    async with http.ws_connect(url + "socket", headers=headers) as socket:
        for word in ("one", "two", "three"):
            await socket.send_str(word)
            assert await socket.receive_str(timeout=1) == word
    async with http.ws_connect(url + "socket?delay=9", headers=headers) as socket:
        await socket.send_str("anybody there?")
        assert (await socket.receive(timeout=6)).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        assert socket.close_code != aiohttp.WSCloseCode.OK


async def test_websocket_outlives_the_first_byte_clock(http, deploy) -> None:
    url, headers = await deploy("patient", spec={"timeoutSeconds": 20, "responseStartTimeoutSeconds": 1})
    async with http.ws_connect(url + "socket?delay=2.5", headers=headers) as socket:
        await socket.send_str("take your time")
        assert await socket.receive_str(timeout=6) == "take your time"
