"""The stat codec against the original's generated one (vectors 5)."""

import base64
import math
from typing import Any

from kncore.wire import Stat, WireError, decode_messages, decode_stat, encode_messages, encode_stat, read_scrape_body

NAMES = {
    "podName": "pod_name",
    "averageConcurrentRequests": "average_concurrent_requests",
    "averageProxiedConcurrentRequests": "average_proxied_concurrent_requests",
    "requestCount": "request_count",
    "proxiedRequestCount": "proxied_request_count",
    "processUptime": "process_uptime",
    "timestamp": "timestamp",
}


def read(shown: dict[str, Any]) -> Stat:
    made: dict[str, Any] = {}
    for key, value in shown.items():
        if key == "timestamp":
            value = int(value)
        elif key != "podName":
            value = float(value)
        made[NAMES[key]] = value
    return Stat(**made)


def same(a: Stat | None, b: Stat | None) -> bool:
    if a is None or b is None:
        return a is b
    pairs = [(getattr(a, field), getattr(b, field)) for field in NAMES.values()]
    return all(x == y or (isinstance(x, float) and math.isnan(x) and math.isnan(y)) for x, y in pairs)


def messages(shown: list[dict[str, Any]]) -> list[tuple[str, str, Stat | None]]:
    return [(m["namespace"], m["name"], None if m["stat"] is None else read(m["stat"])) for m in shown]


def test_encode(vectors: Any) -> None:
    failed = []
    for case in vectors("serving/stat_wire.json")["cases"]:
        if case["fn"] == "encode_stat":
            got = encode_stat(read(case["stats"][0]))
        elif case["fn"] == "encode":
            got = encode_messages(messages(case["messages"]))
        else:
            continue
        if got != base64.b64decode(case["expect"]):
            failed.append(f"{case['id']}: {base64.b64encode(got).decode()} != {case['expect']}")
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:10])


def test_decode(vectors: Any) -> None:
    failed = []
    one = {"decode_stat": decode_stat, "scrape_body": read_scrape_body}
    for case in vectors("serving/stat_wire.json")["cases"]:
        if "base64" not in case:
            continue
        data, expect = base64.b64decode(case["base64"]), case["expect"]
        try:
            got = [("", "", one[case["fn"]](data))] if case["fn"] in one else decode_messages(data)
        except WireError as exc:
            if "error" not in expect:
                failed.append(f"{case['id']}: {exc}")
            continue
        if "error" in expect:
            failed.append(f"{case['id']}: accepted, want {expect['error']}")
            continue
        want = [("", "", read(expect["stat"]))] if "stat" in expect else messages(expect["messages"])
        if len(got) != len(want) or any(g[:2] != w[:2] or not same(g[2], w[2]) for g, w in zip(got, want, strict=True)):
            failed.append(f"{case['id']}: {got} != {want}")
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:10])
