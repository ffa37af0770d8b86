"""A message's passport: all that a header says of its life, for the server keeps nothing else of it."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec.structs import replace

from trepid.ports.messages import Publication
from trepid.rules.life import READY, Life, State
from trepid.rules.publishing import PublishToken
from trepid.rules.verdicts import Failure

HEADER: Final = b"trepid"
_LARGEST: Final = 65_536
"""Bytes of a passport; a header must fit in one frame, and the oldest errors make room."""
_BESIDE: Final = 256
"""Bytes of a frame that hold something else: its own header, and what the server adds."""


Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""So that nothing which is counted with it is too large for a float."""


class Passport(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What travels with a payload.  Times are seconds since the epoch, by the clock of the host that wrote them.

    The names are short, for they are stored with every message: see :class:`~trepid.rules.life.Life` for what they
    mean.
    """

    id: str
    token: PublishToken
    seq: int
    enqueued: float
    due: float
    priority: int = 5
    expires: float | None = None
    failures: Count = 0
    crashes: Count = 0
    returns: Count = 0
    spent_failures: Count = 0
    spent_crashes: Count = 0
    requeues: Count = 0
    stray_since: float | None = None
    max_crashes: int | None = None
    result_ttl: float | None = None
    errors: tuple[Failure, ...] = ()
    ended: float | None = None
    reason: str | None = None

    @classmethod
    def of(cls, item: Publication, seq: int, now: float) -> Passport:
        """Return the passport of a new message."""
        due = max(item.due if item.due is not None else now + (item.delay or 0.0), now)
        return cls(
            item.id,
            item.token,
            seq,
            now,
            due,
            item.priority,
            None if item.ttl is None else due + item.ttl,
            max_crashes=item.max_crashes,
            result_ttl=item.result_ttl,
        )

    def life(self, state: State = READY) -> Life:
        """Return the life that it tells of."""
        return Life(
            self.seq,
            self.due,
            state,
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

    def after(self, life: Life, error: Failure | None = None) -> Passport:
        """Return the passport after something has happened to the message."""
        return replace(
            self,
            seq=life.seq,
            due=life.due,
            expires=life.expires,
            failures=life.failures,
            crashes=life.crashes,
            returns=life.returns,
            spent_failures=life.spent_failures,
            spent_crashes=life.spent_crashes,
            requeues=life.requeues,
            stray_since=life.stray_since,
            errors=self.errors if error is None else (*self.errors, error),
            ended=life.ended,
            reason=life.reason,
        )

    def written(self, frame: int = _LARGEST) -> bytes:
        """Return it as text that fits in a frame.

        Of errors that do not, the latest are kept; the last one goes without its traceback if it must.
        """
        text = _WRITE.encode(self)
        errors = self.errors
        while len(text) > min(_LARGEST, frame - _BESIDE) and errors:
            errors = errors[1:] or _without_traceback(errors[0])
            text = _WRITE.encode(replace(self, errors=errors))
        return text


def read(text: bytes) -> Passport:
    """Return the passport that a header holds.

    Raises:
      ValueError: if it holds none.
    """
    try:
        return _READ.decode(text)
    except RecursionError as exc:
        raise ValueError(f"it is nested too deeply: {exc}") from None


def foreign(number: int, now: float) -> Passport:
    """Return the passport of a dead letter that nobody of us has published."""
    error = Failure("ValueError", "it has no passport: it was not published by Trepid", at=now)
    return Passport(
        f"foreign-{number}", ("", number), number, now, now, errors=(error,), ended=now, reason="undecodable"
    )


def _without_traceback(error: Failure) -> tuple[Failure, ...]:
    return (replace(error, traceback=""),) if error.traceback else ()


_WRITE = msgspec.json.Encoder()
_READ = msgspec.json.Decoder(Passport)
