"""Manifests from files, directories and standard input, with errors that say where.

The server checks what objects mean; this checks that they are objects at all, before the first one is sent: YAML with
the line of a mistake, keys given twice, aliases that unfold to more than anyone writes by hand.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import yaml

from kncore.errors import KnError

__all__ = ["BadManifest", "read"]

SUFFIXES = {".yaml", ".yml", ".json"}
MAX_BYTES = 16 << 20
MAX_NODES = 1_000_000
"""Values in one document with its aliases unfolded."""
MAX_DEPTH = 200

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class BadManifest(KnError):
    """A file that is not what `-f` takes."""


_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    _TAG + "int": re.compile(r"^[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    _TAG + "float": re.compile(
        r"^([-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9_]+([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN))$"
    ),
}
"""Numbers as kubectl reads them: unlike YAML 1.1's, without base 60, so that `12:30` stays text."""


class _Loader(_SafeLoader):  # type: ignore[misc]  # the C loader has no stubs
    """YAML as kubectl reads it; a key given twice is a mistake, not an override."""

    yaml_implicit_resolvers = {  # noqa: RUF012  the name and type are PyYAML's
        first: [(tag, _SCALARS.get(tag, pattern)) for tag, pattern in found if tag != _TAG + "timestamp"]
        for first, found in _SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _TAG + "merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key.value} twice", key.start_mark)
                seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def read(sources: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Every object in the sources, in order, each with where it came from (`file`, or `file:line` of several).

    Args:
        sources: paths of files or directories (all manifests in them, not below), or `-` for standard input.
    Raises:
        BadManifest: a source is missing, is not YAML, or holds something that is not an object. Nothing was applied
            then: all sources are read before the first is used.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    for source in sources:
        for where, text in _texts(source):
            found.extend(_objects(where, text))
    if not found:
        raise BadManifest(f"no objects in {', '.join(sources)}")
    return found


def _texts(source: str) -> Iterator[tuple[str, str]]:
    if source == "-":
        yield "standard input", _text("standard input", sys.stdin.buffer.read(MAX_BYTES + 1))
        return
    if source.startswith(("http://", "https://")):
        raise BadManifest(f"{source}: URLs are not read; download it and give the file")
    path = Path(source)
    try:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
            if not files:
                raise BadManifest(f"{path}: no .yaml, .yml or .json file in this directory")
        else:
            files = [path]
        for file in files:
            with file.open("rb") as opened:
                yield str(file), _text(str(file), opened.read(MAX_BYTES + 1))
    except OSError as exc:
        raise BadManifest(f"{exc.filename or path}: {exc.strerror or exc}") from exc


def _text(where: str, content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise BadManifest(f"{where}: larger than {MAX_BYTES >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise BadManifest(f"{where}:{line}: not UTF-8 text") from exc


def _objects(where: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    documents = list(_documents(where, text))
    for line, document in documents:
        place = where if len(documents) == 1 else f"{where}:{line}"
        if document is not None:
            yield from ((place, obj) for obj in _checked(place, document))


def _documents(where: str, text: str) -> Iterator[tuple[int, Any]]:
    """Each document with the line it begins on."""
    if text.lstrip().startswith("{"):  # JSON is nearly YAML: its escapes of characters beyond 16 bits are not
        try:
            yield 1, orjson.loads(text)
            return
        except orjson.JSONDecodeError:
            pass  # YAML in braces, or a mistake that the YAML parser will place
    try:
        loader = _Loader(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                yield node.start_mark.line + 1, loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise BadManifest(f"{place}: not valid YAML: {exc.problem or exc.context}") from exc
    except (yaml.YAMLError, ValueError) as exc:
        raise BadManifest(f"{where}: not valid YAML: {' '.join(str(exc).split())}") from exc
    except RecursionError as exc:
        raise BadManifest(f"{where}: nested too deep") from exc


def _checked(place: str, document: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(document, dict):
        found = "a list" if isinstance(document, list) else f"the {type(document).__name__} {document!r:.40}"
        raise BadManifest(f"{place}: expected an object with apiVersion and kind, found {found}")
    if document.get("kind") == "List" and isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _checked(place, item)
        return
    for field in ("apiVersion", "kind"):
        if not isinstance(document.get(field), str) or not document[field]:
            raise BadManifest(f"{place}: {field} is missing")
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if name is None or name == "":
        raise BadManifest(f"{place}: {document['kind']} without metadata.name")
    if not isinstance(name, str):
        raise BadManifest(f"{place}: metadata.name is not text: put {name} in quotes")
    _Survey(place).look(document)
    yield document


class _Survey:
    """Finds out whether a document fits into JSON, within `MAX_NODES`."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._nodes = 0

    def look(self, value: Any, path: str = "", depth: int = 0) -> None:
        """Look at a value and all below it.

        Raises:
            BadManifest: too much, too deep, or what JSON does not have.
        """
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise BadManifest(f"{self._place}: unfolds to more than {MAX_NODES} values or {MAX_DEPTH} levels")
        if isinstance(value, dict):
            for key, below in value.items():
                if not isinstance(key, str):
                    raise BadManifest(f"{self._place}: the key {key} in {path or 'the object'} must be in quotes")
                self.look(below, f"{path}.{key}" if path else key, depth + 1)
        elif isinstance(value, list):
            for number, below in enumerate(value):
                self.look(below, f"{path}[{number}]", depth + 1)
        elif not isinstance(value, str | int | float | None):
            raise BadManifest(f"{self._place}: {path} is not something JSON can hold")
