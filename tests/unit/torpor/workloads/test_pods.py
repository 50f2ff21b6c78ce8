"""Which pods count, and which go first."""

from typing import Any

from torpor.embedded.workloads.pods import DELETION_COST, available_at, deletion_order, is_active
from torpor.embedded.workloads.progress import parse_time
from torpor.embedded.workloads.scheduler import NodeRoom, requests, unfit


def pod(
    name: str, *, ready: str | None = "2024-01-01T00:00:10Z", node: str = "torpor", phase: str = "Running", **more: Any
) -> Any:
    conditions = [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": ready or ""}]
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": more.get("created", "2024-01-01T00:00:00Z"),
            "annotations": {DELETION_COST: str(more["cost"])} if "cost" in more else {},
            **({"deletionTimestamp": "x"} if more.get("deleting") else {}),
        },
        "spec": {"nodeName": node} if node else {},
        "status": {
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [{"restartCount": more.get("restarts", 0)}],
        },
    }


def names(pods: list[Any]) -> list[str]:
    return [one["metadata"]["name"] for one in pods]


def test_deletion_order_prefers_pods_that_serve_nobody_then_cheap_then_young() -> None:
    pods = [
        pod("old", created="2024-01-01T00:00:00Z"),
        pod("young", created="2024-01-02T00:00:00Z"),
        pod("ready-later", ready="2024-01-01T00:01:00Z"),
        pod("restarted", restarts=3),
        pod("cheap", cost=-1),
        pod("dear", cost=100),
        pod("nonsense-cost", cost="x", created="2023-01-01T00:00:00Z"),
        pod("not-ready", ready=None),
        pod("pending", ready=None, phase="Pending"),
        pod("unbound", ready=None, phase="Pending", node=""),
    ]
    assert names(deletion_order(reversed(pods))) == [
        "unbound",
        "pending",
        "not-ready",
        "cheap",
        "ready-later",
        "restarted",
        "young",
        "old",
        "nonsense-cost",
        "dear",
    ]


def test_ended_and_deleted_pods_do_not_count() -> None:
    assert is_active(pod("a"))
    assert not is_active(pod("b", phase="Failed"))
    assert not is_active(pod("c", deleting=True))


def test_available_after_min_ready_seconds() -> None:
    assert available_at(pod("a"), 0) == 0.0
    assert available_at(pod("a"), 5) == parse_time("2024-01-01T00:00:15Z")
    assert available_at(pod("a", ready=None), 0) is None


def test_only_requests_larger_than_the_machine_do_not_fit() -> None:
    node = NodeRoom(name="torpor", cpu_milli=2000, memory_bytes=1 << 30, labels={"disk": "ssd"})

    def asking(cpu: str, memory: str, **spec: Any) -> Any:
        return {"spec": {"containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}], **spec}}

    assert requests(asking("1500m", "1Gi")) == (1500, 1 << 30)
    assert unfit(asking("2", "1Gi"), node) == ""
    assert unfit(asking("2001m", "1Gi"), node) == "0/1 nodes are available: 1 Insufficient cpu."
    assert unfit(asking("3", "2Gi"), node) == "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."
    assert unfit(asking("1", "1Mi", nodeSelector={"disk": "ssd"}), node) == ""
    assert "node affinity/selector" in unfit(asking("1", "1Mi", nodeSelector={"disk": "hdd"}), node)
    several = asking("1", "1Mi")
    several["spec"]["containers"] *= 3
    assert requests(several)[0] == 3000
    several["spec"]["initContainers"] = asking("4", "1Mi")["spec"]["containers"]
    assert requests(several)[0] == 4000
