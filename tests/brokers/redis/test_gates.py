"""Limits, schedules and keys that outlive their message, where Redis has ways of its own to keep them."""

import itertools
import random
from collections import Counter

import msgspec
import pytest
import trio
import trio.testing

from tests.brokers.redis.steps import publications, settled
from trepid.brokers.redis import RedisBroker
from trepid.brokers.redis.scripts import LEASE
from trepid.ports.messages import Absent, Ending, Firing, Publication, Settlement
from trepid.ports.records import Write
from trepid.rules.gates import Limit
from trepid.rules.life import Reply, State
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Buried, Done, Failed, Failure, Returned
from trepid.values.unique import Unique

OOPS = Failure("ValueError", "oops")
TOKENS = itertools.count()


def behind(gate, *ids, queue="q", **fields):
    """Return messages that have to pass a gate."""
    return [Publication(queue, id, ("gates", next(TOKENS)), b"{}", gate=gate, **fields) for id in ids]


def ids(deliveries):
    return [each.id for each in deliveries]


async def keys_of(session, queue):
    """Return the keys of a queue, but for those that go by themselves."""
    engine = session._engine
    base = engine.keys.meta(queue).removesuffix("meta")
    found = await engine.servers.call("", "KEYS", base.replace("{", "\\{") + "*")
    names = {key.decode().removeprefix(base) for key in found}
    return {name for name in names if not name.startswith(("gone:", "grave"))}


async def test_limits_hold_at_every_moment_whoever_leases_settles_crashes_and_renews(redis_server):
    """Six sessions at once: what is inside a gate is never more than its limit, and all get through in the end."""
    url, draw = redis_server.new_database(), random.Random(3)
    limits = [Limit("q", "a", concurrency=3), Limit("q", "b", concurrency=1), Limit("q", concurrency=7)]
    inside: Counter[str] = Counter()
    done: list[str] = []
    async with RedisBroker(url).open() as first:
        await first.declare(["q"])
        await first.limit(limits)
        for n in range(100):
            await first.publish(behind(("a", "b:x", "b:y", None)[n % 4], f"m{n}", priority=n % 3))

        def enter(delivery):
            inside[delivery.gate or ""] += 1
            assert inside["a"] <= 3, "too many behind a"
            assert max(inside["b:x"], inside["b:y"]) <= 1, "too many behind one key of b"
            assert inside.total() <= 7, "too many of the queue"

        async def work(number):
            async with RedisBroker(url).open() as session:
                while len(done) < 100:
                    for delivery in await session.lease(["q"], 2, 60.0, owner=f"w{number}", wait=1.0):
                        enter(delivery)
                        await session.extend([delivery.ref], 90.0)
                        # Out before it is told: in between, others may come in.
                        inside[delivery.gate or ""] -= 1
                        verdict = draw.choice((Done(b"1", 9.0), Done(None, 0.0), Returned(), Failed(OOPS, 0.0)))
                        assert await session.settle([Settlement(delivery.ref, verdict)]) == [Reply.APPLIED]
                        done.extend([delivery.id] * isinstance(verdict, Done))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(work, number)
        assert len(set(done)) == 100
        stats = await first.stats("q")
        assert (stats.ready, stats.leased) == (0, 0)
        assert not {"running", "gates", "gated", "heads"} & await keys_of(first, "q")


async def test_many_fire_the_same_instants_and_each_becomes_one_message(redis_server):
    url = redis_server.new_database()
    outcomes: Counter[Publishing] = Counter()

    async def fire(session):
        for instant in range(1, 21):
            item = Publication("q", f"nightly-{instant}", ("schedule", instant), b"{}")
            (published,) = await session.fire([Firing("q", "nightly", float(instant), item)])
            outcomes[published.outcome] += 1

    async with RedisBroker(url).open() as first:
        await first.declare(["q"])
        async with trio.open_nursery() as nursery:

            async def one():
                async with RedisBroker(url).open() as session:
                    await fire(session)

            for _ in range(6):
                nursery.start_soon(one)
        assert outcomes == {Publishing.ACCEPTED: 20, Publishing.DUPLICATE: 100}
        assert await first.marks("q") == {"nightly": 20.0}
        assert (await first.stats("q")).ready == 20


