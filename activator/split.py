"""Exact weighted splits: of every ten requests of a 90/10 split, exactly one goes to the tenth.

Smooth weighted round robin, computed once: weights repeat after `sum / gcd` picks, so the whole rotation is a list
and a pick is an index. Percentages give at most 100 entries. Shares are exact per split object; several activators
each keep their own rotation.
"""

import math
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

__all__ = ["LONGEST", "Rotation", "smooth"]

T = TypeVar("T")

LONGEST: Final = 10_000
"""Picks until a rotation repeats, at most: parts in ten thousand are fine enough for anybody, and whoever writes a
KIngress by hand must not choose how much memory it takes."""


def smooth(weights: Sequence[int]) -> list[int]:
    """The rotation of indexes for `weights` (not negative, not all zero), each index as evenly spread as can be.

    9, 1 gives 0 0 0 0 0 1 0 0 0 0: the picks of a small share never come in a bunch.
    """
    divisor = math.gcd(*weights)
    steps = [weight // divisor for weight in weights]
    total = sum(steps)
    current = [0] * len(steps)
    rotation = []
    for _ in range(total):
        for index, step in enumerate(steps):
            current[index] += step
        best = max(range(len(steps)), key=current.__getitem__)
        current[best] -= total
        rotation.append(best)
    return rotation


class Rotation(Generic[T]):
    """Picks one of several targets in exact proportion to its weight.

    Args:
        targets: (target, weight) pairs; those of weight 0 are never picked, unless it is the only one.
    Raises:
        ValueError: no target, all weights are 0 and there are several, or weights so odd that the rotation would be
            longer than `LONGEST`.
    """

    __slots__ = ("_next", "_rotation", "targets")

    def __init__(self, targets: Sequence[tuple[T, int]]) -> None:
        if len(targets) == 1:
            self._rotation = [targets[0][0]]
        else:
            weights = [max(0, weight) for _, weight in targets]
            total = sum(weights)
            if not total:
                raise ValueError("a split needs a target with a share above 0 %")
            if total // math.gcd(*weights) > LONGEST:
                raise ValueError(f"the weights of a split add up to more than {LONGEST}")
            self._rotation = [targets[index][0] for index in smooth(weights)]
        self.targets = tuple(target for target, _ in targets)
        self._next = 0

    def pick(self) -> T:
        """The next target."""
        index = self._next
        self._next = index + 1 if index + 1 < len(self._rotation) else 0
        return self._rotation[index]
