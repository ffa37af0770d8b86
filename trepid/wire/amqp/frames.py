"""Frames: bytes to methods and messages, and back.  Pure; fed in any slices, it says the same.

What every message needs (publish, deliver, acknowledge) is packed and unpacked here; the rest is pamqp's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final, final

from pamqp import base, commands
from pamqp import frame as pamqp_frame
from pamqp import header as pamqp_header

from trepid.wire.link import ProtocolError

PROTOCOL_HEADER: Final = b"AMQP\0\0\x09\x01"
HEARTBEAT: Final = b"\x08\0\0\0\0\0\0\xce"
FRAME_MAX: Final = 131_072
"""The largest frame that we ask for, and what RabbitMQ asks for by default."""

METHOD, HEADER, BODY, BEAT = 1, 2, 3, 8
_FRAME_END: Final = 0xCE
_END: Final = b"\xce"
_OVERHEAD: Final = 8
_START: Final = struct.Struct(">BHI")
_LONGLONG: Final = struct.Struct(">Q")
_HEADS: Final = struct.Struct(">HHQH")

DELIVER: Final = 0x003C003C
GET_OK: Final = 0x003C0047
GET_EMPTY: Final = 0x003C0048
RETURN: Final = 0x003C0032
ACK: Final = 0x003C0050
NACK: Final = 0x003C0078

_PERSISTENT_WITH_HEADERS: Final = 0x3000
_TABLE_OF_ONE: Final = struct.Struct(">IB")


@final
class Delivered:
    """A message as it came from the server.

    Attributes:
      tag: what to acknowledge it by, on its channel.
      consumer: which consumer it came for; empty if it was asked for singly.
      redelivered: whether the server has handed it out before.
      properties: its properties, as they came; see :func:`headers_of`.
      body: its payload.
    """

    __slots__ = ("body", "consumer", "key", "left", "parts", "properties", "redelivered", "tag")

    def __init__(self, tag: int, consumer: str, redelivered: bool, key: str) -> None:  # noqa: FBT001 - of four
        self.tag = tag
        self.consumer = consumer
        self.redelivered = redelivered
        self.key = key
        self.properties = b""
        self.body = b""
        self.parts: list[bytes] = []
        self.left = 0


@final
class Slicer:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.largest = FRAME_MAX

    def feed(self, data: bytes) -> Iterable[tuple[int, int, bytes]]:
        """Yield the frames that are complete, each as its type, its channel and its payload.

        Raises:
          ProtocolError: if the bytes are no frames.
        """
        buffer = self._buffer
        buffer += data
        position, end = 0, len(buffer)
        try:
            while end - position >= _OVERHEAD - 1:
                kind, channel, size = _START.unpack_from(buffer, position)
                if kind not in (METHOD, HEADER, BODY, BEAT):
                    raise ProtocolError(_stranger(bytes(buffer[position : position + 8])))
                if size > self.largest:
                    raise ProtocolError(f"a frame of {size:,} bytes, where {self.largest:,} were agreed")
                if end - position < size + _OVERHEAD:
                    break
                if buffer[position + 7 + size] != _FRAME_END:
                    raise ProtocolError("a frame without its end mark")
                payload = bytes(buffer[position + 7 : position + 7 + size])
                position += size + _OVERHEAD
                yield kind, channel, payload
        finally:
            del buffer[:position]


def _stranger(start: bytes) -> str:
    if start[:4] == b"AMQP":
        return f"it speaks another version of AMQP ({'.'.join(map(str, start[5:8]))}), and not 0-9-1"
    return f"no frame of AMQP begins with {start!r}"


def number_of(payload: bytes) -> int:
    """Return which method a payload carries: class and method in one number."""
    if len(payload) < 4:
        raise ProtocolError("a method without a number")
    return int.from_bytes(payload[:4], "big")


def method_of(payload: bytes) -> base.Frame:
    """Return the method that a payload carries.

    Raises:
      ProtocolError: if it carries none.
    """
    try:
        _, _, method = pamqp_frame.unmarshal(_START.pack(METHOD, 0, len(payload)) + payload + _END)
    except Exception as exc:  # noqa: BLE001 - pamqp raises what its parts raise
        raise ProtocolError(f"no method: {type(exc).__name__}: {exc}") from None
    assert isinstance(method, base.Frame)
    return method


def delivered(payload: bytes) -> Delivered:
    """Read Basic.Deliver."""
    try:
        size = payload[4]
        (tag,) = _LONGLONG.unpack_from(payload, 5 + size)
        consumer = payload[5 : 5 + size].decode("ascii")
        redelivered = payload[13 + size] & 1 == 1
        return Delivered(tag, consumer, redelivered, "")
    except (IndexError, struct.error, UnicodeDecodeError):
        raise ProtocolError("a broken delivery") from None


def got(payload: bytes) -> Delivered:
    """Read Basic.GetOk."""
    try:
        (tag,) = _LONGLONG.unpack_from(payload, 4)
        return Delivered(tag, "", payload[12] & 1 == 1, "")
    except (IndexError, struct.error):
        raise ProtocolError("a broken message") from None


def returned(payload: bytes) -> Delivered:
    """Read Basic.Return."""
    method = method_of(payload)
    assert isinstance(method, commands.Basic.Return)
    return Delivered(0, "", False, str(method.routing_key))


def confirmed(payload: bytes) -> tuple[int, bool]:
    """Read Basic.Ack or Basic.Nack: the tag, and whether all up to it are meant."""
    try:
        (tag,) = _LONGLONG.unpack_from(payload, 4)
        return tag, payload[12] & 1 == 1
    except (IndexError, struct.error):
        raise ProtocolError("a broken confirmation") from None


def begin_content(message: Delivered, payload: bytes) -> bool:
    """Read the content header of a message; return whether it is complete, having no body."""
    if len(payload) < 14:
        raise ProtocolError("a broken content header")
    _, _, message.left, _ = _HEADS.unpack_from(payload)
    message.properties = payload[12:]
    return message.left == 0


def more_content(message: Delivered, payload: bytes) -> bool:
    """Add a piece of the body of a message; return whether it is complete."""
    message.left -= len(payload)
    if message.left < 0:
        raise ProtocolError("more body than was announced")
    message.parts.append(payload)
    if message.left:
        return False
    message.body = payload if len(message.parts) == 1 else b"".join(message.parts)
    message.parts = []
    return True


def marshal(method: base.Frame, channel: int) -> bytes:
    """Return a method as a frame."""
    return pamqp_frame.marshal(method, channel)


def acknowledgement(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Return Basic.Ack as a frame."""
    return b"\x01%b\0\0\0\x0d\0\x3c\0\x50%b%b\xce" % (
        channel.to_bytes(2, "big"),
        tag.to_bytes(8, "big"),
        b"\x01" if multiple else b"\0",
    )


