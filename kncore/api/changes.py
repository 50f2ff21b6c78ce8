"""What changed between two values, in a form that fits an error message."""

import json
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["changes"]

_MOST: Final = 20  # an error message is read by a person, and travels in a header-sized Status


def changes(old: Any, new: Any) -> str:
    """One block per changed field: its path, `-` with what it was, `+` with what it is; absent sides are left out.

        containers[0].image:
        -: "example.com/app:1"
        +: "example.com/app:2"

    Longer lists are cut. Fields are named as users write them, where the original prints Go types and pointers.
    """
    blocks: list[str] = []
    for path, before, after in _differences("", old, new):
        if len(blocks) == _MOST:
            blocks.append("\t...")
            break
        sides = [f"\t{sign}: {_shown(side)}" for sign, side in (("-", before), ("+", after)) if side is not _ABSENT]
        blocks.append("\n".join([f"\t{path}:", *sides]))
    return "\n".join(blocks)


_ABSENT: Final = object()


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            below = f"{path}.{key}" if path else key
            yield from _differences(below, old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{path}[{index}]", before, after)
    elif old is _ABSENT or new is _ABSENT or old != new:
        yield path, old, new


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
