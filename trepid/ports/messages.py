"""The values that cross the broker port."""

from __future__ import annotations

import enum
from typing import TypeAlias

import attrs
import msgspec

from trepid.rules.life import Life, Reply, State, Token
from trepid.rules.publishing import PublishToken
from trepid.rules.verdicts import Failure, Verdict
from trepid.values.envelope import actor_of
from trepid.values.unique import Unique


class Publication(msgspec.Struct, frozen=True):
    """A message to be stored.

    Attributes:
      queue: where.
      id: its id, unique per queue; made by the publisher, so that a repeat is recognised.
      token: which publish this is; the same again means the same publish.
      payload: the envelope; the broker never looks inside.
      priority: higher is more urgent.
      delay: seconds until it is due, by the broker's clock.
      due: when it is due, in seconds since the epoch; not together with *delay*.
      ttl: seconds that it may wait for its first start once due.
      unique: a key that at most one live message of the queue may hold.
      result_ttl: seconds to keep it once ended, or None if workers decide.
      max_crashes: how many expired leases make it poison, or None if workers decide.
      gate: the gate that it has to pass besides that of its queue, if any; see ``trepid.rules.gates``.
      remembered: whether it is to be recognised long after it has ended, for a dead worker's successor may publish it
        again: a follow-up of a chain, and where an instant is fired in two steps, what was published for it.
    """

    queue: str
    id: str
    token: PublishToken
    payload: bytes
    priority: int = 5
    delay: float | None = None
    due: float | None = None
    ttl: float | None = None
    unique: Unique | None = None
    result_ttl: float | None = None
    max_crashes: int | None = None
    gate: str | None = None
    remembered: bool = False


class Firing(msgspec.Struct, frozen=True):
    """One instant of a schedule, to be fired once by whoever comes first.

    A queue keeps *marks*: names with the last instant that was fired under each.  A mark never goes back.

    Attributes:
      queue: where.
      mark: the name; at most 200 characters.
      instant: which one, in seconds since the epoch; None forgets the mark.
      publication: the message, or None if the mark is only moved on.  Its id and its publish token are made of mark and
        instant, so an engine that cannot do both in one step can recognise the second of two.
      insist: whether the instant counts as unfired where the message was not stored because another one is alive
        (``EXISTING``).
    """

    queue: str
    mark: str
    instant: float | None
    publication: Publication | None = None
    insist: bool = False


class Ref(msgspec.Struct, frozen=True):
    """A lease: which message, and the token that proves it is still ours."""

    queue: str
    id: str
    token: Token


class Delivery(msgspec.Struct, frozen=True):
    """A leased message.

    Attributes:
      queue, id, token: its :class:`Ref`.
      payload: the envelope.
      priority: as published.
      failures: how often it failed since it was published or requeued.
      crashes: how often its lease expired since then.
      due: when it was due.
      enqueued: when it was published.
      leased: when this lease was granted; like *due* and *enqueued* in seconds by the broker's clock.
      deadline: the moment on Trio's clock until which the lease surely holds, counted from before it was asked for.
      stray_since: when it was first returned for want of its actor, if it was.
      result_ttl: as published.
      max_crashes: as published.
      gate: the gate that it has passed, or None if only that of its queue.
    """

    queue: str
    id: str
    token: Token
    payload: bytes
    priority: int
    failures: int
    crashes: int
    due: float
    enqueued: float
    leased: float
    deadline: float
    stray_since: float | None = None
    result_ttl: float | None = None
    max_crashes: int | None = None
    gate: str | None = None

    @property
    def ref(self) -> Ref:
        """The lease."""
        return Ref(self.queue, self.id, self.token)


class Settlement(msgspec.Struct, frozen=True):
    """How one delivery ended."""

    ref: Ref
    verdict: Verdict


class Extension(msgspec.Struct, frozen=True):
    """A broker's answer to a request to extend a lease.

    Attributes:
      reply: APPLIED, or why not.
      cancel: the reason, if somebody asked for the message to be cancelled.
      deadline: the moment on Trio's clock until which the lease surely holds; only with APPLIED.
    """

    reply: Reply
    cancel: str | None = None
    deadline: float = 0.0


