"""Publishing, inside a write transaction: ours, or the caller's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from trepid.brokers.sql.news import WORK
from trepid.brokers.sql.rows import NUMBERS
from trepid.brokers.sqlite import departed, statements
from trepid.brokers.sqlite.transaction import Transaction
from trepid.ports.messages import Publication
from trepid.rules import lifecycle
from trepid.rules.gates import QUEUE
from trepid.rules.life import DONE, READY, State
from trepid.rules.publishing import Plan, Published, Publishing, PublishToken, measured, plan, refusals, replaced_by

_SWEPT_AT_LEAST = 16
_QUEUE = 6
"""Where a row to be inserted has the key of its queue."""


def publish(tx: Transaction, batch: Sequence[Publication], *, bounded: bool = True) -> list[Published]:
    """Store messages, all or none; *bounded*, only if their queues have room."""
    bounds = _bounds(tx, batch) if bounded else {}
    # Before anything else is asked, as time may also end the holder of a key.
    for key in bounds:
        tx.observe(key)
    all_new = _all_new(tx, batch)
    if all_new and not bounds:
        _insert(tx, batch)
        return [Published(Publishing.ACCEPTED, item.id) for item in batch]
    plans = [Plan(Publishing.ACCEPTED, item.id) for item in batch] if all_new else _Planner(tx).plans(batch)
    if bounds:
        plans = measured([item.queue for item in batch], plans, lambda name, more: _has_room(tx, bounds, name, more))
    if (refused := refusals(plans)) is not None:
        return refused
    if all_new:
        _insert(tx, batch)
        return [Published(Publishing.ACCEPTED, item.id) for item in batch]
    for item, planned in zip(batch, plans, strict=True):
        if planned.insert:
            _make_room(tx, item, planned)
            _insert(tx, [item])
            _hold(tx, item)
    return [Published(planned.outcome, planned.id) for planned in plans]


def _all_new(tx: Transaction, batch: Sequence[Publication]) -> bool:
    """Whether nothing stands against any item: the ordinary case, found out by two or three statements for them all."""
    ids: dict[str, list[str]] = {}
    for item in batch:
        if item.unique is not None:
            return False
        ids.setdefault(item.queue, []).append(item.id)
    for name, its in ids.items():
        queue = tx.find_queue(name)
        if queue is None or len(set(its)) < len(its):
            return False
        if len(its) == 1:
            taken = tx.run(statements.BY_ID, (queue[0], its[0])).fetchone()
        else:
            taken = tx.run(statements.NAMESAKES, (queue[0], msgspec.json.encode(its).decode())).fetchone()
        if taken is not None:
            return False
    return not tx.deleted_queues() and not departed.held(tx.run, [item.token for item in batch])


def _bounds(tx: Transaction, batch: Sequence[Publication]) -> dict[int, int]:
    """Return how many messages the queues of a batch take, by key, where they do not take all."""
    if not (bounded := tx.bounded_queues()):
        return {}
    found = {queue[0] for item in batch if (queue := tx.find_queue(item.queue)) is not None}
    return {key: size for key in found.intersection(bounded) if (size := tx.limits(key)[QUEUE].max_size) is not None}


def _has_room(tx: Transaction, bounds: Mapping[int, int], name: str, more: int) -> bool:
    """Whether a queue takes so many messages more."""
    queue = tx.queue(name)
    return queue not in bounds or tx.run(statements.LIVE, (queue,)).fetchone()[0] + more <= bounds[queue]


def _insert(tx: Transaction, batch: Sequence[Publication]) -> None:
    now = tx.now
    messages: list[tuple[Any, ...]] = []
    payloads: list[tuple[int, bytes]] = []
    for item in batch:
        due = item.due if item.due is not None else now + (item.delay or 0.0)
        life = lifecycle.born(
            tx.next_seq(), now, due, ttl=item.ttl, max_crashes=item.max_crashes, result_ttl=item.result_ttl
        )
        messages.append(
            (
                life.seq,
                life.due,
                NUMBERS[life.state],
                life.expires,
                life.max_crashes,
                life.result_ttl,
                tx.queue(item.queue),
                item.id,
                *item.token,
                item.priority,
                now,
                None if item.unique is None else item.unique.key,
                item.gate,
            )
        )
        payloads.append((life.seq, item.payload))
    tx.run_many(statements.INSERT, messages)
    tx.run_many(statements.ADD_PAYLOAD, payloads)
    for queue in tx.bounded_queues():
        if count := sum(message[_QUEUE] == queue for message in messages):
            tx.grow(queue, count)
    tx.news |= WORK


def _make_room(tx: Transaction, item: Publication, planned: Plan) -> None:
    """Withdraw the holder of the unique key if it is to be replaced, and remove what is left of an earlier run."""
    queue = tx.queue(item.queue)
    if planned.withdraw and item.unique is not None:
        holder = tx.aged(tx.by_unique(queue, item.unique.key))
        if holder is not None:
            tx.move(holder, lifecycle.cancel(holder.life, replaced_by(item.id), tx.now)[0])
    earlier = tx.stored(queue, item.id)
    if earlier is not None:
        tx.remove([earlier])


def _hold(tx: Transaction, item: Publication) -> None:
    """Reserve the unique key of a new message for as long as it says, in place of any earlier reservation."""
    if item.unique is None:
        return
    queue, key = tx.queue(item.queue), item.unique.key
    if item.unique.for_ is None:
        tx.run(statements.DROP_HOLD, (queue, key))
    else:
        tx.run(statements.SET_HOLD, (queue, key, item.id, tx.now + item.unique.for_))
        tx.run(statements.SWEEP_HOLDS, (tx.now, _SWEPT_AT_LEAST))


class _Planner:
    """Decides about the items of one batch, each in view of the earlier ones."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        # What earlier items of the batch will have stored, once it is stored.
        self._names: dict[tuple[int, str], tuple[PublishToken, State]] = {}
        self._holders: dict[tuple[int, str], tuple[str, State]] = {}

    def plans(self, batch: Sequence[Publication]) -> list[Plan]:
        return [self._plan(item) for item in batch]

    def _plan(self, item: Publication) -> Plan:
        found = self._tx.find_queue(item.queue)
        if found is None:
            return Plan(Publishing.NO_QUEUE, item.id)
        queue = found[0]
        namesake = self._namesake(queue, item)
        if item.unique is None:
            planned = plan(item.id, item.token, namesake=namesake)
        else:
            key = item.unique.key
            planned = plan(
                item.id,
                item.token,
                namesake=namesake,
                holder=self._holder(queue, key),
                on_conflict=item.unique.on_conflict,
            )
            if planned.insert:
                self._holders[queue, key] = (item.id, READY)
        if planned.insert:
            self._names[queue, item.id] = (item.token, READY)
        return planned

    def _namesake(self, queue: int, item: Publication) -> tuple[PublishToken, State] | None:
        if self._has_departed(queue, item):  # also if a later publish has taken over the id
            return item.token, DONE
        if (namesake := self._names.get((queue, item.id))) is not None:
            return namesake
        row = self._tx.aged(self._tx.by_id(queue, item.id))
        return None if row is None else (row.token, row.life.state)

    def _has_departed(self, queue: int, item: Publication) -> bool:
        if departed.held(self._tx.run, [item.token]):
            return True
        # Perhaps it is gone, and only not yet cleared away.
        for key in (queue, *self._tx.deleted_queues()):
            remains = self._tx.stored(key, item.id)
            if remains is not None and remains.token == item.token:
                return key != queue or self._tx.aged(self._tx.by_id(queue, item.id)) is None
        return False

    def _holder(self, queue: int, key: str) -> tuple[str, State] | None:
        if (holder := self._holders.get((queue, key))) is not None:
            return holder
        row = self._tx.aged(self._tx.by_unique(queue, key))
        if row is not None and row.life.ended is None:
            return row.id, row.life.state
        # Its message has ended, or it would be the holder; and one that was cancelled has given the key up.
        hold = self._tx.run(statements.HOLD, (queue, key, self._tx.now)).fetchone()
        return None if hold is None else (hold[0], DONE)
