"""How traffic is split: the `traffic` list of Services and Routes (serving §1.5.7)."""

from collections.abc import Sequence

from kncore.api.fielderror import (
    OK,
    FieldError,
    disallowed,
    generic,
    invalid_key,
    invalid_value,
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
    wrong = OK
    first_with: dict[str, int] = {}
    for index, target in enumerate(targets):
        wrong += _target(target, own_configuration=own_configuration).via_index(index)
        tag = target.get("tag", "")
        if not tag:
            continue
        if problems := dns_1035_label(tag):
            wrong += invalid_value(f"not a DNS 1035 label: {shown(problems)}", "").via_index(index).via("tag")
        if tag in first_with:
            paths = (f"[{index}].tag", f"[{first_with[tag]}].tag")
            wrong += generic(f"Multiple definitions for {quote(tag)}", *paths)
        first_with.setdefault(tag, index)
    total = sum(target.get("percent", 0) for target in targets)
    if total != 100:
        wrong += generic(f"Traffic targets sum to {total}, want 100", "")
    return wrong


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
