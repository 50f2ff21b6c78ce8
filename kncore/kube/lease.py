"""Who works on which key: leader election over Leases, in buckets.

The keys of a reconciler are divided among B buckets by a hash that every replica computes alike; each bucket has a
Lease, and the replica that holds it works on the bucket's keys. A replica that dies is replaced when its Lease has not
changed for `lease_duration`; one that stops cleanly releases its Leases, and is replaced at the next try.

    not held --created, or free, or unchanged for lease_duration--> held --renewed every retry_period--> held
    held --not renewed within renew_deadline--> not held

Whether a Lease is stale is judged by how long *we* have watched it stand still, never by the times written in it:
clocks differ. A Lease gives no mutual exclusion (its holder may be paused at any line), so every write that matters
still carries a resource version; the Lease only keeps replicas from doing the same work twice.

Source: client-go tools/leaderelection; knative.dev/pkg leaderelection (serving §3.9, §4.12, §8.4).
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol, TypeAlias

from kncore.api.names import owner_bucket
from kncore.api.resources import LEASES
from kncore.clock import Clock, SystemClock
from kncore.kube.client import Client, Key, Obj
from kncore.kube.errors import AlreadyExists, ApiError, Conflict, NotFound

__all__ = ["AlwaysLeader", "BucketStatistics", "Elector", "FixedLeader", "Leader", "OnChange", "Timing"]

logger = logging.getLogger(__name__)

OnChange: TypeAlias = Callable[[str, bool], None]
"""Called with a bucket and whether it was gained (True) or lost."""

# Followers ask a little irregularly, so that they do not all race for a Lease at the moment it becomes free.
_JITTER = 1.2
_RELEASE_TIMEOUT = 2.0  # seconds; shutdown must not wait long for a server that may be gone as well


class Leader(Protocol):
    """Tells a reconciler which keys are its own."""

    def owns(self, key: Key) -> bool:
        """Whether this process works on the key now."""

    def subscribe(self, changed: OnChange) -> None:
        """Be told when a bucket is gained or lost; a gained bucket's keys must be looked at anew."""


class AlwaysLeader:
    """The leader of everything: a single replica needs no election."""

    def owns(self, key: Key) -> bool:
        """True."""
        return True

    def subscribe(self, changed: OnChange) -> None:
        """Nothing ever changes."""


class FixedLeader:
    """The owner of given buckets for good: replicas of a StatefulSet divide them by ordinal, without Leases."""

    def __init__(self, buckets: Collection[str], owned: Collection[str]) -> None:
        self._buckets = tuple(buckets)
        self._owned = frozenset(owned)

    def owns(self, key: Key) -> bool:
        """Whether the key's bucket is one of ours."""
        return owner_bucket(self._buckets, str(key)) in self._owned

    def subscribe(self, changed: OnChange) -> None:
        """Nothing ever changes."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """ConfigMap config-leader-election, in seconds; the three must grow in the order below."""

    retry_period: float = 10.0
    """Between attempts to get a Lease, and between renewals of one's own."""
    renew_deadline: float = 40.0
    """A holder that could not renew for this long stops working."""
    lease_duration: float = 60.0
    """A Lease that stood still for this long is up for grabs; above the deadline, so that its old holder has
    stopped."""


@dataclass(frozen=True, kw_only=True)
class BucketStatistics:
    """One bucket as this replica sees it."""

    held: bool
    holder: str
    """Identity in the Lease; empty if free or not seen yet."""
    renewals: int
    failures: int


