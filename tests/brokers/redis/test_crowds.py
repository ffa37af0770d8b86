"""Many at once: cancelled callers beside live ones, publishers that travel together, long queues."""

import itertools
import random
import time

import pytest
import trio

from tests.brokers.redis.steps import publications, settled
from trepid.brokers.redis import RedisBroker
from trepid.ports.messages import Publication
from trepid.rules.publishing import Published, Publishing
from trepid.values.unique import Unique


async def test_cancelled_callers_leave_nobody_a_wrong_reply(redis_server):
    draw = random.Random(5)
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        await session.publish([Publication("q", f"m{n}", ("p", n), b"payload %d" % n) for n in range(50)])
        wrong, asked, gone = [], 0, 0

        async def live():
            nonlocal asked
            for _ in range(100):
                number = draw.randrange(50)
                view = await session.get("q", f"m{number}")
                asked += 1
                if view is None or view.payload != b"payload %d" % number:
                    wrong.append(view)

        async def cancelled():
            nonlocal gone
            for _ in range(100):
                with trio.move_on_after(draw.random() * 0.002) as scope:
                    number = draw.randrange(50)
                    view = await session.get("q", f"m{number}")
                    if view is None or view.payload != b"payload %d" % number:
                        wrong.append(view)
                    await session.queues()
                    await session.publish([Publication("q", f"m{number}", ("p", number), b"")])
                gone += scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(live)
                nursery.start_soon(cancelled)
        assert not wrong
        assert asked == 1000
        assert gone > 100
        assert (await session.stats("q")).ready == 50


async def test_cancelled_leases_lose_nothing(redis_server):
    """On a healthy server, what a cancelled call was granted is handed over."""
    draw = random.Random(6)
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        await session.publish(publications("q", 300))
        got = []
        for _ in range(1000):
            with trio.move_on_after(draw.random() * 0.001):
                got += await session.lease(["q"], 1, 60.0, owner="me")
        assert {ref.token for ref in await session.held("me")} == {each.token for each in got}
        assert len(got) + (await session.stats("q")).ready == 300


async def test_publishers_travel_together_and_hear_their_own_answers(redis_server):
    url = redis_server.new_database()
    async with RedisBroker(url).open() as session:
        await session.declare(["q"])
        await session.publish([Publication("q", "holder", ("h", 1), b"", unique=Unique("k"))])
        answers = {}

        async def publish(number):
            kind = number % 4
            id = f"m{number}"
            if kind == 0:
                item = Publication("q", id, ("p", number), b"x")
            elif kind == 1:
                item = Publication("nowhere", id, ("p", number), b"x")
            elif kind == 2:
                item = Publication("q", id, ("p", number), b"x", unique=Unique("k"))
            else:
                item = Publication("q", id, ("p", number), b"x", unique=Unique("k", "raise"))
            answers[number] = (await session.publish([item, item] if kind == 0 else [item]))[-1]

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(publish, number)
        for number, answer in answers.items():
            expected = [
                Published(Publishing.DUPLICATE, f"m{number}"),
                Published(Publishing.NO_QUEUE, f"m{number}"),
                Published(Publishing.EXISTING, "holder"),
                Published(Publishing.CONFLICT, "holder"),
            ][number % 4]
            assert answer == expected, number
        assert (await session.stats("q")).ready == 51


async def test_a_big_batch_is_stored_and_leased_whole(redis_server):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        await session.publish(publications("q", 10_000))
        ids = []
        while deliveries := await session.lease(["q"], 10_000, 60.0, owner="me"):
            ids += [each.id for each in deliveries]
            assert await settled(session, deliveries, keep=60.0) == len(deliveries)
        assert ids == sorted(ids, key=lambda name: int(name[1:]))
        assert len(ids) == 10_000
        assert (await session.stats("q")).done == 10_000


async def test_large_payloads_come_in_bounded_portions(redis_server):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        for _ in range(3):
            await session.publish(publications("q", 5, payload=bytes(1 << 20)))
        portions = []
        while deliveries := await session.lease(["q"], 100, 60.0, owner="me"):
            portions.append(len(deliveries))
        assert sum(portions) == 15
        assert max(portions) <= 5


def seconds_to_lease(server, waiting, scripts=200):
    """Return the server's own time for leasing and settling 10 messages, with many waiting behind them."""

    async def measure():
        async with RedisBroker(server.new_database()).open() as session:
            await session.declare(["q"])
            for _ in range(0, waiting, 5000):
                await session.publish(publications("q", 5000))
            await trio.to_thread.run_sync(server.command, "CONFIG", "RESETSTAT")
            for _ in range(scripts):
                deliveries = await session.lease(["q"], 10, 60.0, owner="me")
                assert await settled(session, deliveries) == 10
            lines = (await trio.to_thread.run_sync(server.command, "INFO", "commandstats")).splitlines()
            (line,) = [line for line in lines if line.startswith("cmdstat_evalsha:")]
            return int(line.partition("usec=")[2].partition(",")[0]) / 1e6

    return measure


async def test_a_long_queue_does_not_slow_leasing(own_redis):
    server = own_redis(durable=False)
    # Interleaved, and the best of each: others use the machine, too.
    short, long = [], []
    for _ in range(3):
        short.append(await seconds_to_lease(server, 5000)())
        long.append(await seconds_to_lease(server, 50_000)())
    # Looking at every message that waits would cost ten times as much; the figure itself is taken by the benchmarks.
    assert min(long) < 2.5 * min(short), (short, long)


@pytest.mark.chaos
async def test_a_million_waiting_messages_do_not_slow_leasing(own_redis):
    server = own_redis(durable=False)
    short, long = [], []
    began = time.monotonic()
    for _ in itertools.takewhile(lambda _: time.monotonic() - began < 300, range(3)):
        short.append(await seconds_to_lease(server, 5000)())
        long.append(await seconds_to_lease(server, 1_000_000)())
    assert min(long) < 1.6 * min(short), (short, long)
