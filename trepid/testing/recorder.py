"""The recorder: an observer that remembers what became of each message, as plain data."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias, final

import attrs
import trio

from trepid.connection import JobHandle
from trepid.ports.events import Event, JobEnded, JobEvent, JobStarted
from trepid.rules.life import Reply
from trepid.values.actor import Actor

_PROCESSED = ("succeeded", "retried", "dead", "cancelled")


@final
@attrs.frozen
class Attempt:
    """One delivery of a message to a worker.  Times are on Trio's clock.

    Attributes:
      number: which attempt it was: the failures before it, plus 1.
      actor: who was called.
      worker: in which worker run.
      started: when the function was called, or None if it never was.
      ended: when the end was known; None while it runs, and for ever if the worker died over it.
      outcome: ``succeeded``, ``retried``, ``dead``, ``cancelled``, ``released`` or ``lost``; None like *ended*.
      error: type and message of the failure, where there was one.
      delay: seconds until it was due again, where it was.
      reason: why it was released, buried or cancelled.
      reply: what the broker answered to the outcome.
      seconds: how long the function took.
    """

    number: int
    actor: str
    worker: str
    started: float | None = None
    ended: float | None = None
    outcome: str | None = None
    error: str | None = None
    delay: float | None = None
    reason: str | None = None
    reply: Reply | None = None
    seconds: float = 0.0


@attrs.frozen
class History:
    """What became of one message.

    Attributes:
      queue, id: which one.
      attempts: its deliveries to workers, in order.
    """

    queue: str
    id: str
    attempts: tuple[Attempt, ...] = ()

    @property
    def actor(self) -> str | None:
        """Who was called, or None if nobody was."""
        return self.attempts[-1].actor if self.attempts else None

    @property
    def outcomes(self) -> tuple[str | None, ...]:
        """How the attempts ended; None for one that has not ended, or whose worker died."""
        return tuple(attempt.outcome for attempt in self.attempts)

    @property
    def errors(self) -> tuple[str, ...]:
        """What went wrong, once per failure: the type and the message."""
        return tuple(attempt.error for attempt in self.attempts if attempt.error is not None)

    @property
    def delays(self) -> tuple[float, ...]:
        """The seconds the message was sent away for, once for each time that it was."""
        return tuple(attempt.delay for attempt in self.attempts if attempt.delay is not None)

    @property
    def started(self) -> float | None:
        """When it was first started, on Trio's clock."""
        return next((attempt.started for attempt in self.attempts if attempt.started is not None), None)

    @property
    def ended(self) -> float | None:
        """When the last attempt ended, on Trio's clock."""
        return self.attempts[-1].ended if self.attempts else None

    @property
    def elapsed(self) -> float | None:
        """Seconds from the first start to the last end, waiting between attempts included."""
        return None if self.started is None or self.ended is None else self.ended - self.started

    @property
    def outcome(self) -> str | None:
        """How the last attempt ended."""
        return self.attempts[-1].outcome if self.attempts else None


Which: TypeAlias = str | Actor[..., Any]


@final
class Recorder:
    """An observer, ``Worker(observers=[recorder])``, that remembers what became of each message.

    One recorder may listen to several workers.  It remembers everything, so it is for tests.

    Attributes:
      events: everything it was told, in order.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._attempts: dict[tuple[str, str], list[Attempt]] = {}

    def __call__(self, event: Event) -> None:
        """Remember an event."""
        self.events.append(event)
        if isinstance(event, JobEvent):
            attempts = self._attempts.setdefault((event.queue, event.id), [])
            if isinstance(event, JobStarted):
                attempts.append(Attempt(event.attempt, event.actor, event.worker, trio.current_time()))
            elif isinstance(event, JobEnded):
                _end(attempts, event)

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(self.counts().items()))
        return f"<trepid.testing.Recorder {counts or 'empty'}>"

    def of(self, message: str | JobHandle[Any], *, queue: str | None = None) -> History:
        """Return what became of one message; an empty history if no worker has seen it.

        Args:
          message: its id, or its handle.
          queue: its queue; needed only if the id occurs in several.

        Raises:
          LookupError: if the id occurs in several queues.
        """
        if isinstance(message, str):
            id = message
        else:
            id, queue = message.id, message.queue
        found = [key for key in self._attempts if key[1] == id and queue in (None, key[0])]
        if len(found) > 1:
            raise LookupError(f"{id!r} occurs in {', '.join(sorted(key[0] for key in found))}; say queue=...")
        if not found:
            return History(queue or "?", id)
        return History(*found[0], tuple(self._attempts[found[0]]))

    def histories(self, actor: Which | None = None) -> tuple[History, ...]:
        """Return what became of all messages, or those of one actor, in the order in which workers met them."""
        histories = (History(*key, tuple(attempts)) for key, attempts in self._attempts.items())
        return tuple(history for history in histories if _is_of(history, actor))

    def succeeded(self, actor: Which | None = None) -> tuple[str, ...]:
        """Return the ids of the messages whose last attempt succeeded, of all actors or of one."""
        return self._ended(actor, "succeeded")

    def dead(self, actor: Which | None = None) -> tuple[str, ...]:
        """Return the ids of the messages that a worker gave up."""
        return self._ended(actor, "dead")

    def cancelled(self, actor: Which | None = None) -> tuple[str, ...]:
        """Return the ids of the messages that were cancelled while they ran."""
        return self._ended(actor, "cancelled")

    def counts(self, actor: Which | None = None) -> dict[str, int]:
        """Return how many attempts ended in each outcome; outcomes without any are left out."""
        return dict(
            Counter(
                attempt.outcome
                for history in self.histories(actor)
                for attempt in history.attempts
                if attempt.outcome is not None
            )
        )

    @property
    def processed(self) -> int:
        """How many attempts ended in a verdict: succeeded, retried, dead or cancelled."""
        counts = self.counts()
        return sum(counts.get(outcome, 0) for outcome in _PROCESSED)

    def _ended(self, actor: Which | None, outcome: str) -> tuple[str, ...]:
        return tuple(history.id for history in self.histories(actor) if history.outcome == outcome)


def _is_of(history: History, actor: Which | None) -> bool:
    return actor is None or history.actor == (actor.name if isinstance(actor, Actor) else actor)


def _end(attempts: list[Attempt], event: JobEnded) -> None:
    """Close the attempt that has ended: the last one that this worker run began and did not end."""
    for index in reversed(range(len(attempts))):
        attempt = attempts[index]
        if attempt.worker == event.worker and attempt.ended is None:
            break
    else:
        # It ended before its function was called: an unknown actor, say.
        index = len(attempts)
        attempts.append(Attempt(event.attempt, event.actor, event.worker))
    attempts[index] = attrs.evolve(
        attempts[index],
        ended=trio.current_time(),
        outcome=event.outcome,
        error=event.error,
        delay=event.delay,
        reason=event.reason,
        reply=event.reply,
        seconds=event.seconds,
    )
