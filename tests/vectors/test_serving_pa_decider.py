"""Derived values of PodAutoscalers against the original (vectors 16)."""

import math
from typing import Any

from kncore.api import keys, podautoscaler
from kncore.api.meta import annotations
from kncore.config.autoscaler import Autoscaler
from kncore.config.store import Store

# serving §10.9: NaN and infinity pass the original's validation and are then computed with; here they count as absent.
NOT_FINITE = {"nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"}


def decider(pa: dict[str, Any], config: Autoscaler) -> dict[str, Any]:
    target, total = podautoscaler.targets(pa, config)
    return {
        "ActivationScale": podautoscaler.activation_scale(pa),
        "ActivatorCapacity": config.activator_capacity,
        "InitialScale": podautoscaler.initial_scale(pa, config),
        "MaxScaleDownRate": config.max_scale_down_rate,
        "MaxScaleUpRate": config.max_scale_up_rate,
        "PanicThreshold": podautoscaler.panic_threshold(pa, config),
        "Reachable": podautoscaler.is_reachable(pa),
        "ScaleDownDelaySeconds": podautoscaler.scale_down_delay(pa, config),
        "ScalingMetric": podautoscaler.metric(pa),
        "StableWindowSeconds": podautoscaler.stable_window(pa, config),
        "TargetBurstCapacity": podautoscaler.target_burst_capacity(pa, config),
        "TargetValue": target,
        "TotalValue": total,
    }


def derived(pa: dict[str, Any], config: Autoscaler, expect: dict[str, Any]) -> dict[str, Any]:
    got = {
        "class": podautoscaler.class_(pa),
        "metric_name": podautoscaler.metric(pa),
        "scale_bounds": list(podautoscaler.scale_bounds(pa, config)),
        "decider": decider(pa, config),
        "metric": {
            "aggregationAlgorithm": podautoscaler.aggregation_algorithm(pa),
            "panicWindowSeconds": podautoscaler.panic_window(pa, config),
            "stableWindowSeconds": podautoscaler.stable_window(pa, config),
        },
    }
    if "scale_to_zero_pod_retention_seconds" in expect:
        got["scale_to_zero_pod_retention_seconds"] = podautoscaler.pod_retention_annotation(pa)
    if "progress_deadline_seconds" in expect:
        got["progress_deadline_seconds"] = podautoscaler.progress_deadline(pa, Store().deployment)
    return got


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-9)
    return bool(a == b)


def defaulted(pa: dict[str, Any], expect: dict[str, Any]) -> dict[str, Any]:
    return {**pa, "metadata": {**pa["metadata"], "annotations": expect["annotations"]}}


def test_derived_values(vectors: Any) -> None:
    failed = []
    for case in vectors("serving/pa_decider.json")["cases"]:
        if any(value.lower() in NOT_FINITE for value in annotations(case["pa"]).values()):
            continue
        config = Store.of(case["config"]).autoscaler
        expect = {k: v for k, v in case["expect"].items() if k not in ("annotations", "validate_error")}
        got = derived(defaulted(case["pa"], case["expect"]), config, case["expect"])
        if not same(got, expect):
            both = {key: (got.get(key), expect.get(key)) for key in {*got, *expect}}
            wrong = {key: pair for key, pair in both.items() if not same(*pair)}
            failed.append(f"{case['id']}: {wrong}")
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:10])


def test_not_finite_counts_as_absent(vectors: Any) -> None:
    config = Autoscaler()
    plain = {"metadata": {"annotations": {}}, "spec": {"containerConcurrency": 0}}
    for key in (keys.TARGET, keys.TARGET_BURST_CAPACITY, keys.PANIC_WINDOW_PERCENTAGE, keys.PANIC_THRESHOLD_PERCENTAGE):
        for value in ("NaN", "Inf"):
            odd = {**plain, "metadata": {"annotations": {key[0]: value}}}
            assert decider(odd, config) == decider(plain, config)
            assert podautoscaler.panic_window(odd, config) == podautoscaler.panic_window(plain, config)
