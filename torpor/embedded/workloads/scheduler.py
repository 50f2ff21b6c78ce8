"""Which node a pod goes to: there is one, so the question is only whether the pod fits at all.

A pod fits if its requests alone do not exceed the machine; pods are not packed against each other, because a laptop
is better slow than refusing to scale. Controllers ask `unfit` when they create pods and bind them in the same write
(one API call less on the path of a cold start); `Scheduler` does it for pods that others created.
"""

from dataclasses import dataclass, field

from kncore.api import meta
from kncore.api.meta import Obj, at
from kncore.api.resources import PODS
from kncore.clock import Clock, SystemClock, rfc3339
from kncore.kube.client import Client, Key
from kncore.kube.errors import NotFound
from kncore.kube.informers import Informers
from kncore.kube.reconcile import Controller, enqueue_self
from kncore.quantity import parse_quantity
from torpor.embedded.workloads.events import Record, silent

__all__ = ["NodeRoom", "Scheduler", "requests", "unfit"]


@dataclass(frozen=True, kw_only=True)
class NodeRoom:
    """What the node offers."""

    name: str
    cpu_milli: int
    memory_bytes: int
    labels: dict[str, str] = field(default_factory=dict)


def requests(pod: Obj) -> tuple[int, int]:
    """(cpu in thousandths of a core, memory in bytes) that a pod asks for.

    Containers add up; init containers run one at a time before them, so the larger of the two counts.
    """

    def amount(container: Obj, resource: str) -> int:
        text = at(container, "resources", "requests", resource, default="0")
        quantity = parse_quantity(str(text))
        return quantity.milli() if resource == "cpu" else quantity.value()

    def total(resource: str) -> int:
        containers = at(pod, "spec", "containers", default=[])
        before = at(pod, "spec", "initContainers", default=[])
        return max(
            sum(amount(one, resource) for one in containers), max((amount(one, resource) for one in before), default=0)
        )

    return total("cpu"), total("memory")


def unfit(pod: Obj, node: NodeRoom) -> str:
    """Why the pod cannot run on the node, as the scheduler words it; empty if it can."""
    selector = at(pod, "spec", "nodeSelector", default={})
    if any(node.labels.get(key) != value for key, value in selector.items()):
        return "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    cpu, memory = requests(pod)
    short = [
        name
        for name, wanted, have in (("cpu", cpu, node.cpu_milli), ("memory", memory, node.memory_bytes))
        if wanted > have
    ]
    if short:
        return f"0/1 nodes are available: {', '.join(f'1 Insufficient {name}' for name in short)}."
    return ""


class Scheduler:
    """Binds pods that nobody bound yet, and says why not where they do not fit.

    Args:
        taken: schedulers' names whose pods are ours; other pods wait for their own scheduler.
    """

    def __init__(
        self,
        client: Client,
        informers: Informers,
        node: NodeRoom,
        *,
        clock: Clock | None = None,
        record: Record = silent,
        taken: frozenset[str] = frozenset({"", "default-scheduler"}),
    ) -> None:
        self._client = client
        self._node = node
        self._clock = clock or SystemClock()
        self._record = record
        self._taken = taken
        self._pods = informers.of(PODS)
        self.controller = Controller("scheduler", self._reconcile)
        self.name = self.controller.name
        forward = enqueue_self(self.controller)
        self._pods.add_handler(lambda change: None if at(change.object, "spec", "nodeName") else forward(change))

    async def run(self) -> None:
        """Bind pods until cancelled."""
        await self.controller.run()

    async def _reconcile(self, key: Key) -> None:
        pod = self._pods.get(key.name, key.namespace)
        if pod is None or at(pod, "spec", "nodeName") or meta.is_deleting(pod):
            return
        if at(pod, "spec", "schedulerName", default="") not in self._taken:
            return
        reason = unfit(pod, self._node)
        try:
            if not reason:
                patch: Obj = {"metadata": {"uid": meta.uid(pod)}, "spec": {"nodeName": self._node.name}}
                await self._client.patch(PODS, key.name, patch, key.namespace)
                text = f"Successfully assigned {key} to {self._node.name}"
                self._record(pod, "Normal", "Scheduled", text)
                return
            condition = meta.condition(pod, "PodScheduled")
            if condition is not None and condition.get("message") == reason:
                return
            others = [one for one in at(pod, "status", "conditions", default=[]) if one.get("type") != "PodScheduled"]
            unscheduled: Obj = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": reason,
                "lastTransitionTime": rfc3339(self._clock.wall()),
            }
            refusal: Obj = {
                "metadata": {"uid": meta.uid(pod)},
                "status": {"phase": "Pending", "conditions": [*others, unscheduled]},
            }
            await self._client.patch(PODS, key.name, refusal, key.namespace, subresource="status")
        except NotFound:
            return
        self._record(pod, "Warning", "FailedScheduling", reason)
