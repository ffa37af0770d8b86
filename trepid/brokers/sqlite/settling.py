"""Settling and cancelling, inside a write transaction."""

from __future__ import annotations

from collections.abc import Sequence

from trepid.brokers.sql.news import ASKED, ENDED_SOMETHING
from trepid.brokers.sql.rows import write_failure
from trepid.brokers.sqlite import statements
from trepid.brokers.sqlite.publishing import publish
from trepid.brokers.sqlite.transaction import Transaction
from trepid.ports.messages import Publication, Settlement
from trepid.rules import lifecycle
from trepid.rules.life import CancelReply, Life, Reply
from trepid.rules.publishing import PublishToken
from trepid.rules.verdicts import Done, Returned, Verdict


def settle(tx: Transaction, batch: Sequence[Settlement], then: Sequence[Publication]) -> list[Reply]:
    """End leases with verdicts, and publish what follows from the first."""
    replies = []
    gone: dict[int, PublishToken] = {}
    for settlement in batch:
        ref, verdict = settlement.ref, settlement.verdict
        queue = tx.find_queue(ref.queue)
        if queue is None:
            replies.append(Reply.UNKNOWN)
        elif type(verdict) is Done and _done(tx, queue[0], settlement, verdict, gone):
            replies.append(Reply.APPLIED)
        else:
            replies.append(_settle(tx, queue[0], settlement))
    if gone:
        tx.clear_after(gone)
    if then and replies and replies[0] is Reply.APPLIED:
        publish(tx, then, bounded=False)
    return replies


def _done(tx: Transaction, queue: int, settlement: Settlement, verdict: Done, gone: dict[int, PublishToken]) -> bool:
    """Take the commonest step by one guarded statement; false if the guard says that it is not the ordinary case.

    What is not kept is added to *gone*, by its place: the rest of it is cleared away for the whole batch at once.
    """
    (seq, deliveries), now = settlement.ref.token, tx.now
    guarded = (seq, queue, settlement.ref.id, deliveries, now)
    if verdict.keep > 0:
        done = tx.run(statements.DONE, (now, now + verdict.keep, verdict.result, verdict.unreadable, *guarded))
        if not done.rowcount:
            return False
    else:
        token = tx.run(statements.DONE_AND_GONE, guarded).fetchone()
        if token is None:
            return False
        gone[seq] = token
    tx.news |= ENDED_SOMETHING
    tx.gone += 1
    tx.make_room(queue)
    return True


def _settle(tx: Transaction, queue: int, settlement: Settlement) -> Reply:
    """Take any step, as the rules say."""
    row = tx.leased_by(settlement.ref.token, queue, settlement.ref.id)
    if row is None:
        return Reply.UNKNOWN
    verdict = settlement.verdict
    life, reply = lifecycle.settle(row.life, settlement.ref.token, verdict, tx.now)
    if life is row.life:
        return reply
    moved = tx.move(row, life)
    if reply is Reply.APPLIED and moved is not None:
        _keep_what_came_of_it(tx, life, verdict)
    return reply


def _keep_what_came_of_it(tx: Transaction, life: Life, verdict: Verdict) -> None:
    if isinstance(verdict, Done):
        tx.run(statements.SET_RESULT, (verdict.result, verdict.unreadable, life.seq))
        return
    if isinstance(verdict, Returned) and verdict.gate is not None:
        tx.run(statements.SET_GATE, (verdict.gate or None, life.seq))
    failure = lifecycle.failure_of(verdict, life, tx.now)
    if failure is not None:
        tx.add_failure(life.seq, write_failure(failure))


def cancel(tx: Transaction, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
    """Withdraw waiting messages, and ask for leased ones to be stopped."""
    found = tx.find_queue(queue)
    replies = []
    for id in ids:
        row = None if found is None else tx.aged(tx.by_id(found[0], id))
        if row is None:
            replies.append(CancelReply.UNKNOWN)
            continue
        life, reply = lifecycle.cancel(row.life, reason, tx.now)
        if life is not row.life:
            tx.move(row, life)
        if reply is CancelReply.REQUESTED:
            tx.news |= ASKED
        replies.append(reply)
    return replies
