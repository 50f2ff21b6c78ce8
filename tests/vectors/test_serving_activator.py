"""Golden data: which pods an activator uses, and which of them takes a request."""

from typing import Any

from activator.balance import Pod, assign, capacity, infer_index, pick_indices
from activator.throttler import Throttler


def cases(vectors, fn: str) -> list[dict[str, Any]]:
    return [case for case in vectors("serving/activator_assignment.json")["cases"] if case["fn"] == fn]


def pod(address: str) -> Pod:
    return Pod(address, upstream=None)


def test_pick_indices(vectors) -> None:
    for case in cases(vectors, "pick_indices"):
        assert [list(pick_indices(*row)) for row in case["rows"]] == case["expect"], case["id"]


def test_assigned_slice(vectors) -> None:
    for case in cases(vectors, "assign_slice"):
        made = []
        for count, index, activators in case["rows"]:
            pods = [pod(str(number)) for number in range(count)]
            made.append([int(one.address) for one in assign(pods, index, activators)])
        assert made == case["expect"], case["id"]


def test_capacity(vectors) -> None:
    for case in cases(vectors, "calculate_capacity"):
        assert [capacity(*row) for row in case["rows"]] == case["expect"], case["id"]


def test_own_index(vectors) -> None:
    for case in cases(vectors, "infer_index"):
        assert infer_index(case["eps"], case["self"]) == case["expect"], case["id"]


def replay(case: dict[str, Any]) -> list[Any]:
    throttler = Throttler(case["cc"], case["self"])
    held: dict[Any, Pod] = {}
    seen: list[Any] = []
    for op, *rest in case["ops"]:
        if op == "acquire":
            taken = throttler.pick()  # what was recorded lies below the original's breaker
            if taken is not None:
                held[rest[0]] = taken
            seen.append([taken.address, taken is throttler.cluster_ip] if taken else None)
            continue
        if op == "release":
            if rest[0] in held:
                throttler.release(held.pop(rest[0]))
            continue
        if op == "backends":
            cluster_ip, addresses = rest
            if cluster_ip:
                throttler.use_cluster_ip(cluster_ip, len(addresses), pod)
            else:
                throttler.update(addresses, pod)
        else:
            # In the recording no public endpoint ever counts as an activator (index -1 in all cases, also where the
            # own address is listed): their port is not one that the throttler looks at. The share of an activator
            # that is listed is covered by `assign_slice` and `infer_index`.
            throttler.update_activators([])
        seen.append(
            {
                "activator_index": throttler.index,
                "assigned": [one.address for one in throttler.assigned],
                # without a limit the original's breaker knows only open (1) and closed (0)
                "capacity": throttler.capacity if case["cc"] else min(1, throttler.capacity),
                "cluster_ip": throttler.cluster_ip.address if throttler.cluster_ip else "",
                "num_activators": throttler.activators,
            }
        )
    return seen


def test_throttler(vectors) -> None:
    wrong = []
    for case in cases(vectors, "throttler"):
        made = replay(case)
        if made != case["expect"]:
            step = next(n for n, (m, e) in enumerate(zip(made, case["expect"], strict=False)) if m != e)
            wrong.append(f"{case['id']}: step {step}: made {made[step]}, expected {case['expect'][step]}")
    assert not wrong, f"{len(wrong)} cases differ, the first is {wrong[0]}"
