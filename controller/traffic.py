"""Which revisions a Route sends traffic to: names in `spec.traffic` -> ready revisions, in groups per tag.

The default group (tag "") is what the Route's own host answers with. Every target joins it, tagged or not (its percent
may be 0); a tagged target also forms a group of its own, served at the tag's host. Inside a group a revision appears
once. `status.traffic` is a second view of the same targets that keeps tags and `latestRevision` apart.

Everything here is a function of the Route, the Configurations and Revisions looked up, and the rollout in effect; the
reconciler (`controller.route`) supplies lookups and acts on the result. Source of the rules: serving §1.10.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from controller.rollout import ConfigurationRollout, Rollout, Share
from kncore.api import keys, meta
from kncore.api.meta import Obj

__all__ = ["Assignment", "Lookup", "Problem", "Target", "goal", "protocol", "resolve", "status_traffic"]


Lookup = Callable[[str], Obj | None]
"""Object of one kind in the Route's namespace by name, or None when absent."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A resolved traffic target."""

    revision: str
    percent: int
    configuration: str = ""
    """Configuration that owns the revision; empty for a revision without that label."""
    tag: str = ""
    latest: bool = False
    """True when the target follows the Configuration's latest ready revision (and may roll out gradually)."""
    protocol: str = "http1"
    """`http1` or `h2c`: decides the service port of the split."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why traffic cannot be assigned, as condition AllTrafficAssigned shows it."""

    failed: bool
    """True: condition False (somebody has to act); False: Unknown (waiting)."""
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The outcome of resolving one Route."""

    groups: Mapping[str, tuple[Target, ...]] = field(default_factory=dict)
    """Targets by tag; "" is the default group. Percents of each group sum to 100 when the spec was valid."""
    entries: tuple[Target, ...] = ()
    """Targets in spec order, merged only where tag, revision and latest agree: the base of `status.traffic`."""
    problem: Problem | None = None
    seen: tuple[tuple[str, str], ...] = ()
    """(kind, name) of every object looked for, found or not: its appearance or change calls for another reconcile."""


def resolve(route: Obj, configuration: Lookup, revision: Lookup) -> Assignment:
    """Resolve `spec.traffic` of one Route.

    With several bad targets the last failure wins, then the last that merely waits; a good part is never served alone.
    """
    resolver = _Resolver(configuration=configuration, revision=revision, owner=_owning_service(route))
    for wanted in meta.at(route, "spec", "traffic", default=None) or []:
        resolver.add(wanted)
    return resolver.finish()


def protocol(revision: Obj) -> str:
    """`h2c` when the serving container's port is named so, else `http1`."""
    for container in meta.at(revision, "spec", "containers", default=None) or []:
        for port in container.get("ports") or []:
            return "h2c" if port.get("name") == "h2c" else "http1"
    return "http1"


def status_traffic(entries: Sequence[Target], rollout: Rollout, url: Callable[[str], str]) -> list[Obj]:
    """`status.traffic`: the entries, those in the middle of a rollout shown per revision.

    Several entries may follow one Configuration; they then share out its revisions in order, so that the percents of
    each entry and of each revision stay what they are.

    Args:
        url: URL of a tag; called for tagged entries only.
    """
    left = {
        item.configuration: [(share.revision, share.percent) for share in item.revisions]
        for item in rollout.by_tag("")
        if not item.done
    }
    shown: list[Obj] = []
    for entry in entries:
        pool = left.get(entry.configuration) if entry.latest and entry.percent else None
        pairs = [(entry.revision, entry.percent)] if pool is None else _take(pool, entry.percent)
        for revision, percent in pairs:
            item: Obj = {"revisionName": revision, "percent": percent, "latestRevision": entry.latest}
            if entry.tag:
                item |= {"tag": entry.tag, "url": url(entry.tag)}
            shown.append(item)
    return shown


def _take(pool: list[tuple[str, int]], percent: int) -> list[tuple[str, int]]:
    """Remove `percent` from the front of the pool and say which revisions it came from."""
    taken: list[tuple[str, int]] = []
    while percent and pool:
        revision, available = pool[0]
        part = min(available, percent)
        taken.append((revision, part))
        percent -= part
        pool[:1] = [(revision, available - part)] if available > part else []
    return taken


def goal(groups: Mapping[str, Sequence[Target]]) -> Rollout:
    """Where rollouts lead: each Configuration followed in a group, with all of its percent on its newest revision."""
    return Rollout.of(
        ConfigurationRollout(
            configuration=target.configuration,
            tag=tag,
            percent=target.percent,
            revisions=(Share(revision=target.revision, percent=target.percent),),
        )
        for tag, targets in groups.items()
        for target in targets
        if target.latest
    )


