"""Handles: waiting for the end of a message, and what it says when it is there."""

import outcome
import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import idle, working


async def work(what: str) -> str:
    await trio.sleep(5)
    if what == "fail":
        raise ValueError("oops")
    return what.upper()


WORK = trepid.Actor(work)
WORKER = trepid.Worker(WORK)


async def test_a_result_is_waited_for_through_retries(connection, autojump_clock):
    async def third_time(ctx: trepid.Context) -> int:
        await trio.sleep(1)
        if ctx.attempt < 3:
            raise ValueError
        return ctx.attempt

    actor = trepid.Actor(third_time, retries=5)
    handle = await connection.enqueue(actor.job())
    async with working(trepid.Worker(actor), connection):
        assert await handle.result() == 3
        assert trio.current_time() == 1 + 10 + 1 + 20 + 1


async def test_a_result_is_converted_by_the_annotation(connection, autojump_clock):
    async def pair(n: int) -> tuple[int, set[str]]:
        await trio.lowlevel.checkpoint()
        return n, {"a"}

    actor = trepid.Actor(pair)
    handle = await connection.enqueue(actor.job(1))
    await trepid.Worker(actor, messages_limit=1).run(connection)
    assert await handle.result() == (1, {"a"})
    assert await connection.handle(handle.id).result() == [1, ["a"]], "without the actor: plain JSON"
    assert await connection.handle(handle.id, actor=actor).result() == (1, {"a"})


async def test_a_handle_wants_the_actor_and_not_its_function(connection):  # noqa: ASYNC124 - the fixture waits
    with pytest.raises(TypeError, match=r"actor must be a trepid\.Actor, not <function work"):
        connection.handle("some", actor=work)


async def test_a_result_that_does_not_fit_the_annotation(connection, autojump_clock):
    async def lying() -> int:
        await trio.lowlevel.checkpoint()
        return "text"

    actor = trepid.Actor(lying)
    handle = await connection.enqueue(actor.job())
    await trepid.Worker(actor, messages_limit=1).run(connection)
    with pytest.raises(trepid.ResultError, match="does not fit") as caught:
        await handle.result()
    assert caught.value.id == handle.id
    assert (await handle.status()).state is trepid.State.DONE


async def test_a_failure_says_what_and_where(connection, autojump_clock):
    handle = await connection.enqueue(WORK.job("fail"))
    async with working(WORKER, connection):
        with pytest.raises(trepid.JobFailedError) as caught:
            await handle.result()
    error = caught.value
    assert (error.id, error.type, error.message) == (handle.id, "ValueError", "oops")
    assert not isinstance(error, trepid.JobCancelledError)
    assert 'raise ValueError("oops")' in error.traceback
    assert str(error) == f"job {handle.id} failed: ValueError: oops"


async def test_outcome_is_a_value(connection, autojump_clock):
    fine, bad, cancelled = await connection.enqueue_many([WORK.job("fine"), WORK.job("fail"), WORK.job("no")])
    await cancelled.cancel("no need")
    async with working(WORKER, connection):
        assert await fine.outcome() == outcome.Value("FINE")
        assert isinstance((await bad.outcome()).error, trepid.JobFailedError)
        assert isinstance((await cancelled.outcome()).error, trepid.JobCancelledError)
    with pytest.raises(trepid.JobGoneError):
        await connection.handle("nobody").outcome()


async def test_wait_does_not_care_how_it_ended(connection, autojump_clock):
    handles = await connection.enqueue_many([WORK.job("fine"), WORK.job("fail")])
    async with working(WORKER, connection):
        for handle in handles:
            await handle.wait()
        assert trio.current_time() == 5


async def test_several_may_wait(connection, autojump_clock):
    handle = await connection.enqueue(WORK.job("fine"))
    results = []

    async def ask(asked):
        results.append(await asked.result())

    async with working(WORKER, connection), trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask, handle)
        nursery.start_soon(ask, connection.handle(handle.id, actor=WORK))
        with trio.move_on_after(1) as scope:
            await handle.result()
        assert scope.cancelled_caught
    assert results == ["FINE"] * 6


@pytest.mark.parametrize(
    ("id", "error"), [("", ValueError), ("a b", ValueError), ("\ud800", ValueError), (3, TypeError)]
)
async def test_what_can_be_no_id_is_refused_at_once(connection, id, error):
    with pytest.raises(error, match="id "):
        connection.handle(id)


