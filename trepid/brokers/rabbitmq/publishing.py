"""Publishing: confirmed, and never into a queue that is not there."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from trepid.brokers.rabbitmq import moving
from trepid.brokers.rabbitmq.clock import CLOCK
from trepid.brokers.rabbitmq.lines import Lines
from trepid.brokers.rabbitmq.moving import Fresh
from trepid.brokers.rabbitmq.topology import steps
from trepid.errors import BrokerLostError
from trepid.ports.messages import Publication
from trepid.rules.publishing import Published, Publishing
from trepid.wire.amqp import Batch
from trepid.wire.reply import Reply


async def publish(lines: Lines, batch: Sequence[Publication]) -> list[Published]:
    """Store messages, each by itself, and return once the server has confirmed them all.

    What finds no way into a queue that is there was not stored: the way is made again, and it is sent once more.

    Raises:
      BrokerLostError: if the connection is lost first, or the server refuses a message; then some may be stored.

    Cancellation: what was sent is stored.
    """
    queues = {each.queue for each in batch}
    if missing := queues - await lines.existing(queues):
        await trio.lowlevel.checkpoint()
        return [
            Published(Publishing.NO_QUEUE if each.queue in missing else Publishing.NOT_STORED, each.id)
            for each in batch
        ]
    await lines.publisher.room()
    now = CLOCK.now()
    fresh = [Fresh.of(each, now) for each in batch]
    returned = await _send(lines, fresh)
    climbing = {index for index in returned if steps(fresh[index].delay)}
    if climbing:
        lines.builder.doubt()
    short = {batch[index].queue for index in returned - climbing}
    # Not all were returned if the queue was shut between two of them; but those before are deleted along with it.
    gone = {queue for queue in short if not await lines.mended(queue)}
    again = sorted(index for index in returned if index in climbing or batch[index].queue not in gone)
    if again and await _send(lines, [fresh[index] for index in again]):
        raise BrokerLostError(f"{lines.publisher.name}: no queue took some of {len(batch)} messages")
    return [
        Published(
            # What is delayed is in no queue yet, and waits for the next one of that name.
            Publishing.NO_QUEUE if each.publication.queue in gone and not steps(each.delay) else Publishing.ACCEPTED,
            each.publication.id,
        )
        for each in fresh
    ]


async def _send(lines: Lines, fresh: Sequence[Fresh]) -> set[int]:
    """Publish messages, and return the indexes of those that no queue took.

    Raises:
      BrokerLostError: as :func:`publish`.
    """
    await lines.builder.ways(each.delay for each in fresh)
    answer: Reply[Batch] = Reply()

    def stored(batch: Batch, error: Exception | None) -> None:
        if error is None:
            answer.set(batch)
        else:
            answer.fail(error)

    with lines.shared():
        together = Batch(stored)
        moving.publish(lines, together, fresh, CLOCK.now(), 0)
        together.seal()
        outcome = await answer.wait()
    if outcome.refused:
        raise BrokerLostError(
            f"{lines.publisher.name}: it did not store {len(outcome.refused)} of {len(fresh)} messages"
        )
    return outcome.returned
