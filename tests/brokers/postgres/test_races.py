"""Two sessions at once, stopped between their steps: whoever comes second sees what the first has done."""

from functools import partial

import pytest
import trio

from tests.brokers.postgres.kit import connect, end, message, new_broker, put, take
from trepid.brokers.postgres import leasing, transaction
from trepid.errors import QueueBusyError
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Published, Publishing
from trepid.rules.verdicts import Done, Failed, Failure
from trepid.values.unique import Unique


@pytest.fixture
async def pair(postgres_server):
    broker = new_broker(postgres_server)
    async with broker.open() as one, broker.open() as other:
        await one.declare(["q"])
        yield one, other


@pytest.fixture
def user(postgres_server):
    """A transaction of somebody else, who takes his time between his statements and his commit."""
    with connect(postgres_server) as connection:
        yield connection


async def blocked(connection):
    """Wait until somebody waits for the user's transaction."""
    with connection.cursor() as cursor, trio.fail_after(5):
        while not cursor.execute(
            "SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))", (connection.info.backend_pid,)
        ).fetchall():
            await trio.sleep(0.005)
            cursor.execute("SELECT pg_stat_clear_snapshot()")  # a transaction sees the same activity all the time


async def while_user_waits(user, operation, *, then):
    """Start an operation that must wait for the user, let him end his transaction, and return the answer."""
    found = []

    async def ask():
        found.append(await operation())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await blocked(user)
            then()
    return found[0]


@pytest.mark.parametrize("commits", [True, False])
async def test_the_same_id_at_once(pair, user, commits):
    one, _ = pair
    one.publish_in(user, [message("m", payload=b"theirs")])
    then = user.commit if commits else user.rollback
    (published,) = await while_user_waits(user, partial(put, one, "m"), then=then)
    assert published.outcome is (Publishing.EXISTING if commits else Publishing.ACCEPTED)
    assert len(await take(one)) == 1


@pytest.mark.parametrize("commits", [True, False])
async def test_the_same_publish_at_once(pair, user, commits):
    one, _ = pair
    item = message("m")
    one.publish_in(user, [item])
    then = user.commit if commits else user.rollback
    (published,) = await while_user_waits(user, partial(one.publish, [item]), then=then)
    assert published.outcome is (Publishing.DUPLICATE if commits else Publishing.ACCEPTED)


async def test_the_same_publish_after_all_is_over(pair):
    """The first attempt was stored, run and forgotten before the second one got to the server."""
    one, other = pair
    item = message("m")
    await one.publish([item])
    await end(other, await take(other), Done(None, 0))
    assert await one.publish([item]) == [Published(Publishing.DUPLICATE, "m")]
    assert await take(one) == []


@pytest.mark.parametrize("on_conflict", ["existing", "raise", "replace"])
async def test_the_same_key_at_once(pair, user, on_conflict):
    one, _ = pair
    one.publish_in(user, [message("m", unique=Unique("k"))])
    operation = partial(put, one, "n", unique=Unique("k", on_conflict))
    (published,) = await while_user_waits(user, operation, then=user.commit)
    expected = {
        "existing": Published(Publishing.EXISTING, "m"),
        "raise": Published(Publishing.CONFLICT, "m"),
        "replace": Published(Publishing.ACCEPTED, "n"),
    }
    assert published == expected[on_conflict]
    assert len(await take(one)) == 1


async def test_a_batch_of_which_one_comes_second_is_stored_as_it_says(pair, user):
    one, _ = pair
    one.publish_in(user, [message("b")])
    operation = partial(put, one, "a", "b", "c")
    published = await while_user_waits(user, operation, then=user.commit)
    assert [each.outcome for each in published] == [Publishing.ACCEPTED, Publishing.EXISTING, Publishing.ACCEPTED]
    assert [each.id for each in await take(one)] in (["b", "a", "c"], ["a", "b", "c"])


