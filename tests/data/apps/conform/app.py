"""The app of the conformance tests: it shows what reached it, takes its time in every way, and is ready when told."""

import asyncio
import os
import time

from aiohttp import WSCloseCode, web

STARTED = time.time()
TUNNELS: set[web.WebSocketResponse] = set()
ready = True
live = True
probes = 0
heard: list[str] = []
news = asyncio.Event()


async def hello(request: web.Request) -> web.Response:
    """Who answers, after ?sleep= seconds."""
    await asyncio.sleep(float(request.query.get("sleep", "0")))
    return web.Response(text=f"{os.environ['K_REVISION']} {os.environ.get('NAME', '-')} {os.getpid()}\n")


async def headers(request: web.Request) -> web.Response:
    """The request's header lines as they came."""
    return web.json_response([[name, value] for name, value in request.headers.items()])


async def slow(request: web.Request) -> web.StreamResponse:
    """A body of one byte after ?first= seconds and one after each of ?pauses=."""
    await asyncio.sleep(float(request.query.get("first", "0")))
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b".")
    for pause in filter(None, request.query.get("pauses", "").split(",")):
        await asyncio.sleep(float(pause))
        await response.write(b".")
    return response


async def socket(request: web.Request) -> web.WebSocketResponse:
    """A WebSocket that repeats what it hears, each time after ?delay= seconds; `who` is answered with the revision."""
    opened = web.WebSocketResponse()
    await opened.prepare(request)
    TUNNELS.add(opened)
    async for message in opened:
        await asyncio.sleep(float(request.query.get("delay", "0")))
        await opened.send_str(os.environ["K_REVISION"] if message.data == "who" else message.data)
    TUNNELS.discard(opened)
    return opened


async def is_ready(request: web.Request) -> web.Response:
    """The readiness probe: $READY_AFTER seconds from the start, and as long as nobody says otherwise."""
    global probes
    probes += 1
    fit = ready and time.time() - STARTED >= float(os.environ.get("READY_AFTER", "0"))
    if "WANT" in os.environ:
        fit = fit and request.rel_url.raw_query_string == os.environ["WANT"]
    return web.Response(status=200 if fit else 503)


async def is_live(request: web.Request) -> web.Response:
    """The liveness probe."""
    return web.Response(status=200 if live else 500)


async def change(request: web.Request) -> web.Response:
    """Be ready or not, live or not from now on."""
    global ready, live
    ready = request.query.get("ready", "1") == "1"
    live = request.query.get("live", "1") == "1"
    return web.Response()


PAGE = """<!doctype html><title>events</title><script>
const events = new EventSource("/events");
events.onmessage = event => fetch("/heard?event=" + event.data, {method: "POST"});
events.addEventListener("end", () => events.close());
</script>"""


async def page(request: web.Request) -> web.Response:
    """A page that listens to /events and says which it heard."""
    return web.Response(text=PAGE, content_type="text/html")


async def events(request: web.Request) -> web.StreamResponse:
    """Four events, each sent only when the one before was heard."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    for number in range(1, 5):
        await response.write(f"data: {number}\n\n".encode())
        async with asyncio.timeout(10):
            while str(number) not in heard:
                news.clear()
                await news.wait()
    await response.write(b"event: end\ndata:\n\n")
    return response


async def hear(request: web.Request) -> web.Response:
    """Note what a page heard, and tell."""
    if request.method == "POST":
        heard.append(request.query["event"])
        news.set()
    return web.Response(text=" ".join(heard))


async def close_tunnels(app: web.Application) -> None:
    """On SIGTERM: end WebSockets as an app should."""
    for opened in set(TUNNELS):
        await opened.close(code=WSCloseCode.OK)


app = web.Application()
app.on_shutdown.append(close_tunnels)
app.add_routes([
    web.get("/", hello),
    web.get("/headers", headers),
    web.get("/slow", slow),
    web.get("/socket", socket),
    web.get("/ready", is_ready),
    web.get("/live", is_live),
    web.post("/change", change),
    web.get("/page", page),
    web.get("/events", events),
    web.get("/heard", hear),
    web.post("/heard", hear),
])  # fmt: skip
port = int(os.environ.get("FIXED_PORT") or os.environ["PORT"])
web.run_app(app, host="127.0.0.1", port=port, print=None, shutdown_timeout=60)
