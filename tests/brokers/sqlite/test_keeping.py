"""What the file keeps, for how long, and by whose clock."""

import sqlite3

import pytest
import trio

from tests.brokers.sqlite.kit import NUMBERS, end, message, put, take
from trepid.brokers.sqlite import SQLiteBroker, keeping, transaction
from trepid.ports.messages import Absent
from trepid.rules.life import Reply, State
from trepid.rules.publishing import REMEMBERED, Publishing
from trepid.rules.verdicts import Done, Failed, Failure
from trepid.values.unique import Unique


class Clock:
    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def broker(tmp_path, clock):
    return SQLiteBroker(tmp_path / "jobs.db", clock=clock)


@pytest.fixture
async def session(broker):
    async with broker.open() as session:
        await session.declare(["q"])
        yield session


def rows(transaction, table):
    return transaction.run(f"SELECT count(*) FROM {table}").fetchone()[0]


async def publish(session, item):
    (published,) = await session.publish([item])
    return published.outcome


async def test_time_never_goes_back(session, broker, clock):
    before = await session.now()
    clock.now -= 3600
    assert await session.now() == before
    clock.now += 3601
    assert await session.now() == before + 1


async def test_the_mark_is_in_the_file(session, broker, clock):
    """A lease is not judged by an earlier moment than the one it was granted at, in whichever process."""
    await put(session, "m", "late", delay=5.0)
    clock.now += 10
    (one, _) = await take(session, lease_for=60)
    granted = await session.now()
    clock.now -= 1000
    async with broker.open() as other:
        assert await other.now() == granted
        assert (await other.stats("q")).leased == 2
        assert await end(other, [one]) == [Reply.APPLIED]
        assert (await other.get("q", "m")).ended == granted


async def test_what_is_forgotten_is_gone_at_once_and_cleared_away_soon(session, clock):
    first = message("m")
    await session.publish([first])
    (delivery,) = await take(session)
    await end(session, [delivery], Done(b"1", 10.0))
    clock.now += 11
    assert await session.get("q", "m") is None
    assert await session.result("q", "m") is Absent.GONE
    assert (await session.stats("q")).done == 0
    assert (await session.peek("q", State.DONE)).messages == ()
    assert await session._write(rows, "messages") == 1
    assert await end(session, [delivery]) == [Reply.UNKNOWN]
    assert await publish(session, first) is Publishing.DUPLICATE
    await put(session, "other")
    assert await session._write(rows, "messages") == 1
    assert await session._write(rows, "payloads") == 1
    assert await publish(session, first) is Publishing.DUPLICATE


async def test_a_publish_is_remembered_for_as_long_as_promised(session, clock):
    kept, purged = message("kept"), message("purged")
    await session.publish([kept, purged])
    await end(session, [each for each in await take(session) if each.id == "kept"], Done(None, 0.0))
    assert await session._write(rows, "messages") == 1
    await session.purge("q", [State.READY, State.DEAD, State.LEASED])
    await session.expire_owner("w")
    clock.now += 2
    assert await session.purge("q", [State.READY]) == 1
    clock.now += REMEMBERED - 1
    assert await publish(session, kept) is Publishing.DUPLICATE
    assert await publish(session, purged) is Publishing.DUPLICATE
    clock.now += 2
    await session.reap()
    assert await session._write(rows, "departed") == 0
    assert await publish(session, kept) is Publishing.ACCEPTED


async def test_removal_keeps_pace_with_a_busy_queue(session, clock):
    for _ in range(30):
        await session.publish([message(f"m{number}") for number in range(100)])
        await end(session, await take(session), Done(b"1", 1.0))
        clock.now += 2
    assert await session._write(rows, "messages") <= 300
    # 4096 publish numbers share a row; 3000 of them may lie on two, depending on what was published before this test.
    assert await session._write(rows, "departed") in (1, 2)


async def test_a_large_queue_is_deleted_a_little_at_a_time(session, clock):
    batch = [message(f"m{number}") for number in range(3000)]
    await session.publish(batch)
    await session.delete("q")
    assert await session.queues() == []
    left = await session._write(rows, "messages")
    assert 0 < left < 3000
    await session.declare(["q"])
    assert await publish(session, batch[-1]) is Publishing.DUPLICATE
    assert (await session.stats("q")).ready == 0
    await put(session, "m2999")
    for _ in range(300):
        await session.reap(limit=100)
        if await session._write(rows, "messages") == 1:
            break
    assert await session._write(rows, "messages") == 1
    assert await session._write(rows, "queues") == 1
    assert await publish(session, batch[0]) is Publishing.DUPLICATE


async def test_failures_go_with_their_message(session):
    await put(session, "m")
    for _ in range(3):
        await end(session, await take(session), Failed(Failure("ValueError", "no"), 0.0))
    assert len((await session.get("q", "m")).errors) == 3
    await end(session, await take(session), Failed(Failure("ValueError", "never")))
    assert await session.requeue("q") == 1
    assert [error.attempt for error in (await session.get("q", "m")).errors] == [1, 2, 3, 4]
    await session.purge("q", [State.READY])
    assert await session._write(rows, "failures") == 0


