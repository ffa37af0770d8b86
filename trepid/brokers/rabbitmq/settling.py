"""Settling: verdicts become moves, and those of one batch are carried together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from trepid.brokers.leasebook import Lease
from trepid.brokers.rabbitmq.clock import CLOCK
from trepid.brokers.rabbitmq.depot import Depot
from trepid.brokers.rabbitmq.haulage import without_copies
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
    """End leases with verdicts; a follow-up for a queue that is gone is dropped, as everywhere.

    What is only acknowledged goes first: it needs no room among the publishers.  Once the copies are sent nothing stops
    the rest of it, also if the caller is cancelled: acknowledging follows by itself, so a repetition finds the lease
    closed.

    Raises:
      BrokerLostError: if the lines are lost first; then their leases are void.  Also if the server refuses to store
        something; then its lease stands.
    """
    replies: dict[int, Reply] = {}
    every = range(len(batch))
    plain = [index for index in every if type(batch[index].verdict) is Done and not (then and index == 0)]
    for part in (plain, sorted(set(every) - set(plain))):
        with lines.shared():
            await _settle(depot, lines, batch, () if part is plain else then, part, replies=replies)
    await trio.lowlevel.checkpoint()
    return [replies[index] for index in every]


async def _settle(
    depot: Depot,
    lines: Lines,
    batch: Sequence[Settlement],
    then: Sequence[Publication],
    left: list[int],
    *,
    replies: dict[int, Reply],
) -> None:
    moved = {batch[index].ref.queue for index in left if type(batch[index].verdict) is not Done}
    again = False
    while left:
        fresh = [Fresh.of(each, CLOCK.now()) for each in then]
        delays = [delay for index in left if (delay := _delay(batch[index].verdict)) is not None]
        await lines.builder.ways([*delays, *(each.delay for each in fresh)])
        gone = await lines.gone({*moved, *(each.queue for each in then)})
        if moved or then:
            await lines.publisher.room()
        fresh = [each for each in fresh if each.publication.queue not in gone]
        left, applied, answer = _start(depot, lines, batch, fresh, left, gone=gone, replies=replies)
        if applied:
            refused = await answer.wait()
            replies.update(dict.fromkeys(applied, Reply.APPLIED))
            if refused:
                if again or {*moved, *(each.publication.queue for each in fresh)} <= lines.known | gone:
                    raise BrokerLostError(
                        f"{lines.publisher.name}: it did not store what {refused} of {len(applied)} need"
                    )
                again = True  # a queue took nothing: it is gone, or what leads to it
                left = [*left, *(index for index in applied if depot.book.find(batch[index].ref) is not None)]
        elif left:
            # Somebody else is settling these very leases.
            await depot.freed.wait()


def _delay(verdict: Verdict) -> float | None:
    return verdict.delay if isinstance(verdict, (Failed, Returned)) else None


def _start(
    depot: Depot,
    lines: Lines,
    batch: Sequence[Settlement],
    then: Sequence[Fresh],
    left: Sequence[int],
    *,
    gone: set[str],
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
        follow_ups = then if 0 in applied else ()
        depot.haulage.start(lines, [*without_copies(moves, gone)], partial(_answer, answer), follow_ups, now)
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
