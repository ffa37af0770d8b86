"""RabbitMQ with Redis, and with PostgreSQL: two servers, one port."""

import secrets

import pytest
import trio

import trepid
from tests.brokers.places import fresh_url
from tests.runtime.stage import working


async def sleeper(seconds: float, answer: str = "slept") -> str:
    await trio.sleep(seconds)
    return answer


@pytest.fixture(params=["Redis", "PostgreSQL"])
def second(request):
    """The name and the URL of an engine that keeps what RabbitMQ does not."""
    return request.param, fresh_url("redis" if request.param == "Redis" else "postgres", request)[1]


@pytest.fixture
async def connect(rabbitmq_server, second):
    queue = f"q{secrets.token_hex(4)}"

    def open_both():
        return trepid.open_connection(rabbitmq_server.url, results=second[1])

    async with open_both() as connection:
        await connection.declare(queue)
    with trio.fail_after(60):
        yield open_both, trepid.Actor(sleeper, queue=queue)


async def test_both_say_who_they_are(connect, second):
    open_both, _ = connect
    async with open_both() as connection:
        can = connection.capabilities
        assert can.engine.startswith("RabbitMQ ")
        assert f" with {second[0]} " in can.engine
        assert (can.results, can.deduplication, can.unique) == ("before", "always", True)


async def test_results_keys_and_requests_to_cancel(connect):
    open_both, actor = connect
    async with open_both() as one, open_both() as two, working(trepid.Worker(actor), two) as running:
        assert await (await one.enqueue(actor.job(0.1, "awake"))).result() == "awake"
        unique = trepid.Unique("k")
        handle = await one.enqueue(actor.job(1000).options(unique=unique))
        again = await one.enqueue(actor.job(1000).options(unique=unique))
        assert (again.id, again.existing) == (handle.id, True)
        while not running.statistics().running:
            await trio.sleep(0.01)
        assert await handle.cancel("enough") is trepid.CancelResult.REQUESTED
        with pytest.raises(trepid.JobCancelledError, match="enough"):
            await handle.result()
        assert not (await one.enqueue(actor.job(0).options(unique=unique))).existing, "the key is free"


async def test_a_cancelled_message_never_starts(connect):
    open_both, actor = connect
    async with open_both() as one, open_both() as two:
        handle = await one.enqueue(actor.job(0))
        assert await two.handle(handle.id, queue=actor.queue).cancel() is trepid.CancelResult.WITHDRAWN
        after = await one.enqueue(actor.job(0))
        async with working(trepid.Worker(actor, tasks_limit=1), two) as running:
            assert await after.result() == "slept"
            assert running.statistics().report.cancelled == 0
        assert (await handle.status()).state is trepid.State.CANCELLED


async def test_many_jobs(connect):
    open_both, actor = connect
    async with open_both() as connection, working(trepid.Worker(actor), connection) as running:
        handles = await connection.enqueue_many(actor.job(0, str(number)) for number in range(300))
        assert [await handle.result() for handle in handles] == [str(number) for number in range(300)]
        with trio.fail_after(20):
            while running.statistics().unsettled:  # results are there before their worker has the answers
                await trio.sleep(0.01)
        assert running.statistics().report.succeeded == 300


async def test_a_repeated_publish_is_one_message(connect):
    open_both, actor = connect
    async with open_both() as connection:
        session = connection.session
        item = connection.publisher.publication(actor.job(0).options(id="once"))
        first, again = [(await session.publish([item]))[0].outcome for _ in range(2)]
        assert (first, again) == ("accepted", "duplicate")
        async with working(trepid.Worker(actor), connection) as running:
            assert await connection.handle("once", queue=actor.queue).result() == "slept"
            await trio.sleep(0.5)
            assert running.statistics().report.succeeded == 1
