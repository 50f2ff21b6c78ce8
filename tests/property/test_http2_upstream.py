"""Whatever an upstream sends in HTTP/2, every exchange ends once, and nothing is raised or left behind."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from kncore.net.exchange import Exchange
from kncore.net.heads import RequestHead
from kncore.net.http2 import frames
from kncore.net.http2.upstream import ClientConnection


class Wire:
    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None: ...

    def writelines(self, parts: list[bytes]) -> None: ...

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default


class Asked(Exchange):
    """An exchange that counts how often it ends, and holds whoever calls it to the order of things."""

    ends = 0

    def __init__(self, method: bytes) -> None:
        head = RequestHead()
        head.method, head.target, head.start = method, b"/", method + b" / HTTP/1.1"
        head.lines, head.fields = [], {}
        super().__init__(head, 0.0)
        self.on_done(self._count)

    def _count(self, _: Exchange) -> None:
        self.ends += 1

    def _send_head(self, status, reason, lines, length, body, *, end):  # type: ignore[no-untyped-def]
        assert not self.status
        assert all(b"\r" not in line and b"\n" not in line for line in lines)
        self.status = status
        if end:
            self.finish()

    def _send_body(self, data: bytes) -> None:
        assert self.status
        assert not self.done

    def _send_end(self, trailers):  # type: ignore[no-untyped-def]
        assert self.status
        self.finish()

    def _send_informational(self, status, reason, lines):  # type: ignore[no-untyped-def]
        assert not self.status
        assert 100 < status < 200 or status == 100

    def _cut(self, text: bytes) -> None:
        self.finish()

    def _pause_body(self) -> None: ...

    def _resume_body(self) -> None: ...


class Home:
    def __init__(self) -> None:
        self.released_times = self.lost_times = 0

    def released(self, connection: ClientConnection) -> None:
        self.released_times += 1

    def roomy(self, connection: ClientConnection) -> None: ...

    def closing(self, connection: ClientConnection) -> None: ...

    def lost(self, connection: ClientConnection) -> None:
        self.lost_times += 1


BLOCKS = st.sampled_from(
    [
        b"\x88",  # :status 200
        b"\x88\x0f\x0d\x015",  # and content-length 5
        b"\x89",  # 204
        b"\x08\x03103",
        b"\x08\x03101",
        b"\x88\x40\x01a\x01b",  # a field for the table
        b"\xbe",  # the first field of the table
        b"\x00\x0bgrpc-status\x010",
        b"\x20",
        b"\xff\xff\xff\xff\xff",
    ]
)
STREAMS = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 7, 9, 2**31 - 1])
FRAMES = st.one_of(
    st.builds(
        lambda number, block, end: frames.header_frames(number, block, end=end),
        STREAMS,
        BLOCKS | st.binary(max_size=20),
        st.booleans(),
    ),
    st.builds(
        lambda number, data, end: b"".join(frames.data_frames(number, data, end=end)),
        STREAMS,
        st.binary(max_size=6),
        st.booleans(),
    ),
    st.builds(
        lambda kind, flags, number, payload: frames.write_header(0, len(payload), kind, flags, number) + payload,
        st.integers(0, 12),
        st.integers(0, 255),
        STREAMS,
        st.binary(max_size=12),
    ),
    st.builds(frames.rst_stream, STREAMS, st.sampled_from([*frames.Code, 99])),
    st.builds(frames.window_update, STREAMS, st.sampled_from([0, 1, 65_535, 2**31 - 1])),
    st.builds(frames.goaway, STREAMS, st.sampled_from(list(frames.Code))),
    st.builds(
        lambda name, value: frames.settings([(name, value)]),
        st.sampled_from(list(frames.Setting)),
        st.sampled_from([0, 1, 100, 16_384, 65_535, 2**31]),
    ),
)


@settings(max_examples=400, deadline=None)
@given(
    start=st.sampled_from([frames.settings(())] * 9 + [b""]),
    sent=st.lists(FRAMES, max_size=12),
    step=st.integers(1, 60),
    cancelled=st.none() | st.integers(0, 11),
)
def test_any_frames(start: bytes, sent: list[bytes], step: int, cancelled: int | None) -> None:
    async def check() -> None:
        home, wire = Home(), Wire()
        connection = ClientConnection(home)
        connection.connection_made(wire)  # type: ignore[arg-type]
        asked = [Asked(method) for method in (b"GET", b"HEAD", b"POST")]
        for number, exchange in enumerate(asked):
            exchange.body_done = number < 2
            exchange.authority = b"h"
            connection.start(exchange)
        asked[2].body(b"abc", end=False)
        for at, frame in enumerate([start, *sent]):
            if at == cancelled:
                asked[0].gone()
                asked[2].body(b"d" * 100_000, end=True)
            for begin in range(0, len(frame), step):
                if not wire.closed:
                    connection.data_received(frame[begin : begin + step])
        await asyncio.sleep(0)
        wire.closed = True
        connection.connection_lost(None)
        assert connection.streams == {}
        assert [exchange.ends for exchange in asked] == [1, 1, 1]
        assert (home.released_times, home.lost_times) == (3, 1)

    asyncio.run(check())
