"""The pure core: every operation on a broker's messages as one step of plain Python.

No I/O, no clock, no randomness: *now* is an argument, and must not go backwards.  The memory broker puts a Trio front
before it; tests replay the traces of other engines on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from trepid.brokers.memory.shelf import N_DONE, N_LEASED, N_READY, ORDINAL, Row, Shelf
from trepid.brokers.memory.store import Store
from trepid.ports.messages import Delivery, Extension, Publication, Ref, Settlement
from trepid.rules import lifecycle
from trepid.rules.life import DEAD, DONE, LEASED, READY, CancelReply, Life, Reply, State
from trepid.rules.publishing import Plan, Published, Publishing, plan
from trepid.rules.verdicts import Done


class _Grant(NamedTuple):
    """On what terms leases are granted."""

    owner: str
    until: float
    now: float
    deadline: float


class Ledger(Store):
    """The operations of a memory broker, each one step."""

    def __init__(self) -> None:
        super().__init__()
        self._turn = 0

    # ------------------------------------------------------------------------------------------------- publishing

    def publish(self, batch: Sequence[Publication], now: float) -> list[Published]:
        """Store messages, all or none."""
        plans = self._plans(batch)
        if any(p.outcome in (Publishing.NO_QUEUE, Publishing.CONFLICT) for p in plans):
            return [
                Published(Publishing.NOT_STORED if p.outcome is Publishing.ACCEPTED else p.outcome, p.id) for p in plans
            ]
        for publication, planned in zip(batch, plans, strict=True):
            if planned.outcome is Publishing.ACCEPTED:
                self._insert(publication, planned, now)
        return [Published(p.outcome, p.id) for p in plans]

    def _plans(self, batch: Sequence[Publication]) -> list[Plan]:
        plans: list[Plan] = []
        # What earlier items of this batch will have stored, once it is stored.
        names: dict[tuple[str, str], tuple[tuple[str, int], State]] = {}
        holders: dict[tuple[str, str], tuple[str, State]] = {}
        for item in batch:
            shelf = self.shelves.get(item.queue)
            if shelf is None:
                plans.append(Plan(Publishing.NO_QUEUE, item.id))
                continue
            namesake = names.get((item.queue, item.id)) if names else None
            if namesake is None and (row := shelf.rows.get(item.id)) is not None:
                namesake = (row.token, row.life.state)
            if self.departed.holds(item.token):  # also if a later publish has taken over the id
                namesake = (item.token, DONE)
            if item.unique is None:
                planned = plan(item.id, item.token, namesake=namesake)
            else:
                key = item.unique.key
                holder = holders.get((item.queue, key))
                if holder is None and (row := shelf.uniques.get(key)) is not None:
                    holder = (row.id, row.life.state)
                planned = plan(
                    item.id, item.token, namesake=namesake, holder=holder, on_conflict=item.unique.on_conflict
                )
                if planned.insert:
                    holders[item.queue, key] = (item.id, READY)
            plans.append(planned)
            if planned.insert and len(batch) > 1:
                names[item.queue, item.id] = (item.token, READY)
        return plans

    def _insert(self, item: Publication, planned: Plan, now: float) -> None:
        shelf = self.shelves[item.queue]
        key = None if item.unique is None else item.unique.key
        if planned.withdraw and key is not None:
            holder = shelf.uniques[key]
            self.moved(holder, lifecycle.cancel(holder.life, f"replaced by {item.id}", now)[0], now)
        old = shelf.rows.get(item.id)
        if old is not None:
            self.remove(old, now)
        due = item.due if item.due is not None else now + (item.delay or 0.0)
        life = lifecycle.born(
            next(self.seq), now, due, ttl=item.ttl, max_crashes=item.max_crashes, result_ttl=item.result_ttl
        )
        row = Row(shelf, item.id, item.token, item.payload, item.priority, now, key, life)
        shelf.rows[item.id] = row
        if key is not None:
            shelf.uniques[key] = row
        if life.expires is not None:
            self.ttl.add(life.expires, row)
        shelf.counts[ORDINAL[life.state]] += 1
        if life.state is READY:
            shelf.lane(item.priority).append(row)
            self.stirred = True
        else:
            self.due.add(life.due, row)
            self.stirred = True  # a sleeping worker must learn of an earlier moment to wake up

    # ---------------------------------------------------------------------------------------------------- leasing

    def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, now: float, deadline: float
    ) -> list[Delivery]:
        """Lease up to *limit* messages; queues take turns at being asked first."""
        open_shelves = [s for q in queues if (s := self.shelves.get(q)) is not None and not s.paused]
        if len(open_shelves) > 1:
            self._turn += 1
            start = self._turn % len(open_shelves)
            open_shelves = open_shelves[start:] + open_shelves[:start]
        until = now + lease_for
        grant = _Grant(owner, until, now, deadline)
        taken: list[Delivery] = []
        # Each queue may give its share; what is left over goes round again.
        while open_shelves and len(taken) < limit:
            share = -(-(limit - len(taken)) // len(open_shelves))
            open_shelves = [s for s in open_shelves if self._take(s, min(share, limit - len(taken)), grant, taken)]
        if taken:
            self.first_expiry = min(self.first_expiry, until)
        return taken

    def _take(self, shelf: Shelf, share: int, grant: _Grant, taken: list[Delivery]) -> bool:
        """Lease up to *share* messages of one queue; return whether it may have more."""
        owner, until, now, deadline = grant
        for _ in range(share):
            row = shelf.pop()
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
                    self.moved(row, life, now)
            replies.append(reply)
        if then and replies and replies[0] is Reply.APPLIED:
            self.publish(then, now)
        return replies

    def _done(self, row: Row, life: Life, verdict: Done, now: float) -> None:
        """The commonest move of all, without detours."""
        row.life = life
        shelf = row.shelf
        del self.leased[life.seq]
        shelf.counts[N_LEASED] -= 1
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
