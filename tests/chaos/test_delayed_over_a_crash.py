"""A RabbitMQ server is killed while delayed messages fall due: each arrives, however late.

RabbitMQ's own worker forwards what has waited from step to step.  While a killed server boots, a step may be there
before the queue that comes next; what is refused then is tried again only after a pause, by default of three minutes,
and 32 such messages keep all others of that step waiting behind them.  The more queues there are, the likelier it is.
"""

from collections import Counter

import attrs
import pytest
import trio

from tests.brokers.rabbitmq.tools import new_url, publication, settle, take
from trepid.brokers.rabbitmq import RabbitMQBroker
from trepid.errors import BrokerLostError
from trepid.rules.verdicts import Done

PAUSE = "dead_letter_worker_publisher_confirm_timeout"
"""Milliseconds; a setting of the server's application, not of rabbitmq.conf."""


@attrs.define
class Story:
    """What happened: when each message was settled, its crashes, and when the server was killed and back."""

    arrived: dict[str, list[float]] = attrs.Factory(dict)
    crashes: Counter[str] = attrs.Factory(Counter)
    acknowledged: dict[str, float] = attrs.Factory(dict)
    kills: list[float] = attrs.Factory(list)
    returns: list[float] = attrs.Factory(list)

    def unexplained(self):
        """Return who came twice, and not because a kill followed its acknowledgement, nor with a crash counted."""
        return [
            id
            for id, moments in self.arrived.items()
            if len(moments) > 1
            and not (self.crashes[id] and any(moments[0] <= kill < moments[0] + 5 for kill in self.kills))
        ]


async def crash_while_they_fall_due(server, queues, messages, kills, within):
    """Publish messages that fall due one after the other, kill the server meanwhile, and wait for all of them."""
    story = Story()
    async with RabbitMQBroker(new_url(server.url)).open() as session, trio.open_nursery() as nursery:
        names = [f"q{number}" for number in range(queues)]
        await session.declare(names)
        batch = [
            publication(f"m{n}", names[n % queues], delay=3 + n * 0.02, priority=(0, 5, 9)[n // queues % 3])
            for n in range(messages)
        ]
        for first in range(0, messages, 200):
            await session.publish(batch[first : first + 200])

        async def kill():
            await trio.sleep(3)
            for _ in range(kills):
                server.kill()
                story.kills.append(trio.current_time())
                await trio.to_thread.run_sync(server.start)
                story.returns.append(trio.current_time())
                await trio.sleep(4)

        nursery.start_soon(kill)
        with trio.move_on_after(within):
            while len(story.arrived) < messages or len(story.returns) < kills:
                try:
                    for delivery in await take(session, 200, wait=1, queues=names):
                        if await settle(session, delivery, Done(b"1", 60)) == "applied":
                            story.arrived.setdefault(delivery.id, []).append(trio.current_time())
                            story.crashes[delivery.id] += delivery.crashes
                except BrokerLostError:
                    await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    return story


@pytest.mark.chaos
async def test_with_the_defaults_of_the_server_none_is_lost_and_some_take_minutes(own_rabbitmq):
    server = await trio.to_thread.run_sync(own_rabbitmq)
    story = await crash_while_they_fall_due(server, 60, 2400, 3, within=480)
    assert len(story.arrived) == 2400
    assert story.unexplained() == []
    last = max(moments[-1] for moments in story.arrived.values())
    print(f"the last one came {last - story.returns[-1]:.0f} s after the server")


@pytest.mark.chaos
async def test_with_a_shorter_pause_they_come_at_once(own_rabbitmq):
    server = await trio.to_thread.run_sync(lambda: own_rabbitmq(settings={PAUSE: 2000}))
    story = await crash_while_they_fall_due(server, 60, 2400, 3, within=120)
    assert len(story.arrived) == 2400
    assert story.unexplained() == []
    # 51 s after they were published the last one is due; then it is a pause for each step that it has left.
    late = max(moments[-1] for moments in story.arrived.values()) - story.returns[-1]
    assert late < 45, f"the last one came {late:.0f} s after the server"
