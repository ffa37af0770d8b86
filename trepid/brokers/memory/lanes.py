"""The order in which ready messages wait: lanes by priority, and gates that let only so many through."""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, TypeAlias

import attrs

from trepid.rules.life import READY

if TYPE_CHECKING:
    from trepid.brokers.memory.shelf import Row

Entry: TypeAlias = tuple[float, int, "Row"]


class Lane:
    """The ready messages of one queue and priority, in order of due time and then of publishing.

    What is published ready comes in order and goes to a deque; what comes back, or becomes due, goes to a heap.
    Entries of messages that have left are skipped when they are met.
    """

    __slots__ = ("_back", "_fresh")

    def __init__(self) -> None:
        self._fresh: deque[Entry] = deque()
        self._back: list[Entry] = []

    def __len__(self) -> int:
        return len(self._fresh) + len(self._back)

    def append(self, row: Row) -> None:
        """Add a message that has just been published: none in the lane is later."""
        life = row.life
        self._fresh.append((life.due, life.seq, row))

    def insert(self, row: Row) -> None:
        """Add a message that may have to go before others."""
        life = row.life
        heappush(self._back, (life.due, life.seq, row))

    def first(self) -> Row | None:
        """Return the first ready message, without removing it."""
        fresh, back = self._fresh, self._back
        while fresh and not _waits_here(fresh[0]):
            fresh.popleft()
        while back and not _waits_here(back[0]):
            heappop(back)
        if not back:
            return fresh[0][2] if fresh else None
        return back[0][2] if not fresh or back[0][:2] < fresh[0][:2] else fresh[0][2]

    def pop(self) -> Row | None:
        """Remove and return the first ready message."""
        fresh, back = self._fresh, self._back
        while fresh and not back:
            entry = fresh.popleft()
            if _waits_here(entry):
                return entry[2]
        row = self.first()
        if row is not None:
            if fresh and fresh[0][2] is row:
                fresh.popleft()
            else:
                heappop(back)
        return row

    def prune(self, ready: int) -> None:
        """Drop the entries of messages that have left, if they outnumber the *ready* ones."""
        if len(self) > 2 * ready + 64:
            self._fresh = deque(filter(_waits_here, self._fresh))
            self._back = list(filter(_waits_here, self._back))
            heapify(self._back)


def _waits_here(entry: Entry) -> bool:
    life = entry[2].life
    return life.state is READY and life.seq == entry[1] and life.due == entry[0]


class Lanes:
    """The lanes of all priorities, of a queue or behind one gate."""

    __slots__ = ("_by_priority", "_order")

    def __init__(self) -> None:
        self._by_priority: dict[int, Lane] = {}
        self._order: list[Lane] = []

    def lane(self, priority: int) -> Lane:
        """Return the lane of a priority, making it if it is the first of its kind."""
        lane = self._by_priority.get(priority)
        if lane is None:
            lane = self._by_priority[priority] = Lane()
            self._order = [self._by_priority[key] for key in sorted(self._by_priority, reverse=True)]
        return lane

    def first(self) -> Row | None:
        """Return the message that is first by priority, due time and order, without removing it."""
        for lane in self._order:
            row = lane.first()
            if row is not None:
                return row
        return None

    def pop(self) -> Row | None:
        """Remove and return the message that is first by priority, due time and order."""
        for lane in self._order:
            row = lane.pop()
            if row is not None:
                return row
        return None

    def oldest_due(self) -> float | None:
        """Return since when the oldest ready message has been due."""
        firsts = [row.life.due for lane in self._order if (row := lane.first()) is not None]
        return min(firsts, default=None)

    def prune(self, ready: int) -> None:
        """Drop entries of no more use, where they outnumber the *ready* messages."""
        for lane in self._order:
            lane.prune(ready)


@attrs.define(eq=False)
class Gate:
    """Messages that have to pass one gate.

    Attributes:
      name: of the gate.
      lanes: those that wait.
      running: how many are leased.
      starts: when the last of them were leased, oldest first, where a rate wants to know.
    """

    name: str
    lanes: Lanes = attrs.Factory(Lanes)
    running: int = 0
    starts: deque[float] = attrs.Factory(deque)
