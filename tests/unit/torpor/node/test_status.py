"""Pod statuses and restart back-off."""

from dataclasses import replace
from typing import Any

import pytest

from torpor.embedded.node.restarts import Backoff, restarts
from torpor.embedded.node.status import Container, Terminated, phase, pod_status


def waiting(**more: Any) -> Container:
    return Container(name="c", **more)


def running(*, ready: bool = True) -> Container:
    return replace(waiting().running("torpor://1", 100.0), ready=ready, started=True)


def ended(code: int, *, init: bool = False) -> Container:
    run = replace(running(), init=init)
    return run.ended(
        Terminated(exit_code=code, reason="Error" if code else "Completed", finished_at=200.0, started_at=100.0)
    )


CRASHED = ended(1).waiting("CrashLoopBackOff", "back-off 10s")


@pytest.mark.parametrize(
    ("policy", "containers", "inits", "expected"),
    [
        ("Always", [waiting()], [], "Pending"),
        ("Always", [running(), waiting()], [], "Pending"),
        ("Always", [running()], [], "Running"),
        ("Always", [CRASHED], [], "Running"),
        ("Always", [running(), CRASHED], [], "Running"),
        ("Always", [ended(0)], [], "Running"),
        ("Never", [ended(0), ended(0)], [], "Succeeded"),
        ("Never", [ended(0), ended(1)], [], "Failed"),
        ("Never", [running(), ended(1)], [], "Running"),
        ("OnFailure", [ended(0)], [], "Succeeded"),
        ("OnFailure", [ended(1)], [], "Running"),
        ("Always", [waiting()], [running(ready=False).ended(ended(0).terminated)], "Pending"),  # type: ignore[arg-type]
        ("Always", [running()], [ended(0, init=True)], "Running"),
        ("Never", [waiting()], [ended(1, init=True)], "Failed"),
        ("Always", [waiting()], [ended(1, init=True)], "Pending"),
    ],
)
def test_phase(policy: str, containers: list[Container], inits: list[Container], expected: str) -> None:
    assert phase(policy, containers, inits) == expected


def made(containers: list[Container], *, before: Any = None, now: float = 1000.0, inits: Any = ()) -> Any:
    pod = {"metadata": {"name": "p"}, "spec": {}, "status": {"qosClass": "Burstable"}}
    return pod_status(
        pod, containers, inits, pod_ip="127.2.128.1", host_ip="127.2.0.1", started_at=900.0, now=now, before=before
    )


def condition(status: Any, kind: str) -> Any:
    return next(one for one in status["conditions"] if one["type"] == kind)


def test_conditions_name_what_is_not_ready_and_keep_their_times() -> None:
    first = made([running(), replace(running(ready=False), name="queue-proxy")])
    assert condition(first, "Ready")["message"] == "containers with unready status: [queue-proxy]"
    assert condition(first, "Ready")["reason"] == "ContainersNotReady"
    second = made([running(), running()], before=first, now=2000.0)
    assert condition(second, "Ready")["status"] == "True"
    assert condition(second, "Ready")["lastTransitionTime"] == "1970-01-01T00:33:20Z"
    assert condition(second, "PodScheduled") == condition(first, "PodScheduled")
    assert (second["podIP"], second["podIPs"], second["qosClass"]) == (
        "127.2.128.1",
        [{"ip": "127.2.128.1"}],
        "Burstable",
    )


def test_ended_run_becomes_the_last_state() -> None:
    status = made([CRASHED])["containerStatuses"][0]
    assert status["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    assert status["lastState"]["terminated"]["exitCode"] == 1
    assert status["lastState"]["terminated"]["startedAt"] == "1970-01-01T00:01:40Z"
    again = CRASHED.running("torpor://2", 300.0).to_obj()
    assert again["lastState"]["terminated"]["exitCode"] == 1
    assert again["state"] == {"running": {"startedAt": "1970-01-01T00:05:00Z"}}


def test_backoff_is_immediate_once_then_doubles_to_five_minutes_and_is_forgotten() -> None:
    backoff = Backoff()
    now, waits = 0.0, []
    for _ in range(9):
        start = backoff.ended(now)
        waits.append(start - now)
        now = start + 1  # it runs for a second each time
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300]
    now += 700
    assert backoff.ended(now) == now


def test_backoff_goes_on_after_a_restart_of_the_agent() -> None:
    backoff = Backoff()
    backoff.resume(3, 0.0)
    assert backoff.ended(0.0) == 40.0


def test_restart_policies() -> None:
    assert restarts("Always", 0)
    assert restarts("OnFailure", 1)
    assert not restarts("OnFailure", 0)
    assert not restarts("Never", 1)
