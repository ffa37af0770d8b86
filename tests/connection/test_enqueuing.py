"""Enqueuing: one, many, all or nothing; ids and unique keys."""

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import idle, states, working


async def work(n: int = 0) -> int:
    await trio.sleep(1)
    return n


WORK = trepid.Actor(work)


async def test_only_jobs_can_be_enqueued(connection, autojump_clock):
    function = r"function work.*; write trepid\.Actor\(fn\)\.job"
    for wrong, hint in ((WORK, "write actor.job"), ("work", "'work'"), (work, function)):
        with pytest.raises(TypeError, match=hint):
            await connection.enqueue(wrong)
        with pytest.raises(TypeError, match=hint):
            await connection.enqueue_many([WORK.job(), wrong])
    assert (await connection.stats()).live == 0


async def test_many_are_stored_in_order(connection, autojump_clock):
    handles = await connection.enqueue_many(WORK.job(n) for n in range(5))
    views = [view async for view in connection.messages("default", trepid.State.READY)]
    assert [view.id for view in views] == [handle.id for handle in handles]
    assert await connection.enqueue_many([]) == []


async def test_many_are_stored_all_or_not_at_all(connection, autojump_clock):
    with pytest.raises(trepid.UnknownQueueError) as caught:
        await connection.enqueue_many([WORK.job(1), WORK.job(2).options(queue="nowhere"), WORK.job(3)])
    assert caught.value.queue == "nowhere"
    held = WORK.job(0).options(unique=trepid.Unique("key", on_conflict="raise"))
    holder = await connection.enqueue(held)
    with pytest.raises(trepid.UniqueConflictError) as caught:
        await connection.enqueue_many([WORK.job(1), held])
    assert (caught.value.key, caught.value.queue, caught.value.holder) == ("key", "default", holder.id)
    assert (await connection.stats()).live == 1


async def test_an_enqueue_that_is_cancelled_was_not_applied(connection, autojump_clock):
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.enqueue(WORK.job())
    assert (await connection.stats()).live == 0


async def test_the_same_id_while_it_lives_is_the_same_message(connection, autojump_clock):
    first = await connection.enqueue(WORK.job(1).options(id="x"))
    second = await connection.enqueue(WORK.job(2).options(id="x"))
    assert (first.existing, second.existing) == (False, True)
    async with working(trepid.Worker(WORK), connection):
        await idle()
        third = await connection.enqueue(WORK.job(3).options(id="x"))
        assert third.existing, "running is alive, too"
        assert await first.result() == await second.result() == await third.result() == 1


async def test_the_same_id_after_its_end_is_a_new_run(connection, autojump_clock):
    async with working(trepid.Worker(WORK), connection):
        first = await connection.enqueue(WORK.job(1).options(id="x"))
        assert await first.result() == 1
        second = await connection.enqueue(WORK.job(2).options(id="x"))
        assert not second.existing
        assert await second.result() == await first.result() == 2


async def test_a_unique_key_is_free_again_after_the_end(connection, autojump_clock):
    job = WORK.job(1).options(unique=trepid.Unique("key"))
    first, second = await connection.enqueue(job), await connection.enqueue(job)
    assert (second.id, second.existing) == (first.id, True)
    async with working(trepid.Worker(WORK), connection):
        await first.wait()
    third = await connection.enqueue(job)
    assert (third.existing, third.id == first.id) == (False, False)


async def test_replace_withdraws_what_waits_and_leaves_what_runs(connection, autojump_clock):
    job = WORK.job(1).options(unique=trepid.Unique("key", on_conflict="replace"))
    first, second = await connection.enqueue(job), await connection.enqueue(job)
    assert not second.existing
    assert (await first.status()).state is trepid.State.CANCELLED
    async with working(trepid.Worker(WORK), connection):
        await idle()
        third = await connection.enqueue(job)
        assert (third.id, third.existing) == (second.id, True)


async def test_what_the_job_leaves_unsaid_the_actor_says_and_the_workers_actor_wins_over_defaults(
    connection, autojump_clock
):
    async def failing() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError

    here = trepid.Actor(failing, retries=2)
    named = await connection.enqueue(trepid.Job("failing"))
    said = await connection.enqueue(trepid.Job("failing", retries=0))
    elsewhere = await connection.enqueue(trepid.Actor(failing, retries=1).job())
    async with working(trepid.Worker(here), connection):
        for handle in (named, said, elsewhere):
            await handle.wait()
    assert [(await handle.status()).attempts for handle in (named, said, elsewhere)] == [3, 1, 2]


async def test_publishing_is_recognised_by_its_token_even_later(connection, autojump_clock):
    # A publish whose answer was lost is sent again, as it was.
    publication = connection.publisher.publication(WORK.job(1).options(result_ttl=0))
    [first] = await connection.session.publish([publication])
    async with working(trepid.Worker(WORK), connection):
        await trio.sleep(300)
        [again] = await connection.session.publish([publication])
        await trio.sleep(10)
    assert again.id == first.id
    assert await states(connection) == {}


async def test_enqueue_in_needs_a_database(connection):  # noqa: ASYNC124 - the fixture waits
    with pytest.raises(trepid.UnsupportedError, match="memory does not support"):
        connection.enqueue_in(None, WORK.job())
