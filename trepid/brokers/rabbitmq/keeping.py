"""Keeping queues: counting, emptying, deleting, and bringing the dead back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Final

import trio
from pamqp import commands

from trepid.brokers.rabbitmq import moving, passport
from trepid.brokers.rabbitmq.building import NOT_FOUND
from trepid.brokers.rabbitmq.clock import CLOCK
from trepid.brokers.rabbitmq.depot import Depot
from trepid.brokers.rabbitmq.lines import Lines
from trepid.brokers.rabbitmq.passport import Passport
from trepid.brokers.rabbitmq.topology import LEVELS
from trepid.errors import BrokerLostError, QueueBusyError, UnknownQueueError, UnsupportedError
from trepid.ports.messages import QueueStats
from trepid.rules import lifecycle
from trepid.rules.life import DEAD, READY, State
from trepid.wire.amqp import Batch, Channel, ChannelClosedError, Delivered
from trepid.wire.amqp.frames import header_of
from trepid.wire.link import ProtocolError
from trepid.wire.reply import Reply

_SEEN_WITHIN: Final = 1.0
_STORED_WITHIN: Final = 5.0
_SPAN: Final = 256
"""Dead letters that are looked at together."""


async def stats(lines: Lines, depot: Depot, queue: str) -> QueueStats:
    """Count what can be counted: what is ready or dead, and what this session itself has leased.

    Raises:
      UnknownQueueError: if it was never declared.
    """
    counts = await _counted(lines, queue)
    tap = depot.taps.get(queue)
    ready = sum(counts[:-1]) + (len(tap.stock) if tap is not None else 0)
    return QueueStats(queue, ready=ready, leased=depot.book.leased(queue, CLOCK.now()), dead=counts[-1])


async def _counted(lines: Lines, queue: str) -> list[int]:
    """Return how many messages are in each of the server's queues, the dead letters last."""
    names = lines.names.all(queue)

    async def ask(channel: Channel) -> list[int]:
        asked = [channel.ask(commands.Queue.Declare(queue=name, passive=True)) for name in names]
        return [int((await reply.wait()).message_count) for reply in asked]

    return await _of(lines, queue, ask)


async def _of(lines: Lines, queue: str, work: Callable[[Channel], Awaitable[list[int]]]) -> list[int]:
    try:
        return await lines.apart(work)
    except ChannelClosedError as exc:
        if exc.code != NOT_FOUND:
            raise BrokerLostError(f"{lines.consumer.name}: {exc}") from None
        lines.known.discard(queue)
        raise UnknownQueueError(queue) from None


async def delete(lines: Lines, depot: Depot, queue: str) -> None:
    """Delete a queue, unless this session has leases of it.

    Raises:
      QueueBusyError: if it has.
    """
    now = CLOCK.now()
    mine = [lease for lease in depot.book.leases() if lease.queue == queue]
    if leased := depot.book.leased(queue, now):
        over = [lease for lease in mine if lease.busy and lease.life.until <= now]
        if leased > len(over):
            await trio.lowlevel.checkpoint()
            raise QueueBusyError(queue, leased - len(over))
    await depot.ended([lease.ref for lease in mine])
    tap = depot.taps.get(queue)
    await lines.delete(queue)
    if tap is not None:
        if depot.taps.get(queue) is tap:
            del depot.taps[queue]
        await tap.channel.close()


async def requeue(lines: Lines, queue: str, ids: Collection[str] | None, limit: int) -> int:
    """Bring dead messages back, the oldest first."""
    wanted = None if ids is None else set(ids)
    if wanted is not None and not wanted:
        await _counted(lines, queue)
        return 0
    count = (await _counted(lines, queue))[-1]
    work = partial(_sift, lines, queue, wanted, min(count, limit) if wanted is None else count, limit, again=True)
    (came,) = await _of(lines, queue, work)
    return came


async def purge(
    lines: Lines, depot: Depot, queue: str, states: Sequence[State], ids: Collection[str] | None, *, limit: int
) -> int:
    """Forget dead messages, by id or the oldest first; or what is ready, but not by id.

    What the server has pushed to this session is forgotten if all of it may be; other sessions keep what they have.

    Raises:
      UnsupportedError: for ready messages by id, and for scheduled ones.
      UnknownQueueError: if the queue was never declared.
    """
    counts = await _counted(lines, queue)
    gone = 0
    if State.SCHEDULED in states:
        raise UnsupportedError(
            "purging delayed messages", "RabbitMQ", "they climb down a ladder that all queues share, until they are due"
        )
    if State.READY in states and ids is not None:
        raise UnsupportedError("purging ready messages by id", "RabbitMQ", "it can only forget all of them")
    if State.DEAD in states and (ids is None or ids):
        wanted = None if ids is None else set(ids)
        most = min(counts[-1], limit) if wanted is None else counts[-1]
        (gone,) = await _of(lines, queue, partial(_sift, lines, queue, wanted, most, limit, again=False))
    if State.READY in states:
        for level, count in zip(LEVELS, counts, strict=False):
            (more,) = await _of(lines, queue, partial(_drop, lines.names.ready(queue, level), min(count, limit - gone)))
            gone += more
        tap = depot.taps.get(queue)
        if tap is not None and len(tap.stock) <= limit - gone:
            pushed = tap.stock.clear()
            tap.ack([item.tag for item in pushed])
            gone += len(pushed)
    return gone


