"""Services in HTTP/2: woken and called by gRPC's own client, and clients and apps of different versions together."""

import asyncio
import shutil

import grpc
import grpc.aio
import pytest


async def test_a_sleeping_service_in_http2_wakes_for_a_call(platform, http) -> None:
    manifest = platform.manifest(name="calls", image="test.local/calls:1")
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["ports"] = [{"name": "h2c", "containerPort": 8080}]
    platform.apply(manifest)
    await platform.ready("calls")
    await platform.asleep("calls")
    url, headers = platform.url("calls", "/test.Calls/Echo")

    options = [("grpc.default_authority", headers["Host"])]
    async with grpc.aio.insecure_channel(platform.running["ingress"], options=options) as channel:
        echo = channel.unary_unary("/test.Calls/Echo")
        messages = [b"%d" % number for number in range(50)]
        assert await asyncio.gather(*(echo(message, timeout=30) for message in messages)) == messages
        chat = channel.stream_stream("/test.Calls/Chat")(timeout=30)
        for message in messages:
            await chat.write(message)
            assert await chat.read() == message
        await chat.done_writing()
        assert await chat.code() is grpc.StatusCode.OK

    trust = grpc.ssl_channel_credentials((platform.state / "ca.crt").read_bytes())
    named = [*options, ("grpc.ssl_target_name_override", headers["Host"])]
    async with grpc.aio.secure_channel(platform.running["https"], trust, options=named) as channel:
        assert await channel.unary_unary("/test.Calls/Echo")(b"in TLS", timeout=30) == b"in TLS"

    call = {"Content-Type": "application/grpc", "TE": "trailers"}
    async with http.post(url, headers=headers | call, data=b"\0\0\0\0\3abc") as response:  # a client of HTTP/1.1
        assert (response.status, await response.read()) == (200, b"\0\0\0\0\3abc")


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
async def test_clients_of_http2_reach_apps_of_http1(platform) -> None:
    platform.apply(platform.manifest(name="slow", image="test.local/slow:1"))
    await platform.ready("slow")
    url, headers = platform.url("slow")
    wanted = ["-w", " %{http_code} %{http_version}", "-H", f"Host: {headers['Host']}", url]
    curl = await asyncio.create_subprocess_exec(
        "curl", "-s", "--max-time", "20", "--http2-prior-knowledge", *wanted, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await curl.communicate()
    assert out.endswith(b" 200 2"), out
