"""The record by which a job nursery shows that it is alive."""

from __future__ import annotations

import msgspec

LEASE = 30.0
"""For how many seconds a job nursery is believed to be alive since it last said so."""


class Sign(msgspec.Struct, frozen=True):
    """A sign of life.

    Attributes:
      until: when it ends unless there is another one, in seconds since the epoch by the broker's clock.  It is a hint
        when to look again; whether the nursery is alive is said by the record being there.
    """

    until: float


_DECODER = msgspec.json.Decoder(Sign)


def key(scope: str) -> str:
    """Return under which key of the broker's records the job nursery *scope* gives its signs of life."""
    return f"scope:{scope}"


def sign(until: float) -> bytes:
    """Return the value of a record."""
    return msgspec.json.encode(Sign(until))


def ends(value: bytes) -> float | None:
    """Return until when a sign of life lasts, or None if it cannot be read; then it is one all the same."""
    try:
        return _DECODER.decode(value).until
    except ValueError:
        return None
