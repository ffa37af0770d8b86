"""Running a worker: limits, several runs, several threads, and nothing left behind."""

import gc
import re
import signal
import threading

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import TroubledBroker, idle, states, working


async def sleeper(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


SLEEPER = trepid.Actor(sleeper)


# ------------------------------------------------------------------------------------------------- messages_limit


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("tasks", [1, 3, 1000])
async def test_the_limit_is_exact(autojump_clock, limit, tasks):
    broker = TroubledBroker()
    async with trepid.open_connection(broker) as connection:
        await connection.declare("a", "b", "c")
        for n in range(10):
            await connection.enqueue(SLEEPER.job(1 + n / 10).options(queue="abc"[n % 3]))
        worker = trepid.Worker(SLEEPER, queues=["a", "b", "c"], messages_limit=limit, tasks_limit=tasks)
        report = await worker.run(connection)
        counts = [await connection.stats(queue) for queue in "abc"]
    assert report == trepid.Report(succeeded=limit)
    assert sum(stats.done for stats in counts) == limit
    assert sum(stats.ready for stats in counts) == 10 - limit
    leased = [args[1] for _, name, args, _ in broker.trouble.log if name == "lease"]
    assert max(leased) <= min(limit, tasks)
    assert not any(stats.leased for stats in counts)


async def test_what_does_not_count_gives_its_place_back(connection, autojump_clock):
    async def moody(n: int) -> int:
        await trio.sleep(0.1)
        visits.append(n)
        if visits.count(n) <= 2:
            raise trepid.Snooze(1)
        return n

    visits, actor = [], trepid.Actor(moody)
    for n in range(6):
        await connection.enqueue(actor.job(n))
    report = await trepid.Worker(actor, messages_limit=5).run(connection)
    assert report.succeeded == 5
    assert report.released >= 10
    assert (await connection.stats()).done == 5
    assert (await connection.stats()).leased == 0


async def test_a_limit_larger_than_the_queue_waits_for_more(connection, autojump_clock):
    await connection.enqueue(SLEEPER.job(1))
    async with working(trepid.Worker(SLEEPER, messages_limit=2), connection, stop=False) as running:
        await trio.sleep(1000)
        assert running.statistics().report.processed == 1
        await connection.enqueue(SLEEPER.job(1))
        await running.wait_stopped()
    assert trio.current_time() == 1001


async def test_failures_retries_and_cancels_count(connection, autojump_clock):
    async def failing():
        await trio.sleep(1)
        raise ValueError

    actor = trepid.Actor(failing, retries=1)
    await connection.enqueue(actor.job())
    cancelled = await connection.enqueue(SLEEPER.job(50))
    async with working(trepid.Worker(actor, SLEEPER, messages_limit=3), connection, stop=False) as running:
        await trio.sleep(2)
        await cancelled.cancel()
        report = await running.wait_stopped()
    assert report == trepid.Report(retried=1, dead=1, cancelled=1)
    assert report.processed == 3


async def test_no_more_tasks_than_the_limit(connection, autojump_clock):
    busy, most = 0, []

    async def job():
        nonlocal busy
        busy += 1
        most.append(busy)
        await trio.sleep(1)
        busy -= 1

    actor = trepid.Actor(job)
    await connection.enqueue_many([actor.job()] * 20)
    await trepid.Worker(actor, tasks_limit=4, messages_limit=20).run(connection)
    assert max(most) == 4
    assert trio.current_time() == 5


async def test_a_full_worker_holds_nothing_more(connection, autojump_clock):
    await connection.enqueue_many([SLEEPER.job(5)] * 5)
    async with working(trepid.Worker(SLEEPER, tasks_limit=2), connection):
        await idle()
        stats = await connection.stats()
        assert (stats.leased, stats.ready) == (2, 3)


# --------------------------------------------------------------------------------------------------- several runs


async def test_one_worker_runs_again(connection, autojump_clock):
    worker = trepid.Worker(SLEEPER, messages_limit=1)
    for n in range(3):
        handle = await connection.enqueue(SLEEPER.job(1))
        assert await worker.run(connection) == trepid.Report(succeeded=1)
        assert await handle.result() == 1, n


async def test_one_worker_runs_twice_at_once_on_one_connection(connection, autojump_clock):
    worker = trepid.Worker(SLEEPER, tasks_limit=1)
    handles = await connection.enqueue_many([SLEEPER.job(1)] * 10)
    async with working(worker, connection) as one, working(worker, connection) as two:
        for handle in handles:
            await handle.wait()
        assert trio.current_time() == 5
        assert one.statistics().owner != two.statistics().owner
        assert one.statistics().report.succeeded == two.statistics().report.succeeded == 5
        one.stop()
        await idle()
        assert not two.statistics().stopping
    assert {(await handle.status()).attempts for handle in handles} == {1}


async def test_two_connections_of_one_broker(autojump_clock):
    broker, worker = trepid.MemoryBroker(), trepid.Worker(SLEEPER, tasks_limit=1)
    async with trepid.open_connection(broker) as one, trepid.open_connection(broker) as two:
        await one.declare("default")
        handles = await two.enqueue_many([SLEEPER.job(1)] * 4)
        async with working(worker, one) as first, working(worker, two) as second:
            for handle in handles:
                await handle.wait()
            assert trio.current_time() == 2
        reports = [await first.wait_stopped(), await second.wait_stopped()]
    assert [report.succeeded for report in reports] == [2, 2]


async def test_a_cancel_reaches_the_right_run(connection, autojump_clock):
    worker = trepid.Worker(SLEEPER, tasks_limit=5)
    handles = await connection.enqueue_many([SLEEPER.job(100)] * 10)
    async with working(worker, connection) as one, working(worker, connection) as two:
        await idle()
        for handle in handles[::2]:
            await handle.cancel()
        await idle()
        total = one.statistics().report.cancelled + two.statistics().report.cancelled
        assert (total, trio.current_time()) == (5, 0)
        one.stop(grace=0)
        two.stop(grace=0)
    found = await states(connection)
    assert [found[handle.id] for handle in handles] == [trepid.State.CANCELLED, trepid.State.READY] * 5


def test_two_threads_have_a_run_each():
    results = {}

    def run(name):
        async def main():
            async with trepid.open_connection("memory:") as connection:
                await connection.declare("default")
                handles = await connection.enqueue_many([SLEEPER.job(0.001)] * 50)
                report = await WORKER.run(connection)
                results[name] = (report.succeeded, [await handle.result() for handle in handles])

        trio.run(main)

    WORKER = trepid.Worker(SLEEPER, messages_limit=50)  # noqa: N806 - one value, shared by both
    threads = [threading.Thread(target=run, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == {0: (50, [0.001] * 50), 1: (50, [0.001] * 50)}


def test_a_memory_broker_belongs_to_one_run():
    broker = trepid.MemoryBroker()

    async def main():
        async with trepid.open_connection(broker) as connection:
            await connection.declare("default")

    trio.run(main)
    with pytest.raises(RuntimeError, match=r"one trio\.run"):
        trio.run(main)


# ------------------------------------------------------------------------------------------------ nothing is left


def tasks_alive():
    found, waiting = [], [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        found.append(task.name)
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)
    return sorted(found)


async def test_a_run_leaves_nothing_behind(connection):
    def threaded() -> int:
        return threading.get_ident()

    actor = trepid.Actor(threaded)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    before = tasks_alive()
    for _ in range(2):
        await connection.enqueue(actor.job())
        await connection.enqueue(SLEEPER.job(0))
        worker = trepid.Worker(actor, SLEEPER, messages_limit=2, handle_signals=[signal.SIGTERM])
        await worker.run(connection)
    assert tasks_alive() == before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


async def test_a_long_life_does_not_grow(connection, autojump_clock):
    actor = trepid.Actor(sleeper, result_ttl=0)

    async def batch():
        handles = await connection.enqueue_many([actor.job(1)] * 200)
        del handles
        await trio.sleep(2)

    async with working(trepid.Worker(actor), connection):
        for _ in range(3):
            await batch()
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(10):
            await batch()
        gc.collect()
        assert len(gc.get_objects()) < before + 500


async def test_started_means_that_it_can_receive(connection, autojump_clock):
    async with working(trepid.Worker(SLEEPER), connection) as running:
        assert running.statistics().ready
        before = trio.current_time()
        handle = await connection.enqueue(SLEEPER.job(0))
        await handle.wait()
        assert trio.current_time() == before


async def test_declaring_is_optional(connection, autojump_clock):
    actor = trepid.Actor(sleeper, queue="elsewhere")
    async with working(trepid.Worker(actor, auto_declare=False), connection):
        assert await connection.queues() == ["default"]
    async with working(trepid.Worker(actor), connection):
        assert await connection.queues() == ["default", "elsewhere"]


async def test_queues_take_turns(connection, autojump_clock):
    await connection.declare("busy", "calm")
    order = []

    async def note(queue: str):
        await trio.sleep(1)
        order.append(queue)

    actor = trepid.Actor(note)
    for n in range(20):
        await connection.enqueue(actor.job("busy").options(queue="busy"))
        if n < 3:
            await connection.enqueue(actor.job("calm").options(queue="calm"))
    worker = trepid.Worker(actor, queues=["busy", "calm"], tasks_limit=1, messages_limit=10)
    await worker.run(connection)
    assert order.count("calm") == 3
    assert "calm" in order[:2]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"tasks_limit": 0}, ValueError),
        ({"threads_limit": 0}, ValueError),
        ({"processes_limit": 0}, ValueError),
        ({"messages_limit": 0}, ValueError),
        ({"messages_limit": 1.5}, TypeError),
        ({"tasks_limit": True}, TypeError),
        ({"lease": 0.5}, ValueError),
        ({"graceful_shutdown_time": -1}, ValueError),
        ({"queues": "default"}, TypeError),
        ({"resources": 5}, TypeError),
        ({"middleware": [5]}, TypeError),
        ({"observers": [5]}, TypeError),
        ({"observers": [sleeper]}, TypeError),
        ({"handle_signals": ["SIGTERM"]}, ValueError),
        ({"handle_signals": [99_999]}, ValueError),
        ({"handle_signals": signal.SIGTERM}, ValueError),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),  # an address would be another name in each process
)
def test_a_worker_refuses_what_it_cannot_do(settings, error):
    [(name, value)] = settings.items()
    shown = re.escape(repr(value[0] if name in {"middleware", "observers"} else value))
    with pytest.raises(error, match=rf"{name}.*{shown}"):
        trepid.Worker(SLEEPER, **settings)


@pytest.mark.parametrize("wrong", ["memory:", None, trepid.MemoryBroker()])
async def test_a_worker_runs_on_a_connection(wrong):
    with pytest.raises(TypeError, match=r"a worker runs on a connection, not .*; write `async with trepid.open_conn"):
        await trepid.Worker(trepid.Actor(sleeper)).run(wrong)


def test_a_worker_refuses_a_function():
    with pytest.raises(TypeError, match="Actor"):
        trepid.Worker(sleeper)
