"""What is stored with a payload: everything about a message that is not in its subject, as one header of JSON."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from trepid.brokers.nats.names import escaped
from trepid.ports.messages import Delivery, Publication
from trepid.rules.life import DEAD, READY, SCHEDULED, Life
from trepid.rules.publishing import PublishToken
from trepid.rules.verdicts import Failure
from trepid.wire.nats.protocol import Message

HEADER: Final = "Trepid"
_HEADER: Final = HEADER.encode()
_LARGEST: Final = 65_536
"""Bytes of a letter, which travels with every copy; the oldest errors make room."""


class Letter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stored message without its payload.  Times are seconds since the epoch, by the server's clock.

    Attributes:
      id: as published.
      priority: as published.
      token: which publish it came from.
      born: when that was.
      due: when it is due.
      waits: whether it was not due yet when it was stored: such a copy is never leased, only replaced by one that is.
      of: when the copy that this one replaces was stored, in nanoseconds.
      how: what replaced it.
      remembered: whether it is to be recognised long after it has ended.
      checked: whether somebody has leased it, and so has found that it is no repetition.
      The rest is as in :class:`~trepid.rules.life.Life`.
    """

    id: str
    priority: int
    token: PublishToken
    born: float
    due: float
    waits: bool = False
    of: int = 0
    how: str = ""
    expires: float | None = None
    failures: int = 0
    crashes: int = 0
    returns: int = 0
    spent_failures: int = 0
    spent_crashes: int = 0
    requeues: int = 0
    stray_since: float | None = None
    ended: float | None = None
    reason: str | None = None
    max_crashes: int | None = None
    result_ttl: float | None = None
    errors: tuple[Failure, ...] = ()
    remembered: bool = False
    checked: bool = False

    @property
    def doubtful(self) -> bool:
        """Whether it may be a repetition that the server has not recognised."""
        return self.remembered and not self.checked

    @property
    def published(self) -> str | None:
        """By what the server recognises a repetition of its publish; None if this is a later copy.

        With the id: a publisher's token is its own, and a batch of one publish may have several queues.
        """
        return None if self.of else f"{self.token[0]}:{self.token[1]}:{escaped(self.id)}"

    @classmethod
    def of_publication(cls, publication: Publication, now: float) -> Letter:
        """Return the letter of a message that is published now."""
        due = now + publication.delay if publication.delay is not None else publication.due
        due = now if due is None else max(due, now)
        return cls(
            publication.id,
            publication.priority,
            publication.token,
            now,
            due,
            waits=due > now,
            expires=None if publication.ttl is None else due + publication.ttl,
            max_crashes=publication.max_crashes,
            result_ttl=publication.result_ttl,
            remembered=publication.remembered,
        )

    def life(self, stamp: int) -> Life:
        """Return the message's life; *stamp* is when this copy was stored, and proves a lease of it."""
        return Life(
            stamp,
            self.due,
            DEAD if self.ended is not None else SCHEDULED if self.waits else READY,
            self.expires,
            failures=self.failures,
            crashes=self.crashes,
            returns=self.returns,
            spent_failures=self.spent_failures,
            spent_crashes=self.spent_crashes,
            requeues=self.requeues,
            stray_since=self.stray_since,
            ended=self.ended,
            reason=self.reason,
            max_crashes=self.max_crashes,
            result_ttl=self.result_ttl,
        )

    def after(self, life: Life, how: str, now: float, error: Failure | None = None) -> Letter:
        """Return the letter of the copy that replaces this one, *life* being the message's life after that."""
        return replace(
            self,
            due=life.due,
            waits=life.due > now,
            of=life.seq,
            how=how,
            expires=life.expires,
            failures=life.failures,
            crashes=life.crashes,
            returns=life.returns,
            spent_failures=life.spent_failures,
            spent_crashes=life.spent_crashes,
            requeues=life.requeues,
            stray_since=life.stray_since,
            ended=life.ended,
            reason=life.reason,
            errors=self.errors if error is None else (*self.errors, error),
        )

    def delivery(self, queue: str, payload: bytes, life: Life, now: float, deadline: float) -> Delivery:
        """Return what its holder gets."""
        return Delivery(
            queue,
            self.id,
            life.token,
            payload,
            self.priority,
            self.failures - self.spent_failures,
            life.recent_crashes,
            self.due,
            self.born,
            now,
            deadline,
            self.stray_since,
            self.result_ttl,
            self.max_crashes,
        )


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Letter).decode


def written(letter: Letter, room: int = _LARGEST) -> str:
    """Return the value of the header, in so many bytes if need be: of errors that do not fit, the latest are kept."""
    text = _encode(letter)
    room = min(room, _LARGEST)
    while len(text) > room and letter.errors:
        letter = replace(letter, errors=_fewer(letter.errors))
        text = _encode(letter)
    return text.decode()


def _fewer(errors: tuple[Failure, ...]) -> tuple[Failure, ...]:
    """Return errors that take less room: without the oldest, and the last one without its traceback, then its text."""
    *others, last = errors
    if others:
        return errors[1:]
    if last.traceback:
        return (replace(last, traceback=""),)
    return (replace(last, message=""),) if last.message else ()


def read(message: Message) -> Letter | None:
    """Return the letter of a message, or None if it is none of ours."""
    value = message.header(_HEADER)
    if value is None:
        return None
    try:
        return _decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
