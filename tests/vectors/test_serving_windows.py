"""Bucket windows against pkg/autoscaler/aggregation (vectors 3)."""

import math
from typing import Any

import pytest

from kncore.window import MaxWindow, TimedBuckets, WeightedBuckets


@pytest.mark.parametrize(
    ("kind", "make", "tolerance"), [("linear", TimedBuckets, 1e-6), ("weighted", WeightedBuckets, 0)]
)
def test_buckets(vectors: Any, kind: str, make: type[TimedBuckets], tolerance: float) -> None:
    table = vectors("serving/windows.json")
    t0 = table["t0_unix"]
    failed = []
    for case in table["cases"]:
        if case["kind"] != kind:
            continue
        window = make(case["window"], case["granularity"])
        expect = iter(case["expect"])
        wall = 0.0
        for op, *args in case["ops"]:
            now = t0 + args[0]
            wall = max(wall, now)
            match op:
                case "record":
                    window.record(now, args[1])
                case "resize":
                    window.resize(wall, args[1])
                case "avg":
                    want, got = next(expect), window.average(now)
                    if not math.isclose(want, got, rel_tol=1e-9, abs_tol=tolerance):
                        failed.append(f"{case['id']}: average at {args[0]} is {got}, not {want}")
                        break
                case "empty":
                    want = next(expect)
                    if window.is_empty(now) != want:
                        failed.append(f"{case['id']}: empty at {args[0]} is not {want}")
                        break
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:10])


def test_max_window(vectors: Any) -> None:
    table = vectors("serving/windows.json")
    failed = []
    for case in table["cases"]:
        if case["kind"] != "max":
            continue
        window = MaxWindow(math.ceil(case["window"] / case["granularity"]), case["granularity"])
        got = []
        for op, *args in case["ops"]:
            if op == "record":
                window.record(table["t0_unix"] + args[0], args[1])
            else:
                got.append(window.current())
        if got != case["expect"]:
            failed.append(f"{case['id']}: {got} != {case['expect']}")
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:10])