class _Resolver:
    """Collects targets one by one; keeps the most severe problem."""

    def __init__(self, *, configuration: Lookup, revision: Lookup, owner: str) -> None:
        self._configuration = configuration
        self._revision = revision
        self._owner = owner
        self._groups: dict[str, list[Target]] = {}
        self._entries: list[Target] = []
        self._problem: Problem | None = None
        self._seen: dict[tuple[str, str], None] = {}

    def add(self, wanted: Obj) -> None:
        found = self._by_revision(wanted) if wanted.get("revisionName") else self._by_configuration(wanted)
        if found is None:
            return
        _merge(self._entries, found, same=lambda a, b: (a.tag, a.revision, a.latest) == (b.tag, b.revision, b.latest))
        for group in {"", found.tag}:
            _merge(self._groups.setdefault(group, []), found, same=lambda a, b: a.revision == b.revision)

    def finish(self) -> Assignment:
        if self._problem is not None:
            return Assignment(problem=self._problem, seen=tuple(self._seen))
        groups = {
            # One revision alone takes everything: a tag on a 0 % target must still answer at its own host.
            tag: (replace(group[0], percent=100),) if len(group) == 1 else tuple(group)
            for tag, group in self._groups.items()
        }
        return Assignment(groups=groups, entries=tuple(self._entries), seen=tuple(self._seen))

    def _by_configuration(self, wanted: Obj) -> Target | None:
        name = wanted.get("configurationName", "")
        configuration = self._find("Configuration", name, self._configuration)
        if configuration is None:
            return None
        latest = meta.at(configuration, "status", "latestReadyRevisionName", default="")
        if not latest:
            if _ready(configuration) == "False":
                self._fail(f'Configuration "{name}" does not have any ready Revision.')
            else:
                self._wait(f'Configuration "{name}" is waiting for a Revision to become ready.')
            return None
        revision = self._ready_revision(latest)
        if revision is None:
            return None
        return self._target(wanted, revision, configuration=name, latest=True)

    def _by_revision(self, wanted: Obj) -> Target | None:
        name = wanted["revisionName"]
        revision = self._ready_revision(name)
        if revision is None:
            return None
        if self._owner and (stranger := meta.labels(revision).get(keys.SERVICE, "")) != self._owner:
            text = f'belongs to Service "{stranger}", not Service' if stranger else "does not belong to Service"
            self._note(
                Problem(failed=True, reason="RevisionNotOwned", message=f'Revision "{name}" {text} "{self._owner}".')
            )
            return None
        configuration = meta.labels(revision).get(keys.CONFIGURATION, "")
        if configuration and self._find("Configuration", configuration, self._configuration) is None:
            return None
        return self._target(wanted, revision, configuration=configuration, latest=False)

    def _target(self, wanted: Obj, revision: Obj, *, configuration: str, latest: bool) -> Target:
        return Target(
            revision=meta.name(revision),
            percent=wanted.get("percent") or 0,
            configuration=configuration,
            tag=wanted.get("tag", ""),
            latest=latest,
            protocol=protocol(revision),
        )

    def _ready_revision(self, name: str) -> Obj | None:
        revision = self._find("Revision", name, self._revision)
        if revision is None:
            return None
        state = _ready(revision)
        if state == "True":
            return revision
        if state == "False":
            self._fail(f'Revision "{name}" failed to become ready.')
        else:
            self._wait(f'Revision "{name}" is not yet ready.')
        return None

    def _find(self, kind: str, name: str, lookup: Lookup) -> Obj | None:
        self._seen[kind, name] = None
        found = lookup(name)
        if found is None:
            message = f'{kind} "{name}" referenced in traffic not found.'
            self._note(Problem(failed=True, reason=f"{kind}Missing", message=message))
        return found

    def _fail(self, message: str) -> None:
        self._note(Problem(failed=True, reason="RevisionMissing", message=message))

    def _wait(self, message: str) -> None:
        self._note(Problem(failed=False, reason="RevisionMissing", message=message))

    def _note(self, problem: Problem) -> None:
        if self._problem is None or problem.failed or not self._problem.failed:
            self._problem = problem


def _merge(into: list[Target], added: Target, *, same: Callable[[Target, Target], bool]) -> None:
    for index, present in enumerate(into):
        if same(present, added):
            into[index] = replace(present, percent=present.percent + added.percent)
            return
    into.append(added)


def _ready(obj: Obj) -> str:
    found = meta.condition(obj, "Ready")
    return found["status"] if found else "Unknown"


def _owning_service(route: Obj) -> str:
    """Name of the Service that controls the Route; empty for a Route made by hand."""
    owner = meta.controller_of(route)
    return owner["name"] if owner and owner.get("kind") == "Service" else ""
