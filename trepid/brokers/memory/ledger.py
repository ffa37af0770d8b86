"""The pure core: every operation on a broker's messages as one step of plain Python.

No I/O, no clock, no randomness: *now* is an argument, and must not go backwards.  The memory broker puts a Trio front
before it; tests replay the traces of other engines on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from trepid.brokers.memory.acceptance import Acceptance
from trepid.brokers.memory.passing import Passing
from trepid.brokers.memory.shelf import N_DONE, N_LEASED, N_READY, Row, Shelf
from trepid.ports.messages import Delivery, Extension, Publication, Ref, Settlement
from trepid.rules import lifecycle
from trepid.rules.gates import Limit, share, shares
from trepid.rules.life import DEAD, LEASED, CancelReply, Life, Reply, State
from trepid.rules.verdicts import Done, Returned


class _Grant(NamedTuple):
    """On what terms leases are granted."""

    owner: str
    until: float
    now: float
    deadline: float


class Ledger(Acceptance):
    """The operations of a memory broker, each one step."""

    def __init__(self) -> None:
        super().__init__()
        self._turn = 0

    # ---------------------------------------------------------------------------------------------------- leasing

    def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, now: float, deadline: float
    ) -> list[Delivery]:
        """Lease up to *limit* messages; queues take turns at being asked first."""
        open_shelves = [s for q in queues if (s := self.shelves.get(q)) is not None and not s.paused]
        if len(open_shelves) > 1:
            self._turn += 1
            start, _ = shares([shelf.weight for shelf in open_shelves], self._turn)
            open_shelves = open_shelves[start:] + open_shelves[:start]
        until = now + lease_for
        grant = _Grant(owner, until, now, deadline)
        taken: list[Delivery] = []
        # Each queue may give its share; what is left over goes round again.
        while open_shelves and len(taken) < limit:
            room, weights = limit - len(taken), sum(shelf.weight for shelf in open_shelves)
            open_shelves = [
                shelf
                for shelf in open_shelves
                if self._take(shelf, min(share(room, shelf.weight, weights), limit - len(taken)), grant, taken)
            ]
        if taken:
            self.first_expiry = min(self.first_expiry, until)
        return taken

    def _take(self, shelf: Shelf, most: int, grant: _Grant, taken: list[Delivery]) -> bool:
        """Lease up to *most* messages of one queue; return whether it may have more."""
        owner, until, now, deadline = grant
        passing = Passing(shelf, now)
        for _ in range(most):
            row = passing.next()
            if row is None:
                return False
            old = row.life
            row.life = life = lifecycle.take(old, owner, until)
            if old.expires is not None:
                self.ttl.live -= 1
            if row.watched:
                self.watched.append(row)
            shelf.counts[N_READY] -= 1
            shelf.counts[N_LEASED] += 1
            self.leased[life.seq] = row
            taken.append(
                Delivery(
                    shelf.name,
                    row.id,
                    (life.seq, life.deliveries),
                    row.payload,
                    row.priority,
                    life.failures - life.spent_failures,
                    life.crashes - life.spent_crashes,
                    life.due,
                    row.enqueued,
                    now,
                    deadline,
                    life.stray_since,
                    life.result_ttl,
                    life.max_crashes,
                    row.gate,
                )
            )
        return True

    def extend(self, refs: Sequence[Ref], lease_for: float, now: float, deadline: float) -> list[Extension]:
        """Let leases run on."""
        until = now + lease_for
        extensions = []
        for ref in refs:
            row = self.row(ref.queue, ref.id)
            if row is None:
                extensions.append(Extension(Reply.UNKNOWN))
                continue
            life, reply = lifecycle.extend(row.life, ref.token, until, now)
            if reply is Reply.APPLIED:
                row.life = life
                extensions.append(Extension(reply, life.cancel, deadline))
            else:
                extensions.append(Extension(reply))
        return extensions

    def settle(self, batch: Sequence[Settlement], now: float, then: Sequence[Publication] = ()) -> list[Reply]:
        """End leases with verdicts."""
        replies = []
        for settlement in batch:
            ref = settlement.ref
            row = self.row(ref.queue, ref.id)
            if row is None:
                replies.append(Reply.UNKNOWN)
                continue
            verdict = settlement.verdict
            life, reply = lifecycle.settle(row.life, ref.token, verdict, now)
            if reply is Reply.APPLIED:
                if type(verdict) is Done:
                    self._done(row, life, verdict, now)
                else:
                    failure = lifecycle.failure_of(verdict, life, now)
                    if failure is not None:
                        row.errors = (*row.errors, failure)
                    if type(verdict) is Returned and verdict.gate is not None:
                        self._regate(row, verdict.gate or None)
                    self.moved(row, life, now)
            replies.append(reply)
        if then and replies and replies[0] is Reply.APPLIED:
            self.publish(then, now, bounded=False)
        return replies

    def _regate(self, row: Row, gate: str | None) -> None:
        """Put a leased message behind another gate."""
        if row.gate is not None:
            row.shelf.gate(row.gate).running -= 1
        row.gate = gate
        if gate is not None:
            row.shelf.gate(gate).running += 1

    def _done(self, row: Row, life: Life, verdict: Done, now: float) -> None:
        """The commonest move of all, without detours."""
        row.life = life
        shelf = row.shelf
        del self.leased[life.seq]
        shelf.counts[N_LEASED] -= 1
        if row.gate is not None:
            shelf.gate(row.gate).running -= 1
        if shelf.limits:
            self.stirred = True  # somebody else may pass now
        if row.unique is not None and shelf.uniques.get(row.unique) is row:
            del shelf.uniques[row.unique]
        if row.watched:
            self.watched.append(row)
        if verdict.keep <= 0:
            # Done, and in no agenda: nothing but its place among the rows is left of it.
            del shelf.rows[row.id]
            self.departed.add(row.token, now)
        else:
            shelf.counts[N_DONE] += 1
            row.result, row.unreadable = verdict.result, verdict.unreadable
            self.forget.add(now + verdict.keep, row)

    def cancel(self, queue: str, id: str, reason: str, now: float) -> CancelReply:
        """Withdraw a waiting message, or ask for a leased one to be stopped."""
        row = self.row(queue, id)
        if row is None:
            return CancelReply.UNKNOWN
        life, reply = lifecycle.cancel(row.life, reason, now)
        if reply is CancelReply.REQUESTED:
            row.life = life
            self.questioned = True
            if row.watched:
                self.watched.append(row)
        elif life is not row.life:
            self.moved(row, life, now)
        return reply

    def asked(self, owner: str) -> list[tuple[Ref, str]]:
        """Return the leases of an owner that were asked to stop, with the reasons."""
        return [
            (Ref(row.shelf.name, row.id, row.life.token), row.life.cancel)
            for row in self.leased.values()
            if row.life.cancel is not None and row.life.owner == owner
        ]

    def requeue(self, queue: str, ids: Iterable[str] | None, limit: int, now: float) -> int:
        """Bring dead messages back."""
        came = 0
        for row in self.chosen(queue, ids):
            if row.life.state is not DEAD or came >= limit:
                continue
            if row.unique is not None and row.unique in row.shelf.uniques:
                continue
            self.moved(row, lifecycle.requeue(row.life, next(self.seq), now), now)
            came += 1
        return came

    def purge(self, queue: str, states: Sequence[State], ids: Iterable[str] | None, limit: int, now: float) -> int:
        """Forget messages in some states."""
        gone = [r for r in self.chosen(queue, ids) if r.life.state in states and r.life.state is not LEASED][:limit]
        for row in gone:
            self.remove(row, now)
        self.shelves[queue].prune()
        return len(gone)

    def expire_owner(self, owner: str, now: float) -> int:
        """Expire all leases of an owner."""
        rows = [row for row in self.leased.values() if row.life.owner == owner]
        for row in rows:
            self.moved(row, lifecycle.elapse(replace(row.life, until=now), now), now)
        return len(rows)

    def held(self, owner: str) -> list[Ref]:
        """Return the leases of an owner."""
        return [Ref(row.shelf.name, row.id, row.life.token) for row in self.leased.values() if row.life.owner == owner]

    def limit(self, limits: Iterable[Limit]) -> None:
        """Set limits."""
        for limit in limits:
            shelf = self.shelves.get(limit.queue)
            if shelf is None:
                continue
            if limit.void:
                shelf.limits.pop(limit.family, None)
            else:
                shelf.limits[limit.family] = limit
            self.stirred = True
