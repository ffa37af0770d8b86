"""Settling and cancelling, inside a write transaction: ours, or the caller's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from trepid.brokers.postgres import statements
from trepid.brokers.postgres.leasing import held_by
from trepid.brokers.postgres.publishing import publish
from trepid.brokers.postgres.transaction import Step, Transaction
from trepid.brokers.sql.news import ASKED, ENDED_SOMETHING, WORK
from trepid.brokers.sql.rows import Row, write_failure
from trepid.ports.messages import Publication, Settlement
from trepid.rules import lifecycle
from trepid.rules.life import CancelReply, Life, Reply
from trepid.rules.verdicts import Done, Returned


def settle(tx: Transaction, batch: Sequence[Settlement], then: Sequence[Publication] = ()) -> list[Reply]:
    """End leases with verdicts, and publish what follows from the first."""
    successes = Successes(batch)
    rows = [tx.run(statement, given).fetchall() for statement, given in successes.steps(tx.now)]
    settled = settle_others(tx, batch, successes.replies(tx, rows))
    if then and settled and settled[0] is Reply.APPLIED:
        publish(tx, then, bounded=False)
    return settled


def settle_others(tx: Transaction, batch: Sequence[Settlement], replies: Sequence[Reply | None]) -> list[Reply]:
    """End the leases of those that have no reply yet, and return all replies."""
    others = iter(_settle(tx, [each for each, reply in zip(batch, replies, strict=True) if reply is None]))
    return [next(others) if reply is None else reply for reply in replies]


def is_ordinary(batch: Sequence[Settlement], then: Sequence[Publication] = ()) -> bool:
    """Whether :class:`Successes` is likely to be all there is."""
    return not then and all(type(settlement.verdict) is Done for settlement in batch)


class Successes:
    """The commonest step, for all at once, by guarded statements."""

    def __init__(self, batch: Sequence[Settlement]) -> None:
        times = Counter((settlement.ref.queue, settlement.ref.id) for settlement in batch)
        self._batch = batch
        self._kept: list[tuple[Settlement, Done]] = []
        self._gone: list[Settlement] = []
        self._ordinary: set[int] = set()
        for settlement in batch:
            verdict = settlement.verdict
            if not isinstance(verdict, Done) or times[settlement.ref.queue, settlement.ref.id] > 1:
                continue
            self._ordinary.add(id(settlement))
            if verdict.keep > 0:
                self._kept.append((settlement, verdict))
            else:
                self._gone.append(settlement)

    def steps(self, floor: float) -> list[tuple[str, Sequence[Any]]]:
        """Return the statements to be carried out, at a time not before *floor*; each says whom it has settled."""
        steps: list[tuple[str, Sequence[Any]]] = []
        if self._kept:
            verdicts = [verdict for _, verdict in self._kept]
            given = (
                [verdict.keep for verdict in verdicts],
                [verdict.result for verdict in verdicts],
                [verdict.unreadable for verdict in verdicts],
            )
            refs = _refs([settlement for settlement, _ in self._kept])
            steps.append((statements.DONE, (floor, *refs, *given)))
        if self._gone:
            steps.append((statements.DONE_AND_GONE, (floor, *_refs(self._gone))))
        return steps

    def replies(self, tx: Transaction, rows: Iterable[Iterable[tuple[int, bool]]]) -> list[Reply | None]:
        """Return a reply for each of the batch, given what the statements said; None where it is another step."""
        found = {seq: limited for each in rows for seq, limited in each}
        places = found.keys()
        if places:
            tx.news |= ENDED_SOMETHING
            if any(found.values()):
                tx.news |= WORK  # somebody else may pass a gate now
            tx.gone += len(places)
            tx.changes += len(places)
        return [
            Reply.APPLIED
            if each.ref.token[0] in places and id(each) in self._ordinary  # a place belongs to one message
            else None
            for each in self._batch
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
    rows = held_by(tx, [settlement.ref for settlement in batch])
    lives: dict[tuple[str, str], Life] = {}
    steps: dict[tuple[str, str], Step] = {}
    gates: dict[int, str] = {}
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
            if isinstance(verdict, Returned) and verdict.gate is not None:
                gates[row.life.seq] = verdict.gate
            failure = lifecycle.failure_of(verdict, life, tx.now)
            steps[place] = Step(row, life, None if failure is None else write_failure(failure))
    if gates:
        tx.run(statements.REGATE, (list(gates), list(gates.values())))
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