async def test_an_instant_is_fired_once_also_when_the_server_has_forgotten_its_publish(redis_server):
    """Which publishes are gone is remembered in keys that expire by the server's own time; here by hand."""
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        firing = Firing("q", "nightly", 1.0, Publication("q", "nightly-1", ("schedule", 1), b"{}"))
        assert [each.outcome for each in await session.fire([firing])] == [Publishing.ACCEPTED]
        assert await settled(session, await session.lease(["q"], 1, 60.0, owner="me")) == 1
        call = session._engine.servers.call
        remembered = [*await call("", "KEYS", "*:gone:*"), *await call("", "KEYS", "*:grave*")]
        assert remembered
        await call("", "DEL", *remembered)
        assert [each.outcome for each in await session.fire([firing])] == [Publishing.DUPLICATE]
        assert (await session.stats("q")).live == 0


async def test_more_gates_than_are_read_at_once_keep_the_order(redis_server):
    """The index of gates is read in portions, and who comes next behind each is found between the others."""
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        draw, gates = random.Random(4), [None, *(f"g:{n}" for n in range(200))]
        for n in range(0, 600, 20):
            await session.publish([each for i in range(n, n + 20) for each in behind(draw.choice(gates), f"m{i:03}")])
        got = []
        for limit in (1, 150, 3, 400, 100):
            got += ids(await session.lease(["q"], limit, 60.0, owner="me"))
        assert got == [f"m{n:03}" for n in range(600)]


def seconds_to_lease(server, gates):
    """Return the server's own time for leasing and settling 10 messages, beside so many full gates."""

    async def measure():
        async with RedisBroker(server.new_database()).open() as session:
            await session.declare(["q"])
            await session.limit([Limit("q", "g", concurrency=1)])
            for first in range(0, gates, 250):
                some = range(first, min(first + 250, gates))
                await session.publish([each for n in some for each in behind(f"g:{n}", f"a{n}", f"b{n}", priority=9)])
            while await session.lease(["q"], 1000, 600.0, owner="me"):
                pass
            await session.publish(publications("q", 1000))
            await trio.to_thread.run_sync(server.command, "CONFIG", "RESETSTAT")
            for _ in range(100):
                assert await settled(session, await session.lease(["q"], 10, 60.0, owner="me")) == 10
            lines = (await trio.to_thread.run_sync(server.command, "INFO", "commandstats")).splitlines()
            (line,) = [line for line in lines if line.startswith("cmdstat_evalsha:")]
            return int(line.partition("usec=")[2].partition(",")[0]) / 1e6

    return measure


async def test_thousands_of_full_gates_are_in_nobodys_way(own_redis):
    server = own_redis(durable=False)
    # Interleaved, and the best of each: others use the machine, too.
    few, many = [], []
    for _ in range(3):
        few.append(await seconds_to_lease(server, 5)())
        many.append(await seconds_to_lease(server, 3000)())
    # Looking at every gate would cost a hundred times as much.
    assert min(many) < 2.5 * min(few), (few, many)


