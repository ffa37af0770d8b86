"""What people know from repid's page "Jobs, Actors and Workers", in Trepid's shape."""

import itertools
import threading
from datetime import UTC, datetime, timedelta

import pytest
import trio
import trio.testing

import trepid


async def my_awesome_job() -> str:
    await trio.lowlevel.checkpoint()
    return "Hello Trepid!"


JOB = trepid.Actor(my_awesome_job)


@pytest.fixture
async def connection():
    async with trepid.open_connection("memory:") as connection:
        yield connection


# ------------------------------------------------------------------------------------------------- jobs and queues


async def test_a_queue_must_be_declared_first(connection, autojump_clock):
    job = trepid.Job("my_awesome_job")
    with pytest.raises(KeyError) as caught:
        await connection.enqueue(job)
    assert str(caught.value) == "queue 'default' is not declared; call `await connection.declare('default')` first"
    await connection.declare(job.queue)
    await connection.enqueue(job)
    assert (await connection.stats()).ready == 1


async def test_declaring_again_has_no_effect(connection, autojump_clock):
    await connection.declare(trepid.Queue(), trepid.Queue("my_awesome_queue"))
    await connection.enqueue(trepid.Job("my_awesome_job"))
    await connection.declare("default", "my_awesome_queue")
    assert (await connection.stats()).ready == 1


def test_a_queue_is_a_string_or_a_queue():
    assert trepid.Job("my_awesome_job").queue == trepid.Queue("default")
    assert trepid.Job("my_awesome_job", queue="non-default-queue").queue == trepid.Queue("non-default-queue")
    assert trepid.Job("another_job", queue=trepid.Queue("another-queue")).queue.name == "another-queue"


async def test_priorities_are_strict(connection, autojump_clock):
    order = []

    async def note(priority: str) -> None:
        await trio.lowlevel.checkpoint()
        order.append(priority)

    actor = trepid.Actor(note)
    await connection.declare("default")
    for priority in [*trepid.Priority, *trepid.Priority]:
        await connection.enqueue(actor.job(priority.name).options(priority=priority))
    await connection.enqueue(actor.job("unsaid"))
    await trepid.Worker(actor, tasks_limit=1, messages_limit=7).run(connection)
    assert order == ["HIGH", "HIGH", "MEDIUM", "MEDIUM", "unsaid", "LOW", "LOW"]
    assert [int(priority) for priority in trepid.Priority] == [0, 5, 9]


async def test_an_id_is_generated_by_each_enqueue(connection, autojump_clock):
    await connection.declare("default")
    job = trepid.Job("my_awesome_job")
    assert job.id is None
    first, second = await connection.enqueue(job), await connection.enqueue(job)
    assert first.id != second.id
    assert (await connection.stats()).ready == 2


async def test_a_given_id_is_unique_in_its_queue(connection, autojump_clock):
    await connection.declare("default", "other")
    job = trepid.Job("my_awesome_job", id="the-one")
    first, second = await connection.enqueue(job), await connection.enqueue(job)
    assert (first.id, first.existing) == ("the-one", False)
    assert (second.id, second.existing) == ("the-one", True)
    assert (await connection.stats()).ready == 1
    assert not (await connection.enqueue(job.options(queue="other"))).existing


# ------------------------------------------------------------------------------------------------------- retries


async def test_retries_then_the_dead_letters(connection, autojump_clock):
    attempts = []

    async def failing() -> None:
        await trio.lowlevel.checkpoint()
        attempts.append(trio.current_time())
        raise ValueError("again")

    actor = trepid.Actor(failing)
    await connection.declare("default")
    handle = await connection.enqueue(actor.job().options(retries=3))
    report = await trepid.Worker(actor, messages_limit=4).run(connection)
    assert attempts == [0, 10, 30, 70], "10, 20 and 40 seconds after one another"
    assert (report.retried, report.dead, report.processed) == (3, 1, 4)
    [dead] = [view async for view in connection.messages("default", trepid.State.DEAD)]
    assert (dead.id, dead.attempts, dead.error.message) == (handle.id, 4, "again")


