"""Every server engine over a bad wire: nothing is lost, nothing is stuck, and no reply goes to the wrong caller."""

from collections import Counter
from contextlib import asynccontextmanager

import pytest
import trio

import trepid
from tests.brokers.places import SERVERS, fresh_url
from tests.servers.proxy import open_proxy

JOBS = 40


class Office:
    """Runs jobs over a wire, and counts how often each one ran."""

    def __init__(self):
        self.ran = Counter()
        self._changed = trio.Event()

    async def work(self, ctx: trepid.Context, number: int) -> int:
        self.ran[ctx.job.id] += 1
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        await trio.lowlevel.checkpoint()
        return number

    async def all_ran(self, ids, within):
        with trio.fail_after(within):
            while not self.ran.keys() >= set(ids):
                await self._changed.wait()


@asynccontextmanager
async def open_office(url, *, lease=5.0):
    """Open a worker on one connection, and a producer on another, on the same wire."""
    office = Office()
    actor = trepid.Actor(office.work, name="work", max_crashes=1000)
    async with (
        trepid.open_connection(url) as connection,
        trepid.open_connection(url) as producer,
        trio.open_nursery() as nursery,
    ):
        running = await nursery.start(trepid.Worker(actor, tasks_limit=10, lease=lease).run, connection)
        office.producer, office.running, office.actor = producer, running, actor
        yield office
        running.stop()


async def enqueue(office, id):
    """Enqueue until it is certain; an engine that does not recognise repeats leaves them to the program."""
    job = office.actor.job(int(id.removeprefix("job-"))).options(id=id)
    while True:
        try:
            return await office.producer.enqueue(job)
        except trepid.BrokerLostError:
            await trio.sleep(0.05)


async def enqueue_all(office, ids, pause=0.0):
    for id in ids:
        await enqueue(office, id)
        await trio.sleep(pause)


async def settled(office, within=30.0):
    """Wait until nothing is left in the queue."""
    with trio.fail_after(within):
        while (stats := await office.producer.stats()).live:
            await trio.sleep(0.05)
    assert stats.dead == 0
    return stats


@pytest.fixture(params=SERVERS)
async def wire(request):
    """A proxy before a server, and the URL through it."""
    server, url = fresh_url(request.param, request)
    async with open_proxy(server.host, server.port) as proxy:
        proxy.url = proxy.instead(url)
        yield proxy


IDS = [f"job-{n}" for n in range(JOBS)]


@pytest.mark.parametrize("fault", ["slice", "delay", "bandwidth"])
async def test_a_slow_wire_is_only_slow(wire, fault):
    # Where every round trip takes a fifth of a second, a lease has to be longer than a few of them.
    async with open_office(wire.url, lease=30.0) as office:
        match fault:
            case "slice":
                wire.slice(1)
            case "delay":
                wire.delay(0.1)
            case "bandwidth":
                wire.bandwidth(50_000)
        async with trio.open_nursery() as nursery:
            for id in IDS:
                nursery.start_soon(enqueue, office, id)
        await office.all_ran(IDS, within=60)
        await settled(office, within=60)
        assert set(office.ran.values()) == {1}, "a slow wire repeats nothing"


async def test_replies_on_a_slow_wire_go_to_who_asked(wire):
    async with trepid.open_connection(wire.url) as connection:
        await connection.declare("default", "b", "c")
        for queue, number in (("default", 3), ("b", 5), ("c", 7)):
            for n in range(number):
                await connection.enqueue(trepid.Job("nobody", id=f"{queue}-{n}", queue=queue))
        wire.delay(0.02)
        got = Counter()

        async def ask(queue, number, patience):
            with trio.move_on_after(patience) as scope:
                assert (await connection.stats(queue)).ready == number
            got[scope.cancelled_caught] += 1

        async with trio.open_nursery() as nursery:
            for n in range(150):
                queue, number = (("default", 3), ("b", 5), ("c", 7))[n % 3]
                # Some leave before their reply is there, some while it comes, some wait for it.
                nursery.start_soon(ask, queue, number, (0.0, 0.03, 0.05, 60.0)[n % 4])
        assert got[False] >= 37, "those who wait get their reply"
        assert got[True] >= 1, "somebody has left before"


async def test_resets_lose_nothing(wire):
    async with open_office(wire.url) as office, trio.open_nursery() as nursery:
        nursery.start_soon(enqueue_all, office, IDS, 0.05)
        for _ in range(8):
            await trio.sleep(0.3)
            wire.reset()
        await office.all_ran(IDS, within=60)
        await settled(office)


async def test_a_publish_whose_reply_is_lost_is_stored(wire):
    async with open_office(wire.url) as office:
        exactly = office.producer.capabilities.deduplication != "none"
        for id in IDS[:5]:
            wire.drop_replies_after(0, then_reset=True)
            with trio.fail_after(30):
                await enqueue(office, id)
        await office.all_ran(IDS[:5], within=30)
        await settled(office)
        if exactly and office.producer.capabilities.fencing == "strict":
            assert wire.dropped
            assert set(office.ran) == set(IDS[:5])


async def test_replies_that_are_swallowed_stop_nothing(wire):
    async with open_office(wire.url) as office, trio.open_nursery() as nursery:
        wire.drop_replies_after(2000)
        nursery.start_soon(enqueue_all, office, IDS)
        await wire.until(lambda: wire.dropped)
        await trio.sleep(1)
        wire.drop_replies_after(None)
        wire.reset()
        await office.all_ran(IDS, within=60)
        await settled(office)


@pytest.mark.parametrize("seconds", [3, pytest.param(30, marks=pytest.mark.chaos)])
async def test_a_black_hole_is_left_behind(wire, seconds):
    async with open_office(wire.url) as office, trio.open_nursery() as nursery:
        await enqueue(office, IDS[0])
        await office.all_ran(IDS[:1], within=10)
        wire.black_hole(True)
        nursery.start_soon(enqueue_all, office, IDS[1:])
        await trio.sleep(seconds)
        if seconds > 15:
            assert not office.running.statistics().ready, "a worker that cannot consume is not ready"
        wire.black_hole(False)
        await office.all_ran(IDS, within=30)
        await settled(office)
        with trio.fail_after(10):
            while not office.running.statistics().ready:
                await trio.sleep(0.05)