async def test_a_limit_that_comes_late_is_met_in_steps(redis_server):
    """Thousands of gates that are found full at once are shut by some calls, none of which keeps others waiting."""
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        for first in range(0, 3000, 500):
            await session.publish([each for n in range(first, first + 500) for each in behind(f"g:{n}", f"a{n}")])
        held = []
        while more := await session.lease(["q"], 2500, 600.0, owner="me"):
            held += more
        assert len(held) == 3000
        for first in range(0, 3000, 500):
            await session.publish([each for n in range(first, first + 500) for each in behind(f"g:{n}", f"b{n}")])
        await session.limit([Limit("q", "g", concurrency=1)])
        free = publications("q", 2)
        await session.publish(free)
        packed, *granted = await session._engine.run(LEASE, ["q"], 10, 60.0, "me", 1, False)
        assert not granted
        assert msgspec.msgpack.decode(packed)[2] == 0, "it wants to be called again at once"
        assert await session._engine.servers.call("", "ZCARD", "{trepid:q}:shut") == 1000
        # All that waits before a gate was published before these.
        assert ids(await session.lease(["q"], 10, 60.0, owner="me")) == [each.id for each in free]
        assert await session._engine.servers.call("", "ZCARD", "{trepid:q}:shut") == 3000
        assert await settled(session, held[5:8]) == 3
        assert ids(await session.lease(["q"], 10, 60.0, owner="me")) == [f"b{each.id[1:]}" for each in held[5:8]]
        await session.limit([Limit("q", "g")])
        assert len(await session.lease(["q"], 2500, 60.0, owner="me")) == 2500


async def test_a_limit_opens_the_gates_of_its_family_and_no_others(redis_server):
    """Beside many thousands that are shut, a new limit for something else would keep the whole server waiting."""
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        await session.limit([Limit("q", "a", concurrency=1), Limit("q", "b", concurrency=1)])
        for gate in ("a:x", "a:y", "b:x"):
            await session.publish(behind(gate, f"{gate}1", f"{gate}2"))
        assert len(await session.lease(["q"], 10, 60.0, owner="me")) == 3
        assert await session.lease(["q"], 10, 60.0, owner="me") == []

        async def shut():
            return await session._engine.servers.call("", "ZRANGE", "{trepid:q}:shut", 0, -1)

        assert sorted(await shut()) == [b"a:x", b"a:y", b"b:x"]
        await session.limit([Limit("q", concurrency=100), Limit("q", "c", concurrency=1)])
        assert len(await shut()) == 3
        await session.limit([Limit("q", "a", concurrency=2)])
        assert await shut() == [b"b:x"]
        assert ids(await session.lease(["q"], 10, 60.0, owner="me")) == ["a:x2", "a:y2"]


async def test_nothing_is_left_of_a_queue_that_is_deleted(redis_server):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        await session.limit([Limit("q", "a", concurrency=1, count=5, per=60.0), Limit("q", max_size=50, count=9)])
        await session.publish(behind("a:x", "1", "2", priority=9))
        await session.publish(behind("a:y", "3", unique=Unique("k", for_=600.0)))
        await session.publish(behind("b", "4", delay=600.0))
        await session.fire([Firing("q", "nightly", 1.0)])
        held = await session.lease(["q"], 10, 60.0, owner="me")
        assert await session.lease(["q"], 10, 60.0, owner="me") == []
        assert {"shut", "heads", "running", "starts:a:x", "starts:", "kept", "marks"} <= await keys_of(session, "q")
        assert await settled(session, held) == len(held) == 2
        await session.delete("q")
        assert await keys_of(session, "q") == set()


@pytest.mark.parametrize("leased", [False, True], ids=["waiting", "leased"])
async def test_a_damaged_record_gives_its_place_at_the_gate_back(redis_server, leased):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        await session.limit([Limit("q", "a", concurrency=1)])
        await session.publish(behind("a", "bad", "good"))
        if leased:
            assert ids(await session.lease(["q"], 5, 60.0, owner="me")) == ["bad"]
        await session._engine.servers.call("", "HSET", "{trepid:q}:life", "bad", b"\xc1")
        view = await session.get("q", "bad")
        assert (view.state, view.reason, view.gate) == (State.DEAD, "undecodable", "a")
        (good,) = await session.lease(["q"], 5, 60.0, owner="me")
        assert await session.requeue("q", ["bad"]) == 1
        assert await session.lease(["q"], 5, 60.0, owner="me") == []
        assert await settled(session, [good]) == 1
        assert ids(await session.lease(["q"], 5, 60.0, owner="me")) == ["bad"]