async def test_without_retries_a_failure_is_final(connection, autojump_clock):
    async def failing() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError

    await connection.declare("default")
    handle = await connection.enqueue(trepid.Job("failing"))
    await trepid.Worker(trepid.Actor(failing), messages_limit=1).run(connection)
    assert (await handle.status()).state is trepid.State.DEAD


async def test_a_timeout_is_a_reason_to_retry(connection, autojump_clock):
    async def slow(ctx: trepid.Context) -> int:
        await trio.sleep(6 if ctx.attempt == 1 else 4)
        return ctx.attempt

    actor = trepid.Actor(slow)
    await connection.declare("default")
    handle = await connection.enqueue(actor.job().options(timeout=timedelta(seconds=5), retries=1))
    await trepid.Worker(actor, messages_limit=2).run(connection)
    assert await handle.result() == 2
    assert trio.current_time() == 5 + 10 + 4


async def test_the_default_timeout_is_ten_minutes(connection, autojump_clock):
    async def endless() -> None:
        await trio.sleep_forever()

    await connection.declare("default")
    await connection.enqueue(trepid.Job("endless"))
    report = await trepid.Worker(trepid.Actor(endless), messages_limit=1).run(connection)
    assert (report.dead, trio.current_time()) == (1, 600)


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        (trepid.ExponentialBackoff(min_backoff=60, max_backoff=86400, multiplier=5, max_exponent=15), [60, 60, 60, 80]),
        (trepid.ExponentialBackoff(), [10, 20, 40, 80]),
        (lambda retry_number: retry_number * 100, [100, 200, 300, 400]),
        (lambda retry_number=1: timedelta(minutes=retry_number), [60, 120, 180, 240]),
    ],
)
async def test_a_retry_policy_is_a_value_or_a_function(connection, autojump_clock, policy, waits):
    attempts = []

    async def my_exceptional_function() -> None:
        await trio.lowlevel.checkpoint()
        attempts.append(trio.current_time())
        raise RuntimeError("Some random exception.")

    actor = trepid.Actor(my_exceptional_function, retry_policy=policy, retries=4)
    await connection.declare("default")
    await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=5).run(connection)
    assert [after - before for before, after in itertools.pairwise(attempts)] == waits


async def test_a_job_may_be_deferred(connection, autojump_clock):
    await connection.declare("default")
    await trio.sleep(100)
    now = datetime.fromtimestamp(await connection.session.now(), UTC)
    by_date = await connection.enqueue(JOB.job().options(deferred_until=now + timedelta(seconds=5)))
    by_delay = await connection.enqueue(JOB.job().options(delay=timedelta(seconds=7)))
    await trepid.Worker(JOB, messages_limit=1).run(connection)
    assert trio.current_time() == pytest.approx(105, abs=0.001)
    await trepid.Worker(JOB, messages_limit=1).run(connection)
    assert trio.current_time() == 107
    assert await by_date.result() == await by_delay.result() == "Hello Trepid!"


# ------------------------------------------------------------------------------------------------ actors, routers


async def test_an_actor_does_not_change_its_function(connection, autojump_clock):
    assert JOB.fn is my_awesome_job
    assert await my_awesome_job() == "Hello Trepid!"
    assert (JOB.name, trepid.Actor(my_awesome_job, name="another_name").name) == ("my_awesome_job", "another_name")


async def test_a_worker_listens_on_the_queues_of_its_actors(connection, autojump_clock):
    actor = trepid.Actor(my_awesome_job, queue="mine")
    worker = trepid.Worker(actor, messages_limit=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run, connection)
        handle = await connection.enqueue(actor.job())
        assert handle.queue == "mine"
    assert await handle.result() == "Hello Trepid!"


async def test_a_sync_function_runs_in_a_thread(connection):
    def sync() -> bool:
        return threading.current_thread() is not threading.main_thread()

    actor = trepid.Actor(sync)
    await connection.declare("default")
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    assert await handle.result()


async def left() -> str:
    await trio.lowlevel.checkpoint()
    return "left"


