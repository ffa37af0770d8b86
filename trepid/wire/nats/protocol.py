"""What is said on the wire, without I/O: bytes in, events out, and the other way round.

The protocol is text: a verb and its arguments on a line, and for messages a payload of so many bytes, which may begin
with headers.  A line is bounded, a payload is what the server says it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, final

import attrs
import msgspec

from trepid.wire.link import ProtocolError

_LONGEST_LINE: Final = 1 << 17
"""Bytes.  INFO is the longest line there is: it names every server of a cluster."""
_LARGEST: Final = 64 << 20
"""Bytes of a payload; no server may be set to more."""
_VERSION: Final = b"NATS/1.0"
_CRLF: Final = b"\r\n"
_BREAKS: Final = re.compile(r"[\r\n]")
_KEY: Final = re.compile(r"[!-9;-~]+")


@final
class Message:
    """A message from the server.

    Attributes:
      subject: what it was published to.
      sid: the subscription that it came by.
      reply: where an answer is to go, or empty.
      raw: the headers as they came, or empty.
      payload: the rest.
    """

    __slots__ = ("payload", "raw", "reply", "sid", "subject")

    def __init__(self, subject: str, sid: int, reply: str, raw: bytes, payload: bytes) -> None:
        self.subject = subject
        self.sid = sid
        self.reply = reply
        self.raw = raw
        self.payload = payload

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"Message({self.subject!r}, {self.sid}, {self.reply!r}, {self.raw!r}, {self.payload!r})"

    @property
    def status(self) -> int:
        """The number in the first line of the headers, such as 503; 0 for an ordinary message."""
        number = self.raw[9:12]
        return int(number) if len(number) == 3 and number.isdigit() else 0

    @property
    def headers(self) -> dict[str, str]:
        """The headers; of several with one name the first."""
        found: dict[str, str] = {}
        for line in self.raw.split(_CRLF)[1:]:
            name, colon, value = line.partition(b":")
            if colon:
                found.setdefault(name.decode("utf-8", "replace"), value.strip().decode("utf-8", "replace"))
        return found

    def header(self, name: bytes) -> bytes | None:
        """Return the value of one header, or None; cheaper than all of them."""
        start = self.raw.find(b"\r\n" + name + b":")
        if start < 0:
            return None
        start += len(name) + 3
        return self.raw[start : self.raw.index(_CRLF, start)].strip()


@attrs.frozen
class Info:
    """What the server says of itself: first of all, and again whenever it changes."""

    about: Mapping[str, Any]


@attrs.frozen
class Ping:
    """The server asks whether we are there."""


@attrs.frozen
class Pong:
    """The server is there."""


@attrs.frozen
class Okay:
    """Something was accepted; only servers that were asked to be verbose say so."""


@attrs.frozen
class Complaint:
    """Something was refused; what is fatal is followed by the end of the connection."""

    text: str


Event: TypeAlias = Message | Info | Ping | Pong | Okay | Complaint


@final
class Parser:
    """Turns what a server sends into events, however it is sliced."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def rest(self) -> bytes:
        """What was fed and has not become an event yet."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that are complete now.

        Raises:
          ProtocolError: if the bytes make no sense; nothing more can be read then.
        """
        buffer = self._buffer
        buffer += data
        events: list[Event] = []
        position = 0
        while (end := buffer.find(_CRLF, position)) >= 0:
            line = bytes(buffer[position:end])
            if line[:4] == b"MSG " or line[:5] == b"HMSG ":
                message, position_after = self._message(line, end + 2)
                if message is None:
                    break
                events.append(message)
                position = position_after
            else:
                events.append(_plain(line))
                position = end + 2
        else:
            if len(buffer) - position > _LONGEST_LINE:
                raise ProtocolError(f"a line of more than {_LONGEST_LINE:,} bytes")
        if position:
            del buffer[:position]
        return events

    def _message(self, line: bytes, start: int) -> tuple[Message | None, int]:
        """Return the message whose line is given and whose payload begins at *start*, and where the next one begins."""
        # By the blank alone: a subject may have whatever else strangers put into it, and need be no UTF-8.
        verb, *words = line.split(b" ")
        headed = verb == b"HMSG"
        numbers = 2 if headed else 1
        if not numbers + 2 <= len(words) <= numbers + 3:
            raise ProtocolError(_shown(line))
        try:
            sid, sizes = int(words[1]), [int(word) for word in words[-numbers:]]
            subject = words[0].decode("utf-8", "replace")
            reply = words[2].decode() if len(words) == numbers + 3 else ""
        except ValueError:
            raise ProtocolError(_shown(line)) from None
        size, head = sizes[-1], sizes[0] if headed else 0
        if not 0 <= head <= size <= _LARGEST:
            raise ProtocolError(_shown(line))
        buffer = self._buffer
        end = start + size
        if len(buffer) < end + 2:
            return None, start
        if buffer[end : end + 2] != _CRLF:
            raise ProtocolError("a payload that is longer than was said")
        raw = bytes(buffer[start : start + head])
        if headed and not (raw.startswith(_VERSION) and raw.endswith(_CRLF + _CRLF)):
            raise ProtocolError(f"headers that are none: {_shown(raw)}")
        return Message(subject, sid, reply, raw, bytes(buffer[start + head : end])), end + 2


def _plain(line: bytes) -> Event:
    """Return the event that is said in one line."""
    verb, _, rest = line.partition(b" ")
    match verb.upper():
        case b"PING":
            return Ping()
        case b"PONG":
            return Pong()
        case b"+OK":
            return Okay()
        case b"-ERR":
            return Complaint(rest.decode("utf-8", "replace").strip().strip("'"))
        case b"INFO":
            try:
                return Info(msgspec.json.decode(rest, type=dict[str, Any]))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                raise ProtocolError("INFO without JSON") from None
        case _:
            raise ProtocolError(_shown(line))


def _shown(line: bytes) -> str:
    return repr(line[:60])


# ----------------------------------------------------------------------------------------------------------- to say


def headed(headers: Mapping[str, str]) -> bytes:
    """Return headers as they are written.

    Raises:
      ValueError: if a name is none, or a value has more than one line.
    """
    lines = [_VERSION]
    for name, value in headers.items():
        if not _KEY.fullmatch(name) or _BREAKS.search(value):
            raise ValueError(f"no header: {name!r}")
        lines.append(f"{name}: {value}".encode())
    return _CRLF.join(lines) + b"\r\n\r\n"


def published(subject: str, payload: bytes = b"", *, reply: str = "", raw: bytes = b"") -> bytes:
    """Return a message as it is published; *raw* are headers as :func:`headed` makes them."""
    to = f"{subject} {reply}" if reply else subject
    if raw:
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (to.encode(), len(raw), len(raw) + len(payload), raw, payload)
    return b"PUB %b %d\r\n%b\r\n" % (to.encode(), len(payload), payload)


def subscribed(subject: str, sid: int) -> bytes:
    """Return a subscription as it is asked for."""
    return f"SUB {subject} {sid}\r\n".encode()


def unsubscribed(sid: int) -> bytes:
    """Return the end of a subscription as it is asked for."""
    return f"UNSUB {sid}\r\n".encode()


def connecting(options: Mapping[str, Any]) -> bytes:
    """Return how a client introduces itself."""
    return b"CONNECT " + msgspec.json.encode(options) + _CRLF


PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"
