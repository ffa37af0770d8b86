"""How an attempt ended, as the broker is told."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong, as text: exceptions are never rebuilt from a store.

    Attributes:
      type: the qualified name of the exception, or a reason such as ``poison``.
      message: its text.
      traceback: frames as text, without local variables.
      at: when, in seconds since the epoch by the broker's clock; the broker fills it in.
      attempt: which attempt it was, from 1; 0 where no attempt was made.
    """

    type: str
    message: str = ""
    traceback: str = ""
    at: float = 0.0
    attempt: int = 0


class Done(msgspec.Struct, frozen=True):
    """The job returned.

    Attributes:
      result: what it returned, as JSON, or None if that is not to be read.
      keep: how long the message stays readable, in seconds; 0 keeps nothing.
      unreadable: why the result could not be stored.
    """

    result: bytes | None
    keep: float
    unreadable: str | None = None


class Failed(msgspec.Struct, frozen=True):
    """The job failed; it counts.

    Attributes:
      error: what went wrong.
      delay: seconds until it is tried again, or None if no retry is left.
    """

    error: Failure
    delay: float | None = None


class Returned(msgspec.Struct, frozen=True):
    """The message goes back; it does not count.

    Attributes:
      delay: seconds until it is due again, or None to keep its place.
      reason: why: ``shutdown``, ``snooze``, ``unstarted``, ``no room`` or ``unknown actor``.
      started: whether the job had been started, which ends its ttl.
      gate: the gate that it must pass from now on (see ``rules.gates``), ``""`` for none; None leaves that as it is.
    """

    delay: float | None = None
    reason: str = "shutdown"
    started: bool = True
    gate: str | None = None


class Buried(msgspec.Struct, frozen=True):
    """The message is dead at once, whatever retries are left.

    Attributes:
      error: what is wrong with it.
      reason: ``buried``, ``undecodable``, ``arguments``, ``unknown actor`` or ``poison``.
    """

    error: Failure
    reason: str = "buried"


class Withdrawn(msgspec.Struct, frozen=True):
    """The job was cancelled: as had been asked for, or on grounds that the message itself carries.

    Attributes:
      keep: how long the message stays readable, in seconds.
      error: what it raised while it was cancelled, if anything worth keeping.
      reason: the grounds, where nobody need have asked: ``deadline``, or that its job nursery is gone.  What somebody
        asked for goes first.
    """

    keep: float
    error: Failure | None = None
    reason: str | None = None


Verdict: TypeAlias = Done | Failed | Returned | Buried | Withdrawn

UNKNOWN_ACTOR = "unknown actor"
"""The reason of a :class:`Returned` or :class:`Buried` for a message whose actor the worker does not have."""
