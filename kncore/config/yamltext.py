"""YAML inside ConfigMap values, read as Go programs read it.

They convert to JSON first and then fill typed structs, so `y` and `on` are booleans, and a boolean or number where a
string is wanted becomes its text. Errors are worded as there, since they reach users through the config webhook.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml

from kncore.errors import ConfigError
from kncore.strconv import format_float

__all__ = ["YamlError", "load_mapping", "mapping", "string_map", "text"]


class YamlError(ConfigError):
    """A value is not the YAML it should be."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with the single-letter booleans that PyYAML leaves out."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:y|Y|n|N)$"), list("yYnN"))
_Loader.bool_values = {**yaml.SafeLoader.bool_values, "y": True, "n": False}

# How libyaml's Go translation words what PyYAML's says.
_WORDS: Final = (
    (re.compile(r"expected the node content, but found .*"), "did not find expected node content"),
    (re.compile(r"expected ',' or '(.)', but got .*"), r"did not find expected ',' or '\1'"),
    (re.compile(r"expected <block end>, but found '-'"), "did not find expected '-' indicator"),
    (re.compile(r"expected <block end>, but found .*"), "did not find expected key"),
    (re.compile(r"mapping values are not allowed here"), "mapping values are not allowed in this context"),
    (re.compile(r"found character .* that cannot start any token"), "found character that cannot start any token"),
)


def _problem(exc: yaml.YAMLError) -> str:
    if not isinstance(exc, yaml.MarkedYAMLError) or exc.problem is None:
        return f"yaml: {exc}"
    words = exc.problem
    for pattern, wording in _WORDS:
        words = pattern.sub(wording, words)
    mark = exc.problem_mark
    # Lines count from 0 and the end of the text starts a new one, which is what makes them look right there.
    line = 0 if mark is None else mark.line + (mark.column > 0)
    return f"yaml: line {line}: {words}" if line else f"yaml: {words}"


def load_mapping(source: str, go_type: str) -> dict[str, Any]:
    """The mapping in `source`; an empty document is an empty mapping.

    Raises:
        YamlError: not YAML, or not a mapping; `go_type` is what the message calls the wanted type.
    """
    try:
        loaded = yaml.load(source, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as exc:
        raise YamlError(f"error converting YAML to JSON: {_problem(exc)}") from exc
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise _mismatch(loaded, go_type)
    return {text(key): value for key, value in loaded.items()}


def _mismatch(found: Any, go_type: str) -> YamlError:
    match found:
        case bool():
            name = "bool"
        case int() | float():
            name = "number"
        case list():
            name = "array"
        case dict():
            name = "object"
        case _:
            name = "string"
    why = f"json: cannot unmarshal {name} into Go value of type {go_type}"
    return YamlError(f"error unmarshaling JSON: while decoding JSON: {why}")


def text(value: Any) -> str:
    """A scalar where a string is wanted.

    Raises:
        YamlError: not a scalar.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return format_float(value)
        case None:
            return ""
        case list() | dict():
            raise _mismatch(value, "string")
        case _:
            return str(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping where a struct is wanted; null is empty.

    Raises:
        YamlError: not a mapping.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _mismatch(value, "struct")
    return value


def string_map(value: Any) -> dict[str, str]:
    """A mapping of strings to strings; null is empty.

    Raises:
        YamlError: not a mapping, or its values are not scalars.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _mismatch(value, "map[string]string")
    return {text(key): text(item) for key, item in value.items()}
