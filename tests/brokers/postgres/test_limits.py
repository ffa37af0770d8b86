"""Limits, measures, instants and holds where several sessions meet, and what they cost."""

from collections import Counter
from functools import partial

import pytest
import trio

from tests.brokers.postgres.kit import connect, end, message, new_broker, put, rows, take
from tests.brokers.postgres.test_races import while_user_waits
from trepid.brokers.postgres import leasing, passing
from trepid.ports.messages import Absent, Firing, Settlement
from trepid.rules.gates import Limit
from trepid.rules.life import Reply, State
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Done, Returned
from trepid.values.unique import Unique

GONE = Done(None, 0.0)


@pytest.fixture
async def sessions(postgres_server):
    broker = new_broker(postgres_server)
    async with broker.open() as one, broker.open() as two, broker.open() as three:
        await one.declare(["q"])
        yield [one, two, three]


@pytest.fixture
def user(postgres_server):
    """A transaction of somebody else, who takes his time between his statements and his commit."""
    with connect(postgres_server) as connection:
        yield connection


async def at_once(*operations):
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for operation in operations:
                nursery.start_soon(operation)


class Inside:
    """Who is inside of which gate, as far as the workers know; never more than there are."""

    def __init__(self):
        self.now, self.most, self.done = Counter(), Counter(), []

    async def work(self, session, owner):
        while deliveries := await take(session, 4, owner=owner, wait=1.0):
            for each in deliveries:
                self.now[each.gate] += 1
                self.most[each.gate] = max(self.most[each.gate], self.now[each.gate])
            self.most[""] = max(self.most[""], sum(self.now.values()))
            await trio.lowlevel.checkpoint()
            for number, each in enumerate(deliveries):
                self.now[each.gate] -= 1
                await end(session, [each], Returned() if number == 3 else GONE)
                self.done += [] if number == 3 else [each.id]


async def test_many_workers_never_exceed_a_limit(sessions):
    await sessions[0].limit([Limit("q", concurrency=5), Limit("q", "a", concurrency=2)])
    await put(sessions[0], *(f"x{n}" for n in range(25)), gate="a:x")
    await put(sessions[1], *(f"y{n}" for n in range(25)), gate="a:y")
    await put(sessions[2], *(f"z{n}" for n in range(25)))
    inside = Inside()
    await at_once(*(partial(inside.work, session, f"w{n}") for n, session in enumerate(sessions * 2)))
    assert sorted(inside.done) == sorted(f"{letter}{n}" for letter in "xyz" for n in range(25))
    assert inside.most["a:x"] <= 2
    assert inside.most["a:y"] <= 2
    assert inside.most[""] <= 5


async def test_many_workers_never_exceed_a_rate(sessions):
    await sessions[0].limit([Limit("q", count=20, per=3600.0), Limit("q", "a", count=7, per=3600.0)])
    await put(sessions[0], *(f"x{n}" for n in range(30)), gate="a")
    await put(sessions[0], *(f"z{n}" for n in range(30)))
    started = []

    async def work(session):
        for _ in range(8):
            deliveries = await take(session, 2)
            started.extend(each.gate for each in deliveries)
            await end(session, deliveries, GONE)

    await at_once(*(partial(work, session) for session in sessions * 2))
    assert Counter(started) == {"a": 7, None: 13}


async def test_many_publishers_never_exceed_a_measure(sessions):
    await sessions[0].limit([Limit("q", max_size=50)])
    outcomes = Counter()

    async def publish(number):
        session = sessions[number % 3]
        for batch in range(5):
            published = await put(session, *(f"m{number}-{batch}-{n}" for n in range(1 + number % 3)))
            outcomes.update(each.outcome for each in published)

    await at_once(*(partial(publish, number) for number in range(12)))
    assert outcomes[Publishing.FULL] > 0
    stats = await sessions[0].stats("q")
    assert stats.ready == outcomes[Publishing.ACCEPTED]
    assert 48 <= stats.ready <= 50, "a batch of three did not fit, perhaps"


@pytest.mark.parametrize("commits", [True, False])
async def test_the_last_place_is_in_somebodys_transaction(sessions, user, commits):
    one, two, _ = sessions
    await one.limit([Limit("q", max_size=1)])
    assert one.publish_in(user, [message("a")])[0].outcome is Publishing.ACCEPTED
    then = user.commit if commits else user.rollback
    (published,) = await while_user_waits(user, partial(put, two, "b"), then=then)
    assert published.outcome is (Publishing.FULL if commits else Publishing.ACCEPTED)
    assert one.publish_in(user, [message("c")])[0].outcome is Publishing.FULL