async def right() -> str:
    await trio.lowlevel.checkpoint()
    return "right"


ROUTER = trepid.Router(trepid.Actor(left, name="both"), trepid.Actor(left))
OTHER = trepid.Router(trepid.Actor(right, name="both"), trepid.Actor(right))


@pytest.mark.parametrize(
    "worker",
    [
        trepid.Worker(ROUTER, OTHER),
        trepid.Worker(ROUTER | OTHER),
        trepid.Worker(ROUTER) | OTHER,
        trepid.Worker(ROUTER) | trepid.Worker(OTHER),
        trepid.Worker().including(ROUTER).including(OTHER),
        trepid.Worker(ROUTER).including(*OTHER.values()),
    ],
    ids=range(6),
)
async def test_routers_compose_and_the_right_side_wins(connection, autojump_clock, worker):
    await connection.declare("default")
    handles = [await connection.enqueue(trepid.Job(name)) for name in ("both", "left", "right")]
    await worker.options(messages_limit=3).run(connection)
    assert [await handle.result() for handle in handles] == ["right", "left", "right"]
    assert set(ROUTER) == {"both", "left"}, "composing changes nothing"


async def test_one_router_serves_two_workers_at_once(connection, autojump_clock):
    router, seen = trepid.Router(JOB), []
    worker = trepid.Worker(router, messages_limit=5, tasks_limit=1)
    other = trepid.Worker(router, messages_limit=5, tasks_limit=1, observers=[seen.append])
    await connection.declare("default")
    handles = await connection.enqueue_many([JOB.job()] * 10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run, connection)
        nursery.start_soon(other.run, connection)
    assert [await handle.result() for handle in handles] == ["Hello Trepid!"] * 10
    assert seen


# ------------------------------------------------------------------------------------------------------- workers


async def test_a_worker_runs_until_its_limit_and_says_how_many_it_ran(connection, autojump_clock):
    await connection.declare("default")
    await connection.enqueue_many([JOB.job()] * 20)
    report = await trepid.Worker(JOB, messages_limit=10).run(connection)
    assert report.processed == 10
    assert (await connection.stats()).ready == 10


async def test_a_worker_declares_its_queues_unless_told_otherwise(connection, autojump_clock):
    actor = trepid.Actor(my_awesome_job, queue="mine")
    for declares in (False, True):
        worker = trepid.Worker(actor, auto_declare=declares)
        async with trio.open_nursery() as nursery:
            running = await nursery.start(worker.run, connection)
            running.stop()
        assert await connection.queues() == (["mine"] if declares else [])


async def test_a_graceful_shutdown_takes_25_seconds_and_returns_the_rest_uncounted(connection, autojump_clock):
    async def work(seconds: int) -> int:
        await trio.sleep(seconds)
        return seconds

    actor = trepid.Actor(work)
    await connection.declare("default")
    handles = [await connection.enqueue(actor.job(seconds)) for seconds in (20, 24, 26, 3000)]
    async with trio.open_nursery() as nursery:
        running = await nursery.start(trepid.Worker(actor).run, connection)
        await trio.testing.wait_all_tasks_blocked()
        running.stop()
        late = await connection.enqueue(actor.job(1))
        report = await running.wait_stopped()
    assert trio.current_time() == 25
    assert (report.succeeded, report.released, report.processed) == (2, 2, 2)
    views = [await handle.status() for handle in (*handles, late)]
    assert [view.state.value for view in views] == ["done", "done", "ready", "ready", "ready"]
    assert [view.attempts for view in views] == [1, 1, 0, 0, 0], "the retry counter is not increased"


async def test_recap(connection, autojump_clock):
    async def awesome_hello() -> str:
        await trio.lowlevel.checkpoint()
        return "Hello from an actor!"

    await connection.declare(trepid.Queue())
    hello = await connection.enqueue(trepid.Job("awesome_hello"))
    router = trepid.Router(trepid.Actor(awesome_hello))
    await trepid.Worker(router, messages_limit=1).run(connection)
    assert await hello.result() == "Hello from an actor!"