class Absent(enum.StrEnum):
    """Why there is no ending to be had."""

    PENDING = "pending"
    GONE = "gone"


class Ending(msgspec.Struct, frozen=True):
    """How a message ended.

    Attributes:
      state: done, dead or cancelled.
      result: what the job returned, as JSON; only when done.
      unreadable: why the result could not be stored, if so.
      error: the last failure, if there was one.
      reason: why it is dead or cancelled.
    """

    state: State
    result: bytes | None = None
    unreadable: str | None = None
    error: Failure | None = None
    reason: str | None = None

    @classmethod
    def of(
        cls, state: State, reason: str | None, result: bytes | None, unreadable: str | None, error: Failure | None
    ) -> Ending:
        """Return how a message ended, from all that is stored with it: only what is done has a result."""
        done = state is State.DONE
        return cls(state, result if done else None, unreadable if done else None, error, reason)


@attrs.frozen
class MessageView:
    """A message, looked at.  Looking changes nothing.

    Attributes:
      queue, id: which one.
      state: where it is in its life.
      actor: the actor that its envelope names, or None where that cannot be read.
      priority: higher is more urgent.
      attempts: failures since the last requeue, plus 1 when done.
      crashes: leases that expired since then.
      releases: leases that were given back uncounted.
      requeues: how often it came back from the dead letters.
      enqueued, due, ended: when, in seconds since the epoch by the broker's clock.
      reason: why it is dead or cancelled.
      cancel: the reason of a cancel that was asked for.
      owner: the worker run that holds its lease.
      errors: every failure so far, oldest first.
      unique: the unique key it was published with.
      gate: the gate that it has to pass besides that of its queue.
      payload: its bytes.
    """

    queue: str
    id: str
    state: State
    actor: str | None
    priority: int
    attempts: int
    crashes: int
    releases: int
    requeues: int
    enqueued: float
    due: float
    ended: float | None = None
    reason: str | None = None
    cancel: str | None = None
    owner: str | None = None
    errors: tuple[Failure, ...] = ()
    unique: str | None = None
    gate: str | None = None
    payload: bytes = attrs.field(default=b"", repr=False)

    @classmethod
    def of(
        cls,
        life: Life,
        *,
        queue: str,
        id: str,
        priority: int,
        enqueued: float,
        payload: bytes,
        errors: tuple[Failure, ...],
        unique: str | None,
        gate: str | None = None,
    ) -> MessageView:
        """Return the view of a message from its life, and from what was stored with it."""
        return cls(
            queue=queue,
            id=id,
            state=life.state,
            actor=actor_of(payload),
            priority=priority,
            attempts=life.attempts,
            crashes=life.recent_crashes,
            releases=life.returns,
            requeues=life.requeues,
            enqueued=enqueued,
            due=life.due,
            ended=life.ended,
            reason=life.reason,
            cancel=life.cancel,
            owner=life.owner,
            errors=errors,
            unique=unique,
            gate=gate,
            payload=payload,
        )

    @property
    def error(self) -> Failure | None:
        """The last failure, if there was one."""
        return self.errors[-1] if self.errors else None


Cursor: TypeAlias = int


@attrs.frozen
class Page:
    """Some messages, and where to go on looking, or None at the end; before that, too, there may be none on a page."""

    messages: tuple[MessageView, ...]
    cursor: Cursor | None = None


@attrs.frozen
class QueueStats:
    """How many messages of a queue are in each state.

    Attributes:
      queue: its name.
      ready, scheduled, leased, done, dead, cancelled: counts; exact unless the engine's capabilities say otherwise.
      paused: whether nothing is leased from it at present.
      oldest_ready: for how many seconds the oldest ready message has been due, or None if there is none.
    """

    queue: str
    ready: int = 0
    scheduled: int = 0
    leased: int = 0
    done: int = 0
    dead: int = 0
    cancelled: int = 0
    paused: bool = False
    oldest_ready: float | None = None

    @property
    def live(self) -> int:
        """Messages that have not ended."""
        return self.ready + self.scheduled + self.leased