async def _drop(name: str, most: int, channel: Channel) -> list[int]:
    """Take messages out of a queue and forget them."""
    taken: list[Delivered] = []
    for reply in [channel.get(name, taken.append) for _ in range(most)]:
        await reply.wait()
    if taken:
        channel.ack(taken[-1].tag, multiple=True)
    await trio.lowlevel.checkpoint()
    return [len(taken)]


async def _sift(  # noqa: PLR0917 - the channel comes last, from whoever opens it
    lines: Lines,
    queue: str,
    wanted: set[str] | None,
    most: int,
    limit: int,
    channel: Channel,
    *,
    again: bool,
) -> list[int]:
    """Look at dead letters and take some out: to be requeued, or forgotten.  The others go back in their order.

    Raises:
      BrokerLostError: if some could not be requeued; they go back, too.
    """
    chosen: list[tuple[Delivered, Passport | None]] = []
    left: list[int] = []
    for start in range(0, most, _SPAN):
        taken: list[Delivered] = []
        span = range(start, min(start + _SPAN, most))
        for reply in [channel.get(lines.names.dead(queue), taken.append) for _ in span]:
            await reply.wait()
        for message in taken:
            papers = _papers(message)
            # What is not ours has no id, and nobody could run it; but it can be forgotten.
            fits = wanted is None if papers is None or wanted is None else papers.id in wanted
            if len(chosen) < limit and fits and (papers is not None or not again):
                chosen.append((message, papers))
                if not again:
                    message.body = b""
            else:
                left.append(message.tag)
    refused = await _revive(lines, queue, chosen) if again and chosen else set[int]()
    for index, (message, _) in enumerate(chosen):
        if index not in refused:
            channel.ack(message.tag)
    left = sorted([*left, *(chosen[index][0].tag for index in refused)])
    for tag in left:
        channel.nack(tag)
    if left:
        await _returned(channel, lines.names.dead(queue), len(left))
    await trio.lowlevel.checkpoint()
    if refused:
        raise BrokerLostError(f"{lines.publisher.name}: it did not store {len(refused)} of {len(chosen)} messages")
    return [len(chosen)]


async def _returned(channel: Channel, name: str, count: int) -> None:
    """Wait until messages that were given back can be seen again: giving back is not answered, so one has to ask."""
    with trio.move_on_after(_SEEN_WITHIN):
        passive = commands.Queue.Declare(queue=name, passive=True)
        while int((await channel.call(passive)).message_count) < count:
            await trio.sleep(0.002)


def _papers(message: Delivered) -> Passport | None:
    try:
        return passport.read(header_of(message.properties, passport.HEADER)[0] or b"")
    except (ProtocolError, ValueError):
        return None


async def _revive(lines: Lines, queue: str, chosen: Sequence[tuple[Delivered, Passport | None]]) -> set[int]:
    """Publish dead letters anew, and return the indexes of those that were not stored.

    Cancellation: what was sent is waited for, for some seconds; else it would be there, and the letter as well.
    """
    answer: Reply[set[int]] = Reply()

    def stored(batch: Batch, error: Exception | None) -> None:
        if error is None:
            if batch.returned:
                lines.known.discard(queue)
            answer.set(batch.refused | batch.returned)
        else:
            answer.fail(error)

    await lines.gone((queue,))
    await lines.publisher.room()
    with lines.shared():
        now = CLOCK.now()
        batch = Batch(stored)
        for index, (message, papers) in enumerate(chosen):
            assert papers is not None
            life = lifecycle.requeue(papers.life(DEAD), CLOCK.number(), now)
            to = moving.target(lines, queue, papers, READY, 0.0)
            lines.out.publish(to, lines.sealed(papers.after(life)), message.body, batch, index)
        batch.seal()
        with trio.move_on_after(_STORED_WITHIN, shield=True):
            return await answer.wait()
        return await answer.wait()
