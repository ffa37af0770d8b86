"""Firing schedules, inside a write transaction: an instant is marked and published in one step."""

from __future__ import annotations

from collections.abc import Sequence

from trepid.brokers.sqlite import statements
from trepid.brokers.sqlite.publishing import publish
from trepid.brokers.sqlite.transaction import Transaction
from trepid.ports.messages import Firing
from trepid.rules.publishing import Published, Publishing, fired


def fire(tx: Transaction, firings: Sequence[Firing]) -> list[Published]:
    """Publish the messages of some instants, each unless it was fired before."""
    return [_fire(tx, firing) for firing in firings]


def _fire(tx: Transaction, firing: Firing) -> Published:
    queue = tx.find_queue(firing.queue)
    id = "" if firing.publication is None else firing.publication.id
    if queue is None:
        return Published(Publishing.NO_QUEUE, id)
    key = queue[0]
    if firing.instant is None:
        tx.run(statements.DROP_MARK, (key, firing.mark))
        return Published(Publishing.ACCEPTED, id)
    mark = tx.run(statements.MARK, (key, firing.mark)).fetchone()
    if mark is not None and mark[0] >= firing.instant:
        return Published(Publishing.DUPLICATE, id)
    published = Published(Publishing.ACCEPTED, id)
    if firing.publication is not None:
        [published] = publish(tx, [firing.publication])
    if fired(published.outcome, insist=firing.insist):
        tx.run(statements.SET_MARK, (key, firing.mark, firing.instant))
    return published