async def test_what_time_has_ended_takes_no_room(redis_server):
    clock = [1000.0]
    async with RedisBroker(redis_server.new_database(), clock=lambda: clock[0]).open() as session:
        await session.declare(["q"])
        await session.limit([Limit("q", max_size=1500)])
        await session.publish(publications("q", 1490, ttl=1.0))
        await session.publish(publications("q", 10, max_crashes=1))
        assert len(await session.lease(["q"], 5, 1.0, owner="me")) == 5
        assert {each.outcome for each in await session.publish(publications("q", 1))} == {Publishing.FULL}
        clock[0] += 10
        # What was leased was of those with a ttl, and comes back without one.
        assert {each.outcome for each in await session.publish(publications("q", 1486))} == {Publishing.FULL}
        assert {each.outcome for each in await session.publish(publications("q", 1485))} == {Publishing.ACCEPTED}


async def test_what_is_over_is_not_kept_for_ever(redis_server):
    clock = [1000.0]
    async with RedisBroker(redis_server.new_database(), clock=lambda: clock[0]).open() as session:
        await session.declare(["q"])
        for n in range(50):
            (item,) = publications("q", 1, unique=Unique(f"k{n}", for_=5.0))
            await session.publish([item])
            await settled(session, await session.lease(["q"], 1, 60.0, owner="me"))
        assert await session._engine.servers.call("", "HLEN", "{trepid:q}:kept") == 50
        clock[0] += 10
        for n in range(50, 60):
            await session.publish(publications("q", 1, unique=Unique(f"k{n}", for_=5.0)))
        assert await session._engine.servers.call("", "HLEN", "{trepid:q}:kept") == 10


async def test_what_has_its_time_goes_by_itself_where_nobody_comes_any_more(redis_server):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        for key, for_ in (("a", 50.0), ("b", 300.0), ("c", 5.0)):
            await session.publish(publications("q", 1, unique=Unique(key, for_=for_)))
        for key in ("kept", "kept:ends"):
            assert 300 <= await session._engine.servers.call("", "TTL", f"{{trepid:q}}:{key}") <= 400
        await session.limit([Limit("q", "a", count=9, per=200.0), Limit("q", "b", count=9, per=5.0)])
        await session.publish(behind("a", "slow"))
        await session.lease(["q"], 10, 60.0, owner="me")
        await session.publish(behind("b", "fast"))
        await session.lease(["q"], 10, 60.0, owner="me")
        for key in ("rated", "starts:a"):
            assert 200 <= await session._engine.servers.call("", "TTL", f"{{trepid:q}}:{key}") <= 300


async def test_endings_of_a_thousand_come_together_and_large_ones_in_portions(redis_server):
    url = redis_server.new_database()
    async with RedisBroker(url).open() as session, RedisBroker(url).open() as other:
        await session.declare(["q"])
        batch = publications("q", 1500)
        names = [each.id for each in batch]
        await session.publish(batch)
        assert await session.endings("q", names) == {}
        assert await session.endings("q", ["nothing", *names]) == {"nothing": Absent.GONE}
        held = await session.lease(["q"], 1500, 60.0, owner="me")
        found = {}

        async def wait():
            found.update(await session.endings("q", names, wait=20.0))

        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                while not await session._engine.servers.call("", "EXISTS", "{trepid:q}:watched"):
                    await trio.sleep(0.01)
                assert await settled(other, held[700:701], keep=60.0) == 1
        assert found == {names[700]: Ending(State.DONE, b"1")}
        large = [Settlement(each.ref, Done(bytes([n]) * (1 << 20), 60.0)) for n, each in enumerate(held[:12])]
        await session.settle(large)
        await session.settle([Settlement(held[20].ref, Buried(OOPS))])
        await settled(session, held[21:22])
        found = await session.endings("q", names)
        assert {id: found[id].result for id in names[:12]} == {
            id: bytes([n]) * (1 << 20) for n, id in enumerate(names[:12])
        }
        assert found.keys() == {*names[:12], names[700], names[20], names[21]}
        assert (found[names[20]].state, found[names[20]].error.type) == (State.DEAD, "ValueError")
        assert found[names[21]] is Absent.GONE


