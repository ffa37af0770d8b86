"""Deciding about publishes that something may stand against, inside a write transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trepid.brokers.postgres import holding, statements
from trepid.brokers.postgres.arrays import without_zeros
from trepid.brokers.postgres.departing import pages_of
from trepid.brokers.postgres.transaction import Step, Transaction
from trepid.brokers.sql.rows import Row, load
from trepid.ports.messages import Publication
from trepid.rules import lifecycle
from trepid.rules.life import CANCELLED, DONE, ENDED, READY, State
from trepid.rules.publishing import Plan, Publishing, PublishToken, plan, replaced_by


class Planner:
    """Decides about the items of one batch, each in view of the earlier ones; holds what it decides by.

    Attributes:
      queues: the keys of those of their queues that are declared.
    """

    def __init__(self, tx: Transaction, batch: Sequence[Publication]) -> None:
        self._tx = tx
        self.queues = tx.keys(item.queue for item in batch)
        self._rows: dict[tuple[int, str], Row] = {}
        self._holders: dict[tuple[int, str], Row] = {}
        # What earlier items of the batch will have stored, once it is stored.
        self._names: dict[tuple[int, str], tuple[PublishToken, State]] = {}
        self._new_holders: dict[tuple[int, str], tuple[str, State]] = {}
        self._withdrawn: dict[tuple[int, str], str] = {}
        self._replaced: dict[tuple[int, str], str] = {}
        self._cleared: set[tuple[int, str]] = set()
        for name, queue in sorted(self.queues.items()):
            items = [item for item in batch if item.queue == name]
            for id, row in tx.stored(queue, (item.id for item in items)).items():
                self._rows[queue, id] = row
            keys = sorted({item.unique.key for item in items if item.unique is not None})
            if keys:
                for row in map(load, tx.run(statements.BY_UNIQUE, (queue, keys)).fetchall()):
                    assert row.unique is not None
                    self._holders[queue, row.unique] = row
        self._holds = holding.find(tx, self.queues, batch)
        self._departed = self._find_departed(batch)

    def plan(self, item: Publication) -> Plan:
        """Decide about the next item."""
        queue = self.queues.get(item.queue)
        if queue is None:
            return Plan(Publishing.NO_QUEUE, item.id)
        namesake = self._namesake(queue, item)
        if item.unique is None:
            planned = plan(item.id, item.token, namesake=namesake)
        else:
            key = without_zeros(item.unique.key)  # as it is stored
            planned = plan(
                item.id,
                item.token,
                namesake=namesake,
                holder=self._holder(queue, key),
                on_conflict=item.unique.on_conflict,
            )
            if planned.withdraw and (earlier := self._new_holders.get((queue, key))) is not None:
                self._replaced[queue, item.id] = earlier[0]
            elif planned.withdraw:
                self._withdrawn[queue, key] = item.id
            if planned.insert:
                self._new_holders[queue, key] = (item.id, READY)
        if planned.insert:
            self._names[queue, item.id] = (item.token, READY)
            self._cleared.add((queue, item.id))
        return planned

    def make_room(self) -> None:
        """Write what time has decided, withdraw holders that are replaced, and remove what is left of earlier runs."""
        tx = self._tx
        steps: dict[int, Step] = {}
        for row in (*self._rows.values(), *self._holders.values()):
            if row.life.state not in ENDED:
                life = lifecycle.elapse(row.life, tx.now)
                if life is not row.life:
                    steps[row.life.seq] = Step(row, life)
        for place, id in self._withdrawn.items():
            if place in self._holders:
                row = self._holders[place]
                steps[row.life.seq] = Step(row, lifecycle.cancel(row.life, replaced_by(id), tx.now)[0])
        tx.save(steps.values())
        cleared: dict[int, list[str]] = {}
        for queue, id in self._cleared:
            # Only what has ended can be in the way of a new run.
            cleared.setdefault(queue, []).append(id)
        for queue, ids in sorted(cleared.items()):
            tx.run(statements.REMOVE_ENDED, (tx.remembered, queue, sorted(ids)))

    def in_turn(self, accepted: Sequence[Publication]) -> Iterator[list[Publication]]:
        """Yield what is to be stored together, and withdraw what a later item of the batch replaces before that."""
        new: list[Publication] = []
        for item in accepted:
            queue = self.queues[item.queue]
            if (replaced := self._replaced.get((queue, item.id))) is not None:
                yield new
                new = []
                row = self._tx.stored(queue, [replaced])[replaced]
                life, _ = lifecycle.cancel(row.life, replaced_by(item.id), self._tx.now)
                self._tx.save([Step(row, life)])
            new.append(item)
        if new:
            yield new

    def _namesake(self, queue: int, item: Publication) -> tuple[PublishToken, State] | None:
        if item.token in self._departed:  # also if a later publish has taken over the id
            return item.token, DONE
        if (namesake := self._names.get((queue, item.id))) is not None:
            return namesake
        row = self._rows.get((queue, item.id))
        if row is None:
            return None
        aged = self._tx.aged(row)
        if aged is None:  # gone, and only not yet cleared away
            return (item.token, DONE) if row.token == item.token else None
        return row.token, aged.life.state

    def _holder(self, queue: int, key: str) -> tuple[str, State] | None:
        if (holder := self._new_holders.get((queue, key))) is not None:
            return holder
        row = self._holders.get((queue, key))
        life = None if row is None else lifecycle.elapse(row.life, self._tx.now)
        if row is not None and life is not None and life.state not in ENDED:
            return row.id, life.state
        if (id := self._holds.get((queue, key))) is None:
            return None
        if row is not None and row.id == id and life is not None and life.state is CANCELLED:
            return None  # by time, which nobody has written down yet
        return id, DONE  # however it ended

    def _find_departed(self, batch: Sequence[Publication]) -> set[PublishToken]:
        tokens = [item.token for item in batch]
        pages = pages_of(tokens)
        found: dict[tuple[str, int], int] = {}
        given = ([publisher for publisher, _ in pages], [page for _, page in pages])
        for publisher, page, bits in self._tx.run(statements.DEPARTED, given).fetchall():
            found[publisher, page] = found.get((publisher, page), 0) | bits
        departed = {token for token in tokens if found.get((token[0], token[1] >> 6), 0) >> (token[1] & 63) & 1}
        # Of deleted queues, what has not been removed yet.
        remains = self._tx.run(statements.REMAINS, ([item.id for item in batch],)).fetchall()
        return departed | {tuple(token) for token in remains}
