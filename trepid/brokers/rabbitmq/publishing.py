"""Publishing: confirmed, and never into a queue that is not there."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from trepid.brokers.rabbitmq import moving
from trepid.brokers.rabbitmq.clock import CLOCK
from trepid.brokers.rabbitmq.lines import Lines
from trepid.brokers.rabbitmq.moving import Fresh
from trepid.errors import BrokerLostError
from trepid.ports.messages import Publication
from trepid.rules.publishing import Published, Publishing
from trepid.wire.amqp import Batch
from trepid.wire.reply import Reply


async def publish(lines: Lines, batch: Sequence[Publication]) -> list[Published]:
    """Store messages, each by itself, and return once the server has confirmed them all.

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
    await lines.builder.ways(each.delay for each in fresh)
    answer: Reply[Batch] = Reply()

    def stored(batch: Batch, error: Exception | None) -> None:
        if error is None:
            answer.set(batch)
        else:
            answer.fail(error)

    together = Batch(stored)
    moving.publish(lines, together, fresh, CLOCK.now(), 0)
    together.seal()
    outcome = await answer.wait()
    if outcome.refused:
        raise BrokerLostError(
            f"{lines.publisher.name}: it did not store {len(outcome.refused)} of {len(batch)} messages"
        )
    short = {batch[index].queue for index in outcome.returned}
    # Not all were returned if the queue was shut between two of them; but those before are deleted along with it.
    gone = {queue for queue in short if not await lines.exists(queue)}
    return [
        Published(
            Publishing.NO_QUEUE
            # What is delayed is in no queue yet, and waits for the next one of that name.
            if index in outcome.returned or (item.publication.queue in gone and not item.delay)
            else Publishing.ACCEPTED,
            item.publication.id,
        )
        for index, item in enumerate(fresh)
    ]
