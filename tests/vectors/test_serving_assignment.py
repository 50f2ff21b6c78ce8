"""Subset choice and bucket ownership (vectors 8); the activator's own part is tested with the activator."""

from typing import Any

from kncore.api.names import autoscaler_buckets, choose_subset, owner_bucket


def test_choose_subset(vectors: Any) -> None:
    failed = []
    for case in vectors("serving/activator_assignment.json")["cases"]:
        if case["fn"] == "subset":
            got = sorted(choose_subset(case["from"], case["n"], case["target"]))
            if got != case["expect"]:
                failed.append(f"{case['id']}: {got} != {case['expect']}")
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:10])


def test_bucket_owner(vectors: Any) -> None:
    failed = []
    for case in vectors("serving/activator_assignment.json")["cases"]:
        if case["fn"] != "owner":
            continue
        expect = case["expect"]
        if case.get("n", 0) > 0 and autoscaler_buckets(case["n"]) != expect["buckets"]:
            failed.append(f"{case['id']}: {autoscaler_buckets(case['n'])} != {expect['buckets']}")
        owners = [owner_bucket(expect["buckets"], key) for key in case["keys"]]
        if owners != expect["owners"]:
            failed.append(f"{case['id']}: {owners} != {expect['owners']}")
    assert not failed, f"{len(failed)} failed:\n" + "\n".join(failed[:10])
