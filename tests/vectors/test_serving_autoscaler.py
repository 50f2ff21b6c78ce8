"""Golden data: autoscaler evaluations, stat collection and sampling."""

from dataclasses import replace

import pytest

from autoscaler.collect import Collector, NoData, NotCollecting, Settings
from autoscaler.decide import Evaluator, Observed, Spec
from autoscaler.scrape import ScrapeFailed, extrapolate, sample_size
from kncore.wire import Stat


def spec_of(data: dict) -> Spec:
    return Spec(
        metric=data["ScalingMetric"],
        total=data["TotalValue"],
        target=data["TargetValue"],
        target_burst_capacity=data["TargetBurstCapacity"],
        panic_threshold=data["PanicThreshold"],
        max_scale_up_rate=data["MaxScaleUpRate"],
        max_scale_down_rate=data["MaxScaleDownRate"],
        stable_window=data["StableWindowSeconds"],
        scale_down_delay=data["ScaleDownDelaySeconds"],
        activation_scale=data["ActivationScale"],
        initial_scale=data["InitialScale"],
        reachable=data["Reachable"],
    )


def evaluate(case: dict, t0: float) -> list[list[int]]:
    """Replay a case; rows as `expect_columns`, an invalid evaluation as the original reports it."""
    at_start = case["ready_at_start"]
    spec = spec_of(case["spec"])
    evaluator = Evaluator(spec, at_start if isinstance(at_start, int) else None, t0 + case["start"])
    rows = []
    for index, (t, ready, stable, panic) in enumerate(case["ticks"]):
        if update := case.get("updates", {}).get(str(index)):
            evaluator.update(spec_of(update))
        ready = 0 if ready == "notfound" else ready
        if ready == "error" or not isinstance(stable, int | float) or not isinstance(panic, int | float):
            result = [0, 0, 0]  # no data: the caller keeps what it had
        else:
            decision = evaluator.evaluate(Observed(ready=ready, stable=stable, panic=panic), t0 + t)
            result = [decision.desired, decision.excess_burst_capacity, 1]
        rows.append([*result, int(evaluator.panic.since is not None), evaluator.panic.max_pods])
    assert case["metric_read"] == ("rps" if evaluator.spec.metric == "rps" else "concurrency")
    return rows


def test_decisions(vectors) -> None:
    data = vectors("serving/autoscaler_decisions.json")
    assert data["expect_columns"] == [
        "desired_pods",
        "excess_burst_capacity",
        "scale_valid",
        "panic_mode",
        "max_panic_pods",
    ]
    wrong = [case["id"] for case in data["cases"] if evaluate(case, data["t0_unix"]) != case["expect"]]
    assert wrong == []


def test_sample_sizes(vectors) -> None:
    table = vectors("serving/metrics_collection.json")["sample_size_for_population_0_to_2000"]
    assert [sample_size(population) for population in range(len(table))] == table


FIELDS = {
    "averageConcurrentRequests": "average_concurrent_requests",
    "averageProxiedConcurrentRequests": "average_proxied_concurrent_requests",
    "requestCount": "request_count",
    "proxiedRequestCount": "proxied_request_count",
}


def stat_of(data: dict) -> Stat:
    return replace(
        Stat(pod_name=data.get("podName", "")), **{ours: data.get(theirs, 0.0) for theirs, ours in FIELDS.items()}
    )


def test_extrapolation(vectors) -> None:
    wrong = []
    for case in vectors("serving/metrics_collection.json")["cases"]:
        if case["fn"] != "combine":
            continue
        made = extrapolate([stat_of(stat) for stat in case["stats"]], case["total"])
        expected = stat_of(case["expect"]["stat"])
        if any(getattr(made, ours) != pytest.approx(getattr(expected, ours), rel=1e-9) for ours in FIELDS.values()):
            wrong.append(case["id"])
    assert wrong == []


def test_collector(vectors) -> None:
    data = vectors("serving/metrics_collection.json")
    wrong = [
        case["id"]
        for case in data["cases"]
        if case["fn"] == "collector" and not same(collect(case, data["t0_unix"]), case["expect"])
    ]
    assert wrong == []


def collect(case: dict, t0: float) -> list:
    """Replay a collector case; scrapes happen every second from the creation on while there is a target."""
    collector, key = Collector(), ("ns", "rev")
    scrapes = iter(case["scrapes"])
    results: list = []
    next_scrape = 1.0

    def scrape_until(t: float) -> None:
        nonlocal next_scrape
        while next_scrape <= t:
            found = next(scrapes, None)
            settings = collector.settings(key)
            if settings and settings.scrape_target:
                outcome = ScrapeFailed("scrape failed") if found == "error" else found and values(found)
                collector.scraped(key, t0 + next_scrape, outcome)
            next_scrape += 1.0

    for op, t, *rest in case["ops"]:
        scrape_until(t)
        now = t0 + t
        if op in {"create", "update"}:
            stable, panic, target = rest
            weighted = case["algorithm"] in {"weighted-exponential", "weightedExponential"}
            collector.configure(
                key, Settings(stable_window=stable, panic_window=panic, scrape_target=target, weighted=weighted), now
            )
            failure = collector.failure(key)
            results.append(str(failure) if failure else None)
        elif op == "record":
            collector.record(key, now, values(rest[0]))
        elif op == "delete":
            collector.forget(key)
        else:
            results.append(query(collector, key, now))
    return results


def values(row: list[float]) -> Stat:
    concurrency, proxied, requests, proxied_requests = row
    return Stat(
        pod_name="pod",
        average_concurrent_requests=concurrency,
        average_proxied_concurrent_requests=proxied,
        request_count=requests,
        proxied_request_count=proxied_requests,
    )


def query(collector: Collector, key: tuple[str, str], now: float) -> list[float] | str:
    try:
        concurrency, rps = collector.concurrency(key, now), collector.rps(key, now)
    except (NoData, NotCollecting) as exc:
        return str(exc)
    return [concurrency.stable, concurrency.panic, rps.stable, rps.panic]


def same(made: list, expected: list) -> bool:
    return len(made) == len(expected) and all(
        (m == e) if not isinstance(e, list) else m == pytest.approx(e, rel=1e-9, abs=2e-6)
        for m, e in zip(made, expected, strict=True)
    )
