"""The life of one message, as a value: its state, its counters, and what a broker may answer about it."""

from __future__ import annotations

import enum
from typing import Final, TypeAlias

import msgspec


class State(enum.StrEnum):
    """Where a message is in its life."""

    SCHEDULED = "scheduled"
    READY = "ready"
    LEASED = "leased"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


LIVE: Final = frozenset({State.SCHEDULED, State.READY, State.LEASED})
ENDED: Final = frozenset({State.DONE, State.DEAD, State.CANCELLED})

SCHEDULED, READY, LEASED, DONE, DEAD, CANCELLED = State


class Reply(enum.StrEnum):
    """What a broker answers to a settlement or an extension.  Late and repeated ones are ordinary."""

    APPLIED = "applied"
    REPEATED = "repeated"
    """This very settlement was applied before."""
    EXPIRED = "expired"
    """The lease ran out first; it counted as a crash."""
    SUPERSEDED = "superseded"
    """Somebody else holds the message, or it waits again."""
    ENDED = "ended"
    """The message has ended otherwise."""
    NOT_ASKED = "not asked"
    """A withdrawal that nobody asked for; the lease stands."""
    UNKNOWN = "unknown"
    """There is no such message (any more)."""


class CancelReply(enum.StrEnum):
    """What a broker answers to a request to cancel."""

    WITHDRAWN = "withdrawn"
    REQUESTED = "requested"
    FINISHED = "finished"
    UNKNOWN = "unknown"


Token: TypeAlias = tuple[int, int]
"""A lease's fence: the message's place in the order of publishing, and which delivery of it this is."""


class Life(msgspec.Struct, frozen=True, gc=False):
    """Everything about a message that its lifecycle depends on.  Times are seconds by the broker's clock.

    Attributes:
      seq: its place in the order of publishing; never used twice.
      due: when it is, or became, due.
      state: where it is.
      expires: when its ttl ends, or None once it has started or has none.
      deliveries: how many leases were granted; with *seq* the token of the current one.
      owner: who holds the lease.
      until: when the lease runs out.
      cancel: the reason, once a cancel was asked for.
      failures, crashes, returns, withdrawals: how leases ended, all of them.
      spent_failures, spent_crashes: how many of those were before the last requeue.
      requeues: how often it came back from the dead letters.
      stray_since: when a worker first returned it for want of its actor.
      verdict: the kind of the last settlement that was applied.
      settled: the delivery which that one settled.
      ended: when it ended.
      reason: why it is dead or cancelled.
      forget: when it may be forgotten, or None if it stays.
      max_crashes: its budget of crashes, or None if only workers know it.
      result_ttl: how long to keep it where no verdict says.
    """

    seq: int
    due: float
    state: State = READY
    expires: float | None = None
    deliveries: int = 0
    owner: str | None = None
    until: float = 0.0
    cancel: str | None = None
    failures: int = 0
    crashes: int = 0
    returns: int = 0
    withdrawals: int = 0
    spent_failures: int = 0
    spent_crashes: int = 0
    requeues: int = 0
    stray_since: float | None = None
    verdict: str | None = None
    settled: int = 0
    ended: float | None = None
    reason: str | None = None
    forget: float | None = None
    max_crashes: int | None = None
    result_ttl: float | None = None

    @property
    def token(self) -> Token:
        """The token of the current, or last, lease."""
        return (self.seq, self.deliveries)

    @property
    def attempts(self) -> int:
        """Failures since the last requeue, plus 1 when done."""
        return self.failures - self.spent_failures + (self.state is DONE)

    @property
    def recent_crashes(self) -> int:
        """Crashes since the last requeue."""
        return self.crashes - self.spent_crashes
