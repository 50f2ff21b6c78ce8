"""Revision: resolves images, keeps Deployment, PodAutoscaler and image hints, and tells how they are (serving §1.9)."""

from collections.abc import Mapping
from typing import ClassVar

from controller import children, revision_status
from controller.digest import Digests, Failure
from controller.frame import World, framed
from controller.resources import deployment as make_deployment
from controller.resources import image as make_image
from controller.resources import podautoscaler as make_podautoscaler
from controller.resources.metadata import without
from controller.settings import Settings
from kncore.api import keys, meta
from kncore.api.conditions import Conditions
from kncore.api.meta import Obj
from kncore.api.resources import DEPLOYMENTS, IMAGES, POD_AUTOSCALERS, PODS, REVISIONS
from kncore.kube.client import Key
from kncore.kube.informer import Change
from kncore.kube.reconcile import Controller, Permanent, enqueue_owner, enqueue_self

__all__ = ["ImageUnavailable", "RevisionReconciler"]


class ImageUnavailable(Permanent):
    """An image has no digest; the background resolution goes on and wakes the Revision when it has one."""


class RevisionReconciler:
    """Reconciles Revisions.

    Args:
        digests: the background resolution of image tags; it must wake this reconciler's controller.
    """

    name: ClassVar[str] = "revision"

    def __init__(self, world: World, digests: Digests) -> None:
        self._world = world
        self._digests = digests
        self.primary = world.cached(REVISIONS)
        self._deployments = world.cached(DEPLOYMENTS)
        self._autoscalers = world.cached(POD_AUTOSCALERS)
        self._images = world.cached(IMAGES)
        self._pods = world.cached(PODS, labels=keys.REVISION, indexers={"revision": _revision_of})

    def watch(self, controller: Controller) -> None:
        """Revisions, what they own, and pods that cannot start."""
        self.primary.add_handler(enqueue_self(controller))
        for owned in (self._deployments, self._autoscalers, self._images):
            owned.add_handler(enqueue_owner(controller, REVISIONS))

        def pod_changed(change: Change) -> None:
            # Every pod of every scale-up comes by here; only one in trouble tells us more than its Deployment does.
            if change.type != "deleted" and _in_trouble(change.object):
                for revision in _revision_of(change.object):
                    controller.enqueue(Key.parse(revision), slow=change.resync)

        self._pods.add_handler(pod_changed)

    async def reconcile(self, key: Key) -> None:
        """Bring one Revision's children in order."""
        revision = self.primary.get(key.name, key.namespace)
        if revision is None or meta.is_deleting(revision):
            self._digests.forget(key)
            return
        await framed(self._world, REVISIONS, revision, self._body)

    async def _body(self, revision: Obj, conditions: Conditions) -> None:
        was_ready = meta.is_true(revision, "Ready")
        settings = Settings.of(self._world.config, self._world.system_namespace)
        template = settings.observability.revision_url_template
        if template:
            revision["status"]["logUrl"] = template.replace("${REVISION_UID}", meta.uid(revision))
        else:
            revision["status"].pop("logUrl", None)
        if not self._resolve(revision, conditions, settings):
            return
        deployment = await self._deployment(revision, settings)
        self._tell_deployment(conditions, deployment, settings)
        await self._image_hints(revision)
        autoscaler = await self._autoscaler(revision, deployment)
        revision_status.from_autoscaler(revision, conditions, autoscaler)
        if conditions.is_happy() and not was_ready:
            self._world.events.event(
                revision, "Normal", "RevisionReady", "Revision becomes ready upon all resources being ready"
            )

    # -- images ----------------------------------------------------------------------------------------------------

    def _resolve(self, revision: Obj, conditions: Conditions, settings: Settings) -> bool:
        """Fill in the container statuses; False while the digests are not known.

        Raises:
            ImageUnavailable: an image could not be resolved, for a reason not told yet.
        """
        status = revision["status"]
        wanted = [container.get("name") for container in meta.at(revision, "spec", "containers", default=[])]
        if [entry.get("name") for entry in status.get("containerStatuses") or []] == wanted:
            self._digests.forget(Key.of(revision))  # a look at an older copy may have asked once more
            return True
        found = self._digests.lookup(
            revision,
            skip_registries=settings.deployment.registries_skipping_tag_resolving,
            timeout=settings.deployment.digest_resolution_timeout,
        )
        if found is None:
            conditions.mark_unknown("ResourcesAvailable", "ResolvingDigests")
            return False
        if isinstance(found, Failure):
            message = f'Unable to fetch image "{found.image}": failed to resolve image to digest: {found.message}'
            known = conditions.get("ContainerHealthy")
            conditions.mark_false("ContainerHealthy", "ContainerMissing", message)
            if known is None or known.get("message") != message:
                raise ImageUnavailable(message)  # once: an Event and a log line, not one per look
            return False
        for field, containers, digests in (
            ("containerStatuses", "containers", found.containers),
            ("initContainerStatuses", "initContainers", found.init_containers),
        ):
            if specs := meta.at(revision, "spec", containers):
                status[field] = [_container_status(spec, digests) for spec in specs]
        self._digests.forget(Key.of(revision))
        failed = conditions.get("ContainerHealthy")
        if failed is not None and failed.get("reason") == "ContainerMissing":
            conditions.mark_unknown("ContainerHealthy")
        return True

    # -- children --------------------------------------------------------------------------------------------------

    async def _deployment(self, revision: Obj, settings: Settings) -> Obj:
        wanted = make_deployment.make(revision, settings)
        present = self._deployments.get(meta.name(wanted), meta.namespace(wanted))
        if present is None:
            present = await children.create(self._world, DEPLOYMENTS, wanted, revision)
        self._check_owner(present, revision, DEPLOYMENTS.kind)
        if meta.labels(present).get(keys.DEPLOYMENT_HASH) == meta.labels(wanted)[keys.DEPLOYMENT_HASH]:
            return present
        updated = make_deployment.merged(present, wanted)
        return await self._world.client.update(DEPLOYMENTS, updated)

    def _tell_deployment(self, conditions: Conditions, deployment: Obj, settings: Settings) -> None:
        revision_status.from_deployment(conditions, deployment)
        if not revision_status.may_hide_a_failure(deployment):
            return
        owner = meta.controller_of(deployment) or {}
        pods = self._pods.by_index("revision", f"{meta.namespace(deployment)}/{owner.get('name', '')}")
        living = [pod for pod in pods if not meta.is_deleting(pod)]
        if living:
            # The oldest has had the most time to fail; names only make the choice steady.
            pod = min(living, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", meta.name(pod)))
            revision_status.from_pod(
                conditions, deployment, pod, always_schedulable=settings.deployment.pod_is_always_schedulable
            )

    async def _image_hints(self, revision: Obj) -> None:
        for wanted in make_image.make(revision):
            if self._images.get(meta.name(wanted), meta.namespace(wanted)) is None:
                await children.create(self._world, IMAGES, wanted, revision)

    async def _autoscaler(self, revision: Obj, deployment: Obj) -> Obj:
        wanted = make_podautoscaler.make(revision, deployment)
        present = self._autoscalers.get(meta.name(wanted), meta.namespace(wanted))
        if present is None:
            return await children.create(self._world, POD_AUTOSCALERS, wanted, revision)
        self._check_owner(present, revision, POD_AUTOSCALERS.kind)
        # Class and metric are settled when the PodAutoscaler is made (by its own defaulting where the user said
        # nothing); everything else follows the Revision, so that e.g. min-scale can be changed on a living one.
        settled = (*keys.AUTOSCALER_CLASS, *keys.METRIC)
        annotations = without(meta.annotations(wanted), settled) | {
            key: value for key, value in meta.annotations(present).items() if key in settled
        }
        if children.equal(present.get("spec"), wanted["spec"]) and meta.annotations(present) == annotations:
            return present
        return await children.update(
            self._world, POD_AUTOSCALERS, present, spec=wanted["spec"], annotations=annotations
        )

    def _check_owner(self, child: Obj, revision: Obj, kind: str) -> None:
        if not meta.is_controlled_by(child, revision):
            raise children.NotOwned(
                f'revision: "{meta.name(revision)}" does not own {kind.lower()}: "{meta.name(child)}"'
            )


def _container_status(container: Obj, digests: Mapping[str, str]) -> Obj:
    made = {"name": container.get("name", "")}
    if digest := digests.get(made["name"]):
        made["imageDigest"] = digest
    return made


def _revision_of(pod: Obj) -> list[str]:
    name = meta.labels(pod).get(keys.REVISION)
    return [f"{meta.namespace(pod)}/{name}"] if name else []


def _in_trouble(pod: Obj) -> bool:
    scheduled = meta.condition(pod, "PodScheduled")
    if scheduled is not None and scheduled["status"] == "False":
        return True
    return any(
        meta.at(status, "lastState", "terminated")
        or (meta.at(status, "state", "waiting", "reason") or "Pod") not in _NORMAL
        for status in meta.at(pod, "status", "containerStatuses", default=[])
    )


_NORMAL = ("ContainerCreating", "PodInitializing", "Pod")
