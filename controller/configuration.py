"""Configuration: stamps a Revision per generation, and follows which is the latest ready one (serving §1.8)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from controller import children
from controller.frame import World, framed
from controller.resources import revision as make_revision
from kncore.api import keys, meta
from kncore.api.conditions import Conditions
from kncore.api.meta import Obj
from kncore.api.resources import CONFIGURATIONS, REVISIONS
from kncore.kube.client import Key
from kncore.kube.errors import AlreadyExists, ApiError, Conflict, NotFound, Unavailable
from kncore.kube.reconcile import Controller, Tracker, enqueue_owner, enqueue_self

__all__ = ["ConfigurationReconciler"]


class ConfigurationReconciler:
    """Reconciles Configurations."""

    name: ClassVar[str] = "configuration"

    def __init__(self, world: World) -> None:
        self._world = world
        self.primary = world.cached(CONFIGURATIONS)
        self._revisions = world.cached(REVISIONS, indexers={"configuration": _by_configuration})
        self._tracker: Tracker | None = None

    def watch(self, controller: Controller) -> None:
        """Configurations, their revisions, and foreign revisions that have a name we want."""
        self._tracker = Tracker(controller)
        self.primary.add_handler(enqueue_self(controller))
        self._revisions.add_handler(enqueue_owner(controller, CONFIGURATIONS))
        self._tracker.observe(self._revisions)

    async def reconcile(self, key: Key) -> None:
        """Bring one Configuration's newest Revision in order."""
        configuration = self.primary.get(key.name, key.namespace)
        if configuration is None:
            if self._tracker:
                self._tracker.forget(key)
            return
        if not meta.is_deleting(configuration):
            await framed(self._world, CONFIGURATIONS, configuration, self._body)

    async def _body(self, configuration: Obj, conditions: Conditions) -> None:
        try:
            created = self._newest(configuration) or await self._create(configuration)
        except (Conflict, Unavailable):
            raise  # says nothing about the Revision; try again
        except ApiError as exc:
            self._creation_failed(configuration, conditions, exc)
            raise
        if not self._is_ours(created, configuration):
            taken = AlreadyExists.of(REVISIONS, meta.name(created))
            self._creation_failed(configuration, conditions, taken)
            if self._tracker:
                key = Key.of(configuration)
                self._tracker.track(key, REVISIONS, key.namespace, meta.name(created))
            return
        status = configuration["status"]
        status["latestCreatedRevisionName"] = meta.name(created)
        self._follow_latest_ready(configuration, created)
        self._mark(configuration, conditions, created)

    def _mark(self, configuration: Obj, conditions: Conditions, created: Obj) -> None:
        name = meta.name(created)
        ready = meta.condition(created, "Ready")
        if ready is None or ready["status"] == "Unknown":
            conditions.mark_unknown("Ready")
        elif ready["status"] == "True":
            # An older revision may be Ready for a generation that is not observed yet; then nothing was said.
            if configuration["status"].get("latestReadyRevisionName") != name:
                return
            if not conditions.is_happy():
                self._event(configuration, "Normal", "ConfigurationReady", "Configuration becomes ready")
            conditions.mark_true("Ready")
        else:
            before = conditions.get("Ready")
            message = f'Revision "{name}" failed with message: {ready.get("message", "")}.'
            conditions.mark_false("Ready", "RevisionFailed", message)
            if before is None or before.get("message") != message:
                self._event(
                    configuration, "Warning", "LatestCreatedFailed", f'Latest created revision "{name}" has failed'
                )

    # -- the newest revision ---------------------------------------------------------------------------------------

    def _newest(self, configuration: Obj) -> Obj | None:
        """The Revision of the current generation, or whoever has the name the user chose for it."""
        if named := make_revision.byo_name(configuration):
            return self._revisions.get(named, meta.namespace(configuration))
        generation = str(meta.generation(configuration))
        for revision in self._of(configuration):
            if meta.labels(revision).get(keys.CONFIGURATION_GENERATION) == generation:
                return revision
        return None

    async def _create(self, configuration: Obj) -> Obj:
        wanted = make_revision.make(configuration, self._world.now())
        try:
            made = await self._world.client.create(REVISIONS, wanted, meta.namespace(configuration))
        except AlreadyExists as exc:
            # Ours, made a moment ago and not in the cache yet; or somebody else's, which the caller finds out.
            try:
                return await self._world.client.get(REVISIONS, meta.name(wanted), meta.namespace(configuration))
            except NotFound:
                raise Conflict.of(REVISIONS, meta.name(wanted)) from exc
        self._event(configuration, "Normal", "Created", f'Created Revision "{meta.name(made)}"')
        return made

    def _is_ours(self, revision: Obj, configuration: Obj) -> bool:
        """Whether the Revision can serve as the one of this generation.

        An older one with the same spec can: that is how a user goes back to a name that exists.
        """
        if not meta.is_controlled_by(revision, configuration):
            return False
        if meta.labels(revision).get(keys.CONFIGURATION_GENERATION) == str(meta.generation(configuration)):
            return True
        return children.equal(revision.get("spec"), meta.at(configuration, "spec", "template", "spec"))

    def _creation_failed(self, configuration: Obj, conditions: Conditions, error: ApiError) -> None:
        message = f"Revision creation failed with message: {error.message}."
        before = conditions.get("Ready")
        conditions.mark_false("Ready", "RevisionFailed", message)
        if before is None or before.get("message") != message:
            self._event(configuration, "Warning", "CreationFailed", f"Failed to create Revision: {error.message}")

    # -- the latest ready revision ---------------------------------------------------------------------------------

    def _follow_latest_ready(self, configuration: Obj, created: Obj) -> None:
        """Move `latestReadyRevisionName` to the newest ready Revision from the present one on."""
        status = configuration["status"]
        present = status.get("latestReadyRevisionName", "")
        if make_revision.byo_name(configuration) == meta.name(created) and meta.is_ready(created):
            chosen = meta.name(created)
        else:
            newest = meta.generation(configuration)
            known = self._revisions.get(present, meta.namespace(configuration)) if present else None
            oldest = _generation(known) if known is not None else 0
            ready = [
                revision
                for revision in self._of(configuration)
                if oldest <= _generation(revision) <= newest and meta.is_ready(revision)
            ]
            if meta.is_ready(created) and all(meta.name(item) != meta.name(created) for item in ready):
                ready.append(created)
            if not ready:
                return
            chosen = meta.name(max(ready, key=_generation))
        if chosen != present:
            status["latestReadyRevisionName"] = chosen
            self._event(configuration, "Normal", "LatestReadyUpdate", f'LatestReadyRevisionName updated to "{chosen}"')

    def _of(self, configuration: Obj) -> list[Obj]:
        return [
            revision
            for revision in self._revisions.by_index("configuration", meta.key(configuration))
            if meta.is_controlled_by(revision, configuration)
        ]

    def _event(self, configuration: Obj, type_: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        self._world.events.event(configuration, type_, reason, message)


def _by_configuration(revision: Obj) -> list[str]:
    name = meta.labels(revision).get(keys.CONFIGURATION)
    return [f"{meta.namespace(revision)}/{name}"] if name else []


def _generation(revision: Mapping[str, Any]) -> int:
    text = meta.labels(revision).get(keys.CONFIGURATION_GENERATION, "")
    return int(text) if text.isdecimal() else 0
