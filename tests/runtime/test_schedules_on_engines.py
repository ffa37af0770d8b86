"""Schedules on every engine that fires, in real time: workers that die and come back, and a schedule that is given.

RabbitMQ fires with a second engine only; the conformance suite puts such pairs to it.
"""

import random
from collections import Counter
from datetime import datetime
from itertools import count

import pytest
import trio

import trepid
from tests.brokers.nats.kit import sweep
from tests.runtime.stage import working
from trepid.brokers.memory import MemoryBroker

PERIOD = 1.0
PREFIXES = count()


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres", "nats"])
def broker(request, tmp_path):
    """A broker, or its URL."""
    if request.param == "memory":
        return MemoryBroker()
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'jobs.db'}"
    server = request.getfixturevalue(f"{request.param}_server")
    return f"{server.url}?prefix=schedules{next(PREFIXES)}" if request.param == "nats" else server.new_database()


@pytest.fixture
async def make_broker(broker):
    """A function that returns what opens another connection to the broker."""
    yield lambda: broker
    if isinstance(broker, str) and broker.startswith("nats:"):
        url, _, prefix = broker.partition("?prefix=")
        await sweep(url, prefix)


class Diary:
    """An actor that counts how often it runs for each instant."""

    def __init__(self):
        self.ran = Counter()
        self.more = trio.Event()
        self.actor = trepid.Actor(self.tick)

    async def tick(self, ctx: trepid.Context) -> None:
        self.ran[datetime.fromisoformat(ctx.job.headers["trepid-instant"]).timestamp()] += 1
        self.more.set()
        self.more = trio.Event()

    async def reaches(self, instant):
        """Wait until the job of an instant, or of a later one, has run."""
        while not self.ran or max(self.ran) < instant:
            await self.more.wait()

    def complaints(self, start, end):
        """Return the instants between two moments that did not run once."""
        wanted = [start + n * PERIOD for n in range(round((end - start) / PERIOD) + 1)]
        return {instant: self.ran[instant] for instant in wanted if self.ran[instant] != 1}


async def test_workers_that_die_miss_nothing_and_fire_nothing_twice(make_broker):
    diary, fate = Diary(), random.Random(1)
    every = trepid.Schedule("s", trepid.Every(PERIOD), diary.actor.job(), misfire="all")
    worker = trepid.Worker(trepid.Router(diary.actor, schedules=[every]))

    async def one_worker():
        while True:
            async with trepid.open_connection(make_broker()) as connection:
                with trio.move_on_after(fate.uniform(0.5, 2.5)):
                    await worker.run(connection)
            await trio.sleep(fate.uniform(0, 1.5))

    with trio.fail_after(60):
        async with trepid.open_connection(make_broker()) as connection:
            async with working(worker, connection):
                await diary.reaches(0)
            start = max(diary.ran)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(one_worker)
                await diary.reaches(start + 8 * PERIOD)
                nursery.cancel_scope.cancel()
            async with working(worker, connection):
                end = await connection.session.now() // PERIOD * PERIOD + PERIOD
                await diary.reaches(end)
    # The job waits for nothing, so a worker that is killed has either not begun it, or settles it.
    assert diary.complaints(start, end) == {}


async def test_a_schedule_is_given_paused_run_and_taken_back(make_broker):
    diary = Diary()
    every = trepid.Schedule("s", trepid.Every(PERIOD), diary.actor.job())
    with trio.fail_after(60):
        async with (
            trepid.open_connection(make_broker()) as connection,
            working(trepid.Worker(diary.actor), connection),
        ):
            await connection.schedule(every)
            [view] = await connection.schedules()
            assert view.schedule == every
            await diary.reaches(view.next + PERIOD)
            await connection.pause_schedule("s")
            handle = await connection.run_schedule("s")
            await handle.wait()
            [view] = await connection.schedules()
            assert (view.paused, view.next) == (True, None)
            await connection.resume_schedule("s")
            await diary.reaches(await connection.session.now() + PERIOD)
            assert await connection.unschedule("s")
            assert await connection.schedules() == []
    assert set(diary.ran.values()) == {1}
