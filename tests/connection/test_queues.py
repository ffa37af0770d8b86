"""Queues and what is in them: declare, flush, delete, pause, requeue, purge, look."""

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import idle, working


async def work(fail: bool = False) -> None:
    await trio.sleep(10)
    if fail:
        raise ValueError


WORK = trepid.Actor(work)
WORKER = trepid.Worker(WORK)


async def test_everything_about_an_unknown_queue_says_so(connection, autojump_clock):
    async def look():
        async for _ in connection.messages("nowhere", trepid.State.READY):
            raise AssertionError

    for ask in (
        lambda: connection.flush("nowhere"),
        lambda: connection.pause("nowhere"),
        lambda: connection.resume("nowhere"),
        lambda: connection.stats("nowhere"),
        lambda: connection.requeue("nowhere"),
        lambda: connection.requeue("nowhere", ["x"]),
        lambda: connection.purge("nowhere"),
        lambda: connection.enqueue(WORK.job().options(queue="nowhere")),
        look,
    ):
        with pytest.raises(trepid.UnknownQueueError, match=r"'nowhere' is not declared; call `await"):
            await ask()
    await connection.delete("nowhere")


async def test_flush_forgets_what_waits_and_nothing_else(connection, autojump_clock):
    dead = await connection.enqueue(WORK.job(True))
    async with working(WORKER, connection):
        await dead.wait()
        running = await connection.enqueue(WORK.job())
        await idle()
        await connection.pause("default")
        await connection.enqueue_many([WORK.job(), WORK.job().options(delay=60)])
        assert await connection.flush("default") == 2
        await connection.resume("default")
        await running.wait()
    assert ((await running.status()).state, (await dead.status()).state) == (trepid.State.DONE, trepid.State.DEAD)


async def test_delete_is_refused_while_anything_is_leased(connection, autojump_clock):
    handle = await connection.enqueue(WORK.job())
    async with working(WORKER, connection):
        await idle()
        with pytest.raises(trepid.QueueBusyError) as caught:
            await connection.delete("default")
        assert (caught.value.queue, caught.value.leased) == ("default", 1)
        await handle.wait()
    await connection.delete("default")
    assert await connection.queues() == []
    with pytest.raises(trepid.JobGoneError):
        await handle.status()


async def test_a_waiter_learns_that_its_queue_is_gone(connection, autojump_clock):
    handle = await connection.enqueue(WORK.job())
    with pytest.raises(trepid.JobGoneError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delete_later, connection)
            try:
                await handle.result()
            except trepid.JobGoneError as exc:
                gone = exc
        raise gone
    assert trio.current_time() == 3


async def delete_later(connection):
    await trio.sleep(3)
    await connection.delete("default")


async def test_a_paused_queue_starts_nothing_and_lets_go_on(connection, autojump_clock):
    first = await connection.enqueue(WORK.job())
    async with working(WORKER, connection):
        await idle()
        await connection.pause("default")
        second = await connection.enqueue(WORK.job())
        await first.wait()
        await trio.sleep(100)
        assert (await second.status()).state is trepid.State.READY
        assert (await connection.stats()).paused
        await connection.resume("default")
        before = trio.current_time()
        await second.wait()
        assert trio.current_time() - before == 10


async def test_requeue_all_or_some(connection, autojump_clock):
    handles = await connection.enqueue_many([WORK.job(True)] * 5)
    async with working(WORKER, connection):
        for handle in handles:
            await handle.wait()
    assert await connection.requeue("default", [handles[0].id, handles[1].id, "nobody"]) == 2
    assert await connection.requeue("default", []) == 0
    assert await connection.requeue("default") == 3
    assert (await connection.stats()).ready == 5


async def test_requeue_and_purge_have_no_ceiling(connection, autojump_clock):
    async def doomed() -> None:
        await trio.lowlevel.checkpoint()
        raise trepid.Bury

    actor = trepid.Actor(doomed)
    await connection.enqueue_many([actor.job()] * 2500)
    await trepid.Worker(actor, messages_limit=2500).run(connection)
    assert await connection.requeue("default") == 2500
    await trepid.Worker(actor, messages_limit=2500).run(connection)
    assert await connection.purge("default") == 2500
    assert await connection.stats() == trepid.QueueStats("default")


async def test_purge_forgets_ended_messages_only(connection, autojump_clock):
    dead, done, waiting = await connection.enqueue_many([WORK.job(True), WORK.job(), WORK.job().options(delay=60)])
    async with working(WORKER, connection):
        await dead.wait()
        await done.wait()
    for state in (trepid.State.READY, trepid.State.SCHEDULED, trepid.State.LEASED):
        with pytest.raises(ValueError, match="only ended messages"):
            await connection.purge("default", state)
    assert await connection.purge("default", ids=[done.id]) == 0, "that one is not dead"
    assert await connection.purge("default") == 1
    assert await connection.purge("default", trepid.State.DONE) == 1
    assert (await waiting.status()).state is trepid.State.SCHEDULED


@pytest.mark.parametrize("operation", ["requeue", "purge"])
async def test_a_single_id_instead_of_a_list_is_refused(connection, autojump_clock, operation):
    with pytest.raises(TypeError, match="list of ids"):
        await getattr(connection, operation)("default", ids="abc")


async def test_messages_are_read_page_by_page(connection, autojump_clock):
    handles = await connection.enqueue_many([WORK.job()] * 250)
    found = connection.messages("default", trepid.State.READY)
    assert [view.id async for view in found] == [handle.id for handle in handles]
    assert [view async for view in found] == [], "it ends once"
    assert [view async for view in connection.messages("default", trepid.State.DEAD)] == []


async def test_an_iteration_that_is_cancelled_loses_nothing(connection, autojump_clock):
    await connection.enqueue_many([WORK.job()] * 3)
    found = connection.messages("default", trepid.State.READY)
    for _ in range(2):
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(found)
        assert scope.cancelled_caught
        await anext(found)
    assert len([view async for view in found]) == 1


async def test_messages_that_come_and_go_do_not_disturb(connection, autojump_clock):
    handles = await connection.enqueue_many([WORK.job()] * 150)
    found = connection.messages("default", trepid.State.READY)
    seen = [(await anext(found)).id for _ in range(50)]
    for handle in handles[50:120]:
        await handle.cancel()
    await connection.enqueue(WORK.job())
    seen += [view.id async for view in found]
    assert seen[:100] == [handle.id for handle in handles[:100]], "the page that was read already"
    assert seen[100:130] == [handle.id for handle in handles[120:]]


async def test_stats_are_exact(connection, autojump_clock):
    await connection.enqueue_many([WORK.job(), WORK.job(True), WORK.job().options(delay=60)])
    cancelled = await connection.enqueue(WORK.job().options(delay=60))
    await cancelled.cancel()
    async with working(WORKER, connection):
        await trio.sleep(11)
        await connection.enqueue(WORK.job())
        await idle()
        await connection.pause("default")
        await connection.enqueue(WORK.job())
        await trio.sleep(4)
        assert await connection.stats() == trepid.QueueStats(
            "default", ready=1, scheduled=1, leased=1, done=1, dead=1, cancelled=1, paused=True, oldest_ready=4.0
        )
