"""``jobs.map``: results of many jobs, in order or as completed, in bounded memory."""

import gc
import tracemalloc

import pytest
import trio
import trio.testing

import trepid
from tests.connection.nursery.cast import WORK, Log
from tests.runtime.stage import idle, working


async def slowly(n: int) -> int:
    await trio.sleep(10 - n)
    return n * n


SLOWLY = trepid.Actor(slowly)


async def test_results_come_in_order(connection, autojump_clock):
    async with working(trepid.Worker(SLOWLY), connection), trepid.open_job_nursery(connection) as jobs:
        assert [value async for value in jobs.map(SLOWLY, range(10))] == [n * n for n in range(10)]
        assert trio.current_time() == 10


async def test_results_come_as_completed(connection, autojump_clock):
    async with working(trepid.Worker(SLOWLY), connection), trepid.open_job_nursery(connection) as jobs:
        results = jobs.map(SLOWLY, range(10), as_completed=True)
        times = [(trio.current_time(), value) async for value in results]
        with pytest.raises(StopAsyncIteration):
            await anext(results)
    assert times == [(10 - n, n * n) for n in reversed(range(10))]


@pytest.mark.parametrize("as_completed", [False, True])
async def test_the_limit_bounds_what_is_under_way_or_not_asked_for(connection, autojump_clock, as_completed):
    log, taken = Log(), []

    def items():
        for n in range(20):
            taken.append(n)
            yield n

    async with working(trepid.Worker(log.actor.options(timeout=5)), connection):
        quick = trepid.Actor(WORK.fn, name="quick")
        async with working(trepid.Worker(quick), connection), trepid.open_job_nursery(connection) as jobs:
            results = jobs.map(quick, items(), limit=4, as_completed=as_completed)
            await idle()
            assert taken == [], "nothing is started before somebody asks"
            for asked in range(1, 21):
                await anext(results)
                assert len(taken) == min(asked + 3, 20)
                await trio.sleep(5)


async def test_an_empty_map_and_steps_that_are_checkpoints(connection, autojump_clock):
    async with working(trepid.Worker(WORK), connection), trepid.open_job_nursery(connection) as jobs:
        empty = jobs.map(WORK, [])
        with trio.testing.assert_checkpoints(), pytest.raises(StopAsyncIteration):
            await anext(empty)
        results = jobs.map(WORK, [1, 2])
        for _ in range(2):
            await trio.sleep(10)
            with trio.testing.assert_checkpoints():
                await anext(results)


async def test_a_failure_ends_the_nursery_and_stands_once_in_the_group(connection, autojump_clock):
    async with working(trepid.Worker(WORK), connection):
        with pytest.RaisesGroup(trepid.JobFailedError):
            async with trepid.open_job_nursery(connection) as jobs:
                async for _ in jobs.map(WORK, [1, 2, -3, 4], limit=2):
                    pass


@pytest.mark.parametrize("what", ["iterable", "arguments"])
async def test_what_the_items_raise_comes_out_of_the_loop(connection, autojump_clock, what):
    def items():
        yield 1
        if what == "iterable":
            raise KeyError
        yield {1: object()}

    error = KeyError if what == "iterable" else TypeError
    async with working(trepid.Worker(WORK), connection), trepid.open_job_nursery(connection) as jobs:
        with pytest.raises(error):
            async for _ in jobs.map(WORK, items(), limit=1):
                pass


async def test_a_result_that_cannot_be_read_comes_out_of_its_step(connection, autojump_clock):
    async def liar(n: int) -> int:
        await trio.lowlevel.checkpoint()
        return n if n % 2 else "text"

    actor = trepid.Actor(liar)
    async with working(trepid.Worker(actor), connection), trepid.open_job_nursery(connection) as jobs:
        results = jobs.map(actor, [1, 2, 3])
        assert await anext(results) == 1
        with pytest.raises(trepid.ResultError):
            await anext(results)
        assert await anext(results) == 3


async def test_what_was_started_before_the_loop_was_left_is_waited_for(connection, autojump_clock):
    async with working(trepid.Worker(SLOWLY), connection):
        async with trepid.open_job_nursery(connection) as jobs:
            async for _ in jobs.map(SLOWLY, range(10), limit=5, as_completed=True):
                break
        assert trio.current_time() == 10
    assert jobs.statistics().done == 5


async def test_a_task_elsewhere_does_not_wait_in_vain(connection, autojump_clock):
    told = []

    async def elsewhere(results):
        with pytest.raises(trio.ClosedResourceError):
            await anext(results)
        with pytest.raises(trio.ClosedResourceError):
            await anext(results)
        told.append(trio.current_time())

    async with working(trepid.Worker(WORK), connection), trio.open_nursery() as nursery:
        with trio.move_on_after(5):
            async with trepid.open_job_nursery(connection) as jobs:
                nursery.start_soon(elsewhere, jobs.map(trepid.Actor(WORK.fn, name="nobody"), [1]))  # noqa: ASYNC111
                await trio.sleep_forever()
    assert told == [5]


@pytest.mark.parametrize(("said", "kept"), [(None, 60), (0, 60), (300, 300)])
async def test_results_are_kept_for_a_minute_unless_somebody_says_otherwise(connection, autojump_clock, said, kept):
    actor = WORK.options(result_ttl=said)
    async with working(trepid.Worker(actor), connection):
        async with trepid.open_job_nursery(connection) as jobs:
            _ = [value async for value in jobs.map(actor, [1])]
        await trio.sleep(kept - 1)
        assert (await connection.stats()).done == 1
        await trio.sleep(2)
        assert (await connection.stats()).done == 0


@pytest.mark.parametrize(
    ("arguments", "settings", "error"),
    [
        ((WORK.fn, []), {}, TypeError),
        ((WORK, []), {"limit": 0}, ValueError),
        ((WORK, []), {"limit": None}, TypeError),
        ((WORK, 5), {}, TypeError),
    ],
)
async def test_wrong_arguments(connection, autojump_clock, arguments, settings, error):
    async with trepid.open_job_nursery(connection) as jobs:
        with pytest.raises(error):
            jobs.map(*arguments, **settings)


async def mapped(connection, jobs, count, limit):
    """Map over so many jobs of half a second, and return the most memory that was in use meanwhile, in bytes."""
    total = number = 0
    async for value in jobs.map(WORK_HALF, range(count), limit=limit):
        total, number = total + value, number + 1
    assert (number, total) == (count, count * (count - 1) // 2)


async def half(n: int) -> int:
    await trio.sleep(0.5)
    return n


WORK_HALF = trepid.Actor(half)


async def memory_of(count, limit):
    """Return how many bytes are in use at most while a map over so many jobs goes on, worker and broker included."""
    async with trepid.open_connection("memory:") as connection:
        await connection.declare("default")
        async with working(trepid.Worker(WORK_HALF), connection), trepid.open_job_nursery(connection) as jobs:
            await mapped(connection, jobs, 10 * limit, limit)
            gc.collect()
            tracemalloc.start()
            try:
                await mapped(connection, jobs, count, limit)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()


async def test_memory_is_bounded_by_the_limit_and_not_by_the_number(autojump_clock):
    # Half a second each, four at once, a minute kept: about 480 results are on the broker at any time.
    few, many = await memory_of(700, 4), await memory_of(2_800, 4)
    assert many < 1.3 * few + 100_000


@pytest.mark.chaos
async def test_a_hundred_thousand_jobs_take_no_more_memory_than_ten_thousand(autojump_clock):
    few, many = await memory_of(20_000, 50), await memory_of(100_000, 50)
    assert many < 1.3 * few + 500_000