async def test_status_follows_the_life(connection, autojump_clock):
    handle = await connection.enqueue(WORK.job("fail").options(delay=3, retries=1))
    seen = []

    async def look():
        view = await handle.status()
        seen.append((view.state.value, view.attempts))

    await look()
    await trio.sleep(3)
    await look()
    async with working(WORKER, connection):
        await idle()
        await look()
        await trio.sleep(6)
        await look()
        await handle.wait()
        await look()
    assert seen == [("scheduled", 0), ("ready", 0), ("leased", 0), ("scheduled", 1), ("dead", 2)]
    view = await handle.status()
    assert [error.attempt for error in view.errors] == [1, 2]
    assert (view.actor, view.queue, view.priority) == ("work", "default", 5)


async def test_what_is_gone_says_so_at_once(connection, autojump_clock):
    for handle in (connection.handle("nobody"), connection.handle("nobody", queue="nowhere")):
        for ask in (handle.result, handle.wait, handle.outcome, handle.status, handle.cancel):
            with pytest.raises(trepid.JobGoneError) as caught:
                await ask()
            assert (caught.value.id, caught.value.queue) == ("nobody", handle.queue)
            assert isinstance(caught.value, LookupError)
    assert trio.current_time() == 0


async def test_a_result_that_is_not_kept_is_gone(connection, autojump_clock):
    handle = await connection.enqueue(WORK.job("fine").options(result_ttl=0))
    async with working(WORKER, connection):
        with pytest.raises(trepid.JobGoneError):
            await handle.result()
        assert trio.current_time() == 5


async def test_a_result_is_kept_for_as_long_as_was_said(connection, autojump_clock):
    for said, kept in ((None, 86_400), (60, 60)):
        handle = await connection.enqueue(WORK.job("fine").options(result_ttl=said))
        async with working(WORKER, connection):
            await handle.wait()
        await trio.sleep(kept - 1)
        assert await handle.result() == "FINE"
        await trio.sleep(1.5)
        with pytest.raises(trepid.JobGoneError):
            await handle.status()


async def test_dead_ones_stay_until_requeued(connection, autojump_clock):
    handle = await connection.enqueue(WORK.job("fail"))
    async with working(WORKER, connection):
        await handle.wait()
    await trio.sleep(50 * 86_400)
    assert (await handle.status()).state is trepid.State.DEAD
    assert await connection.requeue("default") == 1
    view = await handle.status()
    assert (view.state, view.attempts, view.requeues, len(view.errors)) == (trepid.State.READY, 0, 1, 1)


@pytest.mark.parametrize(("ttl", "reason"), [(5, "expired")])
async def test_what_died_without_an_exception_says_why(connection, autojump_clock, ttl, reason):
    handle = await connection.enqueue(WORK.job("late").options(ttl=ttl))
    with pytest.raises(trepid.JobFailedError) as caught:
        await handle.result()
    assert (caught.value.type, caught.value.message, caught.value.traceback) == (reason, "", "")
    assert str(caught.value) == f"job {handle.id} failed: {reason}"
    assert trio.current_time() == 5


async def test_poison_says_so_even_if_it_had_failed_before(connection, autojump_clock):
    handle = await connection.enqueue(WORK.job("fail").options(retries=5, max_crashes=1))
    async with working(WORKER, connection) as running:
        await trio.sleep(16)  # it has failed once, and runs again
        await connection.session.expire_owner(running.statistics().owner)
        with pytest.raises(trepid.JobFailedError) as caught:
            await handle.result()
    assert caught.value.type == "poison"
    assert (await handle.status()).reason == "poison"


async def test_cancelling_twice_keeps_the_first_reason(connection, autojump_clock):
    handle = await connection.enqueue(WORK.job("x").options(delay=60))
    assert await handle.cancel("first") is trepid.CancelResult.WITHDRAWN
    assert await handle.cancel("second") is trepid.CancelResult.FINISHED
    with pytest.raises(trepid.JobCancelledError, match="first"):
        await handle.result()


async def test_a_handle_shows_no_session_and_no_secret():
    async with trepid.open_connection("memory:") as connection:
        await connection.declare("default")
        handle = await connection.enqueue(WORK.job("x"))
        assert repr(handle) == f"JobHandle(queue='default', id='{handle.id}', existing=False)"
        assert "session=" not in repr(connection)
