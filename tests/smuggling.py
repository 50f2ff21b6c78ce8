"""The table of messages that two parsers might read differently, in `tests/data/smuggling` (see its README)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h11
import yaml

__all__ = ["ANSWERS", "REQUESTS", "Answer", "Case", "requests_according_to_h11"]

FOLDER: Final = Path(__file__).parent / "data" / "smuggling"
_REPEATED: Final = re.compile(r"\{\{(.*?)\*(\d+)\}\}", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """What a client sends, and what must become of it."""

    id: str
    why: str
    data: bytes
    answers: list[int]
    """Statuses that the client gets, if the app answers everything with 200."""
    app: list[str]
    """The requests that an app gets in full, as `METHOD target length-of-body`."""


@dataclass(frozen=True)
class Answer:
    """What an app sends, and what must become of it."""

    id: str
    why: str
    method: str
    data: bytes
    closes: bool
    """The app closes its connection behind it."""
    client: str
    """`status body`; `cut` behind it if the client can tell that the body is not whole."""
    client_kept: bool
    """The client's connection goes on."""
    app_kept: bool
    """The connection to the app is used again."""


def _expand(text: str) -> str:
    return _REPEATED.sub(lambda found: found[1] * int(found[2]), text)


def _bytes(text: str) -> bytes:
    return _expand(text).encode("latin-1")


def _read(file: Path) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = yaml.load(file.read_text(), yaml.CSafeLoader)
    return made


REQUESTS: Final = [
    Case(
        f"{file.stem}: {case['name']}",
        case["why"],
        _bytes(case["bytes"]),
        case["answers"],
        [_expand(request) for request in case["app"]],
    )
    for file in sorted(FOLDER.glob("*.yaml"))
    if file.stem != "answers"
    for case in _read(file)
]

ANSWERS: Final = [
    Answer(
        case["name"],
        case["why"],
        case.get("method", "GET"),
        _bytes(case["bytes"]),
        case.get("closes", False),
        _expand(case["client"]),
        case["client kept"],
        case["app kept"],
    )
    for case in _read(FOLDER / "answers.yaml")
]


def requests_according_to_h11(data: bytes) -> tuple[list[str], bool]:
    """The requests in the bytes, as in `Case.app`, and whether the last one is whole.

    Raises:
        h11.RemoteProtocolError: what we sent on is no HTTP to it.
    """
    found: list[str] = []
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=200_000)
    connection.receive_data(data)
    size = 0
    request: h11.Request | None = None
    while data:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            request, size = event, 0
        elif isinstance(event, h11.Data):
            size += len(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            found.append(f"{request.method.decode()} {request.target.decode('latin-1')} {size}")
            request = None
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE:
                break
            connection.start_next_cycle()
        else:
            break  # NEED_DATA, or PAUSED
    return found, request is None and connection.trailing_data[0] == b""
