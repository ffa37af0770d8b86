"""Gates: how many messages may run at once, or start in a span of time, and who goes next.

A *gate* is named by a message: the name of its actor, or, where limits are counted by a key, ``actor:key``.  What it
lets through is said by the limit of its *family*, the part before the colon, and by that of the queue, which every
message of it has to pass.  A gate is nothing that is stored: who is inside is told by the leases, so the share of a
dead worker comes back with them; only the starts of the last *per* seconds are kept, where there is a rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from trepid.values.actor import Actor
from trepid.values.queue import Queue

QUEUE = ""
"""The gate that every message of a queue passes, and its family."""


class Limit(msgspec.Struct, frozen=True):
    """What the gates of one family in one queue let through.

    Attributes:
      queue: where.
      family: the actor, or ``QUEUE`` for the queue itself.
      concurrency: how many messages may be leased at once behind each gate.
      count, per: how many may be leased in any *per* seconds.
      max_size: only of a queue: how many live messages it takes.
      weight: only of a queue: its share among others.
    """

    queue: str
    family: str = QUEUE
    concurrency: int | None = None
    count: int | None = None
    per: float = 1.0
    max_size: int | None = None
    weight: int = 1

    @property
    def void(self) -> bool:
        """Whether it limits nothing, so that nothing need be stored of it."""
        return self == Limit(self.queue, self.family, per=self.per)


def queue_limit(queue: Queue) -> Limit:
    """Return what a queue was declared with."""
    return Limit(
        queue.name,
        QUEUE,
        queue.concurrency,
        None if queue.rate is None else queue.rate.count,
        1.0 if queue.rate is None else queue.rate.per,
        queue.max_size,
        queue.weight or 1,
    )


def actor_limit(queue: str, actor: Actor[..., Any]) -> Limit:
    """Return the limit of an actor in a queue; it may be void."""
    count, per = (None, 1.0) if actor.rate is None else (actor.rate.count, actor.rate.per)
    return Limit(queue, actor.name, actor.concurrency, count, per)


def family(gate: str) -> str:
    """Return the family of a gate."""
    return gate.partition(":")[0]


def admitted(limit: Limit | None, running: int, starts: Sequence[float], now: float) -> int | None:
    """Return how many messages a gate lets through now, or None if as many as there are.

    Args:
      limit: of its family.
      running: how many messages behind it are leased.
      starts: when the last leases behind it were granted, oldest first; those of *per* seconds are enough.
      now: the broker's time.
    """
    if limit is None:
        return None
    room = None if limit.concurrency is None else max(0, limit.concurrency - running)
    if limit.count is not None:
        left = max(0, limit.count - sum(1 for start in starts if start + limit.per > now))
        room = left if room is None else min(room, left)
    return room


def opens(limit: Limit | None, starts: Sequence[float], now: float) -> float | None:
    """Return when time alone will let one more message through, or None if its rate does not hold it up now."""
    if limit is None or limit.count is None:
        return None
    inside = [start for start in starts if start + limit.per > now]
    return None if len(inside) < limit.count else inside[-limit.count] + limit.per


def shares(weights: Sequence[int], turn: int) -> tuple[int, list[int]]:
    """Return which of several queues is asked first at this *turn*, and their weights in the order of asking.

    Over as many turns as the weights sum up to, each queue is first as often as its weight says.
    """
    at = turn % sum(weights)
    first = 0
    while at >= weights[first]:
        at -= weights[first]
        first += 1
    return first, [*weights[first:], *weights[:first]]


def share(room: int, weight: int, weights: int) -> int:
    """Return how many messages a queue of this weight may give, of *room*, among queues of *weights* altogether."""
    return -(-room * weight // weights)