async def test_who_waits_for_a_record_to_change_is_told(redis_server):
    url, values = redis_server.new_database(), []
    async with RedisBroker(url).open() as session, RedisBroker(url).open() as other:
        assert await session.records.changed("k", b"x", wait=0.0) is None

        async def follow():
            while values[-1:] != [b"19"]:
                values.append(await session.records.changed("k", values[-1] if values else None, wait=20.0))

        # The next look without a bell would come after a second: nineteen of them, too late.
        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                await trio.testing.wait_all_tasks_blocked(0.1)
                for n in range(20):
                    await other.records.carry_out([Write("other", b"0", None), Write("k", b"%d" % n, 60.0)])
                    while values[-1:] != [b"%d" % n]:
                        await trio.sleep(0.001)
        assert values == [b"%d" % n for n in range(20)]
        stored = await session._engine.servers.call("", "KEYS", "*")
        assert sorted(stored) == [b"{trepid}:record:k", b"{trepid}:record:other"], "as the guide says"


async def test_what_an_earlier_version_has_stored_is_read(redis_server):
    """Before there were gates a life had 29 entries at most, and a queue no more than these keys."""
    pack, now = msgspec.msgpack.encode, 1000.0
    fresh = [0, 1, now, 0, 5, now, "p", 1, False, False, False, False]
    leased = [1, 2, now, 1, 5, now, "p", 2, False, False, False, False, "old", now + 60]
    back = [0, 3, now, 2, 5, now, "p", 3, 4, 50.0, False, "k", False, 0, "F", 2, False, False, 1, 0, 1, 0, 0, 0, 0]
    dead = [
        3,
        4,
        now,
        1,
        5,
        now,
        "p",
        4,
        False,
        False,
        False,
        False,
        False,
        now,
        "B",
        1,
        now,
        False,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
    ]
    lives = {"fresh": fresh, "leased": leased, "back": [*back, now, False, False, False], "dead": dead}
    lives["dead"] += [False, "buried", False, False]
    async with RedisBroker(redis_server.new_database(), clock=lambda: now).open() as session:

        async def do(*words):
            await session._engine.servers.call("", words[0], words[1].replace("q:", "{trepid:q}:"), *words[2:])

        await do("SADD", "{trepid}:queues", "q")
        await do("HSET", "{trepid}:head", "clock", now, "seq", 4)
        await do("HSET", "q:meta", "declared", "q")
        for id, life in lives.items():
            await do("HSET", "q:life", id, pack(life))
            await do("HSET", "q:body", id, b"{}")
        for id in ("fresh", "back"):
            await do("ZADD", "q:lane:5", now, f"{lives[id][1]:016}{id}")
            await do("ZADD", "q:waiting", lives[id][1], id)
        await do("ZADD", "q:lanes", -5, 5)
        await do("ZADD", "q:leased", now + 60, "leased")
        await do("ZADD", "q:dead", 4, "dead")
        await do("HSET", "q:uniques", "k", "back")

        views = {id: await session.get("q", id) for id in lives}
        assert [(view.state, view.gate) for view in views.values()] == [
            (State.READY, None), (State.LEASED, None), (State.READY, None), (State.DEAD, None),
        ]  # fmt: skip
        (conflict,) = await session.publish(publications("q", 1, unique=Unique("k")))
        assert (conflict.outcome, conflict.id) == (Publishing.EXISTING, "back")
        await session.limit([Limit("q", concurrency=3)])
        assert await session.requeue("q") == 1
        got = await session.lease(["q"], 10, 60.0, owner="me")
        assert [(each.id, each.failures, each.gate) for each in got] == [("fresh", 0, None), ("back", 1, None)]
        (old,) = await session.held("old")
        assert await session.settle([Settlement(old, Returned(gate="a", started=False))]) == [Reply.APPLIED]
        assert await settled(session, got) == 2
        got = await session.lease(["q"], 10, 60.0, owner="me")
        assert [(each.id, each.gate) for each in got] == [("leased", "a"), ("dead", None)]
        assert await settled(session, got) == 2
