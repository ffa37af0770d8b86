"""A week of retries, delays, timeouts and snoozes, in virtual time."""

import time
from collections import Counter

import trio
import trio.testing

import trepid
from tests.runtime.stage import working

WEEK = 7 * 86_400


async def test_a_week_passes_in_a_moment(connection, autojump_clock):
    # Measured in the process's own time: neighbours on the machine do not make it longer.
    ran = Counter()

    async def flaky(ctx: trepid.Context) -> int:
        await trio.sleep(30)
        ran["flaky"] += 1
        if ctx.attempt <= 10:
            raise ConnectionError("not yet")
        return ctx.attempt

    async def slow() -> None:
        ran["slow"] += 1
        await trio.sleep_forever()

    async def weekly() -> float:
        await trio.lowlevel.checkpoint()
        ran["weekly"] += 1
        return trio.current_time()

    async def polling() -> str:
        await trio.lowlevel.checkpoint()
        ran["polling"] += 1
        if trio.current_time() < 5 * 86_400:
            raise trepid.Snooze(3600)
        return "found"

    router = trepid.Router(
        trepid.Actor(flaky, retries=20),
        trepid.Actor(slow, retries=6, timeout=3600),
        trepid.Actor(weekly, result_ttl=WEEK),
        trepid.Actor(polling),
    )
    began = time.process_time()
    handles = {name: await connection.enqueue(actor.job()) for name, actor in router.items() if name != "weekly"}
    days = [await connection.enqueue(router["weekly"].job().options(delay=86_400 * day)) for day in range(1, 8)]
    async with working(trepid.Worker(router), connection) as running:
        assert await handles["flaky"].result() == 11
        # Eleven runs of half a minute, and between them 10, 20, 40 ... seconds.
        assert trio.current_time() == 11 * 30 + sum(5 * 2**n for n in range(1, 11))
        outcome = await handles["slow"].outcome()
        assert outcome.error.type == "TimeoutError"
        assert await handles["polling"].result() == "found"
        assert [await day.result() for day in days] == [86_400.0 * day for day in range(1, 8)]
        assert trio.current_time() == WEEK
        report = running.statistics().report
    assert time.process_time() - began < 1.0
    assert ran == {"flaky": 11, "slow": 7, "weekly": 7, "polling": 5 * 24 + 1}
    assert report == trepid.Report(succeeded=9, retried=16, dead=1, released=5 * 24)


async def test_an_idle_week_costs_nothing(connection, autojump_clock):
    async with working(trepid.Worker(trepid.Actor(trio.sleep, name="nap")), connection):
        began = time.process_time()
        await trio.sleep(WEEK)
        assert time.process_time() - began < 0.5