async def test_crossing_publishes_to_bounded_queues_end(sessions):
    """Who holds one queue never waits for another that is held by one who waits for him."""
    await sessions[0].declare(["a", "b"])
    await sessions[0].limit([Limit(queue, max_size=1000) for queue in "ab"])

    async def publish(session, number, *queues):
        for n in range(10):
            for queue in queues:
                await put(session, f"m{number}-{n}", queue=queue)

    with trio.fail_after(20):
        await at_once(*(partial(publish, session, n, *"ab"[:: (-1) ** n]) for n, session in enumerate(sessions * 4)))
    assert [(await sessions[0].stats(queue)).ready for queue in "ab"] == [120, 120]
    assert sum(session.statistics().busy_retries for session in sessions) == 0


async def test_an_instant_is_fired_by_one_of_many(sessions):
    outcomes = {}

    async def fire(number):
        firings = [
            Firing("q", f"s{n % 2}", 1000.0 + n, message(f"m{n}", token=("schedule", n))) for n in range(number % 3, 10)
        ]
        for firing, published in zip(firings, await sessions[number % 3].fire(firings), strict=True):
            outcomes.setdefault((firing.mark, firing.instant), []).append(published.outcome)

    await at_once(*(partial(fire, number) for number in range(9)))
    for some in outcomes.values():
        assert some.count(Publishing.ACCEPTED) <= 1
        assert set(some) <= {Publishing.ACCEPTED, Publishing.DUPLICATE}
    accepted = sum(some.count(Publishing.ACCEPTED) for some in outcomes.values())
    assert (await sessions[0].stats("q")).ready == accepted
    assert await sessions[0].marks("q") == {"s0": 1008.0, "s1": 1009.0}


async def test_a_limit_waits_for_who_leases_without_it(sessions):
    """The lease is taken and not yet committed; whoever comes after the limit counts it."""
    one, two, three = sessions
    await put(one, *"abcd", gate="a")
    await one.now()
    writer = one._writer_engine
    claim = leasing.lease(writer.begin(), leasing.Wish(["q"], 2, 60.0, "w", [0]), 0.0)
    assert len(claim.found) == 2
    limited = trio.Event()

    async def limit():
        await two.limit([Limit("q", "a", concurrency=3)])
        limited.set()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(limit)
            with connect_to(one) as looking:
                await blocked_by(looking, writer._link.info.backend_pid)
            assert not limited.is_set()
            writer.commit()
    assert len(await take(three)) == 1


def connect_to(session):
    return connect(Server(session._address.conninfo), autocommit=True)


class Server:
    def __init__(self, url):
        self.url = url


async def blocked_by(connection, pid):
    while not connection.execute(
        "SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))", (pid,)
    ).fetchall():
        await trio.sleep(0.005)


async def test_the_same_limit_again_keeps_nobody_waiting(sessions):
    one, two, _ = sessions
    limits = [Limit("q", "a", concurrency=1), Limit("q", count=9, per=5, max_size=7, weight=2), Limit("q", "b")]
    await one.limit(limits)
    await one.now()
    writer = one._writer_engine
    leasing.lease(writer.begin(), leasing.Wish(["q"], 1, 60.0, "w", [0]), 0.0)
    with trio.fail_after(20):  # it would wait for the commit below
        await two.limit(limits)
    writer.commit()


async def test_who_settles_in_his_own_transaction_makes_room_with_it(sessions, user):
    one, two, _ = sessions
    await one.limit([Limit("q", "a", concurrency=1)])
    await put(one, "m", "n", gate="a")
    (held,) = await take(one)
    assert one.settle_in(user, Settlement(held.ref, GONE)) is Reply.APPLIED
    assert await take(two) == []
    got = []

    async def wait():
        got.extend(await take(two, wait=60.0))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            asked = two.statistics().requests
            nursery.start_soon(wait)
            while two.statistics().requests == asked:
                await trio.sleep(0.005)
            user.commit()
    assert [each.id for each in got] == ["n"]


async def test_who_is_held_by_somebody_is_passed_over(sessions, user):
    one = sessions[0]
    await one.limit([Limit("q", "a", concurrency=3)])
    await put(one, *"abcde", gate="a")
    user.execute(f"SELECT FROM {one._address.schema}.messages WHERE id IN ('a', 'c') FOR UPDATE")
    assert [each.id for each in await take(one, 2)] == ["b", "d"]
    user.rollback()
    assert [each.id for each in await take(one)] == ["a"]


async def test_of_thousands_of_gates_each_has_its_turn(sessions):
    one = sessions[0]
    number = 2 * passing.AT_ONCE + 50
    await one.limit([Limit("q", "a", concurrency=1)])
    for letter in "xy":
        await one.publish([message(f"{letter}{n}", gate=f"a:{n:05}") for n in range(number)])
    got = []
    while deliveries := await take(one, 100):
        got += deliveries
    assert sorted(each.id for each in got) == sorted(f"x{n}" for n in range(number))
    # All but one are closed, and that one is found, wherever it is.
    await end(one, [got[-1]], GONE)
    assert [each.id for each in await take(one)] == [got[-1].id.replace("x", "y")]


