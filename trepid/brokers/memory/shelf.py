"""Where the pure core keeps messages: rows, and the queues that hold them."""

from __future__ import annotations

from collections import deque
from typing import Final

import attrs

from trepid.brokers.memory.lanes import Gate, Lane, Lanes
from trepid.rules.gates import QUEUE, Limit
from trepid.rules.life import CANCELLED, DEAD, DONE, LEASED, READY, SCHEDULED, Life, State
from trepid.rules.publishing import PublishToken
from trepid.rules.verdicts import Failure

ORDINAL: Final[dict[State, int]] = {
    state: n for n, state in enumerate((READY, SCHEDULED, LEASED, DONE, DEAD, CANCELLED))
}
N_READY, N_SCHEDULED, N_LEASED, N_DONE, N_DEAD, N_CANCELLED = range(6)


@attrs.define(eq=False)
class Row:
    """One message: its life, which changes, and what it was published with, which does not."""

    shelf: Shelf
    id: str
    token: PublishToken
    payload: bytes
    priority: int
    enqueued: float
    unique: str | None
    life: Life
    gate: str | None = None
    errors: tuple[Failure, ...] = ()
    result: bytes | None = None
    unreadable: str | None = None
    watched: bool = False


@attrs.define(eq=False)
class Shelf:
    """One queue: its messages by id, the lanes they wait in, and how many are in each state.

    Attributes:
      name, paused: what it is called, and whether nothing is leased from it.
      rows, uniques: its messages by id, and those that hold a unique key by that.
      lanes: where messages wait that have no gate but that of the queue.
      gates: the others, as far as they have messages that wait or run, or have started lately.
      counts: how many messages are in each state.
      limits: what its gates let through, by family.
      starts: when messages were leased, oldest first, where a rate wants to know.
      marks: the last instants that schedules have fired.
      holds: unique keys that outlive their message: whose they are, and until when.
      holds_swept: with how many of those it is worth looking for some that are over.
    """

    name: str
    paused: bool = False
    rows: dict[str, Row] = attrs.Factory(dict)
    uniques: dict[str, Row] = attrs.Factory(dict)
    lanes: Lanes = attrs.Factory(Lanes)
    gates: dict[str, Gate] = attrs.Factory(dict)
    counts: list[int] = attrs.Factory(lambda: [0] * 6)
    limits: dict[str, Limit] = attrs.Factory(dict)
    starts: deque[float] = attrs.Factory(deque)
    marks: dict[str, float] = attrs.Factory(dict)
    holds: dict[str, tuple[str, float]] = attrs.Factory(dict)
    holds_swept: int = 64

    def lane(self, row: Row) -> Lane:
        """Return the lane in which a message waits."""
        lanes = self.lanes if row.gate is None else self.gate(row.gate).lanes
        return lanes.lane(row.priority)

    def gate(self, name: str) -> Gate:
        """Return a gate."""
        gate = self.gates.get(name)
        if gate is None:
            gate = self.gates[name] = Gate(name)
        return gate

    @property
    def live(self) -> int:
        """How many messages have not ended."""
        return self.counts[N_READY] + self.counts[N_SCHEDULED] + self.counts[N_LEASED]

    @property
    def limit(self) -> Limit | None:
        """What the queue itself lets through."""
        return self.limits.get(QUEUE)

    @property
    def weight(self) -> int:
        """Its share among other queues."""
        return 1 if (limit := self.limit) is None else limit.weight

    def oldest_due(self) -> float | None:
        """Return since when the oldest ready message has been due."""
        firsts = [self.lanes.oldest_due(), *(gate.lanes.oldest_due() for gate in self.gates.values())]
        return min((first for first in firsts if first is not None), default=None)

    def left(self, row: Row) -> None:
        """A message has ended: give back the space of what is of no use in its lane, once there is much of it."""
        self.lane(row).prune(self.counts[N_READY])

    def prune(self) -> None:
        """Give back the space of entries that are of no use any more, in all lanes."""
        self.lanes.prune(self.counts[N_READY])
        for gate in self.gates.values():
            gate.lanes.prune(self.counts[N_READY])