class _Bucket:
    """One Lease: what we saw of it, and whether it is ours."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lease: Obj | None = None
        self.changed_at = float("-inf")
        """Loop time at which we first saw the Lease in its present state."""
        self.renewed_at = float("-inf")
        """Loop time before the request that made or kept it ours."""
        self.held = False
        self.renewals = 0
        self.failures = 0

    @property
    def holder(self) -> str:
        spec = (self.lease or {}).get("spec") or {}
        return spec.get("holderIdentity") or ""

    def see(self, lease: Obj, now: float) -> None:
        if self.lease is None or self.lease["metadata"].get("resourceVersion") != lease["metadata"].get(
            "resourceVersion"
        ):
            self.changed_at = now
        self.lease = lease


class Elector:
    """Holds as many of the buckets as nobody else holds, while `run` runs.

    Args:
        client: where the Leases live.
        buckets: names of all buckets, equal in all replicas; also the names of the Leases.
        identity: who we are, unique among replicas; the autoscaler's is `<pod>_<ip>`.
        namespace: where the Leases live, the system namespace.
        timing: how fast leadership moves.
        clock: for the times written into Leases; durations come from the event loop.
    """

    def __init__(
        self,
        client: Client,
        buckets: Sequence[str],
        *,
        identity: str,
        namespace: str,
        timing: Timing | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = f"elector {buckets[0]}"
        self._client = client
        self._buckets = {name: _Bucket(name) for name in buckets}
        self._identity = identity
        self._namespace = namespace
        self._timing = timing or Timing()
        self._clock = clock or SystemClock()
        self._subscribers: list[OnChange] = []
        names = tuple(buckets)
        self._bucket_of = lru_cache(maxsize=16384)(lambda key: owner_bucket(names, key))

    def bucket(self, key: Key) -> str:
        """The bucket that a key belongs to."""
        return self._bucket_of(str(key))

    def owns(self, key: Key) -> bool:
        """Whether the key's bucket is ours, and was renewed recently enough to be sure of it."""
        bucket = self._buckets[self._bucket_of(str(key))]
        now = asyncio.get_running_loop().time()
        return bucket.held and now - bucket.renewed_at < self._timing.lease_duration

    def holds(self, bucket: str) -> bool:
        """Whether this bucket is ours."""
        return self._buckets[bucket].held

    def holder(self, bucket: str) -> str:
        """The identity that holds the bucket as far as we know; empty if nobody does."""
        return self._buckets[bucket].holder

    def subscribe(self, changed: OnChange) -> None:
        """Call `changed(bucket, gained)` at every change, and now for each bucket held already."""
        self._subscribers.append(changed)
        for bucket in self._buckets.values():
            if bucket.held:
                changed(bucket.name, True)

    def statistics(self) -> dict[str, BucketStatistics]:
        """Each bucket by name."""
        return {
            name: BucketStatistics(
                held=bucket.held, holder=bucket.holder, renewals=bucket.renewals, failures=bucket.failures
            )
            for name, bucket in self._buckets.items()
        }

    async def run(self) -> None:
        """Compete until cancelled, then release what is held."""
        try:
            async with asyncio.TaskGroup() as group:
                for bucket in self._buckets.values():
                    group.create_task(self._compete(bucket), name=f"lease {bucket.name}")
        finally:
            held = [bucket for bucket in self._buckets.values() if bucket.held]
            for bucket in held:
                self._lose(bucket)
            await self._release(held)

    async def _compete(self, bucket: _Bucket) -> None:
        loop = asyncio.get_running_loop()
        timing = self._timing
        while True:
            try:
                # A silent server must not keep us from noticing that the deadline passed.
                async with asyncio.timeout(timing.retry_period):
                    await self._try(bucket)
            except (ApiError, TimeoutError) as exc:
                bucket.failures += 1
                logger.debug("lease not renewed", extra={"lease": bucket.name, "error": str(exc)})
            if bucket.held:
                if loop.time() - bucket.renewed_at >= timing.renew_deadline:
                    self._lose(bucket)
                await asyncio.sleep(timing.retry_period)
            else:
                await asyncio.sleep(timing.retry_period * (1.0 + random.random() * _JITTER))

    async def _try(self, bucket: _Bucket) -> None:
        """Renew the Lease, or take it if it is free; ApiError says that it could not be done this time."""
        loop = asyncio.get_running_loop()
        if not bucket.held or bucket.lease is None:
            try:
                lease = await self._client.get(LEASES, bucket.name, self._namespace)
            except NotFound:
                started = loop.time()
                try:
                    lease = await self._client.create(LEASES, self._write(bucket, None), self._namespace)
                except AlreadyExists:
                    return  # another replica was faster
                self._gain(bucket, lease, started)
                return
            bucket.see(lease, loop.time())
            free = not bucket.holder or bucket.holder == self._identity
            if not free and loop.time() - bucket.changed_at < self._timing.lease_duration:
                return
        started = loop.time()
        try:
            lease = await self._client.update(LEASES, self._write(bucket, bucket.lease))
        except (Conflict, NotFound) as exc:
            # Somebody else wrote it. Read it next time; until then we are the holder only as far as the deadline says.
            if bucket.held:
                await self._reread(bucket)
            raise exc
        self._gain(bucket, lease, started)

    async def _reread(self, bucket: _Bucket) -> None:
        loop = asyncio.get_running_loop()
        try:
            bucket.see(await self._client.get(LEASES, bucket.name, self._namespace), loop.time())
        except NotFound:
            bucket.lease = None
        if bucket.holder not in ("", self._identity):
            self._lose(bucket)

    def _write(self, bucket: _Bucket, old: Obj | None) -> Obj:
        """The Lease as we want it: held by us from now on."""
        now = datetime.fromtimestamp(self._clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = (old or {}).get("spec") or {}
        ours = before.get("holderIdentity") == self._identity
        spec = before | {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._timing.lease_duration),
            "acquireTime": before.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", 0) + (0 if ours or old is None else 1),
        }
        if old is None:
            meta = {"name": bucket.name, "namespace": self._namespace}
            return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": meta, "spec": spec}
        return old | {"spec": spec}

    def _gain(self, bucket: _Bucket, lease: Obj, started: float) -> None:
        bucket.see(lease, started)
        bucket.renewed_at = started
        bucket.renewals += 1
        if not bucket.held:
            bucket.held = True
            logger.info("became leader", extra={"lease": bucket.name, "identity": self._identity})
            for changed in self._subscribers:
                changed(bucket.name, True)

    def _lose(self, bucket: _Bucket) -> None:
        bucket.held = False
        logger.info("no longer leader", extra={"lease": bucket.name, "holder": bucket.holder})
        for changed in self._subscribers:
            changed(bucket.name, False)

    async def _release(self, held: Sequence[_Bucket]) -> None:
        """Tell the others at once that these Leases are free; best effort, they find out anyway."""
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                for bucket in held:
                    if bucket.lease is None:
                        continue
                    spec = bucket.lease["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1}
                    bucket.lease = await self._client.update(LEASES, bucket.lease | {"spec": spec})
        except (ApiError, TimeoutError) as exc:
            logger.debug("lease not released", extra={"error": str(exc)})
