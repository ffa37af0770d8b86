"""Group commit: many requests, few transactions, and nobody suffers for another's fault."""

import pytest
import trio

from tests.brokers.sqlite.kit import Hold, end, message, our_threads, put, take
from trepid.brokers.sqlite import SQLiteBroker
from trepid.errors import UnknownQueueError
from trepid.rules.life import Reply, State
from trepid.rules.publishing import Publishing


@pytest.fixture
async def session(tmp_path):
    async with SQLiteBroker(tmp_path / "jobs.db").open() as session:
        await session.declare(["q"])
        yield session


async def held_up(session, nursery):
    """Keep the writer busy, so that what is asked meanwhile waits in its line."""
    hold = Hold()
    nursery.start_soon(session._write, hold)
    await trio.to_thread.run_sync(hold.began.wait)
    return hold


async def in_line(session, count):
    while len(session._writer._line) < count:
        await trio.lowlevel.checkpoint()


async def test_what_waits_shares_a_transaction(session):
    before = session.statistics()
    async with trio.open_nursery() as nursery:
        hold = await held_up(session, nursery)
        for number in range(50):
            nursery.start_soon(put, session, f"m{number}")
        await in_line(session, 50)
        hold.go.set()
    after = session.statistics()
    assert after.requests - before.requests == 51
    assert after.transactions - before.transactions <= 2
    assert after.largest_group >= 50
    assert (await session.stats("q")).ready == 50


async def test_only_the_bad_request_fails(session):
    refused = []

    async def bad():
        with pytest.raises(OverflowError) as caught:
            await session.publish([message("first"), message("bad", priority=2**70)])
        refused.append(caught.value)

    async with trio.open_nursery() as nursery:
        hold = await held_up(session, nursery)
        nursery.start_soon(put, session, "before")
        nursery.start_soon(bad)
        nursery.start_soon(put, session, "after")
        await in_line(session, 3)
        hold.go.set()
    assert len(refused) == 1
    ready = (await session.peek("q", State.READY)).messages
    assert sorted(view.id for view in ready) == ["after", "before"]
    assert session.statistics().isolated == 1


async def test_a_refusal_that_changed_nothing_needs_no_second_run(session):
    async def refused():
        with pytest.raises(UnknownQueueError):
            await session.pause("nowhere")

    async with trio.open_nursery() as nursery:
        hold = await held_up(session, nursery)
        nursery.start_soon(put, session, "a")
        nursery.start_soon(refused)
        nursery.start_soon(put, session, "b")
        await in_line(session, 3)
        hold.go.set()
    assert session.statistics().isolated == 0
    assert (await session.stats("q")).ready == 2


async def test_every_caller_gets_an_exception_of_his_own(session):
    def spoil(_):
        raise ValueError("spoilt")

    async def ask(found):
        with pytest.raises(ValueError, match="spoilt") as caught:
            await session._write(spoil)
        found.append(caught.value)

    found = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, found)
        nursery.start_soon(ask, found)
    assert found[0] is not found[1]


async def test_cancelled_before_it_is_taken_nothing_has_happened(session):
    async with trio.open_nursery() as nursery:
        hold = await held_up(session, nursery)
        with trio.move_on_after(0.01) as scope:
            await put(session, "m")
        assert scope.cancelled_caught
        hold.go.set()
    assert await session.get("q", "m") is None


async def test_cancelled_after_it_is_taken_the_call_returns_normally(session):
    hold = Hold()

    def slow(transaction):
        hold(transaction)
        return "committed"

    async with trio.open_nursery() as nursery:

        async def ask():
            with trio.CancelScope() as scope:
                nursery.start_soon(interrupt, scope)
                assert await session._write(slow) == "committed"
            assert scope.cancel_called
            assert not scope.cancelled_caught

        async def interrupt(scope):
            await trio.to_thread.run_sync(hold.began.wait)
            scope.cancel()
            hold.go.set()

        nursery.start_soon(ask)


async def test_a_cancelled_lease_takes_nothing(session):
    """At whatever moment the cancellation comes, a lease is either returned or was not taken."""
    await put(session, *(f"m{number}" for number in range(60)))
    returned = 0
    for number in range(60):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def interrupt(scope=scope, number=number):
                    for _ in range(number % 20):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                returned += len(await take(session, 1))
    assert (await session.stats("q")).leased == returned


async def test_a_slow_look_keeps_no_writer_waiting(session):
    async with trio.open_nursery() as nursery:
        hold = Hold()
        nursery.start_soon(session._read, hold)
        await trio.to_thread.run_sync(hold.began.wait)
        with trio.fail_after(5):
            assert await end(session, await take(session)) == []
            assert [each.outcome for each in await put(session, "m")] == [Publishing.ACCEPTED]
        hold.go.set()


async def test_a_look_can_be_left_behind(session):
    async with trio.open_nursery() as nursery:
        hold = Hold()
        nursery.start_soon(session._read, hold)
        await trio.to_thread.run_sync(hold.began.wait)
        with trio.move_on_after(0.01) as scope:
            await session.stats("q")
        assert scope.cancelled_caught
        hold.go.set()
    assert (await session.stats("q")).ready == 0


async def test_the_error_of_the_body_comes_out_bare(tmp_path):
    with pytest.raises(ZeroDivisionError):
        async with SQLiteBroker(tmp_path / "jobs.db").open():
            raise ZeroDivisionError
    assert our_threads() == []


async def test_a_closed_session_says_so(tmp_path):
    async with SQLiteBroker(tmp_path / "jobs.db").open() as session:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await session.declare(["q"])


async def test_requests_under_way_are_finished_when_the_session_closes(tmp_path):
    broker = SQLiteBroker(tmp_path / "jobs.db")
    outcomes = []
    async with trio.open_nursery() as nursery, broker.open() as session:
        await session.declare(["q"])

        async def publish(number):
            outcomes.extend(await put(session, f"m{number}"))

        hold = await held_up(session, nursery)
        for number in range(10):
            nursery.start_soon(publish, number)
        await in_line(session, 10)
        hold.go.set()
    assert len(outcomes) == 10
    async with broker.open() as session:
        assert (await session.stats("q")).ready == 10


async def test_replies_of_the_ordinary_and_the_other_path_agree(session):
    await put(session, "a", "b")
    first, second = await take(session)
    assert await end(session, [first, first, second]) == [Reply.APPLIED, Reply.REPEATED, Reply.APPLIED]
