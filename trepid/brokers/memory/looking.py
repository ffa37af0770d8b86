"""Looking at rows without changing them."""

from __future__ import annotations

from trepid.brokers.memory.shelf import N_CANCELLED, N_DEAD, N_DONE, N_LEASED, N_READY, N_SCHEDULED, Row, Shelf
from trepid.ports.messages import Absent, Ending, MessageView, Page, QueueStats
from trepid.rules.life import ENDED, State


def view(row: Row) -> MessageView:
    """Return a row as anybody may see it."""
    return MessageView.of(
        row.life,
        queue=row.shelf.name,
        id=row.id,
        priority=row.priority,
        enqueued=row.enqueued,
        payload=row.payload,
        errors=row.errors,
        unique=row.unique,
        gate=row.gate,
    )


def page(shelf: Shelf, state: State, limit: int, after: int | None) -> Page:
    """Return some rows of a queue in the order of publishing."""
    rows = sorted(
        (row for row in shelf.rows.values() if row.life.state is state and row.life.seq > (after or 0)),
        key=lambda row: row.life.seq,
    )
    cursor = rows[limit - 1].life.seq if len(rows) > limit else None
    return Page(tuple(view(row) for row in rows[:limit]), cursor)


def ending(row: Row | None) -> Ending | Absent:
    """Return how a message ended."""
    if row is None:
        return Absent.GONE
    life = row.life
    if life.state not in ENDED:
        return Absent.PENDING
    return Ending.of(life.state, life.reason, row.result, row.unreadable, row.errors[-1] if row.errors else None)


def stats(shelf: Shelf, now: float) -> QueueStats:
    """Count the messages of a queue."""
    counts, oldest = shelf.counts, shelf.oldest_due()
    return QueueStats(
        shelf.name,
        ready=counts[N_READY],
        scheduled=counts[N_SCHEDULED],
        leased=counts[N_LEASED],
        done=counts[N_DONE],
        dead=counts[N_DEAD],
        cancelled=counts[N_CANCELLED],
        paused=shelf.paused,
        oldest_ready=None if oldest is None else max(0.0, now - oldest),
    )
