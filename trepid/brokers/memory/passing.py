"""Who is leased next: the order of a queue, and the gates that its messages have to pass."""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heapreplace
from typing import TypeAlias

from trepid.brokers.memory.lanes import Gate, Lanes
from trepid.brokers.memory.shelf import N_LEASED, N_READY, Row, Shelf
from trepid.rules.gates import Limit, admitted, family, opens

_Head: TypeAlias = tuple[int, float, int, Gate | None]


class Passing:
    """The ready messages of one queue, one after the other, as far as the gates let them through at one moment."""

    __slots__ = ("_heads", "_left", "_now", "_shelf")

    def __init__(self, shelf: Shelf, now: float) -> None:
        self._shelf = shelf
        self._now = now
        self._left = admitted(shelf.limit, shelf.counts[N_LEASED], _lately(shelf.starts, shelf.limit, now), now)
        # The first message of each gate that is open; most queues have none, and need no heap.
        self._heads: list[_Head] | None = None
        if shelf.gates:
            self._heads = [
                head for gate in (None, *list(shelf.gates.values())) if (head := self._head(gate)) is not None
            ]
            heapify(self._heads)

    def next(self) -> Row | None:
        """Remove and return the next message, and count it as leased, or return None if none gets through now."""
        if self._left is not None:
            if self._left <= 0:
                return None
            self._left -= 1
        row = self._shelf.lanes.pop() if self._heads is None else self._pop(self._heads)
        if row is not None and (limit := self._shelf.limit) is not None and limit.count is not None:
            self._shelf.starts.append(self._now)
        return row

    def _pop(self, heads: list[_Head]) -> Row | None:
        if not heads:
            return None
        gate = heads[0][3]
        row = self._lanes(gate).pop()
        if gate is not None:
            gate.running += 1
            if (limit := self._shelf.limits.get(family(gate.name))) is not None and limit.count is not None:
                gate.starts.append(self._now)
        head = self._head(gate)
        if head is None:
            heappop(heads)
        else:
            heapreplace(heads, head)
        return row

    def _head(self, gate: Gate | None) -> _Head | None:
        """Return the place in the order of the first message behind a gate, or None if none gets through."""
        first = self._lanes(gate).first()
        if gate is not None:
            limit = self._shelf.limits.get(family(gate.name))
            starts = _lately(gate.starts, limit, self._now)
            if first is None and not gate.running and not starts:
                del self._shelf.gates[gate.name]
            if admitted(limit, gate.running, starts, self._now) == 0:
                return None
        return None if first is None else (-first.priority, first.life.due, first.life.seq, gate)

    def _lanes(self, gate: Gate | None) -> Lanes:
        return self._shelf.lanes if gate is None else gate.lanes


def reopens(shelf: Shelf, now: float) -> float | None:
    """Return when time alone will open a gate at which a message waits, or None if it will not."""
    if shelf.paused or not shelf.limits or not shelf.counts[N_READY]:
        return None
    waited_at = (gate for gate in shelf.gates.values() if gate.lanes.first() is not None)
    moments = [
        opens(shelf.limit, shelf.starts, now),
        *(opens(shelf.limits.get(family(gate.name)), gate.starts, now) for gate in waited_at),
    ]
    return min((moment for moment in moments if moment is not None), default=None)


def _lately(starts: deque[float], limit: Limit | None, now: float) -> deque[float]:
    """Forget the starts that no rate asks for any more, and return the others."""
    per = 0.0 if limit is None or limit.count is None else limit.per
    while starts and starts[0] + per <= now:
        starts.popleft()
    return starts
