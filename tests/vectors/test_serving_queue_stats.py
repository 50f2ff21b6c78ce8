"""Concurrency averages against the original's request stats (vectors 6)."""

import math
from typing import Any

from kncore.stats import RequestStats


def test_reports(vectors: Any) -> None:
    failed = []
    for case in vectors("serving/queue_stats.json")["cases"]:
        stats = RequestStats(case["start"])
        expect = iter(case["expect"])
        for event, at in case["events"]:
            match event:
                case "in" | "pin":
                    stats.arrive(at, proxied=event == "pin")
                case "out" | "pout":
                    stats.leave(at, proxied=event == "pout")
                case "report":
                    made, want = stats.report(at), next(expect)
                    got = [
                        made.average_concurrency,
                        made.average_proxied_concurrency,
                        made.request_count,
                        made.proxied_request_count,
                    ]
                    if not all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) for a, b in zip(got, want, strict=True)):
                        failed.append(f"{case['id']} at {at}: {got} != {want}")
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:10])
