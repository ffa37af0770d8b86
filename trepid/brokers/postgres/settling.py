"""Settling and cancelling, inside a write transaction: ours, or the caller's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from trepid.brokers.postgres import statements
from trepid.brokers.postgres.leasing import held_by
from trepid.brokers.postgres.publishing import publish
from trepid.brokers.postgres.transaction import Step, Transaction
from trepid.brokers.sql.news import ASKED, ENDED_SOMETHING
from trepid.brokers.sql.rows import Row, write_failure
from trepid.ports.messages import Publication, Settlement
from trepid.rules import lifecycle
from trepid.rules.life import CancelReply, Life, Reply
from trepid.rules.verdicts import Done


def settle(tx: Transaction, batch: Sequence[Settlement], then: Sequence[Publication] = ()) -> list[Reply]:
    """End leases with verdicts, and publish what follows from the first."""
    replies = _done(tx, batch)
    rest = [number for number, reply in enumerate(replies) if reply is None]
    for number, reply in zip(rest, _settle(tx, [batch[number] for number in rest]), strict=True):
        replies[number] = reply
    settled = [reply for reply in replies if reply is not None]
    if then and settled and settled[0] is Reply.APPLIED:
        publish(tx, then)
    return settled


def _done(tx: Transaction, batch: Sequence[Settlement]) -> list[Reply | None]:
    """Take the commonest step, for all at once, by guarded statements; None where the guards say that it is another."""
    times = Counter((settlement.ref.queue, settlement.ref.id) for settlement in batch)
    kept: list[Settlement] = []
    gone: list[Settlement] = []
    for settlement in batch:
        if type(settlement.verdict) is Done and times[settlement.ref.queue, settlement.ref.id] == 1:
            (kept if settlement.verdict.keep > 0 else gone).append(settlement)
    places: set[int] = set()
    if kept:
        verdicts = [each.verdict for each in kept if isinstance(each.verdict, Done)]
        given = (
            [tx.now + verdict.keep for verdict in verdicts],
            [verdict.result for verdict in verdicts],
            [verdict.unreadable for verdict in verdicts],
        )
        places |= {seq for (seq,) in tx.run(statements.DONE, (tx.now, *_refs(kept), *given)).fetchall()}
    if gone:
        given_gone = (tx.now, *_refs(gone), tx.remembered)
        places |= {seq for (seq,) in tx.run(statements.DONE_AND_GONE, given_gone).fetchall()}
    if places:
        tx.news |= ENDED_SOMETHING
        tx.gone += len(places)
        tx.changes += len(places)
    ordinary = {id(each) for each in (*kept, *gone)}
    return [
        Reply.APPLIED
        if id(each) in ordinary and each.ref.token[0] in places
        else None  # a place belongs to one message
        for each in batch
    ]


def _refs(batch: Sequence[Settlement]) -> tuple[list[str], list[str], list[int], list[int]]:
    refs = [settlement.ref for settlement in batch]
    return (
        [ref.queue for ref in refs],
        [ref.id for ref in refs],
        [ref.token[0] for ref in refs],
        [ref.token[1] for ref in refs],
    )


def _settle(tx: Transaction, batch: Sequence[Settlement]) -> list[Reply]:
    """Take any step, as the rules say."""
    if not batch:
        return []
    rows = held_by(tx, [settlement.ref for settlement in batch], wait=True)
    lives: dict[tuple[str, str], Life] = {}
    steps: dict[tuple[str, str], Step] = {}
    replies: list[Reply] = []
    for settlement in batch:
        ref, verdict = settlement.ref, settlement.verdict
        place = (ref.queue, ref.id)
        row = rows.get(place)
        before = None if row is None else lives.get(place, row.life)
        if row is None or before is None or tx.present(row.with_life(before)) is None:
            replies.append(Reply.UNKNOWN)
            continue
        life, reply = lifecycle.settle(before, ref.token, verdict, tx.now)
        replies.append(reply)
        lives[place] = life
        if life is before:
            continue
        so_far = steps.get(place)
        if reply is not Reply.APPLIED:
            steps[place] = Step(row, life) if so_far is None else _continued(so_far, life)
        elif isinstance(verdict, Done):
            steps[place] = Step(row, life, None, verdict.result, verdict.unreadable)
        else:
            failure = lifecycle.failure_of(verdict, life, tx.now)
            steps[place] = Step(row, life, None if failure is None else write_failure(failure))
    tx.save(steps.values())
    return replies


def _continued(step: Step, life: Life) -> Step:
    return Step(step.row, life, step.error, step.result, step.unreadable)


def cancel(tx: Transaction, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
    """Withdraw waiting messages, and ask for leased ones to be stopped."""
    key = tx.keys([queue]).get(queue)
    rows: dict[str, Row] = {} if key is None else tx.stored(key, ids)
    lives: dict[str, Life] = {}
    steps: dict[str, Step] = {}
    replies: list[CancelReply] = []
    for id in ids:
        row = tx.present(rows.get(id))
        if row is None or (aged := tx.aged(row)) is None:
            replies.append(CancelReply.UNKNOWN)
            if row is not None:
                steps[id] = Step(row, lifecycle.elapse(row.life, tx.now))
            continue
        before = lives.get(id, aged.life)
        if tx.present(row.with_life(before)) is None:
            replies.append(CancelReply.UNKNOWN)
            continue
        life, reply = lifecycle.cancel(before, reason, tx.now)
        lives[id] = life
        if life is not row.life:
            steps[id] = Step(row, life)
        if reply is CancelReply.REQUESTED:
            tx.news |= ASKED
        replies.append(reply)
    tx.save(steps.values())
    return replies