async def test_crossing_publishes_end(pair):
    """Two sessions store the same ids in opposite orders, each in one transaction, over and over."""
    one, other = pair
    ids = [f"m{number}" for number in range(20)]
    for round_ in range(5):
        names = [f"{id}-{round_}" for id in ids]
        outcomes = []

        async def publish(session, order):
            outcomes.extend(await put(session, *order))  # noqa: B023 - awaited in this round

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, one, names)
                nursery.start_soon(publish, other, names[::-1])
        accepted = [each for each in outcomes if each.outcome is Publishing.ACCEPTED]
        assert sorted(each.id for each in accepted) == sorted(names)


async def test_a_late_settlement_waits_for_who_cancels(pair, user):
    one, _ = pair
    await put(one, "m")
    deliveries = await take(one)
    schema = one._address.schema
    user.execute(f"UPDATE {schema}.messages SET cancel = 'enough' WHERE id = 'm'")
    operation = partial(end, one, deliveries, Failed(Failure("ValueError", "oops"), 1.0))
    assert await while_user_waits(user, operation, then=user.commit) == [Reply.APPLIED]
    assert (await one.get("q", "m")).state is State.CANCELLED


async def test_what_moves_between_the_tables_is_found(pair, user):
    """It ends between two looks; the look at what has ended comes second."""
    one, other = pair
    await put(one, "m")
    (delivery,) = await take(one)
    user.execute(f"SELECT FROM {one._address.schema}.messages WHERE id = 'm' FOR UPDATE")
    found = {}

    async def cancel():
        found["reply"] = await other.cancel("q", ["m"], "enough")

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await blocked(user)
            user.rollback()
            await end(one, [delivery])
    assert found["reply"] in ([CancelReply.REQUESTED], [CancelReply.FINISHED])
    assert (await one.get("q", "m")).state is State.DONE


async def test_a_queue_is_not_deleted_under_a_lease(pair):
    """The lease is taken and not yet committed while the queue is being deleted."""
    one, other = pair
    await put(one, "m")
    wish = leasing.Wish(["q"], 1, 60.0, "w", [0])
    writer = one._writer_engine
    await one.now()
    transaction = writer.begin()
    claim = leasing.lease(transaction, wish, 0.0)
    assert len(claim.found) == 1
    caught = []

    async def delete():
        try:
            await other.delete("q")
        except QueueBusyError as exc:
            caught.append(exc)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delete)
            await trio.sleep(0.1)
            assert not caught
            writer.commit()
    assert caught


async def test_a_queue_is_deleted_however_many_leases_ran_out(postgres_server, monkeypatch):
    monkeypatch.setattr(transaction, "LAPSED_AT_ONCE", 2)
    times = [1_700_000_000.0]
    async with new_broker(postgres_server, clock=lambda: times[-1]).open() as session:
        await session.declare(["q"])
        await put(session, *(f"m{number}" for number in range(5)))
        assert len(await take(session, lease_for=10.0)) == 5
        times.append(times[0] + 10)
        await session.delete("q")
        assert await session.queues() == []


async def test_who_publishes_into_a_queue_that_is_deleted_leaves_nothing_behind(pair, user):
    one, other = pair
    one.publish_in(user, [message("m")])
    await other.delete("q")
    user.commit()
    await one.declare(["q"])
    assert await take(one) == []
    assert await one.get("q", "m") is None
    await one.reap()
    assert one._writer_engine._link.execute(f"SELECT count(*) FROM {one._address.schema}.messages").fetchone() == (0,)


async def test_what_is_claimed_by_two_is_claimed_once(pair):
    one, other = pair
    await put(one, *(f"m{number}" for number in range(200)))
    got = []

    async def work(session):
        while deliveries := await take(session, 3):
            got.extend(each.id for each in deliveries)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for session in (one, other, one, other):
                nursery.start_soon(work, session)
    assert len(got) == len(set(got)) == 200


async def test_publishes_of_many_tasks_are_one_statement_and_each_has_its_answer(pair):
    one, _ = pair
    answers = {}

    async def publish(id):
        (answers[id],) = await put(one, id)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(publish, f"m{number % 90}")
    assert {each.outcome for each in answers.values()} <= {Publishing.ACCEPTED, Publishing.EXISTING}
    assert (await one.stats("q")).ready == 90
