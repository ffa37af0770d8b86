"""Looking at messages: time decides first, in memory, about what is stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from heapq import merge
from itertools import islice
from typing import Any

from trepid.brokers.sql.rows import Row, load
from trepid.errors import UnknownQueueError
from trepid.ports.messages import QueueStats
from trepid.rules import lifecycle
from trepid.rules.life import READY, State


class Looking(ABC):
    """A read transaction.

    Attributes:
      now: the broker's time in it.
    """

    __slots__ = ("now",)

    def __init__(self, now: float) -> None:
        self.now = now

    @abstractmethod
    def find_queue(self, name: str) -> tuple[int, bool] | None:
        """Return the key of a declared queue, and whether it is paused."""

    @abstractmethod
    def by_id(self, queue: int, id: str) -> Iterable[tuple[Any, ...]]:
        """Return the rows that are stored under an id: one, or none."""

    @abstractmethod
    def lapsing(self, queue: int) -> Iterable[tuple[Any, ...]]:
        """Return the rows of a queue that are stored as leased, and whose leases have run out."""

    def queue(self, name: str) -> tuple[int, bool]:
        """Like :meth:`find_queue`, but raises UnknownQueueError."""
        found = self.find_queue(name)
        if found is None:
            raise UnknownQueueError(name)
        return found

    def aged(self, found: Iterable[tuple[Any, ...]]) -> list[Row]:
        """Return messages as time has made them by now, without those that are gone."""
        rows = [row.with_life(lifecycle.elapse(row.life, self.now)) for row in map(load, found)]
        return [row for row in rows if row.life.forget is None or row.life.forget > self.now]

    def message(self, queue: str, id: str) -> Row | None:
        """Return a message as it is by now, or None if there is none (any more)."""
        found = self.find_queue(queue)
        if found is None:
            return None
        rows = self.aged(self.by_id(found[0], id))
        return rows[0] if rows else None

    def lapsed(self, queue: int) -> list[Row]:
        """Return the messages of a queue whose leases have run out, as time has made them."""
        return self.aged(self.lapsing(queue))


def page(stored: Iterable[Row], moved: Iterable[Row], state: State, limit: int, after: int) -> tuple[list[Row], int]:
    """Return some messages in a state, in the order of publishing, and after which place there are more, or 0.

    Args:
      stored: those that are stored so that they are in this state now, in order; with one more than is wanted.
      moved: those that time alone may have brought into it.
      state: which.
      limit: at most so many.
      after: only those after this place.
    """
    brought = sorted((row for row in moved if row.life.state is state and row.life.seq > after), key=_seq)
    rows = list(islice(merge((row for row in stored if row.life.state is state), brought, key=_seq), limit + 1))
    return rows[:limit], rows[limit - 1].life.seq if len(rows) > limit > 0 else 0


def _seq(row: Row) -> int:
    return row.life.seq


def figures(
    queue: str,
    counts: dict[State, int],
    lapsed: Iterable[Row],
    firsts: Iterable[float | None],
    *,
    paused: bool,
    now: float,
) -> QueueStats:
    """Return the figures of a queue.

    Args:
      queue: its name.
      counts: how many messages are stored so that they are in each state now, without the lapsed ones.
      lapsed: those whose leases have run out, as time has made them.
      firsts: some of the moments since when messages have been ready, the earliest among them.
      paused: whether it is.
      now: the broker's time.
    """
    counts, dues = dict(counts), [first for first in firsts if first is not None]
    for row in lapsed:
        counts[row.life.state] += 1
        if row.life.state is READY:
            dues.append(row.life.due)
    oldest = max(0.0, now - min(dues)) if dues else None
    return QueueStats(
        queue, **{str(state): count for state, count in counts.items()}, paused=paused, oldest_ready=oldest
    )
