"""Publishing, inside a write transaction: ours, or the caller's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from trepid.brokers.postgres import statements
from trepid.brokers.postgres.transaction import Step, Transaction
from trepid.brokers.sql.news import WORK
from trepid.brokers.sql.rows import NUMBERS, Row, load
from trepid.errors import BrokerBusyError
from trepid.ports.messages import Publication
from trepid.rules import lifecycle
from trepid.rules.life import DONE, ENDED, READY, State
from trepid.rules.publishing import Plan, Published, Publishing, PublishToken, plan

_REFUSALS: Final = (Publishing.NO_QUEUE, Publishing.CONFLICT)
_ATTEMPTS: Final = 8
_MOST_TOGETHER: Final = 2000


def publish(tx: Transaction, batch: Sequence[Publication]) -> list[Published]:
    """Store messages, all or none."""
    if not batch:
        return []
    if _all_new(tx, batch):
        return [Published(Publishing.ACCEPTED, item.id) for item in batch]
    for _ in range(_ATTEMPTS):
        tx.run("SAVEPOINT publishing")
        published = _with_care(tx, batch)
        if published is not None:
            tx.run("RELEASE publishing")
            return published
        # Somebody else has stored one of them since we looked: now he is seen.
        tx.run("ROLLBACK TO publishing")
        tx.run("RELEASE publishing")
    raise BrokerBusyError("others publish the same ids, or unique keys, all the time; nothing was stored")


def accepted(batch: Sequence[Publication]) -> list[Published]:
    """Return the answer to publishes that nothing stood against."""
    return [Published(Publishing.ACCEPTED, item.id) for item in batch]


class Insertion:
    """What an ordinary publish says to the server, before anybody knows what time it is there.

    Attributes:
      number: how many messages there are.
      columns: of ``INSERT_NOW``.
      suspects: what ``OBJECTION`` is asked about.
    """

    def __init__(self, batch: Sequence[Publication]) -> None:
        self.number = len(batch)
        self.columns = _columns(batch, 0.0)
        self.suspects = _suspects(batch)

    @classmethod
    def of(cls, batch: Sequence[Publication]) -> Insertion | None:
        """Return what is to be said, or None if these are not ordinary."""
        if not batch or len(batch) > _MOST_TOGETHER or not _distinct(batch):
            return None
        if any(item.due is not None for item in batch):
            return None  # a moment, not a time from now
        return cls(batch)


def publish_together(tx: Transaction, requests: Sequence[tuple[Sequence[Publication]]]) -> list[list[Published]] | None:
    """Store the messages of several callers if nothing stands against any of them; else each is for himself."""
    batches = [batch for (batch,) in requests]
    items = [item for batch in batches for item in batch]
    if len(items) > _MOST_TOGETHER or not items or not _all_new(tx, items):
        return None
    return [[Published(Publishing.ACCEPTED, item.id) for item in batch] for batch in batches]


def _all_new(tx: Transaction, batch: Sequence[Publication]) -> bool:
    """Store messages that nothing stands against, the ordinary case, by two statements for them all.

    The indexes decide between us and others who store the same; only then it is asked what else there may be.
    """
    if not _distinct(batch):
        return False
    places = _insert(tx, batch)
    if len(places) == len(batch) and not _objection(tx, batch):
        tx.changes += 1
        tx.news |= WORK
        return True
    if places:
        tx.run(statements.TAKE_BACK, (places,))
    return False


def _distinct(batch: Sequence[Publication]) -> bool:
    names = {(item.queue, item.id) for item in batch}
    keys = {(item.queue, item.unique.key) for item in batch if item.unique is not None}
    return len(names) == len(batch) and len(keys) == sum(item.unique is not None for item in batch)


def _objection(tx: Transaction, batch: Sequence[Publication]) -> bool:
    (found,) = tx.run(statements.OBJECTION, _suspects(batch)).fetchone()
    return bool(found)


def _suspects(batch: Sequence[Publication]) -> tuple[list[Any], ...]:
    pages = _pages(item.token for item in batch)
    return (
        [item.queue for item in batch],
        [item.id for item in batch],
        [publisher for publisher, _ in pages],
        [page for _, page in pages],
        list(pages.values()),
    )


def _pages(tokens: Iterable[PublishToken]) -> dict[tuple[str, int], int]:
    """Return publishes as bits, as they are remembered once they are gone."""
    pages: dict[tuple[str, int], int] = {}
    for publisher, number in tokens:
        key = (publisher, number >> 6)
        pages[key] = pages.get(key, 0) | 1 << (number & 63)
    return {key: bits - (1 << 64) if bits >> 63 else bits for key, bits in pages.items()}


def _insert(tx: Transaction, batch: Sequence[Publication]) -> list[int]:
    """Insert those whose queues are there, and whose ids and keys are free; return their places."""
    return [seq for (seq,) in tx.run(statements.INSERT, (tx.now, *_columns(batch, tx.now))).fetchall()]


def _columns(batch: Sequence[Publication], now: float) -> list[list[Any]]:
    rows: list[tuple[Any, ...]] = []
    for item in batch:
        due = item.due if item.due is not None else now + (item.delay or 0.0)
        life = lifecycle.born(0, now, due, ttl=item.ttl, max_crashes=item.max_crashes, result_ttl=item.result_ttl)
        rows.append(
            (
                life.due,
                NUMBERS[life.state],
                life.expires,
                life.max_crashes,
                life.result_ttl,
                item.queue,
                item.id,
                *item.token,
                item.priority,
                None if item.unique is None else item.unique.key,
                item.payload,
            )
        )
    return [list(column) for column in zip(*rows, strict=True)]


def _with_care(tx: Transaction, batch: Sequence[Publication]) -> list[Published] | None:
    """Store messages after a look at what stands against them; None if what was seen is no longer so."""
    planner = _Planner(tx, batch)
    plans = [planner.plan(item) for item in batch]
    if any(planned.outcome in _REFUSALS for planned in plans):
        return [
            Published(Publishing.NOT_STORED if planned.insert else planned.outcome, planned.id) for planned in plans
        ]
    planner.make_room()
    accepted = [item for item, planned in zip(batch, plans, strict=True) if planned.insert]
    if accepted:
        if len(_insert(tx, accepted)) < len(accepted):
            return None
        tx.changes += 1
        tx.news |= WORK
    return [Published(planned.outcome, planned.id) for planned in plans]


class _Planner:
    """Decides about the items of one batch, each in view of the earlier ones; holds what it decides by."""

    def __init__(self, tx: Transaction, batch: Sequence[Publication]) -> None:
        self._tx = tx
        self._queues = tx.keys(item.queue for item in batch)
        self._rows: dict[tuple[int, str], Row] = {}
        self._holders: dict[tuple[int, str], Row] = {}
        # What earlier items of the batch will have stored, once it is stored.
        self._names: dict[tuple[int, str], tuple[PublishToken, State]] = {}
        self._new_holders: dict[tuple[int, str], tuple[str, State]] = {}
        self._withdrawn: dict[tuple[int, str], str] = {}
        self._cleared: set[tuple[int, str]] = set()
        for name, queue in sorted(self._queues.items()):
            items = [item for item in batch if item.queue == name]
            for id, row in tx.stored(queue, (item.id for item in items)).items():
                self._rows[queue, id] = row
            keys = sorted({item.unique.key for item in items if item.unique is not None})
            if keys:
                for row in map(load, tx.run(statements.BY_UNIQUE, (queue, keys)).fetchall()):
                    assert row.unique is not None
                    self._holders[queue, row.unique] = row
        self._departed = self._find_departed(batch)

    def plan(self, item: Publication) -> Plan:
        """Decide about the next item."""
        queue = self._queues.get(item.queue)
        if queue is None:
            return Plan(Publishing.NO_QUEUE, item.id)
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
            if planned.withdraw:
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
                steps[row.life.seq] = Step(row, lifecycle.cancel(row.life, f"replaced by {id}", tx.now)[0])
        tx.save(steps.values())
        cleared: dict[int, list[str]] = {}
        for queue, id in self._cleared:
            # Only what has ended can be in the way of a new run.
            cleared.setdefault(queue, []).append(id)
        for queue, ids in sorted(cleared.items()):
            tx.run(statements.REMOVE_ENDED, (tx.remembered, queue, sorted(ids)))

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
        row = self._tx.aged(self._holders.get((queue, key)))
        return None if row is None or row.life.state in ENDED else (row.id, row.life.state)

    def _find_departed(self, batch: Sequence[Publication]) -> set[PublishToken]:
        tokens = [item.token for item in batch]
        pages = _pages(tokens)
        found: dict[tuple[str, int], int] = {}
        given = ([publisher for publisher, _ in pages], [page for _, page in pages])
        for publisher, page, bits in self._tx.run(statements.DEPARTED, given).fetchall():
            found[publisher, page] = found.get((publisher, page), 0) | bits
        departed = {token for token in tokens if found.get((token[0], token[1] >> 6), 0) >> (token[1] & 63) & 1}
        # Of deleted queues, what has not been removed yet.
        remains = self._tx.run(statements.REMAINS, ([item.id for item in batch],)).fetchall()
        return departed | {tuple(token) for token in remains}
