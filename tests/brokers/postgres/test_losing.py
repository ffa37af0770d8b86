"""The server goes away, and comes back: what is asked meanwhile, and who goes on by himself."""

import time

import psycopg
import pytest
import trio

import trepid
from tests.brokers.postgres.kit import connect, end, message, new_broker, our_threads, put, rows, take
from trepid.brokers.postgres import link
from trepid.errors import BrokerBusyError, BrokerLostError
from trepid.rules.life import Reply
from trepid.rules.publishing import Publishing

CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "


@pytest.fixture
async def server(own_postgres):
    return await trio.to_thread.run_sync(own_postgres)


async def connected(session, wanted):
    with trio.fail_after(5):
        while session.connected is not wanted:
            await trio.sleep(0.01)


async def test_who_asks_meanwhile_is_told_within_seconds(server):
    async with new_broker(server).open() as session:
        await session.declare(["q"])
        assert session.connected
        await trio.to_thread.run_sync(server.kill)
        for ask in (lambda: put(session, "m"), lambda: session.stats("q"), lambda: take(session)):
            with trio.fail_after(3), pytest.raises(BrokerLostError, match=r"postgresql://127\.0\.0\.1"):
                await ask()
        await connected(session, wanted=False)
        await trio.to_thread.run_sync(server.start)
        await connected(session, wanted=True)
        (published,) = await put(session, "m")
        assert published.outcome is Publishing.ACCEPTED
        assert [each.id for each in await take(session)] == ["m"]


async def test_a_wait_ends_with_the_loss_and_a_session_can_be_closed_without_a_server(server):
    async with new_broker(server).open() as session:
        await session.declare(["q"])
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def wait():
                    with pytest.raises(BrokerLostError):
                        await take(session, wait=60)

                await trio.testing.wait_all_tasks_blocked(0.02)
                await trio.to_thread.run_sync(server.kill)
        start = time.monotonic()
    assert time.monotonic() - start < 5
    assert not our_threads()


async def test_an_idle_connection_that_was_cut_is_nobodys_business(postgres_server):
    async with new_broker(postgres_server).open() as session:
        await session.declare(["q"])
        for _ in range(3):
            postgres_server.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'trepid'"
            )
            (published,) = await put(session, f"m{_}")
            assert published.outcome is Publishing.ACCEPTED
        assert (await session.stats("q")).ready == 3
        await connected(session, wanted=True)


async def test_news_are_heard_again_after_the_bell_was_cut(postgres_server):
    broker = new_broker(postgres_server)
    async with broker.open() as one, broker.open() as other:
        await one.declare(["q"])
        postgres_server.sql(CUT + "query LIKE 'LISTEN%'")
        await connected(other, wanted=True)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def wait():
                    assert [each.id for each in await take(other, wait=60)] == ["m"]

                await trio.testing.wait_all_tasks_blocked(0.02)
                await put(one, "m")


async def test_workers_go_on_when_the_server_is_back(server):
    done = []

    async def note(number: int) -> None:
        await trio.lowlevel.checkpoint()
        done.append(number)

    actor = trepid.Actor(note)
    async with trepid.open_connection(new_broker(server)) as connection:
        await connection.declare("default")
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                running = await nursery.start(trepid.Worker(actor).run, connection)
                await connection.enqueue(actor.job(1))
                while not done:
                    await trio.sleep(0.01)
                await trio.to_thread.run_sync(server.kill)
                await trio.sleep(1.5)
                await trio.to_thread.run_sync(server.start)
                start = time.monotonic()
                while True:
                    try:
                        await connection.enqueue(actor.job(2))
                        break
                    except BrokerLostError:
                        await trio.sleep(0.05)
                while 2 not in done:
                    await trio.sleep(0.01)
                assert time.monotonic() - start < 5
                running.stop()


async def test_a_publish_whose_commit_was_cut_is_recognised_when_it_is_repeated(postgres_server):
    """The reply to a commit is lost, over and over; nothing is stored twice."""
    broker = new_broker(postgres_server)
    async with broker.open() as session:
        await session.declare(["q"])
        lost = 0
        for number in range(30):
            item = message(f"m{number}")
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def cut(number=number):
                        await trio.sleep(number * 0.0002)
                        await trio.to_thread.run_sync(link.hang_up, session._writer_engine._link)

                    while True:
                        try:
                            (published,) = await session.publish([item])
                            break
                        except BrokerLostError:
                            lost += 1
            assert published.outcome in (Publishing.ACCEPTED, Publishing.DUPLICATE)
        assert (await session.stats("q")).ready == 30


async def test_a_server_that_is_frozen_counts_as_lost(server, monkeypatch):
    monkeypatch.setattr(link, "PATIENCE", 0.5)
    async with new_broker(server).open() as session:
        await session.declare(["q"])
        server.sql("SELECT 1")
        stuck = rows(server, "SELECT pid FROM pg_stat_activity WHERE application_name = 'trepid'")
        await trio.to_thread.run_sync(server.pause)
        try:
            with trio.fail_after(8), pytest.raises(BrokerLostError):
                await put(session, "m")
        finally:
            server.resume()  # a signal, which takes no time
        assert stuck
        with trio.fail_after(10):
            while True:
                try:
                    await put(session, "n")
                    break
                except BrokerLostError:
                    await trio.sleep(0.05)


async def test_a_lock_that_is_not_given_back_is_busy(postgres_server):
    broker = new_broker(postgres_server)
    async with broker.open() as session:
        await session.declare(["q"])
        await put(session, "m", "n")
        deliveries = await take(session)
        session._writer_engine._link.execute("SET lock_timeout = '200ms'")
        with connect(postgres_server) as other:
            other.execute(f"SELECT * FROM {broker.address.schema}.messages WHERE id = 'm' FOR UPDATE")
            with trio.fail_after(5), pytest.raises(BrokerBusyError, match="lock timeout"):
                await end(session, deliveries)
            assert await end(session, deliveries[1:]) == [Reply.APPLIED]
            other.rollback()
        assert await end(session, deliveries[:1]) == [Reply.APPLIED]


async def test_a_deadlock_is_survived(postgres_server):
    broker = new_broker(postgres_server)
    async with broker.open() as session:
        await session.declare(["q"])
        await put(session, "a", "b")
        deliveries = await take(session)
        # A waiter looks for a deadlock once, after so long: by then the other one waits, too, and never looks himself.
        session._writer_engine._link.execute("SET deadlock_timeout = '2s'")
        table = f"{broker.address.schema}.messages"
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                with psycopg.connect(postgres_server.url) as other:
                    other.execute("SET deadlock_timeout = '60s'")
                    other.execute(f"SELECT * FROM {table} WHERE id = 'b' FOR UPDATE")

                    @nursery.start_soon
                    async def settle():
                        assert await end(session, deliveries) == [Reply.APPLIED] * 2

                    await trio.testing.wait_all_tasks_blocked(0.02)
                    with trio.fail_after(10):
                        while not rows(postgres_server, "SELECT FROM pg_locks WHERE NOT granted"):
                            await trio.sleep(0.01)
                    await trio.to_thread.run_sync(other.execute, f"SELECT * FROM {table} WHERE id = 'a' FOR UPDATE")
        assert session.statistics().busy_retries >= 1
