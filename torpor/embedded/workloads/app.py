"""All workload controllers of the embedded platform, ready to run."""

from collections.abc import Callable, Sequence
from typing import Protocol

from kncore.api.meta import Obj
from kncore.clock import Clock
from kncore.kube.client import Client
from kncore.kube.informers import Informers
from torpor.embedded.workloads.deployment import Deployments
from torpor.embedded.workloads.endpoints import EndpointsController
from torpor.embedded.workloads.events import Record, silent, unhurried
from torpor.embedded.workloads.replicaset import ReplicaSets
from torpor.embedded.workloads.scheduler import NodeRoom, Scheduler
from torpor.embedded.workloads.serviceproxy import ServiceProxy

__all__ = ["Part", "Workloads", "build"]


class Part(Protocol):
    """Something that runs until it is cancelled."""

    name: str

    async def run(self) -> None:
        """Work until cancelled."""


class Workloads(list[Part]):
    """The controllers, in order of start; `announce` is for the node agent (`Kubelet.announce`)."""

    def __init__(self, parts: Sequence[Part], announce: Callable[[Obj, str], None]) -> None:
        super().__init__(parts)
        self.announce = announce
        """(pod, address): see `EndpointsController.announce`."""


def build(
    client: Client,
    informers: Informers,
    *,
    node: NodeRoom,
    serves: Callable[[str], bool],
    clock: Clock | None = None,
    record: Record = silent,
) -> Workloads:
    """Deployments, ReplicaSets, scheduler, endpoints and service proxy.

    Args:
        informers: shared with the rest of the process; run by the caller.
        node: the one node there is.
        serves: whether an address is a cluster IP of this instance.
        record: writes an Event, e.g. `Recorder.event`; what is normal is said a little later, off the path of a start.
    """
    record = unhurried(record)
    replicasets = ReplicaSets(client, informers, node, clock=clock, record=record)
    endpoints = EndpointsController(client, informers)
    parts: list[Part] = [
        replicasets,
        Deployments(client, informers, replicasets, clock=clock, record=record),
        Scheduler(client, informers, node, clock=clock, record=record),
        endpoints,
        ServiceProxy(informers, serves=serves),
    ]
    return Workloads(parts, endpoints.announce)
