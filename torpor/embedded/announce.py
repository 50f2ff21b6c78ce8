"""What a person in front of `torpor up` sees: services becoming ready or failing, revisions waking, scaling and
falling asleep.
"""

from collections.abc import Callable

from kncore.api import meta
from kncore.api.resources import KSERVICES, POD_AUTOSCALERS
from kncore.kube.informer import Change
from kncore.kube.informers import Informers

__all__ = ["Announcer"]


class Announcer:
    """Turns changes into lines; quiet about what was there when it began.

    Args:
        say: takes one line.
    """

    def __init__(self, informers: Informers, say: Callable[[str], None]) -> None:
        self._say = say
        self._services = informers.of(KSERVICES)
        self._autoscalers = informers.of(POD_AUTOSCALERS)
        self._told: dict[str, tuple[int, str]] = {}
        """(generation, status) told last, by uid: Ready may flap while a change settles."""
        self._services.add_handler(self._service_changed)
        self._autoscalers.add_handler(self._scale_changed)

    def _service_changed(self, change: Change) -> None:
        if change.resync or not self._services.synced:
            return
        name = meta.key(change.object)
        if change.type == "deleted":
            self._told.pop(meta.uid(change.object), None)
            self._say(f"{name} deleted")
            return
        now, before = _readiness(change.object), _readiness(change.old)
        if now == before or now is None:
            return
        status, reason, message = now
        news = (meta.generation(change.object), status)
        if status == "Unknown" or self._told.get(meta.uid(change.object)) == news:
            return
        self._told[meta.uid(change.object)] = news
        if status == "True":
            self._say(f"{name} ready at {meta.at(change.object, 'status', 'url', default='')}")
        else:
            self._say(f"{name} failed: {reason}: {message}")

    def _scale_changed(self, change: Change) -> None:
        if change.resync or change.type == "deleted" or not self._autoscalers.synced:
            return
        now = meta.at(change.object, "status", "actualScale", default=0)
        before = meta.at(change.old, "status", "actualScale", default=0)
        if now == before:
            return
        if now == 0:
            self._say(f"{meta.key(change.object)} asleep")
        elif before == 0:
            self._say(f"{meta.key(change.object)} awake: {now} {'pod' if now == 1 else 'pods'}")
        else:
            self._say(f"{meta.key(change.object)} {before} -> {now} pods")


def _readiness(service: dict[str, object] | None) -> tuple[str, str, str] | None:
    """(status, reason, message) of Ready, once it is about the current generation."""
    if service is None or meta.at(service, "status", "observedGeneration") != meta.generation(service):
        return None
    ready = meta.condition(service, "Ready")
    return (ready["status"], ready.get("reason", ""), ready.get("message", "")) if ready else None
