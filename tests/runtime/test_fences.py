"""Fences: the lease bounds a job, and is none of the deadlines that the job sees."""

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import TroubledBroker, idle, working
from trepid.runtime.performing import Performer


@pytest.fixture
def broker():
    return TroubledBroker()


@pytest.fixture
async def connection(broker):
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        yield connection


@pytest.mark.parametrize("lease", [1, 30])
async def test_a_job_sees_its_timeout_and_not_its_lease(connection, autojump_clock, lease):
    seen = []

    async def job():
        for _ in range(3):
            seen.append(trio.current_effective_deadline())
            await trio.sleep(25)

    actor = trepid.Actor(job, timeout=600)
    await connection.enqueue(actor.job())
    await trepid.Worker(actor, lease=lease, messages_limit=1).run(connection)
    assert seen == [600, 600, 600]


async def test_each_job_stops_at_its_own_fence(broker, connection, autojump_clock):
    ended = {}

    async def job(n: int):
        try:
            await trio.sleep_forever()
        finally:
            ended.setdefault(n, trio.current_time())  # another attempt may follow

    actor = trepid.Actor(job, timeout=3600)
    broker.trouble.fail["extend"] = trepid.BrokerLostError
    async with working(trepid.Worker(actor), connection) as running:
        for n in range(4):
            await connection.enqueue(actor.job(n))
            await trio.sleep(5)
        await trio.sleep(30)
        running.stop(grace=0)
    assert ended == {0: 27, 1: 32, 2: 37, 3: 42}


async def test_a_lease_that_is_shorter_than_the_others_is_seen_in_time(broker, connection, autojump_clock):
    # The answer to the lease call comes late, so this fence is earlier than that of the job which was just renewed.
    ended = []

    async def job(n: int):
        try:
            await trio.sleep_forever()
        finally:
            ended.append((n, trio.current_time()))

    actor = trepid.Actor(job, timeout=3600)
    await connection.enqueue(actor.job(0))
    async with working(trepid.Worker(actor), connection) as running:
        await idle()
        broker.trouble.late["lease"] = 5
        await trio.sleep(8)
        await connection.enqueue(actor.job(1))  # leased at 8, known at 13; the other one is renewed at 10
        await trio.sleep(1)
        broker.trouble.late.clear()
        await trio.sleep(1.5)
        broker.trouble.fail["extend"] = trepid.BrokerLostError
        await trio.sleep(40)
        running.stop(grace=0)
    assert ended[:2] == [(1, 35), (0, 37)]


async def test_no_step_is_taken_in_a_process_that_slept_through_its_leases(broker, connection, mock_clock):
    # As after SIGSTOP: everything is due at once, and the job's own alarm is the earlier one.
    stepped = []

    async def job(n: int):
        await trio.sleep(10)
        stepped.append(n)

    actor = trepid.Actor(job, timeout=3600)
    await connection.enqueue_many([actor.job(n) for n in range(100)])
    broker.trouble.hang.add("extend")
    async with working(trepid.Worker(actor), connection, stop=False) as running:
        await idle()
        began = len(running.statistics().running)
        mock_clock.jump(28)  # the leases go on, so nobody takes the jobs again
        await idle()
        report = running.statistics().report
        running.stop(grace=0)
        mock_clock.autojump_threshold = 0  # or nothing would end, if something is wrong
    assert (began, stepped, report) == (100, [], trepid.Report(lost=100))


async def test_a_job_that_starts_after_a_fence_has_passed_is_bounded_by_the_next(
    broker, connection, autojump_clock, monkeypatch
):
    """It waits for something (a place, say) while its lease is not confirmed; then it is, and never again."""
    ended, prepare = [], Performer._prepare

    async def slowly(self, run, ready):
        await trio.sleep_until(28.5)
        return await prepare(self, run, ready)

    async def job():
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    monkeypatch.setattr(Performer, "_prepare", slowly)
    actor = trepid.Actor(job, timeout=3600)
    broker.trouble.fail["extend"] = trepid.BrokerLostError
    async with working(trepid.Worker(actor), connection, stop=False) as running:
        await connection.enqueue(actor.job())
        await trio.sleep_until(27.5)
        broker.trouble.fail.clear()  # its fence was at 27; at 28 it is confirmed until 58
        await trio.sleep_until(29)
        broker.trouble.fail["extend"] = trepid.BrokerLostError
        await trio.sleep_until(57)
        running.stop(grace=0)
    assert ended == [55]


async def test_what_a_job_reads_before_it_starts_is_bounded_by_its_lease_as_well(broker, connection, autojump_clock):
    """Its lease ends while it reads what it has saved; renewed again and lost again, the next attempt stops in time."""
    spans = []

    async def job(ctx: trepid.Context):
        if ctx.attempt == 1:
            raise ValueError
        began = trio.current_time()
        try:
            await trio.sleep(500)
        finally:
            spans.append((began, trio.current_time()))

    actor = trepid.Actor(job, retries=3, retry_policy=lambda n: 1)
    handle = await connection.enqueue(actor.job())
    records = connection.session.records
    real = records.carry_out

    async def carry_out(steps):
        if any(step.key.startswith("state:") for step in steps) and trio.current_time() < 28.6:
            raise trepid.BrokerLostError("away")
        return await real(steps)

    records.carry_out = carry_out
    broker.trouble.fail["extend"] = trepid.BrokerLostError
    async with working(trepid.Worker(actor, tasks_limit=1), connection, stop=False) as running:
        await trio.sleep(28.1)
        del broker.trouble.fail["extend"]
        await trio.sleep(30)
        broker.trouble.fail["extend"] = trepid.BrokerLostError
        await trio.sleep(60)
        assert (await handle.status()).crashes >= 1, "the lease that ended while it read"
        assert spans
        assert all(stopped <= 58.1 + 30 for _, stopped in spans[:1]), "before another worker can have it"
        del broker.trouble.fail["extend"]
        running.stop(grace=0)
