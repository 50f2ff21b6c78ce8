"""What reaches the app (serving §7.7, §9.2 TestMustHaveHeadersSet, TestShouldHaveHeadersSet)."""

import ipaddress
import json
import re

OUTSIDE = {
    "Knative-Serving-Revision": "somebody-elses",
    "Knative-Serving-Namespace": "kube-system",
    "K-Network-Hash": "override",
    "K-Original-Host": "evil.example",
    "K-Proxy-Request": "me",
}


async def seen(http, at, **headers: str) -> dict[str, str]:
    """The headers the app saw, in lower case; a repeated one fails the test."""
    url, host = at
    async with http.get(url + "headers", headers={**host, **headers}) as response:
        lines = await response.json()
    names = [name.lower() for name, _ in lines]
    assert len(names) == len(set(names)), lines
    return {name.lower(): value for name, value in lines}


async def test_headers(http, deploy) -> None:
    at = await deploy("headers")
    found = await seen(http, at, **{"X-Custom": " kept as it is ", "Forwarded": "for=192.0.2.1"})
    assert found["host"] == at[1]["Host"]
    assert found["x-custom"] == "kept as it is"
    assert found["x-forwarded-proto"] == "http"
    for address in found["x-forwarded-for"].split(", "):
        ipaddress.ip_address(address)
    assert found["forwarded"] == "for=192.0.2.1"
    made = (await seen(http, at))["forwarded"]
    assert re.fullmatch(r"for=[0-9.]+;(host=[^;]+;)?proto=http(, for=[0-9.]+)*", made)


async def test_nobody_outside_speaks_for_the_platform(http, deploy) -> None:
    """A client that names another revision gets the one it has a right to (§9.7 rule 6)."""
    at = await deploy("trusting")
    for name, value in OUTSIDE.items():
        found = await seen(http, at, **{name: value})
        assert value not in found.values(), name
        assert found["host"] == at[1]["Host"]


async def test_a_trace_goes_on(http, deploy) -> None:
    """The trace of a caller that has one is passed on; a sampled parent stays the parent's trace."""
    at = await deploy("traced")
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    found = await seen(http, at, traceparent=parent, baggage="a=1")
    assert found["traceparent"].split("-")[1] == parent.split("-")[1]
    assert found["baggage"] == "a=1"


async def test_a_trace_begins_where_tracing_is_on(platform, http, deploy) -> None:
    """The header that TestShouldHaveHeadersSet wants; without tracing nobody invents one."""

    def trace(to: str) -> None:
        patch = json.dumps({"data": {"tracing-protocol": to}})
        platform.torpor("patch", "configmap/config-observability", "-n", "knative-serving", "-p", patch)

    at = await deploy("untraced")
    assert "traceparent" not in await seen(http, at)
    trace("stdout")
    try:
        at = await deploy("begun")
        found = await seen(http, at)
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", found["traceparent"])
    finally:
        trace("none")
