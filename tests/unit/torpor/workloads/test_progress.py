"""A Deployment's conditions over the life of a rollout."""

from typing import Any

from torpor.embedded.workloads import progress

NOW = 1_700_000_000.0


def deployment(status: Any = None, *, replicas: int = 1, deadline: int = 600) -> Any:
    return {
        "metadata": {"name": "web", "generation": 3},
        "spec": {"replicas": replicas, "progressDeadlineSeconds": deadline},
        "status": status or {},
    }


def replicaset(name: str, *, wanted: int = 1, available: int = 0, conditions: Any = ()) -> Any:
    return {
        "metadata": {"name": name},
        "spec": {"replicas": wanted},
        "status": {
            "replicas": wanted,
            "readyReplicas": available,
            "availableReplicas": available,
            "conditions": list(conditions),
        },
    }


def reasons(status: Any) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


def step(status: Any, new: Any, now: float, *, replicas: int = 1, olds: Any = (), deadline: int = 600) -> Any:
    return progress.status(deployment(status, replicas=replicas, deadline=deadline), new, [new, *olds], 0, now)


def test_first_rollout_progresses_and_completes() -> None:
    status = step(None, replicaset("web-1", wanted=0), NOW)
    assert reasons(status)["Progressing"] == ("True", "NewReplicaSetCreated")
    assert reasons(status)["Available"] == ("False", "MinimumReplicasUnavailable")
    status = step(status, replicaset("web-1"), NOW + 1)
    assert reasons(status)["Progressing"] == ("True", "ReplicaSetUpdated")
    status = step(status, replicaset("web-1", available=1), NOW + 2)
    assert reasons(status) == {
        "Progressing": ("True", "NewReplicaSetAvailable"),
        "Available": ("True", "MinimumReplicasAvailable"),
    }
    assert status["conditions"][1]["message"] == 'ReplicaSet "web-1" has successfully progressed.'
    assert (status["observedGeneration"], status["unavailableReplicas"]) == (3, 0)


def test_no_progress_until_the_deadline_is_a_failure_and_recovers() -> None:
    status = step(None, replicaset("web-1"), NOW, deadline=10)
    held = step(status, replicaset("web-1"), NOW + 9, deadline=10)
    assert held["conditions"] == status["conditions"]
    failed = step(held, replicaset("web-1"), NOW + 11, deadline=10)
    assert reasons(failed)["Progressing"] == ("False", "ProgressDeadlineExceeded")
    assert failed["conditions"][1]["message"] == 'ReplicaSet "web-1" has timed out progressing.'
    assert progress.deadline(deployment(failed, deadline=10)) is None
    recovered = step(failed, replicaset("web-1", available=1), NOW + 12, deadline=10)
    assert reasons(recovered)["Progressing"] == ("True", "NewReplicaSetAvailable")


def test_scaling_after_completion_never_times_out() -> None:
    done = step(None, replicaset("web-1", available=1), NOW)
    scaled = step(done, replicaset("web-1", wanted=5, available=1), NOW + 10_000, replicas=5)
    assert reasons(scaled)["Progressing"] == ("True", "NewReplicaSetAvailable")
    assert reasons(scaled)["Available"] == ("False", "MinimumReplicasUnavailable")
    asleep = step(scaled, replicaset("web-1", wanted=0), NOW + 10_001, replicas=0)
    assert reasons(asleep) == {
        "Progressing": ("True", "NewReplicaSetAvailable"),
        "Available": ("True", "MinimumReplicasAvailable"),
    }


def test_new_template_starts_the_clock_again() -> None:
    done = step(None, replicaset("web-1", available=1), NOW)
    old = replicaset("web-1", available=1)
    later = NOW + 10_000
    started = step(done, replicaset("web-2", wanted=1), later, olds=[old])
    assert reasons(started)["Progressing"] == ("True", "NewReplicaSetCreated")
    assert progress.deadline(deployment(started)) == later + 600
    exceeded = step(started, replicaset("web-2"), later + 600, olds=[old])
    assert reasons(exceeded)["Progressing"] == ("False", "ProgressDeadlineExceeded")
    again = step(exceeded, replicaset("web-3"), later + 700, olds=[old])
    assert reasons(again)["Progressing"][1] == "NewReplicaSetCreated"


def test_refused_pods_show_as_replica_failure() -> None:
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}
    status = step(None, replicaset("web-1", conditions=[refused]), NOW)
    assert reasons(status)["ReplicaFailure"] == ("True", "FailedCreate")
    assert "ReplicaFailure" not in reasons(step(status, replicaset("web-1"), NOW + 1))


def test_unchanged_conditions_keep_their_times() -> None:
    status = step(None, replicaset("web-1", available=1), NOW)
    assert step(status, replicaset("web-1", available=1), NOW + 50)["conditions"] == status["conditions"]