async def test_the_file_itself_keeps_unique_keys_apart(session, broker):
    await put(session, "m", unique=Unique("k"))
    connection = sqlite3.connect(broker.path)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(
            "INSERT INTO messages (seq, due, state, queue, id, publisher, publication, priority, enqueued, unique_key) "
            "SELECT seq + 1, due, state, queue, 'n', publisher, publication + 1, priority, enqueued, unique_key "
            "FROM messages"
        )
    connection.close()


async def test_hot_statements_use_their_indexes(session):
    """No plan may sort, or scan the table: a million other messages must cost nothing."""
    from trepid.brokers.sqlite import statements

    hot = ("CLAIM", "NEXT_DUE", "NEXT_UNTIL", "LAPSED", "OVERDUE", "TOP_LANE", "NEXT_LANE", "DONE", "TAKE", "BY_ID")
    hot += ("BY_UNIQUE", "DEAD", "ENDED", "FORGETTABLE", "ASKED", "COUNT_LEASED", "COUNT_ENDED", "OLDEST", "NAMESAKES")
    hot += ("FIRST", "MAKE_READY", "GATES", "BEHIND", "UNGATED", "CLAIM_ONE", "NEXT_AWAITED", "LATELY", "STARTS")
    hot += ("SWEEP_STARTS", "SWEEP_HOLDS", "HOLD", "MARK", "LIVE", "ALL_LIMITS", "ENDED_AMONG", "NEXT_END")

    def plans(transaction):
        found = {}
        for name in hot:
            statement = getattr(statements, name)
            marks = (1,) * len(set(sqlite_marks(statement)))
            found[name] = [row[3] for row in transaction.run("EXPLAIN QUERY PLAN " + statement, marks)]
        return found

    for name, plan in (await session._write(plans)).items():
        assert not any("TEMP B-TREE" in step or "SCAN messages" in step for step in plan), (name, plan)


async def test_who_looks_at_what_waits_reads_nothing_that_has_ended(session):
    from trepid.brokers.sqlite import statements

    def plans(transaction):
        found = []
        for statement in (statements.PEEK_READY, statements.PEEK_SCHEDULED):
            marks = (1,) * len(set(sqlite_marks(statement)))
            found.append([row[3] for row in transaction.run("EXPLAIN QUERY PLAN " + statement, marks)])
        return found

    for plan in await session._write(plans):
        read = {step.split(" INDEX ")[1].split()[0] for step in plan if " INDEX " in step}
        assert read == {"messages_waiting", "messages_gated", "messages_awaited"}, plan
        assert not any("SCAN messages" in step for step in plan), plan


def sqlite_marks(statement):
    """Number the parameters of a statement as SQLite does."""
    largest = 0
    for position, character in enumerate(statement):
        if character == "?":
            digits = ""
            while (following := statement[position + 1 + len(digits) : position + 2 + len(digits)]).isdigit():
                digits += following
            largest = max(largest, int(digits)) if digits else largest + 1
            yield int(digits) if digits else largest


async def test_many_priorities_in_one_lease(session):
    for priority in (3, -7, 100, 0):
        await put(session, f"p{priority}", priority=priority)
    assert [each.priority for each in await take(session)] == [100, 3, 0, -7]


async def test_a_waiting_lease_wakes_when_something_becomes_due(tmp_path):
    async with SQLiteBroker(tmp_path / "jobs.db").open() as session:
        await session.declare(["q"])
        await put(session, "m", delay=0.15)
        start = trio.current_time()
        (delivery,) = await take(session, wait=10)
        assert trio.current_time() - start < 2
        assert delivery.leased >= delivery.due


async def test_a_queue_is_deleted_however_many_leases_ran_out(session, clock, monkeypatch):
    monkeypatch.setattr(transaction, "_LAPSED_AT_ONCE", 2)
    await put(session, *(f"m{number}" for number in range(5)))
    assert len(await take(session, lease_for=10.0)) == 5
    clock.now += 10
    await session.delete("q")
    assert await session.queues() == []


async def test_publishers_that_come_and_go_leave_nothing_for_ever(session, clock):
    """Whoever connects is a publisher of its own, and nobody is told to clear away after it."""
    for number in range(100):
        await put(session, "m", token=(f"publisher {number}", 1))
        await end(session, await take(session), Done(b"1", 0.0))
        clock.now += REMEMBERED / 10
    assert await session._write(rows, "departed") <= 11


async def test_a_large_queue_is_flushed_without_looking_through_it_each_time(session):
    for _ in range(5):
        await session.publish([message(f"m{next(NUMBERS)}", delay=delay) for delay in (0, 0, 0, 60) * 500])

    def steps(transaction):
        taken = []
        transaction.connection.set_progress_handler(lambda: taken.append(1), 100)
        purged = keeping.purge(transaction, "q", [State.READY, State.SCHEDULED], None, 10)
        transaction.connection.set_progress_handler(None, 0)
        return purged, len(taken) * 100

    purged, taken = await session._write(steps)
    assert purged == 10
    assert taken < 10_000
