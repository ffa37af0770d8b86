"""Jobs that start jobs: one tree, in which deadlines and cancellations go down, and failures up."""

import pytest
import trio
import trio.testing

import trepid
from tests.connection.nursery.cast import Log, counts
from tests.runtime.stage import idle, working


class Tree:
    """Branches open job nurseries of their own; leaves are jobs of a log."""

    def __init__(self):
        self.log = Log(queue="leaves")
        self.branch = trepid.Actor(self.grow, name="branch", timeout=86_400)
        self.deadlines = []

    async def grow(self, ctx: trepid.Context, depth: int, leaf: int = 1, seconds: float = 3600) -> int:
        self.deadlines.append(trio.current_effective_deadline())
        async with trepid.open_job_nursery(ctx.connection) as jobs:
            if depth:
                below = [jobs.start_soon(self.branch.job(depth - 1, leaf, seconds)) for _ in range(2)]
            else:
                below = [jobs.start_soon(self.log.actor.job(leaf, seconds))]
        return sum([await handle.result() for handle in below])

    def worker(self, **settings):
        return trepid.Worker(self.branch, self.log.actor, **settings)


@pytest.fixture
def tree():
    return Tree()


@pytest.fixture
async def connection():
    async with trepid.open_connection("memory:") as connection:
        await connection.declare("default", "leaves")
        yield connection


async def test_results_come_up(connection, autojump_clock, tree):
    async with working(tree.worker(), connection):
        async with trepid.open_job_nursery(connection) as jobs:
            root = jobs.start_soon(tree.branch.job(2, 1, 10))
        assert await root.result() == 4
        assert trio.current_time() == 10


async def test_deadlines_go_down(connection, autojump_clock, tree):
    async with working(tree.worker(lease=5), connection):
        with trio.move_on_after(100):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(tree.branch.job(2))
        assert trio.current_time() == pytest.approx(100)
        assert len(tree.deadlines) == 7
        assert tree.deadlines == pytest.approx([100] * 7)
        assert tree.log.deadlines == {1: pytest.approx(100)}
        await idle()
        assert await counts(connection) == {"cancelled": 7}
        assert await counts(connection, "leaves") == {"cancelled": 4}


async def test_a_timeout_on_the_way_is_a_deadline_for_what_is_below(connection, autojump_clock, tree):
    async with working(tree.worker(), connection):
        with pytest.RaisesGroup(trepid.JobFailedError):
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(tree.branch.options(timeout=50).job(0))
        assert tree.log.deadlines == {1: pytest.approx(50)}
        assert await counts(connection, "leaves") == {"cancelled": 1}


async def test_cancellation_goes_down_and_is_confirmed(connection, autojump_clock, tree):
    async with working(tree.worker(), connection):
        with trio.CancelScope() as scope:
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(tree.branch.job(2))
                await trio.sleep(5)
                assert (await connection.stats("leaves")).leased == 4
                scope.cancel()
        assert (trio.current_time(), tree.log.ended) == (5, {1: 5})
        assert await counts(connection) == {"cancelled": 7}
        assert await counts(connection, "leaves") == {"cancelled": 4}


async def test_a_failure_goes_up_and_cancels_all_around_it(connection, autojump_clock, tree):
    async with working(tree.worker(), connection):
        with pytest.raises(ExceptionGroup) as caught:
            async with trepid.open_job_nursery(connection) as jobs:
                jobs.start_soon(tree.branch.job(1))
                failed = jobs.start_soon(tree.branch.job(0, -1, 5))
        [error] = caught.value.exceptions
        assert (error.id, error.type, trio.current_time()) == (failed.id, "ExceptionGroup", 5)
        assert "-1 is negative" in error.traceback
        assert (await connection.stats()).live == (await connection.stats("leaves")).live == 0


async def test_a_plain_enqueue_in_a_child_inherits_nothing(connection, autojump_clock):
    log = Log()

    async def parent(ctx: trepid.Context) -> str:
        return (await ctx.connection.enqueue(log.actor.job(1, 200))).id

    actor = trepid.Actor(parent)
    async with working(trepid.Worker(actor, log.actor), connection):
        with trio.fail_after(100):  # noqa: ASYNC100 - leaving the block is one
            async with trepid.open_job_nursery(connection) as jobs:
                handle = jobs.start_soon(actor.job())
        assert await connection.handle(await handle.result()).result() == 1
    assert log.deadlines == {1: 86_400}
