"""A worker on a file is cancelled at some moment: it ends soon, and everything is settled or back, uncounted."""

import pytest
import trio

import trepid

COUNT = 20


async def job(number: int) -> int:
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    return number


ACTOR = trepid.Actor(job)


# The last ones are long enough for work to be under way, and done; what must hold does not depend on it.
@pytest.mark.parametrize("steps", [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000])
async def test_at_any_step_nothing_is_lost_or_counted(tmp_path, steps):
    async with trepid.open_connection(f"sqlite:{tmp_path / 'jobs.db'}") as connection:
        await connection.declare("default")
        handles = await connection.enqueue_many(ACTOR.job(number) for number in range(COUNT))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trepid.Worker(ACTOR, tasks_limit=5).run, connection)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            cancelled = trio.current_time()
        assert trio.current_time() - cancelled < 5
        stats = await connection.stats("default")
        assert (stats.leased, stats.ready + stats.done) == (0, COUNT)
        views = [await handle.status() for handle in handles]
        assert all(view.attempts == (view.state is trepid.State.DONE) and view.crashes == 0 for view in views)
        if stats.ready:
            await trepid.Worker(ACTOR, messages_limit=stats.ready).run(connection)
        assert [await handle.result() for handle in handles] == list(range(COUNT))