async def test_a_gate_is_looked_at_once_in_a_round(sessions):
    """A look that goes on where the last one ended comes round to its beginning, and no further."""
    one = sessions[0]
    await one.limit([Limit("q", "b", count=1, per=3600.0)])
    await one.publish([message(f"a{n}", gate=f"a:{n:03}", priority=9) for n in range(passing.AT_ONCE)])
    await put(one, "b0", "b1", "b2", gate="b")
    assert len(await take(one, passing.AT_ONCE)) == passing.AT_ONCE
    assert [each.id for each in await take(one)] == ["b0"]


async def test_a_queue_whose_limits_were_lifted_goes_the_short_way_again(sessions):
    one = sessions[0]
    await one.limit([Limit("q", "a", concurrency=1, count=5, per=60.0)])
    await put(one, "a", gate="a")
    await end(one, await take(one), GONE)
    assert limited(one) == [(True,)]
    await one.limit([Limit("q", "a")])
    assert limited(one) == [(True,)], "who looks next lifts it, with what had started"
    await put(one, "b")
    assert [each.id for each in await take(one)] == ["b"]
    assert limited(one) == [(False,)]
    assert rows(Server(one._address.conninfo), f"SELECT FROM {one._address.schema}.starts") == []


def limited(session):
    return rows(Server(session._address.conninfo), f"SELECT limited FROM {session._address.schema}.queues")


async def test_everything_of_a_queue_ends_with_it(sessions):
    one = sessions[0]
    await one.limit([Limit("q", count=5, per=3600.0, max_size=9, weight=3)])
    await one.fire([Firing("q", "s", 1.0, message("m", unique=Unique("k", for_=60)))])
    await end(one, await take(one), GONE)
    await one.delete("q")
    for table in ("limits", "starts", "marks"):
        assert rows(Server(one._address.conninfo), f"SELECT FROM {one._address.schema}.{table}") == []
    await one.declare(["q"])
    assert (await put(one, "n", unique=Unique("k")))[0].outcome is Publishing.ACCEPTED


@pytest.mark.parametrize("commits", [True, False])
async def test_a_key_that_somebody_is_about_to_hold(sessions, user, commits):
    one, two, three = sessions
    kept = Unique("k", for_=3600)
    one.publish_in(user, [message("m", unique=kept)])
    then = user.commit if commits else user.rollback
    (published,) = await while_user_waits(user, partial(put, two, "n", unique=kept), then=then)
    assert (published.outcome, published.id) == ((Publishing.EXISTING, "m") if commits else (Publishing.ACCEPTED, "n"))
    await end(three, await take(three), GONE)
    (again,) = await put(three, "o", unique=Unique("k"))
    assert (again.outcome, again.id) == (Publishing.EXISTING, published.id), "it is gone, and its key is not free"
    assert await take(one) == []


async def test_many_ends_are_one_look(sessions):
    one, two, _ = sessions
    ids = [f"m{n}" for n in range(1000)]
    await put(one, *ids, "late")
    assert await one.endings("q", ids) == {}
    deliveries = await take(one, 3)
    got = {}

    async def wait():
        got.update(await two.endings("q", [*ids, "gone"], wait=0.0))
        assert got.pop("gone") is Absent.GONE
        got.update(await two.endings("q", ids, wait=60.0))

    reads = two.statistics().reads
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            while two.statistics().reads < reads + 2:
                await trio.sleep(0.005)
            await end(one, deliveries)
    assert got.keys() == {"m0", "m1", "m2"}
    assert {ending.state for ending in got.values()} == {State.DONE}
    assert two.statistics().reads - reads <= 5


async def test_a_batch_that_replaces_its_own(sessions):
    one = sessions[0]
    batch = [message(id, unique=Unique("k", "replace")) for id in "abc"]
    assert [each.outcome for each in await one.publish(batch)] == [Publishing.ACCEPTED] * 3
    assert [each.id for each in await take(one)] == ["c"]
    assert (await one.get("q", "a")).reason == "replaced by b"


async def test_a_key_with_a_zero_in_it(sessions):
    one = sessions[0]
    await put(one, "a", unique=Unique("k\0", for_=60))
    (published,) = await put(one, "b", unique=Unique("k\0"))
    assert (published.outcome, published.id) == (Publishing.EXISTING, "a")
    await one.fire([Firing("q", "m\0", 1.0)])
    assert (await one.fire([Firing("q", "m\0", 1.0)]))[0].outcome is Publishing.DUPLICATE
