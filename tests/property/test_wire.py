"""The hand-written stat codec against protobuf itself, with the schema built at run time."""

import struct
from contextlib import suppress
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from kncore.wire import Stat, WireError, decode_messages, decode_stat, encode_messages, encode_stat

FIELDS = (
    "pod_name",
    "average_concurrent_requests",
    "average_proxied_concurrent_requests",
    "request_count",
    "proxied_request_count",
    "process_uptime",
    "timestamp",
)


def schema() -> tuple[type[Any], type[Any]]:
    file = descriptor_pb2.FileDescriptorProto(name="stat.proto", package="torpor.test", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def add(message: Any, number: int, name: str, kind: int, type_name: str = "", repeated: bool = False) -> None:
        label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        field = message.field.add(name=name, number=number, type=kind, label=label)
        if type_name:
            field.type_name = type_name

    stat = file.message_type.add(name="Stat")
    for number, name in enumerate(FIELDS, start=1):
        kind = kinds.TYPE_STRING if number == 1 else kinds.TYPE_INT64 if number == 7 else kinds.TYPE_DOUBLE
        add(stat, number, name, kind)
    message = file.message_type.add(name="WireStatMessage")
    add(message, 1, "namespace", kinds.TYPE_STRING)
    add(message, 2, "name", kinds.TYPE_STRING)
    add(message, 3, "stat", kinds.TYPE_MESSAGE, ".torpor.test.Stat")
    frame = file.message_type.add(name="WireStatMessages")
    add(frame, 1, "messages", kinds.TYPE_MESSAGE, ".torpor.test.WireStatMessage", repeated=True)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = [pool.FindMessageTypeByName(f"torpor.test.{name}") for name in ("Stat", "WireStatMessages")]
    return message_factory.GetMessageClass(found[0]), message_factory.GetMessageClass(found[1])


PbStat, PbMessages = schema()

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
# -0.0 is left out on the wire here, as by the original, and written by protobuf; both read as zero
NUMBERS = st.floats(allow_nan=False).map(lambda x: x or 0.0)
STATS = st.builds(
    Stat,
    pod_name=TEXT,
    average_concurrent_requests=NUMBERS,
    average_proxied_concurrent_requests=NUMBERS,
    request_count=NUMBERS,
    proxied_request_count=NUMBERS,
    process_uptime=NUMBERS,
    timestamp=st.integers(-(2**63), 2**63 - 1),
)
MESSAGES = st.lists(st.tuples(TEXT, TEXT, st.none() | STATS), max_size=5)


def as_pb(stat: Stat) -> Any:
    return PbStat(**{field: getattr(stat, field) for field in FIELDS})


@given(STATS)
def test_stat_bytes_equal_protobufs(stat: Stat) -> None:
    data = encode_stat(stat)
    assert data == as_pb(stat).SerializeToString(deterministic=True)
    assert decode_stat(data) == stat


@given(MESSAGES)
def test_frame_bytes_equal_protobufs(messages: list[tuple[str, str, Stat | None]]) -> None:
    frame = PbMessages()
    for namespace, name, stat in messages:
        entry = frame.messages.add(namespace=namespace, name=name)
        if stat is not None:
            entry.stat.CopyFrom(as_pb(stat))
    data = encode_messages(messages)
    assert data == frame.SerializeToString(deterministic=True)
    assert decode_messages(data) == messages


TAGS = st.builds(lambda field, kind: field << 3 | kind, st.integers(0, 20), st.integers(0, 7))
PIECES = st.one_of(
    TAGS.map(lambda tag: bytes([tag & 0x7F | 0x80, tag >> 7]) if tag > 0x7F else bytes([tag])),
    st.floats().map(lambda x: struct.pack("<d", x)),
    st.binary(max_size=6),
    st.integers(0, 6).map(lambda n: bytes([n]) + b"x" * n),
)


@given(st.one_of(st.binary(max_size=80), st.lists(PIECES, max_size=12).map(b"".join)))
def test_any_bytes_are_read_as_protobuf_reads_them(data: bytes) -> None:
    """Where both accept, they agree; protobuf is stricter about text and wire types, so only refusals may differ."""
    oracle = PbStat()
    try:
        oracle.ParseFromString(data)
    except DecodeError:
        oracle = None
    try:
        stat = decode_stat(data)
    except WireError:
        stat = None
    with suppress(WireError):
        decode_messages(data)
    if stat is None or oracle is None:
        return
    for field in FIELDS:
        ours, theirs = getattr(stat, field), getattr(oracle, field)
        assert ours == theirs or (ours != ours and theirs != theirs), field
