"""A parcel: a message as a consumer hands it out."""

from __future__ import annotations

from typing import Final, NamedTuple, final

import attrs
from msgspec.structs import replace

from trepid.brokers.nats import letter as letters
from trepid.brokers.nats.letter import Letter
from trepid.brokers.nats.names import level, unescaped
from trepid.wire.nats.protocol import Message

PROGRESS: Final = b"+WPI"
_LONGEST_DELAY: Final = 400 * 86_400.0


class Where(NamedTuple):
    """What the server writes into the subject to which a delivery is answered.

    Attributes:
      seq: the message's place in the stream.
      deliveries: how often it was handed out, this time included.
      stamp: when it was stored, in nanoseconds.
    """

    seq: int
    deliveries: int
    stamp: int


def where(reply: str) -> Where | None:
    """Read the subject of an answer, or return None if it is no delivery of a consumer's."""
    words = reply.split(".")
    if words[:2] != ["$JS", "ACK"]:
        return None
    # Servers that know domains and accounts put both in front.
    skip = 2 if len(words) == 9 else 4
    try:
        return Where(int(words[skip + 3]), int(words[skip + 2]), int(words[skip + 5]))
    except (IndexError, ValueError):
        return None


@final
@attrs.frozen(eq=False)
class Parcel:
    """A message that was handed to this session, and nobody's lease yet.

    Attributes:
      queue, place: where it lies.
      seq: its place in the stream.
      deliveries: how often it was handed out, this time included.
      stamp: when it was stored, in nanoseconds: it tells the copies of a message apart, and which came later.
      letter: what is known of it.
      message: as it came.
      server: the life of the server that handed it out; another one may have handed it to somebody else.
      ours: whether it was published by Trepid; else the letter is made up.
    """

    queue: str
    place: str
    seq: int
    deliveries: int
    stamp: int
    letter: Letter
    message: Message
    server: str
    ours: bool = True

    @property
    def level(self) -> str:
        """Where it is leased from once it is due."""
        return level(self.letter.priority)

    def checked(self) -> Parcel:
        """Return the parcel as its holder has it: no repetition of what is remembered, if it is such."""
        return attrs.evolve(self, letter=replace(self.letter, checked=True)) if self.letter.doubtful else self


def unpacked(queue: str, place: str, message: Message, server: str, now: float) -> Parcel | None:
    """Return the parcel in a message, or None if it is no delivery."""
    at = where(message.reply)
    if at is None:
        return None
    letter = letters.read(message)
    if letter is not None:
        return Parcel(queue, place, at.seq, at.deliveries, at.stamp, letter, message, server)
    id = unescaped(message.subject.rpartition(".")[2])
    letter = Letter(id, 5, ("?", at.stamp), now, now)
    return Parcel(queue, place, at.seq, at.deliveries, at.stamp, letter, message, server, ours=False)


def not_before(seconds: float) -> bytes:
    """Return the answer that lets the server hand a message out again after so many seconds, or after very many.

    It counts nanoseconds since the epoch, which end in the year 2262, and hands out at once what is to wait longer.
    """
    return b'-NAK {"delay":%d}' % int(min(max(seconds, 0.001), _LONGEST_DELAY) * 1_000_000_000)
