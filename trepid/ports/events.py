"""What observers are told: frozen events, as they happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from trepid.rules.life import Reply


class Event(msgspec.Struct, frozen=True):
    """The root of the events.

    Attributes:
      worker: the worker run in which it happened, the ``owner`` of its leases.
    """

    worker: str


class WorkerStarted(Event, frozen=True):
    """A worker can receive."""

    queues: tuple[str, ...]
    actors: tuple[str, ...]


class WorkerStopping(Event, frozen=True):
    """A worker takes no new messages."""

    reason: str
    running: int


class WorkerStopped(Event, frozen=True):
    """A worker has settled all it held."""

    processed: int


class WorkerTroubled(Event, frozen=True):
    """A worker cannot reach, or write to, its broker; it goes on trying."""

    operation: str
    error: str


class JobEvent(Event, frozen=True):
    """The root of the events about one message."""

    queue: str
    id: str
    actor: str
    attempt: int


class JobStarted(JobEvent, frozen=True):
    """An attempt begins.

    Attributes:
      waited: seconds since it was due, by the broker's clock.
    """

    waited: float


class JobEnded(JobEvent, frozen=True):
    """An attempt has ended, and the broker has answered.

    Attributes:
      outcome: what the worker said of it.
      reply: what the broker answered; a late settlement is refused.
      seconds: how long the attempt took, by Trio's clock.
      delay: seconds until it is due again, where it is.
      error: type and message of the failure, where there was one.
      reason: why it was released, buried, cancelled or lost.
    """

    outcome: Literal["succeeded", "retried", "dead", "cancelled", "released", "lost"]
    reply: Reply | None
    seconds: float
    delay: float | None = None
    error: str | None = None
    reason: str | None = None


Observer: TypeAlias = Callable[[Event], None]
"""A sync function that is told of events.  It must not block; what it raises is logged and goes no further."""
