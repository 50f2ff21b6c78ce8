"""config-observability as the activator follows it: nothing is loaded for telemetry before it is wanted.

ConfigMap -> Observing --first time anything is switched on--> Telemetry, which lives from then on and is told of
                                                               every change, switching off included
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from kncore.api import meta
from kncore.api.resources import CONFIG_MAPS
from kncore.errors import ConfigError
from kncore.kube.informer import Change
from kncore.kube.informers import Informers

if TYPE_CHECKING:
    from activator.telemetry import Telemetry
    from kncore.config.observability import Observability

__all__ = ["Observing", "wants_anything"]

log = logging.getLogger(__name__)

NAME: Final = "config-observability"
SWITCHES: Final[Mapping[str, frozenset[str]]] = {
    "logging.enable-request-log": frozenset({"", "false", "f", "0"}),
    "metrics-protocol": frozenset({"", "none"}),
    "tracing-protocol": frozenset({"", "none"}),
    "runtime-profiling": frozenset({"", "disabled"}),
}
"""What concerns an activator, and the values that mean nothing is wanted."""


def wants_anything(data: Mapping[str, str]) -> bool:
    """Whether a ConfigMap's data switches anything on here."""
    return any(data.get(key, "").strip().lower() not in off for key, off in SWITCHES.items())


class Observing:
    """Follows the ConfigMap; a part of the process.

    Args:
        make: the telemetry, given what says what is wanted now.
    """

    name = "telemetry"

    def __init__(
        self, informers: Informers, namespace: str, make: "Callable[[Callable[[], Observability]], Telemetry]"
    ) -> None:
        self._make = make
        self._telemetry: Telemetry | None = None
        self._current: Observability | None = None
        self._wanted = asyncio.Event()
        informers.of(CONFIG_MAPS, namespace).add_handler(self._changed)

    async def run(self) -> None:
        """Run the telemetry once it is wanted."""
        await self._wanted.wait()
        self._telemetry = self._make(self._now)
        await self._telemetry.run()

    async def flush(self) -> None:
        """Push what is left, at the end of the process."""
        if self._telemetry is not None:
            await self._telemetry.flush()

    def _now(self) -> "Observability":
        assert self._current is not None
        return self._current

    def _changed(self, change: Change) -> None:
        if change.resync or meta.name(change.object) != NAME:
            return
        data: dict[str, str] = {} if change.type == "deleted" else change.object.get("data") or {}
        if self._current is None and not wants_anything(data):
            return
        from kncore.config.observability import Observability  # with a template language in its wake

        try:
            self._current = Observability.parse(data)
        except ConfigError as exc:
            log.error("ConfigMap refused", extra={"configmap": NAME, "error": str(exc)})
            return
        if self._telemetry is not None:
            self._telemetry.changed()
        self._wanted.set()
