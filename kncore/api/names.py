"""Derived names: children of objects, members of a bucket set, the pods an activator samples.

All of it must give the same answer in every replica and every release, because two processes meet by computing the
same name. The hashes below are therefore part of the wire format.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Collection
from typing import Final

__all__ = ["autoscaler_buckets", "bucket_names", "child_name", "choose_subset", "owner_bucket", "private_service_name"]

_LONGEST: Final = 63  # a DNS label
_HEAD: Final = _LONGEST - 32  # what a hexadecimal MD5 leaves of it
_CIRCLE: Final = 2048  # points on the hash circle


def child_name(parent: str, suffix: str) -> str:
    """The name of a child object: `parent + suffix`, shortened with a hash to 63 characters when it would be longer.

    Source: knative.dev/pkg kmeta/names.go, ChildName.
    """
    if len(parent) + len(suffix) <= _LONGEST:
        return parent + suffix
    if len(suffix) >= _HEAD:
        # Not even the suffix fits beside a hash, so the hash covers both and a long suffix only pads what is left.
        made = parent[:_HEAD] + _md5(parent + suffix)
        return _trimmed(made + suffix[: _LONGEST - len(made)])
    return _trimmed(parent[: _HEAD - len(suffix)] + _md5(parent) + suffix)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _trimmed(made: str) -> str:
    """Without the non-alphanumeric tail that cutting may leave: a name must not end in one."""
    while made and not (made[-1].isascii() and made[-1].isalnum()):
        made = made[:-1]
    return made


def private_service_name(revision: str) -> str:
    """The Service that always selects the revision's pods; its endpoints are what the activator sends to."""
    return child_name(revision, "-private")


def bucket_names(prefix: str, count: int) -> list[str]:
    """`<prefix>.NN-of-MM` for each bucket of a controller's leader election (serving §8.4)."""
    return [f"{prefix}.{i:02d}-of-{count:02d}" for i in range(count)]


def autoscaler_buckets(count: int) -> list[str]:
    """The autoscaler's buckets, also names of Leases and Services (serving §4.12)."""
    return [f"autoscaler-bucket-{i:02d}-of-{count:02d}" for i in range(count)]


def owner_bucket(buckets: Collection[str], key: str) -> str:
    """The bucket that owns `namespace/name`; `buckets` must not be empty."""
    (owner,) = choose_subset(buckets, 1, key)
    return owner


def _fnv1a(text: str) -> int:
    """64-bit FNV-1a."""
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def choose_subset(from_: Collection[str], n: int, target: str) -> set[str]:
    """`n` members of `from_`, the same for every caller, spread evenly over targets and stable when members come and
    go.

    Members are put on a circle of 2048 points, by a hash that includes the target; from a start angle the circle is
    walked in steps, both derived from the target, taking the next free member each time.

    Source: knative.dev/pkg hash/hash.go, ChooseSubset.
    """
    if n >= len(from_):
        return set(from_)
    by_point: dict[int, str] = {}
    for member in sorted(from_):
        salted = member + target
        h = _fnv1a(salted)
        while h % _CIRCLE in by_point:
            salted += f"{h:x}"
            h = _fnv1a(salted)
        by_point[h % _CIRCLE] = member
    points = sorted(by_point)
    angle = _fnv1a(target + "start-angle-salt") % _CIRCLE
    step = _fnv1a(target + "step-angle-salt") % _CIRCLE
    chosen: set[str] = set()
    while len(chosen) < n:
        i = bisect_left(points, angle) % len(points)
        while by_point[points[i]] in chosen:
            i = (i + 1) % len(points)
        chosen.add(by_point[points[i]])
        angle = (angle + step) % _CIRCLE
    return chosen
