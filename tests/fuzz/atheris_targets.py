"""Coverage-guided fuzzing of the HTTP/1.1 codec, for as long as it is told to:

    python -m tests.fuzz.atheris_targets http1 -max_total_time=600 CORPUS_FOLDER

The first byte of an input says how the rest is cut. A finding belongs into `tests/data/corpus/<target>`, which plain
test runs replay.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Final

__all__ = ["TARGETS"]


def http1(data: bytes) -> None:
    """Requests: the same outcome however they are cut, read by h11 as what we made of them, and bounded memory."""
    from tests.fuzz.codec import outcome

    async def both() -> None:
        assert await outcome(data[1:], cuts_of(data)) == await outcome(data[1:], [])

    LOOP.run_until_complete(both())


def response(data: bytes) -> None:
    """Answers: the same outcome however they are cut, and the exchange is always over in the end."""
    from tests.fuzz.codec import answer_of

    async def both() -> None:
        assert await answer_of(data[1:], cuts_of(data)) == await answer_of(data[1:], [])

    LOOP.run_until_complete(both())


def chunked(data: bytes) -> None:
    """Chunked bodies: the same outcome however they are cut, and no more body than bytes."""
    from tests.fuzz.codec import body_of

    whole = body_of(data[1:], 1 << 20)
    assert body_of(data[1:], 1 + (data[0] if data else 0) % 32) == whole
    assert isinstance(whole, str) or len(whole[0]) <= whole[2] <= len(data)


def cuts_of(data: bytes) -> list[int]:
    """Where the first byte says to cut: everywhere, or every so many bytes."""
    step = 1 + (data[0] if data else 0) % 64
    return list(range(step, len(data), step))


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"http1": http1, "response": response, "chunked": chunked}
LOOP: Final = asyncio.new_event_loop()


def main() -> None:
    """Fuzz one target; the other arguments are libFuzzer's."""
    import atheris

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["kncore.net"]):
        import tests.fuzz.codec  # noqa: F401  what it imports is instrumented
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
