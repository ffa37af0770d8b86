"""Settling: verdicts become moves, and those of one batch are carried together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from trepid.brokers.leasebook import Lease
from trepid.brokers.rabbitmq import moving
from trepid.brokers.rabbitmq.clock import CLOCK
from trepid.brokers.rabbitmq.depot import Depot
from trepid.brokers.rabbitmq.lines import Lines
from trepid.brokers.rabbitmq.moving import Fresh, Move
from trepid.brokers.rabbitmq.stock import Item
from trepid.errors import BrokerLostError
from trepid.ports.messages import Publication, Settlement
from trepid.rules import lifecycle
from trepid.rules.life import CANCELLED, DONE, SCHEDULED, Life, Reply
from trepid.rules.verdicts import Done, Failed, Returned, Verdict
from trepid.wire.reply import Reply as Answer


def refusals(depot: Depot, batch: Sequence[Settlement]) -> list[Reply] | None:
    """Return the replies to a batch that needs no server, because none of its leases is open; else None."""
    if any(depot.book.find(each.ref) is not None for each in batch):
        return None
    now = CLOCK.now()
    return [depot.book.judge(each.ref, each.verdict, now).reply for each in batch]


async def settle(depot: Depot, lines: Lines, batch: Sequence[Settlement], then: Sequence[Publication]) -> list[Reply]:
    """End leases with verdicts.

    Once the copies are sent nothing stops the rest of it, also if the caller is cancelled: acknowledging follows by
    itself, so a repetition finds the lease closed.

    Raises:
      BrokerLostError: if the lines are lost first; then their leases are void.
    """
    replies: dict[int, Reply] = {}
    left = list(range(len(batch)))
    while left:
        delays = [delay for index in left if (delay := _delay(batch[index].verdict)) is not None]
        fresh = [Fresh.of(each, CLOCK.now()) for each in then]
        await lines.builder.ways([*delays, *(each.delay for each in fresh)])
        if then or not all(type(batch[index].verdict) is Done for index in left):
            await lines.publisher.room()  # an acknowledgement goes the other way, and needs none
        left, applied, answer = _start(depot, lines, batch, fresh, left, replies=replies)
        if applied:
            refused = await answer.wait()
            for index in applied:
                replies[index] = Reply.APPLIED
            if refused:
                raise BrokerLostError(f"{lines.publisher.name}: it did not store what {refused} of {len(applied)} need")
        elif left:
            # Somebody else is settling these very leases.
            await depot.freed.wait()
    await trio.lowlevel.checkpoint()
    return [replies[index] for index in range(len(batch))]


def _delay(verdict: Verdict) -> float | None:
    return verdict.delay if isinstance(verdict, (Failed, Returned)) else None


def _start(
    depot: Depot,
    lines: Lines,
    batch: Sequence[Settlement],
    then: Sequence[Fresh],
    left: Sequence[int],
    *,
    replies: dict[int, Reply],
) -> tuple[list[int], list[int], Answer[int]]:
    """Judge what can be judged, and send it off; return what is busy, and what is on its way."""
    now = CLOCK.now()
    busy: list[int] = []
    applied: list[int] = []
    moves: list[Move] = []
    for index in left:
        ref, verdict = batch[index].ref, batch[index].verdict
        lease = depot.book.find(ref)
        if lease is not None and lease.busy:
            busy.append(index)
            continue
        judgement = depot.book.judge(ref, verdict, now)
        if judgement.lease is None or judgement.life is None:
            replies[index] = judgement.reply
            continue
        applied.append(index)
        moves.append(_move(depot, judgement.lease, judgement.life, verdict, now))
    answer: Answer[int] = Answer()
    if applied:
        moving.carry(lines, moves, partial(_answer, answer), then if 0 in applied else (), now)
    return busy, applied, answer


def _answer(answer: Answer[int], refused: int, error: Exception | None) -> None:
    if error is None:
        answer.set(refused)
    else:
        answer.fail(error)


def _move(depot: Depot, lease: Lease[Item], life: Life, verdict: Verdict, now: float) -> Move:
    done = partial(depot.closed, lease, life)
    item = lease.message
    if life.state in (DONE, CANCELLED):
        return Move(item, None, done=done)
    papers = item.passport.after(life, lifecycle.failure_of(verdict, life, now))
    return Move(item, papers, life.state, life.due - now if life.state is SCHEDULED else 0.0, done)
