"""The arithmetic of rolling updates."""

import itertools

import pytest

from torpor.embedded.workloads.rolling import Old, Surge, new_replicas, old_replicas, resolve


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (4, None, None, Surge(max_surge=1, max_unavailable=1)),
        (3, "25%", "25%", Surge(max_surge=1, max_unavailable=0)),
        (10, "0%", "0%", Surge(max_surge=0, max_unavailable=1)),  # could not move otherwise
        (1, "25%", 0, Surge(max_surge=1, max_unavailable=0)),
        (2, 5, 5, Surge(max_surge=5, max_unavailable=2)),
    ],
)
def test_bounds_are_resolved_as_kubernetes_rounds_them(
    replicas: int, surge: int | str | None, unavailable: int | str | None, expected: Surge
) -> None:
    assert resolve(replicas, surge, unavailable) == expected


def test_scale_of_a_single_replica_set_is_immediate() -> None:
    bounds = resolve(5, "25%", 0)
    assert new_replicas(5, 0, 0, bounds) == 5
    assert new_replicas(0, 5, 5, resolve(0, "25%", 0)) == 0


def test_unavailable_old_pods_go_first() -> None:
    olds = [Old(replicas=2, available=2), Old(replicas=2, available=0)]
    counts = old_replicas(4, Old(replicas=1, available=1), olds, Surge(max_surge=1, max_unavailable=1))
    assert counts[1] < 2
    assert counts[0] == 2 or counts[1] == 0


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable"), [(1, 1, 0), (4, 1, 0), (4, 0, 1), (7, "25%", "25%"), (3, 3, 3)]
)
def test_every_rollout_ends_and_never_breaks_its_bounds(
    replicas: int, surge: int | str, unavailable: int | str
) -> None:
    bounds = resolve(replicas, surge, unavailable)
    for delay in (0, 1, 3):  # steps until a new pod becomes available
        old, old_available, new = replicas, replicas, 0
        history = [0] * (delay + 1)
        for _ in itertools.repeat(None, 200):
            new_available = min(new, history[-1 - delay])
            new = new_replicas(replicas, new, new + old, bounds)
            (old,) = old_replicas(
                replicas,
                Old(replicas=new, available=new_available),
                [Old(replicas=old, available=old_available)],
                bounds,
            )
            old_available = min(old, old_available)
            history.append(new)
            assert new + old <= replicas + bounds.max_surge
            assert new_available + old_available >= replicas - bounds.max_unavailable
            if (new, old) == (replicas, 0):
                break
        assert (new, old) == (replicas, 0)
