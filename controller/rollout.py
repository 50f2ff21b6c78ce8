"""Moves traffic to a new latest revision step by step.

The whole state is one JSON document kept in an annotation of the KIngress, so a controller that restarts goes on where
the last one stopped. `step` compares the goal (everything on the newest revision) with the state in force and says
what to program now; `observe` plans the steps once the ingress has shown that the first 1 % is served. Both are pure:
times come in as Unix nanoseconds and the caller schedules the next reconcile for the returned time.

Source: serving §1.11 and §10.1.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

__all__ = ["ConfigurationRollout", "Rollout", "Share", "observe", "step"]

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Share:
    """Percent of the Route's traffic that one revision gets."""

    revision: str
    percent: int


@dataclass(frozen=True, kw_only=True)
class ConfigurationRollout:
    """Where the share of one (tag, Configuration) stands."""

    configuration: str
    percent: int
    """What the Route gives to this Configuration in this tag's group; the shares sum to it."""
    tag: str = ""
    revisions: tuple[Share, ...] = ()
    """Oldest first; the last is the goal."""
    started_ns: int = 0
    """When the newest revision got its first percent, Unix ns; 0 = no rollout."""
    next_step_ns: int = 0
    """Unix ns of the next step; 0 = steps not planned yet."""
    step_duration_ns: int = 0
    step_size: int = 0
    """Percent moved per step."""

    @property
    def done(self) -> bool:
        """True when at most one revision is left."""
        return len(self.revisions) < 2

    @property
    def valid(self) -> bool:
        """False for state that cannot have been written by us and must not steer traffic."""
        return (
            self.percent <= 100
            and 0 <= self.step_size <= self.percent
            and sum(share.percent for share in self.revisions) == self.percent
        )


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """State of all Configurations of one Route, sorted by tag then Configuration name."""

    configurations: tuple[ConfigurationRollout, ...] = ()

    @classmethod
    def of(cls, configurations: Iterable[ConfigurationRollout]) -> Self:
        """A rollout with its parts in order."""
        return cls(configurations=tuple(sorted(configurations, key=_key)))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """State from the annotation; None when it is not a rollout or not valid (it is then started afresh)."""
        try:
            made = cls.from_object(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return made if made.valid else None

    @classmethod
    def from_object(cls, data: dict[str, Any]) -> Self:
        """State from its JSON object.

        Raises:
            KeyError, TypeError, AttributeError: the object has another shape.
        """
        return cls(configurations=tuple(_from_object(item) for item in data.get("configurations") or []))

    def to_object(self) -> dict[str, Any]:
        """The JSON object with empty fields left out, keys in the order Knative writes them."""
        if not self.configurations:
            return {}
        return {"configurations": [_to_object(item) for item in self.configurations]}

    def dump(self) -> str:
        """The annotation's value."""
        return json.dumps(self.to_object(), separators=(",", ":"))

    @property
    def done(self) -> bool:
        """True when no Configuration is rolling out."""
        return all(item.done for item in self.configurations)

    @property
    def valid(self) -> bool:
        """False when any part is not valid."""
        return all(item.valid for item in self.configurations)

    def by_tag(self, tag: str) -> tuple[ConfigurationRollout, ...]:
        """The Configurations of one tag's group."""
        return tuple(item for item in self.configurations if item.tag == tag)


def step(goal: Rollout, stored: Rollout | None, now_ns: int) -> tuple[Rollout, int]:
    """What to program now, and when to come back.

    Args:
        goal: every Configuration with all of its percent on its newest revision.
        stored: the state in force; None for a Route seen for the first time.
    Returns:
        the new state and the Unix ns of the earliest planned step, 0 when nothing is planned.
    """
    if stored is None or not stored.configurations:
        return goal, 0
    present = {_key(item): item for item in stored.configurations}
    stepped = Rollout.of(
        _step(wanted, present.get(_key(wanted)), now_ns) for wanted in goal.configurations if wanted.percent
    )
    planned = [item.next_step_ns for item in stepped.configurations if item.next_step_ns]
    return stepped, min(planned, default=0)


def observe(state: Rollout, now_ns: int, duration: float) -> Rollout:
    """Plan the steps of rollouts that have begun, now that the ingress serves them.

    The time from start to now is what one step takes at least (programming and pod start included), so steps are never
    planned closer together than that.

    Args:
        duration: length of the whole rollout, seconds.
    """
    return replace(state, configurations=tuple(_plan(item, now_ns, duration) for item in state.configurations))


def _step(goal: ConfigurationRollout, stored: ConfigurationRollout | None, now_ns: int) -> ConfigurationRollout:
    # A share of 1 % cannot be divided; a Configuration or tag that is new has nothing to come from.
    if stored is None or not stored.revisions or goal.percent <= 1:
        return goal
    newest = goal.revisions[-1].revision
    current = _adjust(stored, goal.percent)
    if current.revisions[-1].revision != newest:
        return _begin(current, newest, now_ns)
    if current.done:
        return goal
    if current.next_step_ns and now_ns >= current.next_step_ns:
        return _advance(current, now_ns)
    return current


def _adjust(stored: ConfigurationRollout, percent: int) -> ConfigurationRollout:
    """The stored shares brought to a new total: growth goes to the newest, cuts come from the oldest."""
    shares = list(stored.revisions)
    difference = percent - sum(share.percent for share in shares)
    if difference > 0:
        shares[-1] = replace(shares[-1], percent=shares[-1].percent + difference)
    index = 0
    while difference < 0:
        cut = min(shares[index].percent, -difference)
        shares[index] = replace(shares[index], percent=shares[index].percent - cut)
        difference += cut
        index += 1
    return replace(stored, percent=percent, revisions=_nonzero(shares))


def _begin(current: ConfigurationRollout, newest: str, now_ns: int) -> ConfigurationRollout:
    """Give a new revision its first percent, taken from the newest that has one to give."""
    shares = list(current.revisions)
    giver = max(index for index, share in enumerate(shares) if share.percent > 0)
    shares[giver] = replace(shares[giver], percent=shares[giver].percent - 1)
    return replace(
        current,
        revisions=(*_nonzero(shares), Share(revision=newest, percent=1)),
        started_ns=now_ns,
        next_step_ns=0,
        step_duration_ns=0,
        step_size=0,
    )


def _advance(current: ConfigurationRollout, now_ns: int) -> ConfigurationRollout:
    shares = list(current.revisions)
    wanted = min(current.step_size, current.percent - shares[-1].percent)
    left = wanted
    for index in range(len(shares) - 2, -1, -1):
        taken = min(shares[index].percent, left)
        shares[index] = replace(shares[index], percent=shares[index].percent - taken)
        left -= taken
    shares[-1] = replace(shares[-1], percent=shares[-1].percent + wanted - left)
    moved = replace(current, revisions=_nonzero(shares), next_step_ns=now_ns + current.step_duration_ns)
    return _finished(moved) if moved.done else moved


def _plan(item: ConfigurationRollout, now_ns: int, duration: float) -> ConfigurationRollout:
    if item.done or not item.started_ns or item.next_step_ns:
        return item
    shortest = max(1.0, math.ceil((now_ns - item.started_ns) / _SECOND_NS))
    length = max(1.0, duration - shortest)
    to_move = item.percent - 1
    # The newest revision may be past its first percent already when the Route's own percent grew meanwhile.
    steps = min(float(to_move), max(1.0, length / shortest))
    step_ns = length * _SECOND_NS / steps
    return replace(
        item,
        step_size=_round(to_move / steps),
        step_duration_ns=int(step_ns),
        next_step_ns=int(float(now_ns) + step_ns),
    )


def _finished(item: ConfigurationRollout) -> ConfigurationRollout:
    return replace(item, started_ns=0, next_step_ns=0, step_duration_ns=0, step_size=0)


def _nonzero(shares: Sequence[Share]) -> tuple[Share, ...]:
    return tuple(share for share in shares if share.percent > 0)


def _round(value: float) -> int:
    """Half away from zero, unlike `round`."""
    return math.floor(value + 0.5)


def _key(item: ConfigurationRollout) -> tuple[str, str]:
    return item.tag, item.configuration


def _from_object(data: dict[str, Any]) -> ConfigurationRollout:
    steps = data.get("stepParams") or {}
    return ConfigurationRollout(
        configuration=data["configurationName"],
        tag=data.get("tag", ""),
        percent=int(data.get("percent", 0)),
        revisions=tuple(
            Share(revision=item["revisionName"], percent=int(item["percent"])) for item in data.get("revisions") or []
        ),
        started_ns=int(steps.get("starttime", 0)),
        next_step_ns=int(steps.get("nextStepTime", 0)),
        step_duration_ns=int(steps.get("stepDuration", 0)),
        step_size=int(steps.get("stepSize", 0)),
    )


def _to_object(item: ConfigurationRollout) -> dict[str, Any]:
    made: dict[str, Any] = {"configurationName": item.configuration}
    if item.tag:
        made["tag"] = item.tag
    made["percent"] = item.percent
    if item.revisions:
        made["revisions"] = [{"revisionName": s.revision, "percent": s.percent} for s in item.revisions]
    steps = {
        "starttime": item.started_ns,
        "nextStepTime": item.next_step_ns,
        "stepDuration": item.step_duration_ns,
        "stepSize": item.step_size,
    }
    made["stepParams"] = {key: value for key, value in steps.items() if value}
    return made
