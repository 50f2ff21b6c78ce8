"""The Huffman code of HPACK (RFC 7541 §5.2), decoded a byte at a time.

hpack's table says what half a byte does in each state of the code; two of its steps make one of ours, which is
remembered: text uses few of the 65,536 there are. That is three times as fast as stepping through its table, and speed
matters here, for a client chooses how much there is to decode. What is remembered is bounded by `KEPT` steps, about
3 MB; more than that is no text.

Trust: hardened against both peers.
"""

from typing import Final

from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE

__all__ = ["decode"]

KEPT: Final = 16_384
"""Steps remembered; HTTP's usual text makes some two thousand."""


class _State(dict[int, tuple[bytes, "_State", bool]]):
    """Byte -> (text it completes, state behind it, whether the code may end there)."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def __missing__(self, byte: int) -> tuple[bytes, "_State", bool]:
        global _kept
        if _kept >= KEPT:
            _kept = 0
            for state in _STATES:
                state.clear()
        text = b""
        number = self._number
        flags = 0
        for half in (byte >> 4, byte & 15):
            number, flags, symbol = HUFFMAN_TABLE[number * 16 + half]
            if flags & HUFFMAN_FAIL:
                raise ValueError("not the Huffman code")
            if flags & HUFFMAN_EMIT_SYMBOL:
                text += bytes((symbol,))
        _kept += 1
        self[byte] = step = text, _STATES[number], flags & HUFFMAN_COMPLETE > 0
        return step


_STATES: Final = [_State(number) for number in range(256)]
_kept = 0


def decode(code: bytes) -> bytes:
    """The text of a code that begins and ends here.

    Raises:
        ValueError: it is none.
    """
    state = _STATES[0]
    whole = True
    texts = []
    for byte in code:
        text, state, whole = state[byte]
        texts.append(text)
    if not whole:
        raise ValueError("ends in the middle of the Huffman code")
    return b"".join(texts)
