"""Image tags -> digests, in the background, so that a slow registry holds up no reconcile.

    reconcile --lookup--> pending --worker--> resolver (registry, images file) --> answer --wake--> reconcile again

A Revision's images are resolved together, once; the answer is kept until the Revision has taken it (`forget`). A
failure is kept as well, and tried again after 1 s, 2 s, ... 1000 s; meanwhile the Revision shows the last failure, not
"resolving". How a tag is resolved is the `DigestResolver`'s business. Source: serving §1.9.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kncore.api import meta
from kncore.api.meta import Obj
from kncore.errors import KnError
from kncore.kube.client import Key
from kncore.kube.workqueue import WorkQueue

__all__ = [
    "DigestResolver",
    "Digests",
    "Failure",
    "Images",
    "ResolveError",
    "Statistics",
    "TagsAsTheyAre",
    "registry_of",
]

logger = logging.getLogger(__name__)

_WORKERS = 100
_FIRST_RETRY = 1.0  # seconds, doubling
_LAST_RETRY = 1000.0


class ResolveError(KnError):
    """An image that cannot be found, or a registry that cannot be asked; the message goes to the user."""


class DigestResolver(Protocol):
    """Finds out what a tag stands for now."""

    async def resolve(
        self, image: str, *, namespace: str, service_account: str, pull_secrets: Sequence[str], deadline: float
    ) -> str:
        """`repository@sha256:...` of the image.

        Args:
            namespace, service_account, pull_secrets: whose credentials to use.
            deadline: loop time by which to answer.
        Raises:
            ResolveError: there is no such image, or nobody can tell.
        """


class TagsAsTheyAre:
    """Leaves tags to the container engine: a Revision then runs whatever the tag means when a pod starts.

    For clusters without a resolver that asks registries.
    """

    async def resolve(
        self, image: str, *, namespace: str, service_account: str, pull_secrets: Sequence[str], deadline: float
    ) -> str:
        """The image as it was written."""
        return image


@dataclass(frozen=True, kw_only=True)
class Images:
    """Digests by container name; "" where the tag is used as it is."""

    containers: Mapping[str, str]
    init_containers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The first image that could not be resolved, and why."""

    image: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the background resolution holds."""

    pending: int
    """Revisions waiting for their first answer."""
    failing: int
    answered: int
    """Answers not yet taken."""
    resolved: int
    """Images resolved since the start."""


@dataclass
class _Entry:
    revision: Obj
    timeout: float
    wanted: list[tuple[bool, str, str]]
    """(is an init container, container name, image) still to be resolved."""
    found: dict[tuple[bool, str], str]
    failure: Failure | None = None
    done: bool = False


class Digests:
    """Resolves the images of many Revisions at once.

    Args:
        resolver: how.
        wake: called with a Revision's key when its answer, or a new failure, is there.
    """

    name = "digests"

    def __init__(self, resolver: DigestResolver, wake: Callable[[Key], None], *, workers: int = _WORKERS) -> None:
        self._resolver = resolver
        self._wake = wake
        self._workers = workers
        self._queue: WorkQueue[Key] = WorkQueue(base=_FIRST_RETRY, cap=_LAST_RETRY)
        self._entries: dict[Key, _Entry] = {}
        self._resolved = 0

    def lookup(self, revision: Obj, *, skip_registries: Collection[str], timeout: float) -> Images | Failure | None:
        """The Revision's digests, why there are none, or None while they are being looked for.

        Args:
            skip_registries: registries whose tags are used as they are.
            timeout: seconds per image.
        """
        key = Key.of(revision)
        entry = self._entries.get(key)
        if entry is None or meta.uid(entry.revision) != meta.uid(revision):
            entry = _entry(revision, skip_registries, timeout)
            if not entry.wanted:
                return _images(entry)
            self._entries[key] = entry
            self._queue.forget(key)
            self._queue.add(key)
        if entry.done:
            return _images(entry)
        return entry.failure

    def forget(self, key: Key) -> None:
        """The Revision has its digests, or is gone."""
        self._entries.pop(key, None)
        self._queue.forget(key)

    async def run(self) -> None:
        """Resolve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(), name=f"digest {number}")
        finally:
            self._queue.close()

    def statistics(self) -> Statistics:
        """Counts of Revisions by state, and of images."""
        entries = self._entries.values()
        return Statistics(
            pending=sum(not entry.done and entry.failure is None for entry in entries),
            failing=sum(not entry.done and entry.failure is not None for entry in entries),
            answered=sum(entry.done for entry in entries),
            resolved=self._resolved,
        )

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                entry = self._entries.get(key)
                if entry is not None and not entry.done:
                    await self._resolve(key, entry)
            finally:
                self._queue.done(key)

    async def _resolve(self, key: Key, entry: _Entry) -> None:
        spec = entry.revision.get("spec", {})
        before = entry.failure
        while entry.wanted:
            init, container, image = entry.wanted[0]
            deadline = asyncio.get_running_loop().time() + entry.timeout
            try:
                async with asyncio.timeout_at(deadline):
                    found = await self._resolver.resolve(
                        image,
                        namespace=meta.namespace(entry.revision),
                        service_account=spec.get("serviceAccountName") or "default",
                        pull_secrets=[secret["name"] for secret in spec.get("imagePullSecrets") or []],
                        deadline=deadline,
                    )
            except (ResolveError, TimeoutError) as exc:
                text = str(exc) or f"no answer within {entry.timeout:g} s"
                entry.failure = Failure(image=image, message=text)
                if self._entries.get(key) is entry:
                    self._queue.retry(key)
                    logger.warning("image not resolved", extra={"key": str(key), "image": image, "error": text})
                    if entry.failure != before:
                        self._wake(key)
                return
            entry.found[init, container] = found
            entry.wanted.pop(0)
            self._resolved += 1
        entry.done = True
        self._queue.forget(key)
        if self._entries.get(key) is entry:
            self._wake(key)


def registry_of(image: str) -> str:
    """The registry part of an image name; the one every engine assumes when there is none."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return "index.docker.io"


def _entry(revision: Obj, skip_registries: Collection[str], timeout: float) -> _Entry:
    made = _Entry(revision=revision, timeout=timeout, wanted=[], found={})
    for init, field_name in ((True, "initContainers"), (False, "containers")):
        for container in meta.at(revision, "spec", field_name, default=[]):
            name, image = container.get("name", ""), container.get("image", "")
            if "@sha256:" in image:
                made.found[init, name] = image
            elif registry_of(image) in skip_registries:
                made.found[init, name] = ""
            else:
                made.wanted.append((init, name, image))
    return made


def _images(entry: _Entry) -> Images:
    return Images(
        containers={name: image for (init, name), image in entry.found.items() if not init},
        init_containers={name: image for (init, name), image in entry.found.items() if init},
    )
