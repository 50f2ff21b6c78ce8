"""How traffic is split: the `traffic` list of Services and Routes (serving §1.5.7)."""

from collections.abc import Sequence

from kncore.api.fielderror import (
    OK,
    FieldError,
    disallowed,
    each,
    generic,
    invalid_key,
    invalid_value,
    joined,
    missing_one_of,
    multiple_one_of,
    out_of_bounds,
)
from kncore.api.meta import Obj
from kncore.api.syntax import dns_1035_label, qualified_name
from kncore.api.validation.metadata import shown
from kncore.strconv import quote

__all__ = ["traffic"]


def traffic(targets: Sequence[Obj], *, own_configuration: bool) -> FieldError:
    """The whole list; `own_configuration` for a Service, whose targets can only be its own Revisions."""
    wrong = each(targets, lambda target: _target(target, own_configuration=own_configuration)) + _tags(targets)
    total = sum(target.get("percent", 0) for target in targets)
    if total != 100:
        wrong += generic(f"Traffic targets sum to {total}, want 100", "")
    return wrong


def _tags(targets: Sequence[Obj]) -> FieldError:
    """Tags become part of host names, so each is a label and stands for one target only."""
    first_with: dict[str, int] = {}

    def check(index: int, tag: str) -> FieldError:
        wrong = OK
        if problems := dns_1035_label(tag):
            wrong += invalid_value(f"not a DNS 1035 label: {shown(problems)}", f"tag[{index}]")
        if (first := first_with.setdefault(tag, index)) != index:
            wrong += generic(f"Multiple definitions for {quote(tag)}", f"[{index}].tag", f"[{first}].tag")
        return wrong

    return joined(check(index, target["tag"]) for index, target in enumerate(targets) if "tag" in target)


def _target(target: Obj, *, own_configuration: bool) -> FieldError:
    revision = target.get("revisionName", "")
    wrong = OK
    if (latest := target.get("latestRevision")) is not None and latest == bool(revision):
        floats = "true" if latest else "false"
        wrong += generic(
            f"may not set revisionName {quote(revision)} when latestRevision is {floats}", "latestRevision"
        )
    wrong += _revision(revision, target.get("configurationName", ""), own_configuration=own_configuration)
    percent = target.get("percent", 0)
    if not 0 <= percent <= 100:
        wrong += out_of_bounds(percent, 0, 100, "percent")
    return wrong + disallowed("url") if target.get("url") else wrong


def _revision(revision: str, configuration: str, *, own_configuration: bool) -> FieldError:
    """Exactly one of a Revision and a Configuration, the latter implied in a Service."""
    if own_configuration and configuration:
        return disallowed("configurationName")
    if revision and configuration:
        return multiple_one_of("revisionName", "configurationName")
    if not revision and not configuration:
        return OK if own_configuration else missing_one_of("revisionName", "configurationName")
    name, field = (revision, "revisionName") if revision else (configuration, "configurationName")
    problems = qualified_name(name)
    return invalid_key(name, field, *problems) if problems else OK
