"""Schemas of the built-in kinds, parsed one definition at a time, on demand.

`data/definitions.jsonl` holds one definition a line, `name<TAB>schema`; a schema refers to others with `$ref`. Loading
a kind parses only the lines it reaches and links them: a `$ref` becomes the very dict it names, so that the walks of
`schema`, `apply` and `strategic` need no resolver and shared parts (a PodSpec) exist once. A `$ref` with other keys
beside it (a default for this use of it) becomes a shallow copy with those keys. The result is a graph that may be
cyclic (a JSON schema contains JSON schemas). Descriptions are long and only `kubectl explain` wants them, so they lie
in a file of their own, which is read and let go.

The files are made by `data/generate.py` from the models of kubernetes_asyncio and a table of what those do not say.
"""

import functools
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

__all__ = ["Definition", "descriptions", "load", "names", "resolve"]

_DATA = Path(__file__).parent / "data"
_PREFIX = "#/components/schemas/"


class Definition(dict[str, Any]):
    """A named schema; `name` is the upstream one, e.g. `io.k8s.api.core.v1.PodSpec`. Shared: never change it."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


_loaded: dict[str, Definition] = {}


def load(name: str) -> Definition:
    """The definition called `name` with everything it refers to linked in.

    Raises:
        KeyError: there is no such definition.
    """
    if name in _loaded:
        return _loaded[name]
    lines = _lines()
    made: dict[str, Definition] = {}
    uses: list[tuple[Definition, Definition, dict[str, Any]]] = []

    def link(node: Any) -> Any:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                found = get(node.pop("$ref").removeprefix(_PREFIX))
                if not node:
                    return found
                use = Definition(found.name)
                uses.append((use, found, node))
                return use
            for key, value in node.items():
                if isinstance(value, dict | list):
                    node[key] = link(value)
        elif isinstance(node, list):
            node[:] = [link(item) for item in node]
        return node

    def get(wanted: str) -> Definition:
        known = _loaded.get(wanted) or made.get(wanted)
        if known is None:
            known = made[wanted] = Definition(wanted)  # registered before linking: a schema may contain itself
            known.update(link(orjson.loads(lines[wanted])))
        return known

    found = get(name)
    for use, whole, beside in uses:  # only now: what is copied may have been under construction
        use.update(whole)
        use.update(beside)
    _loaded.update(made)
    return found


def resolve(ref: str) -> Definition:
    """The definition a `$ref` such as `#/components/schemas/io.k8s.api.core.v1.Pod` names."""
    return load(ref.removeprefix(_PREFIX))


def names() -> list[str]:
    """The names of all definitions."""
    return list(_lines())


def descriptions() -> Mapping[str, Mapping[str, str]]:
    """Short descriptions by definition and then by property; the definition's own is under the empty key.

    Read from disk each time: the caller caches the document it makes of them.
    """
    made: Mapping[str, Mapping[str, str]] = orjson.loads(gzip.decompress((_DATA / "descriptions.json.gz").read_bytes()))
    return made


@functools.cache
def _lines() -> dict[str, bytes]:
    """The unparsed definitions by name."""
    lines = (line.partition(b"\t") for line in (_DATA / "definitions.jsonl").read_bytes().splitlines())
    return {name.decode(): body for name, _, body in lines}