def rejection(channel: int, tag: int, *, multiple: bool = False, requeue: bool = True) -> bytes:
    """Return Basic.Nack as a frame."""
    return b"\x01%b\0\0\0\x0d\0\x3c\0\x78%b%b\xce" % (
        channel.to_bytes(2, "big"),
        tag.to_bytes(8, "big"),
        bytes([multiple | requeue << 1]),
    )


def address(channel: int, exchange: str, key: str) -> bytes:
    """Return Basic.Publish as a frame, mandatory: who publishes much keeps it."""
    return marshal(commands.Basic.Publish(exchange=exchange, routing_key=key, mandatory=True), channel)


def contents(channel: int, properties: bytes, body: bytes, largest: int) -> list[bytes]:
    """Return what follows Basic.Publish: the content header, and the body in frames that are small enough."""
    number = channel.to_bytes(2, "big")
    size = 12 + len(properties)
    frames = [
        b"\x02%b%b\0\x3c\0\0%b%b\xce" % (number, size.to_bytes(4, "big"), len(body).to_bytes(8, "big"), properties)
    ]
    piece = largest - _OVERHEAD
    if 0 < len(body) <= piece:
        frames.append(b"\x03%b%b%b\xce" % (number, len(body).to_bytes(4, "big"), body))
    else:
        for start in range(0, len(body), piece):
            part = body[start : start + piece]
            frames.append(b"\x03%b%b%b\xce" % (number, len(part).to_bytes(4, "big"), part))
    return frames


def persistent(header: bytes, value: bytes) -> bytes:
    """Return properties: a persistent message with one header, of ASCII name and UTF-8 text."""
    table = b"%c%bS%b%b" % (len(header), header, len(value).to_bytes(4, "big"), value)
    return b"\x30\0%b%b\x02" % (len(table).to_bytes(4, "big"), table)


def header_of(properties: bytes, header: bytes) -> tuple[bytes | None, Mapping[str, Any]]:
    """Return one header of a message as text, and the other headers.

    Raises:
      ProtocolError: if these are no properties.
    """
    try:
        flags = int.from_bytes(properties[:2], "big")
        if flags == _PERSISTENT_WITH_HEADERS:
            # As we publish it, and as the server leaves it unless it has something to add.
            size, first = _TABLE_OF_ONE.unpack_from(properties, 2)
            start = 7 + first
            if properties[7:start] == header and properties[start : start + 1] == b"S":
                value = properties[start + 5 : 6 + size]
                if len(value) == int.from_bytes(properties[start + 1 : start + 5], "big"):
                    return value, {}
        read = pamqp_header.ContentHeader()
        read.unmarshal(b"\0\x3c\0\0" + b"\0" * 8 + properties)
        table: dict[str, Any] = dict(read.properties.headers or {})
    except Exception as exc:  # noqa: BLE001 - pamqp raises what its parts raise
        raise ProtocolError(f"no properties: {type(exc).__name__}: {exc}") from None
    value = table.pop(header.decode(), None)
    if isinstance(value, str):
        return value.encode(), table
    return (bytes(value) if isinstance(value, (bytes, bytearray)) else None), table
