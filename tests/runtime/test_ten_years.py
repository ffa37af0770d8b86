"""Ten years of schedules in twelve time zones, with three workers that die and come back: none missing, none double.

What is expected is not asked of the code under test: it is counted from calendars, day by day and hour by hour.
"""

import random
import time
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import trio

import trepid
from trepid.brokers.memory import MemoryBroker

HOUR = 3600.0
DAY = 24 * HOUR
# Both hemispheres, half and quarter hours, no changes at all, a change at midnight, and one of half an hour.
ZONES = [
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/St_Johns",
    "America/Santiago",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Kolkata",
    "Asia/Tokyo",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Antarctica/Troll",
]


def nightly(zone, start, end):
    """Yield 02:30 of every day; where the clocks skip it, the first moment after; where it comes twice, the first."""
    day = datetime.fromtimestamp(start, zone).replace(
        hour=2, minute=30, second=0, microsecond=0, tzinfo=None
    ) - timedelta(days=1)
    while True:
        day += timedelta(days=1)
        shown = day.replace(tzinfo=zone)
        while shown.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != shown.replace(tzinfo=None):
            shown += timedelta(minutes=1)
        if shown.timestamp() > end:
            return
        if shown.timestamp() > start:
            yield shown.timestamp()


def six_hourly(zone, start, end):
    """Yield each moment at which the clocks show 0, 6, 12 or 18 o'clock, how often they may do so."""
    for moment in range(int(start) // 900 * 900 + 900, int(end) + 1, 900):
        shown = datetime.fromtimestamp(moment, zone)
        if shown.minute == 0 and shown.hour % 6 == 0:
            yield float(moment)


KINDS = {"nightly": ("30 2 * * *", nightly), "six": ("0 */6 * * *", six_hourly)}


def expected(kinds, start, end):
    """Return how often each instant of each schedule is to be fired: once."""
    return {
        (f"{kind}-{zone.replace('/', '-')}", moment): 1
        for kind in kinds
        for zone in ZONES
        for moment in KINDS[kind][1](ZoneInfo(zone), start, end)
    }


class World:
    """A broker, three workers who run the same router, and a fate that kills them."""

    def __init__(self, kinds, make_broker, seed, *, life, absence):
        self.fired = Counter()
        self.random = random.Random(seed)
        self.life, self.absence = life, absence
        self.make_broker = make_broker
        self.kills = 0

        async def note(ctx: trepid.Context) -> None:
            moment = datetime.fromisoformat(ctx.job.headers["trepid-instant"])
            self.fired[ctx.job.headers["trepid-schedule"], moment.timestamp()] += 1

        actor = trepid.Actor(note, result_ttl=0)
        schedules = [
            trepid.Schedule(
                f"{kind}-{zone.replace('/', '-')}", trepid.Cron(KINDS[kind][0], zone), actor.job(), misfire="all"
            )
            for kind in kinds
            for zone in ZONES
        ]
        self.worker = trepid.Worker(trepid.Router(actor, schedules=schedules))

    async def live(self, until):
        """Let workers live and die until a moment on Trio's clock; then let a last one catch up.  Return the time."""
        async with trepid.open_connection(self.make_broker()) as connection:
            await self.begin(connection)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(self.one_worker, until)
            async with self.working(connection):
                await trio.sleep(self.absence)
                assert (await connection.stats()).live == 0
                return await connection.session.now()

    async def begin(self, connection):
        """Let all workers see all schedules once, so that all of them have begun."""
        async with self.working(connection):
            while len(await connection.session.marks("default")) < len(self.worker.router.schedules):
                await trio.sleep(0.001)
        self.start = await connection.session.now()

    async def one_worker(self, until):
        """Run a worker until it is killed, and another one after a while."""
        while trio.current_time() < until:
            async with trepid.open_connection(self.make_broker()) as connection:
                with trio.move_on_at(min(until, trio.current_time() + self.random.expovariate(1 / self.life))) as scope:
                    await self.worker.run(connection)
            assert scope.cancelled_caught
            self.kills += 1
            await trio.sleep(self.random.expovariate(1 / self.absence))

    @asynccontextmanager
    async def working(self, connection):
        async with trio.open_nursery() as nursery:
            running = await nursery.start(self.worker.run, connection)
            yield
            running.stop()


async def story(kinds, make_broker, *, span, life, absence, seed=20_261_129):
    world = World(kinds, make_broker, seed, life=life, absence=absence)
    end = await world.live(trio.current_time() + span)
    wanted = expected(kinds, world.start, end)
    assert {key: count for key, count in world.fired.items() if count > 1} == {}
    assert set(wanted) - set(world.fired) == set()
    assert set(world.fired) - set(wanted) == set()
    return world, wanted


def memory():
    broker = MemoryBroker(wall_clock=datetime(2026, 1, 1, 0, 10, tzinfo=UTC).timestamp)
    return lambda: broker


async def test_a_year_of_twelve_zones_with_workers_that_die(autojump_clock):
    world, wanted = await story(["nightly"], memory(), span=366 * DAY, life=3 * DAY, absence=6 * HOUR)
    assert len(wanted) == pytest.approx(12 * 366, abs=24)
    assert world.kills > 200


@pytest.mark.chaos
@pytest.mark.parametrize(("kind", "daily"), [("nightly", 1), ("six", 4)])
async def test_ten_years_of_twelve_zones_with_workers_that_die(autojump_clock, kind, daily):
    began = time.process_time()
    world, wanted = await story([kind], memory(), span=3653 * DAY, life=3 * DAY, absence=6 * HOUR)
    assert len(wanted) == pytest.approx(daily * 12 * 3653, rel=0.001)
    print(f"{len(wanted):,} instants, {world.kills:,} deaths, {time.process_time() - began:.0f} s of work")
