"""Status conditions: how the parts of an object's state add up to Ready.

A kind has one happy condition and the dependents it is computed from; any other condition is informational. Marking a
dependent also updates the happy one, so a reconciler only says what it saw. `lastTransitionTime` moves when anything
but the time changed, and the autoscaler measures "active since" by it; hence the frame `pre_process` ...
`post_process`, which gives all changes of one reconcile one time and leaves what flipped back and forth untouched.

Source: knative.dev/pkg apis/condition_set.go and reconciler/reconcile_common.go (serving §1.6).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kncore.errors import KnError

__all__ = ["SETS", "ConditionSet", "Conditions", "TerminalCondition", "manage", "post_process", "pre_process"]

Condition = dict[str, Any]

_NEW_GENERATION: Final = ("NewObservedGenFailure", "unsuccessfully observed a new generation")


class TerminalCondition(KnError):
    """The happy condition and its dependents always exist; they cannot be cleared."""

    def __init__(self, type_: str) -> None:
        super().__init__("clearing terminal conditions not implemented")
        self.type = type_


@dataclass(frozen=True)
class ConditionSet:
    """Which conditions a kind has: `happy` sums up `dependents`; others are informational."""

    dependents: tuple[str, ...] = ()
    happy: str = "Ready"

    def __post_init__(self) -> None:
        """Repeated dependents and the happy condition itself count once, or never: they are counted to find missing
        ones.
        """
        unique = tuple(type_ for type_ in dict.fromkeys(self.dependents) if type_ != self.happy)
        object.__setattr__(self, "dependents", unique)

    def severity(self, type_: str) -> str:
        """ "" (error) for conditions that decide about the happy one, "Info" for all others."""
        return "" if type_ == self.happy or type_ in self.dependents else "Info"


SETS: Final[Mapping[str, ConditionSet]] = {
    "Service": ConditionSet(("ConfigurationsReady", "RoutesReady")),
    "Configuration": ConditionSet(),
    "Revision": ConditionSet(("ResourcesAvailable", "ContainerHealthy")),
    "Route": ConditionSet(("AllTrafficAssigned", "IngressReady", "CertificateProvisioned")),
    "DomainMapping": ConditionSet(("DomainClaimed", "ReferenceResolved", "IngressReady", "CertificateProvisioned")),
    "PodAutoscaler": ConditionSet(("Active", "ScaleTargetInitialized", "SKSReady")),
    "Metric": ConditionSet(),
    "ServerlessService": ConditionSet(("EndpointsPopulated",)),
    "Ingress": ConditionSet(("NetworkConfigured", "LoadBalancerReady")),
    "Certificate": ConditionSet(),
}


class Conditions:
    """The conditions of one status, changed in place.

    Args:
        set_: the kind's rules.
        status: the object's `status`; only its `conditions` are touched, kept sorted by type. The entries already
            there are never modified, so a shallow copy of the list is enough to compare with later.
        now: RFC 3339 time given to every condition that changes.
    """

    def __init__(self, set_: ConditionSet, status: dict[str, Any], now: str) -> None:
        self._set = set_
        self._status = status
        self._now = now

    def _stored(self) -> list[Condition]:
        return self._status.get("conditions") or []

    def get(self, type_: str) -> Condition | None:
        """The condition of that type, or None."""
        for entry in self._stored():
            if entry["type"] == type_:
                return entry
        return None

    def is_true(self, type_: str) -> bool:
        return self._has(type_, "True")

    def is_false(self, type_: str) -> bool:
        return self._has(type_, "False")

    def is_unknown(self, type_: str) -> bool:
        """Whether it is Unknown; a missing condition is unknown too."""
        return self.get(type_) is None or self._has(type_, "Unknown")

    def is_happy(self) -> bool:
        return self.is_true(self._set.happy)

    def _has(self, type_: str, status: str) -> bool:
        found = self.get(type_)
        return found is not None and found.get("status") == status

    def set(self, type_: str, status: str, reason: str = "", message: str = "", severity: str = "") -> None:
        """Store one condition as given; the happy condition is not recomputed. Nothing happens if only the time would
        change.
        """
        made: Condition = {"type": type_, "status": status}
        for field, value in (("severity", severity), ("reason", reason), ("message", message)):
            if value:
                made[field] = value
        others: list[Condition] = []
        for entry in self._stored():
            if entry["type"] != type_:
                others.append(entry)
            elif _content(entry) == made:
                return
        made["lastTransitionTime"] = self._now
        self._status["conditions"] = sorted([*others, made], key=lambda entry: entry["type"])

    def _mark(self, type_: str, status: str, reason: str = "", message: str = "") -> None:
        self.set(type_, status, reason, message, self._set.severity(type_))

    def clear(self, type_: str) -> None:
        """Remove an informational condition.

        Raises:
            TerminalCondition: it is the happy condition or a dependent.
        """
        if not self._set.severity(type_):
            raise TerminalCondition(type_)
        if self.get(type_) is not None:
            self._status["conditions"] = [entry for entry in self._status["conditions"] if entry["type"] != type_]

    def mark_true(self, type_: str) -> None:
        """True without text; then the happy condition is what its worst dependent says."""
        self.mark_true_with_reason(type_, "", "")

    def mark_true_with_reason(self, type_: str, reason: str, message: str) -> None:
        """As `mark_true`, with a text on the condition itself."""
        self._mark(type_, "True", reason, message)
        worst = self._worst_dependent()
        if worst is not None:
            self._mark(self._set.happy, worst["status"], worst.get("reason", ""), worst.get("message", ""))
        elif type_ != self._set.happy:
            self._mark(self._set.happy, "True")

    def _worst_dependent(self) -> Condition | None:
        """The newest False, else the newest Unknown dependent, else a bare Unknown if one is missing, else None."""
        if not self._set.dependents:
            return None
        # What counts is the stored severity, not the name: a dependent that someone `set` as a mere warning counts as
        # missing.
        present = [entry for entry in self._stored() if not entry.get("severity") and entry["type"] != self._set.happy]
        # sort is stable: of those changed at the same time the first by type counts as newest
        present.sort(key=lambda entry: entry.get("lastTransitionTime") or "", reverse=True)
        for status in ("False", "Unknown"):
            for entry in present:
                if entry.get("status") == status:
                    return entry
        return {"status": "Unknown"} if len(present) < len(self._set.dependents) else None

    def mark_unknown(self, type_: str, reason: str = "", message: str = "") -> None:
        """Unknown; so is the happy condition, unless a dependent is False, which weighs more."""
        self._mark(type_, "Unknown", reason, message)
        for dependent in self._set.dependents:
            if self.is_false(dependent):
                if not self.is_false(self._set.happy):
                    self._mark(self._set.happy, "False", reason, message)
                return
        if type_ in self._set.dependents:
            self._mark(self._set.happy, "Unknown", reason, message)

    def mark_false(self, type_: str, reason: str = "", message: str = "") -> None:
        """False; a dependent makes the happy condition False with the same text."""
        self._mark(type_, "False", reason, message)
        if type_ in self._set.dependents:
            self._mark(self._set.happy, "False", reason, message)

    def initialize(self) -> None:
        """Add what is missing: Unknown, but True for dependents of a happy object (a newer release brought them)."""
        if self.get(self._set.happy) is None:
            self._mark(self._set.happy, "Unknown")
        status = "True" if self.is_happy() else "Unknown"
        for dependent in self._set.dependents:
            if self.get(dependent) is None:
                self._mark(dependent, status)


def _content(entry: Condition) -> Condition:
    """A condition without its time and without empty fields, as it is compared."""
    return {field: value for field, value in entry.items() if value and field != "lastTransitionTime"}


def manage(obj: dict[str, Any], now: str) -> Conditions:
    """The conditions of an object of a kind in `SETS`; a missing status is created."""
    return Conditions(SETS[obj["kind"]], obj.setdefault("status", {}), now)


def pre_process(obj: dict[str, Any], now: str) -> Conditions:
    """Begin a reconcile: conditions exist, and on a new generation the happy one is Unknown until the reconcile says
    better.

    Changes `obj["status"]` in place; returns the conditions for the reconcile to mark.
    """
    conditions = manage(obj, now)
    conditions.initialize()
    if obj["status"].get("observedGeneration", 0) != obj.get("metadata", {}).get("generation", 0):
        conditions.mark_unknown(SETS[obj["kind"]].happy, *_NEW_GENERATION)
    return conditions


def post_process(obj: dict[str, Any], original: Mapping[str, Any], now: str) -> None:
    """End a reconcile, also a failed one: the generation was observed, and only real changes carry the new time.

    Args:
        obj: what was reconciled; `status` is changed in place.
        original: the object as it was before `pre_process`.
        now: RFC 3339 time for conditions that differ from `original`.
    """
    status = obj.setdefault("status", {})
    status["observedGeneration"] = obj.get("metadata", {}).get("generation", 0)
    before = {entry["type"]: entry for entry in (original.get("status") or {}).get("conditions") or ()}
    groomed = []
    for entry in status.get("conditions") or ():
        old = before.get(entry["type"])
        same = old is not None and _content(old) == _content(entry)
        groomed.append({**entry, "lastTransitionTime": old.get("lastTransitionTime") if same and old else now})
    if groomed:
        status["conditions"] = groomed
