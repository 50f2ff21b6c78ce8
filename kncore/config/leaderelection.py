"""ConfigMap config-leader-election: how replicas divide the work (serving §3.9)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from kncore.config.reader import Reader

__all__ = ["MAX_BUCKETS", "LeaderElection"]

MAX_BUCKETS: Final = 10
_PREFIX: Final = "map-lease-prefix."


@dataclass(frozen=True, kw_only=True)
class LeaderElection:
    """Leases and buckets. Seconds."""

    lease_duration: float = 60.0
    """A lease not renewed for so long may be taken over."""
    renew_deadline: float = 40.0
    """A holder that could not renew for so long stops working."""
    retry_period: float = 10.0
    buckets: int = 1
    """Shares the keys are divided into, 1..10."""
    lease_names_prefix_mapping: Mapping[str, str] = field(default_factory=dict)
    """Reconciler to the prefix of its leases' names, where not the default."""

    @classmethod
    def parse(cls, data: Mapping[str, str]) -> Self:
        """The configuration in a ConfigMap's data.

        Raises:
            InvalidConfig: naming every bad key.
        """
        read = Reader(data)
        lease = read.duration("leaseDuration", cls.lease_duration)
        renew = read.duration("renewDeadline", cls.renew_deadline)
        retry = read.duration("retryPeriod", cls.retry_period)
        lease = read.duration("lease-duration", lease)
        renew = read.duration("renew-deadline", renew)
        retry = read.duration("retry-period", retry)
        buckets = read.uint32("buckets", cls.buckets)
        read.check(
            1 <= buckets <= MAX_BUCKETS, f"buckets: value must be between 1 <= {buckets} <= {MAX_BUCKETS}", "buckets"
        )
        read.finish()
        return cls(
            lease_duration=lease,
            renew_deadline=renew,
            retry_period=retry,
            buckets=buckets,
            lease_names_prefix_mapping={
                key.removeprefix(_PREFIX): value for key, value in data.items() if key.startswith(_PREFIX)
            },
        )
