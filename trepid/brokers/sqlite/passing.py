"""Who is leased next: the order of a queue, and the gates that its messages have to pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final, TypeAlias, final

import attrs
from msgspec.structs import replace

from trepid.brokers.sqlite import statements
from trepid.brokers.sqlite.transaction import Transaction
from trepid.ports.messages import Delivery
from trepid.rules.gates import QUEUE, Limit, admitted, family

GATES_AT_ONCE: Final = 500
"""How many gates one look takes in.

Where messages wait behind more of them, a look costs no more, and the next one goes on where it ended: the gates take
turns, and only among those that are looked at together priorities are compared.
"""

_MADE_READY_AT_ONCE: Final = 10_000
_SWEPT_AT_LEAST: Final = 16

_Head: TypeAlias = tuple[int, float, int, str | None]
"""A place in the order of leasing: priority (the most urgent is the least), due time, place, and the gate."""


@attrs.define(eq=False)
class Wish:
    """A call of ``lease``, which may have to ask several times.

    Attributes:
      queues, limit, lease_for, owner: as the port says.
      turns: how often the session has asked several queues; decides which is the first.
      places: the gates at which the session's last looks ended, by queue, where there were too many for one look.
      seen: by queue, the gates that were looked at since the wish was last given up for a while.
      opens: when time alone will open one of those, as far as is known.
    """

    queues: Sequence[str]
    limit: int
    lease_for: float
    owner: str
    turns: list[int]
    places: dict[int, str] = attrs.Factory(dict)
    seen: dict[int, set[str]] = attrs.Factory(dict)
    opens: float | None = None

    def renew(self) -> None:
        """Begin another round."""
        self.seen.clear()
        self.opens = None


def lanes(tx: Transaction, queue: int, lane: int | None) -> Iterator[int]:
    """Yield the priorities of messages that wait without a gate, from *lane* down: one look into the index for each."""
    while lane is not None:
        yield lane
        (lane,) = tx.run(statements.NEXT_LANE, (queue, lane)).fetchone()


@final
class Passing:
    """The ready messages of one queue, as far as the gates let them through in one transaction.

    Args:
      tx: the transaction; what time has decided about leases and ttls of the queue has been carried out in it.
      queue: name and key.
      wish: whom they are for.
      deadline: until when he may surely have them, on his clock.

    Attributes:
      key: of the queue.
      weight: the queue's share among others.
      top: the highest priority of a message that waits without a gate.
      unfinished: whether there are gates that were not yet looked at for this wish.
    """

    def __init__(self, tx: Transaction, queue: tuple[str, int], wish: Wish, deadline: float) -> None:
        self._tx = tx
        self._name, self.key = queue
        self._wish = wish
        self._deadline = deadline
        self.unfinished = False
        self._limits = limits = tx.limits(self.key)
        limit = limits.get(QUEUE)
        self.weight = 1 if limit is None else limit.weight
        self._left = self._room(QUEUE, limit, self._running) if limit is not None else None
        self.top, gate, due = tx.run(statements.FIRST, (self.key,)).fetchone()
        # The order in which messages pass, where some have a gate of their own; else one index says it.
        self._order: Iterator[_Head] | None = None
        if self._left != 0 and (self._made_ready(due) or gate is not None):
            behind = [self._behind(head, room) for head, room in self._open_gates()]
            self._order = merge(self._ungated(), *behind)

    def take(self, most: int, taken: list[Delivery]) -> bool:
        """Lease up to *most* messages, and return whether there may be more."""
        wanted = most if self._left is None else min(most, self._left)
        if not wanted:
            return not most
        deliveries = self._claim(wanted) if self._order is None else self._claim_in_order(wanted, self._order)
        until = self._tx.now + self._wish.lease_for
        self._tx.run_many(statements.TAKE, [(self._wish.owner, until, each.token[0]) for each in deliveries])
        if self._left is not None:
            self._left -= len(deliveries)
        if self._limits:
            self._note_starts(deliveries)
        taken += deliveries
        return len(deliveries) == most

    # -------------------------------------------------------------------------------------------------- the order

    def _claim(self, most: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        now = self._tx.now
        name, key, deadline = self._name, self.key, self._deadline
        for lane in lanes(self._tx, key, self.top):
            # What is claimed is exactly what `lifecycle.elapse` would call ready now.
            claimed = self._tx.run(statements.CLAIM, (key, lane, now, now, most - len(deliveries))).fetchall()
            deliveries += [
                Delivery(name, id, (seq, n), payload, lane, failures, crashes, due, enqueued, now, deadline, *rest)
                for seq, id, n, payload, failures, crashes, due, enqueued, *rest in claimed
            ]
            if len(deliveries) == most:
                break
        return deliveries

    def _claim_in_order(self, most: int, order: Iterator[_Head]) -> list[Delivery]:
        return [self._claim_one(head) for head in islice(order, most)]

    def _claim_one(self, head: _Head) -> Delivery:
        (priority, due, seq, gate), now, deadline = head, self._tx.now, self._deadline
        found = self._tx.run(statements.CLAIM_ONE, (seq,)).fetchone()
        _, id, n, payload, failures, crashes, _, enqueued, stray, ttl, budget = found
        token, terms = (seq, n), (stray, ttl, budget, gate)
        return Delivery(
            self._name, id, token, payload, -priority, failures, crashes, due, enqueued, now, deadline, *terms
        )

    def _ungated(self) -> Iterator[_Head]:
        now, left = self._tx.now, self._wish.limit
        for lane in lanes(self._tx, self.key, self.top):
            found = self._tx.run(statements.UNGATED, (self.key, lane, now, now, left)).fetchall()
            for due, seq in found:
                yield -lane, due, seq, None
            left -= len(found)
            if not left:
                return

    def _behind(self, head: _Head, room: int | None) -> Iterator[_Head]:
        """Yield the messages behind an open gate, the first of which is known."""
        yield head
        most = self._wish.limit if room is None else min(room, self._wish.limit)
        if most == 1:
            return
        _, _, first, gate = head
        found = self._tx.run(statements.BEHIND, (self.key, gate, self._tx.now, most)).fetchall()
        # Perhaps the first has been leased by now, and perhaps it is only about to be.
        rest = [(-priority, due, seq, gate) for priority, due, seq in found if seq != first]
        yield from rest[: most - 1]

    # -------------------------------------------------------------------------------------------------- the gates

    def _made_ready(self, due: float | None) -> bool:
        """Make messages behind gates ready, the first of which becomes due then, and return whether there were any."""
        if due is None or due > self._tx.now:
            return False
        self._tx.run(statements.MAKE_READY, (self.key, self._tx.now, _MADE_READY_AT_ONCE))
        return True

    def _open_gates(self) -> Iterator[tuple[_Head, int | None]]:
        """Yield the first message behind each open gate, and how many the gate lets through."""
        for gate, running, priority, due, seq in self._look_at_gates():
            limit = self._limits.get(family(gate))
            room = None if limit is None else self._room(gate, limit, lambda running=running: running)
            if room != 0 and seq is not None:
                yield (-priority, due, seq, gate), room

    def _look_at_gates(self) -> list[tuple[Any, ...]]:
        """Return the gates behind which messages wait, as many as are looked at together."""
        after = self._wish.places.pop(self.key, "")
        found = self._gates(after, GATES_AT_ONCE)
        if after and len(found) < GATES_AT_ONCE:
            found += [row for row in self._gates("", GATES_AT_ONCE - len(found)) if row[0] <= after]
        if len(found) == GATES_AT_ONCE:
            self._wish.places[self.key] = found[-1][0]
            seen = self._wish.seen.setdefault(self.key, set())
            known = len(seen)
            seen |= {row[0] for row in found}
            self.unfinished = len(seen) > known
        return found

    def _gates(self, after: str, most: int) -> list[tuple[Any, ...]]:
        return self._tx.run(statements.GATES, (self.key, after, self._tx.now, most)).fetchall()

    # -------------------------------------------------------------------------------------------------- the limits

    def _running(self) -> int:
        """Return how many messages of the queue are leased; leases that ran out count no more."""
        running: int = self._tx.run(statements.COUNT_LEASED, (self.key, self._tx.now)).fetchone()[0]
        return running

    def _room(self, gate: str, limit: Limit, running: Any) -> int | None:
        now, lately = self._tx.now, 0
        if limit.count is not None:
            (lately,) = self._tx.run(statements.LATELY, (self.key, gate, limit.per, now)).fetchone()
            if lately >= limit.count:
                self._note_opening(gate, limit, limit.count)
            # The rule counts starts one by one; here they are counted already, so it gets what is left of the rate.
            limit = replace(limit, count=max(0, limit.count - lately))
        return admitted(limit, 0 if limit.concurrency is None else running(), (), now)

    def _note_opening(self, gate: str, limit: Limit, count: int) -> None:
        """Note when time alone will let one more through at a gate that its rate keeps shut: `gates.opens`."""
        inside = 0
        for at, some in self._tx.run(statements.STARTS, (self.key, gate)).fetchall():
            inside += some
            if inside >= count:
                opens = at + limit.per
                self._wish.opens = opens if self._wish.opens is None else min(opens, self._wish.opens)
                return

    def _note_starts(self, deliveries: Sequence[Delivery]) -> None:
        counts: Counter[str] = Counter()
        for delivery in deliveries:
            for gate in (QUEUE, delivery.gate):
                if gate is not None and (limit := self._limits.get(family(gate))) is not None and limit.count:
                    counts[gate] += 1
        if not counts:
            return
        now, run = self._tx.now, self._tx.run
        # A little more than is added, so that the past never piles up, also that of gates nobody comes to any more.
        run(statements.SWEEP_STARTS, (now, _SWEPT_AT_LEAST + 2 * len(counts)))
        for gate, count in counts.items():
            per = self._limits[family(gate)].per
            run(statements.ADD_STARTS, (self.key, gate, now, count, now + per))
