"""Publishing, inside a write transaction: ours, or the caller's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from trepid.brokers.postgres import holding, measuring, statements
from trepid.brokers.postgres.departing import pages_of
from trepid.brokers.postgres.planning import Planner
from trepid.brokers.postgres.transaction import Transaction
from trepid.brokers.sql.news import WORK
from trepid.brokers.sql.rows import NUMBERS
from trepid.errors import BrokerBusyError
from trepid.ports.messages import Publication
from trepid.rules import lifecycle
from trepid.rules.publishing import Published, Publishing, measured, refusals

_ATTEMPTS: Final = 8
_MOST_TOGETHER: Final = 2000


def publish(tx: Transaction, batch: Sequence[Publication], *, bounded: bool = True) -> list[Published]:
    """Store messages, all or none; *bounded*, only if their queues have room."""
    if not batch:
        return []
    measures = _quickly(tx, batch, bounded=bounded)
    if measures is None:
        return accepted(batch)
    for _ in range(_ATTEMPTS):
        tx.run("SAVEPOINT publishing")
        published = _with_care(tx, batch, measures)
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
      keys: what ``holding.OBJECTION`` is asked about; None if there are no unique keys.
    """

    def __init__(self, batch: Sequence[Publication]) -> None:
        self.number = len(batch)
        self.columns = _columns(batch, 0.0)
        self.suspects = _suspects(batch)
        self.keys = holding.suspects(batch)

    @classmethod
    def of(cls, batch: Sequence[Publication]) -> Insertion | None:
        """Return what is to be said, or None if these are not ordinary."""
        if not batch or len(batch) > _MOST_TOGETHER or not _distinct(batch):
            return None
        if any(item.due is not None for item in batch):
            return None  # a moment, not a time from now
        if any(item.unique is not None and item.unique.for_ is not None for item in batch):
            return None  # there is more to be stored of them
        return cls(batch)


def publish_together(tx: Transaction, requests: Sequence[tuple[Sequence[Publication]]]) -> list[list[Published]] | None:
    """Store the messages of several callers if nothing stands against any of them; else each is for himself."""
    batches = [batch for (batch,) in requests]
    items = [item for batch in batches for item in batch]
    if len(items) > _MOST_TOGETHER or not items or _quickly(tx, items, bounded=True) is not None:
        return None
    return [accepted(batch) for batch in batches]


def _quickly(tx: Transaction, batch: Sequence[Publication], *, bounded: bool) -> dict[int, int] | None:
    """Store messages that nothing stands against, and return None, or the measures that they are to be held to."""
    if _all_new(tx, batch, statements.INSERT if bounded else statements.INSERT_ANYWAY):
        return None
    if not bounded:
        return {}
    # In one order for everybody, so that nobody waits for one who waits for him.
    measures = measuring.hold(tx, {item.queue for item in batch})
    if measures and measuring.fits(tx, measures, batch) and _all_new(tx, batch, statements.INSERT_ANYWAY):
        return None
    return measures


def _all_new(tx: Transaction, batch: Sequence[Publication], insert: str) -> bool:
    """Store messages that nothing stands against, the ordinary case, by two statements for them all.

    The indexes decide between us and others who store the same; only then it is asked what else there may be.
    """
    if not _distinct(batch):
        return False
    places = _insert(tx, batch, insert)
    if len(places) == len(batch) and not _objection(tx, batch):
        holding.keep(tx, batch)
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
    if not found and (keys := holding.suspects(batch)) is not None:
        (found,) = tx.run(holding.OBJECTION, (tx.now, *keys)).fetchone()
    return bool(found)


def _suspects(batch: Sequence[Publication]) -> tuple[list[Any], ...]:
    pages = pages_of(item.token for item in batch)
    return (
        [item.queue for item in batch],
        [item.id for item in batch],
        [publisher for publisher, _ in pages],
        [page for _, page in pages],
        list(pages.values()),
    )


def _insert(tx: Transaction, batch: Sequence[Publication], statement: str) -> list[int]:
    """Insert those whose queues are there, and whose ids and keys are free; return their places."""
    return [seq for (seq,) in tx.run(statement, (tx.now, *_columns(batch, tx.now))).fetchall()]


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
                item.gate,
                item.payload,
            )
        )
    return [list(column) for column in zip(*rows, strict=True)]


def _with_care(tx: Transaction, batch: Sequence[Publication], measures: dict[int, int]) -> list[Published] | None:
    """Store messages after a look at what stands against them; None if what was seen is no longer so."""
    planner = Planner(tx, batch)
    plans = [planner.plan(item) for item in batch]
    if measures:
        keys = planner.queues
        plans = measured(
            [item.queue for item in batch], plans, lambda name, more: measuring.has_room(tx, measures, keys[name], more)
        )
    if (refused := refusals(plans)) is not None:
        return refused
    planner.make_room()
    accepted = [item for item, planned in zip(batch, plans, strict=True) if planned.insert]
    for new in planner.in_turn(accepted):
        if len(_insert(tx, new, statements.INSERT_ANYWAY)) < len(new):
            return None
        holding.keep(tx, new)
        tx.changes += 1
        tx.news |= WORK
    return [Published(planned.outcome, planned.id) for planned in plans]
