"""The CustomResourceDefinitions of every kind, ready to be installed or served.

Each kind has one file in `schema/`, named after its plural. Parts that kinds share (the pod template alone would be
there three times) live once in `schema/fragments.yaml`; a mapping that says `$use: <name>` is that fragment with its
own keys merged over it. `load` puts the pieces together, so what it returns is complete and standalone: the embedded
API server serves it, the Helm chart prints it.

Parsing happens once per process (15 ms with libyaml); every call composes fresh objects, so callers may change what
they get.
"""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

__all__ = ["load"]

Mapping = dict[str, Any]

# libyaml's loader is ten times faster; PyYAML without it still works, e.g. on a musl build.
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load() -> list[Mapping]:
    """Every CRD as a complete apiextensions.k8s.io/v1 object, sorted by name; yours to change.

    Raises:
        KeyError: a schema file uses a fragment that does not exist (a packaging mistake).
    """
    fragments, definitions = _sources()
    return [_compose(definition, fragments) for definition in definitions]


@cache
def _sources() -> tuple[Mapping, tuple[Mapping, ...]]:
    """The parsed files: fragments by name, and the definitions that use them."""
    folder = files("kncore.api").joinpath("schema")
    parsed = {
        entry.name: yaml.load(entry.read_bytes(), _Loader) for entry in folder.iterdir() if entry.name.endswith(".yaml")
    }
    fragments = parsed.pop("fragments.yaml")
    return fragments, tuple(sorted(parsed.values(), key=lambda crd: str(crd["metadata"]["name"])))


def _compose(node: Any, fragments: Mapping) -> Any:
    """A copy of `node` with every `$use` replaced."""
    if isinstance(node, list):
        return [_compose(item, fragments) for item in node]
    if not isinstance(node, dict):
        return node
    own = {key: _compose(value, fragments) for key, value in node.items() if key != "$use"}
    if "$use" not in node:
        return own
    return _merge(_compose(fragments[node["$use"]], fragments), own)


def _merge(base: Mapping, over: Mapping) -> Mapping:
    for key, value in over.items():
        present = base.get(key)
        base[key] = _merge(present, value) if isinstance(present, dict) and isinstance(value, dict) else value
    return base
