"""Manifests from files, directories and standard input, with errors that say where."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from kncore.errors import KnError

__all__ = ["BadManifest", "read"]

SUFFIXES = {".yaml", ".yml", ".json"}
MAX_BYTES = 16 << 20


class BadManifest(KnError):
    """A file that is not what `-f` takes."""


def read(sources: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Every object in the sources, in order, each with the file it came from.

    Args:
        sources: paths of files or directories (all manifests in them, not below), or `-` for standard input.
    Raises:
        BadManifest: a source is missing, is not YAML, or holds something that is not an object. Nothing was applied
            then: all sources are read before the first is used.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    for source in sources:
        for where, text in _texts(source):
            found.extend((where, obj) for obj in _objects(where, text))
    if not found:
        raise BadManifest(f"no objects in {', '.join(sources)}")
    return found


def _texts(source: str) -> Iterator[tuple[str, str]]:
    if source == "-":
        yield "standard input", sys.stdin.read(MAX_BYTES)
        return
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
        if not files:
            raise BadManifest(f"{path}: no .yaml, .yml or .json file in this directory")
    else:
        files = [path]
    for file in files:
        try:
            if file.stat().st_size > MAX_BYTES:
                raise BadManifest(f"{file}: larger than {MAX_BYTES >> 20} MiB")
            yield str(file), file.read_text()
        except OSError as exc:
            raise BadManifest(f"{file}: {exc.strerror or exc}") from exc
        except UnicodeDecodeError as exc:
            raise BadManifest(f"{file}: not UTF-8 text") from exc


def _objects(where: str, text: str) -> Iterator[dict[str, Any]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        documents = list(yaml.load_all(text, Loader=loader))
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        line = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise BadManifest(f"{line}: not valid YAML: {exc.problem or exc}") from exc
    except yaml.YAMLError as exc:
        raise BadManifest(f"{where}: not valid YAML: {exc}") from exc
    for number, document in enumerate(documents, 1):
        if document is None:
            continue
        place = where if len(documents) == 1 else f"{where}: document {number}"
        yield from _checked(place, document)


def _checked(place: str, document: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(document, dict):
        raise BadManifest(f"{place}: expected an object with apiVersion and kind, found {type(document).__name__}")
    if document.get("kind") == "List" and isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _checked(place, item)
        return
    for field in ("apiVersion", "kind"):
        if not isinstance(document.get(field), str):
            raise BadManifest(f"{place}: {field} is missing")
    name = (document.get("metadata") or {}).get("name") or (document.get("metadata") or {}).get("generateName")
    if not isinstance(name, str):
        raise BadManifest(f"{place}: metadata.name is missing")
    yield document
