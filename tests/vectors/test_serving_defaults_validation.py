"""Golden vectors: defaulting and validation of Serving objects, serving §1.4 and §1.5.

Each case is one admission request. Defaults, error text and warnings must be those of the original to the letter;
where its text carries a diff with Go type names, only the line above the diff is compared (serving §10.7).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from kncore.api.defaults import set_defaults
from kncore.api.validation import validate
from kncore.config.store import Store
from kncore.errors import ConfigError
from kncore.strconv import parse_float

Case = dict[str, Any]

_DIFF_FOLLOWS = ("Saw the following changes without a name change", "Immutable fields changed")


def test_objects_get_the_originals_defaults_errors_and_warnings(vectors: Callable[[str], dict[str, Any]]) -> None:
    loaded = vectors("serving/defaults_validation.json")
    texts = loaded["warning_texts"]
    assert loaded["cases"]
    wrong = [
        f"{case['id']} [{case['operation']}]: {problem}"
        for case in loaded["cases"]
        for problem in _problems(case, texts)
    ]
    assert not wrong, f"{len(wrong)} differences\n" + "\n".join(wrong[:20])


def test_pod_autoscalers_get_the_originals_defaults_and_errors(vectors: Callable[[str], dict[str, Any]]) -> None:
    """The admission half of pa_decider.json; what follows from the annotations is tested with the autoscaler."""
    wrong = []
    for case in vectors("serving/pa_decider.json")["cases"]:
        config = Store.of(case.get("config", {}))
        made = set_defaults(case["pa"], config=config)
        said, recorded = validate(made, config=config).error, case["expect"]["validate_error"]
        if made["metadata"].get("annotations", {}) != case["expect"]["annotations"]:
            wrong.append(f"{case['id']}: annotations {made['metadata'].get('annotations')}")
        if said != recorded and not _is_agreed_exception(case["pa"], said, recorded):
            wrong.append(f"{case['id']}: said {said!r}, expected {recorded!r}")
    assert not wrong, "\n".join(wrong[:20])


def _problems(case: Case, texts: list[str]) -> Iterator[str]:
    expected = case["expect"]
    try:
        config = Store.of(case.get("config", {}))
    except ConfigError as error:
        if not _has_negative_timeout(case["config"]):
            yield f"configuration refused: {error}"
        return
    old = case.get("old")
    obj = old if case["object"] == "=old" else case["object"]
    defaulted = {"=object": obj, "=old": old}.get(str(expected["defaulted"]), expected["defaulted"])

    made = set_defaults(obj, config=config, old=old, user=case.get("user"), operation=case["operation"])
    if made != defaulted:
        yield f"defaulted to {made}, expected {defaulted}"

    def outcome(of: Any) -> Any:
        subresource = case.get("subresource", "")
        return validate(of, old=old, operation=case["operation"], subresource=subresource, config=config)

    found = outcome(defaulted)
    warnings = sorted(texts[index] for index in expected["warnings"])
    if sorted(found.warnings) != warnings:
        yield f"warned {found.warnings}, expected {warnings}"
    for text, recorded in (
        (found.error, expected["error"]),
        (outcome(obj).error, expected.get("error_without_defaulting", expected["error"])),
    ):
        if _above_diff(text) != _above_diff(recorded) and not _is_agreed_exception(obj, text, recorded):
            yield f"said {text!r}, expected {recorded!r}"


def _above_diff(text: str) -> str:
    for marker in _DIFF_FOLLOWS:
        before, found, after = text.partition(marker)
        if found:
            return before + found + after.split("\n")[0]
    return text


def _has_negative_timeout(config: dict[str, dict[str, str]]) -> bool:
    """An agreed exception: the original accepts a negative revision-timeout-seconds (serving §10.11)."""
    return config.get("config-defaults", {}).get("revision-timeout-seconds", "").startswith("-")


def _is_agreed_exception(obj: Case, text: str, recorded: str) -> bool:
    """Whether the texts differ only in lines that refuse NaN or an infinity, as agreed: the original accepts some of
    them (serving §10.9).
    """
    annotations = (
        *obj.get("metadata", {}).get("annotations", {}).items(),
        *obj.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations", {}).items(),
    )
    refusals = {
        f"invalid value: {value}: {place}.{key}"
        for key, value in annotations
        if key.startswith("autoscaling.knative.dev/") and not _is_finite(value)
        for place in ("metadata.annotations", "spec.template.metadata.annotations")
    }
    rest = [line for line in _above_diff(text).split("\n") if line not in refusals]
    return bool(refusals) and "\n".join(rest) == _above_diff(recorded)


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(parse_float(text))
    except ValueError:
        return True
