"""Records that somebody's hand has damaged, and amounts that nobody expects."""

import msgspec
import pytest
import trio

from tests.brokers.redis.steps import publications, settled
from trepid.brokers.redis import RedisBroker
from trepid.brokers.redis.publishing import portions
from trepid.brokers.redis.scripts import LEASE
from trepid.ports.messages import Settlement
from trepid.rules.gates import Limit
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Buried, Done, Failure


async def damage(session, queue, id, blob):
    """Overwrite the record of a message."""
    key = session._engine.keys.meta(queue).replace(":meta", ":life")
    await session._engine.servers.call(key, "HSET", key, id, blob)


BLOBS = [b"", b"\xc1", b"hello", b"\x91\x00", b"\x9c" + 12 * b"\xa1x", b"\x80", b"\xc0" * 3, bytes(5000)]


@pytest.mark.parametrize("blob", BLOBS, ids=[str(n) for n in range(len(BLOBS))])
async def test_a_damaged_record_is_buried_with_its_payload_and_the_others_go_on(redis_server, blob):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        first, bad, last = publications("q", 3, payload=b'{"n":1}')
        await session.publish([first, bad, last])
        await damage(session, "q", bad.id, blob)
        got = await session.lease(["q"], 10, 60.0, owner="me")
        assert [each.id for each in got] == [first.id, last.id]
        view = await session.get("q", bad.id)
        assert (view.state, view.reason, view.payload) == (State.DEAD, "undecodable", b'{"n":1}')
        assert view.errors[0].type == "DamagedRecord"
        assert blob[:1000].hex() in view.errors[0].message
        assert (await session.stats("q")).ready == 0
        assert await session.requeue("q", [bad.id]) == 1
        (again,) = await session.lease(["q"], 10, 60.0, owner="me")
        assert (again.id, again.payload) == (bad.id, b'{"n":1}')
        assert await settled(session, [*got, again]) == 3
        stats = await session.stats("q")
        assert (stats.ready, stats.leased, stats.dead) == (0, 0, 0)


@pytest.mark.parametrize("requeued", [False, True], ids=["dead", "requeued"])
async def test_nothing_of_a_damaged_record_stays_when_it_is_purged(redis_server, requeued):
    """Not even its error, which the next message of the same id would inherit."""
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        (bad,) = batch = publications("q", 1)
        await session.publish(batch)
        await damage(session, "q", bad.id, b"\xc1")
        assert (await session.get("q", bad.id)).state is State.DEAD
        if requeued:
            assert await session.requeue("q") == 1
        assert await session.purge("q", [State.DEAD, State.READY]) == 1
        await session.publish([msgspec.structs.replace(bad, token=("another", 1))])
        assert (await session.get("q", bad.id)).errors == ()


LOOKS = ["get", "result", "peek", "peek leased", "held", "settle", "extend", "cancel", "publish"]


@pytest.mark.parametrize("look", LOOKS)
async def test_whoever_looks_first_buries_a_damaged_record(redis_server, look):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        (bad,) = batch = publications("q", 1)
        await session.publish(batch)
        leased = look not in ("peek", "get", "publish")
        if leased:
            (delivery,) = await session.lease(["q"], 1, 60.0, owner="me")
        await damage(session, "q", bad.id, b"\xc1")
        match look:
            case "get":
                assert (await session.get("q", bad.id)).state is State.DEAD
            case "result":
                assert (await session.result("q", bad.id)).state is State.DEAD
            case "peek":
                assert not (await session.peek("q", State.READY)).messages
            case "peek leased":
                assert not (await session.peek("q", State.LEASED)).messages
            case "held":
                assert not await session.held("me")
            case "settle":
                assert await session.settle([Settlement(delivery.ref, Done(None, 0.0))]) == [Reply.SUPERSEDED]
            case "extend":
                assert (await session.extend([delivery.ref], 60.0))[0].reply is Reply.SUPERSEDED
            case "cancel":
                await session.cancel("q", [bad.id], "why not")
            case "publish":
                await session.publish(batch)  # whose publish it was cannot be read, so this is a new one
                stats = await session.stats("q")
                assert (stats.ready, stats.dead) == (1, 0)
                return
        stats = await session.stats("q")
        assert (stats.ready, stats.leased, stats.dead) == (0, 0, 1)


async def test_what_is_no_longer_there_is_passed_over(redis_server):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        gone, kept = publications("q", 2)
        await session.publish([gone, kept])
        key = session._engine.keys.meta("q").replace(":meta", ":life")
        await session._engine.servers.call(key, "HDEL", key, gone.id)
        assert [each.id for each in await session.lease(["q"], 10, 60.0, owner="me")] == [kept.id]
        assert (await session.stats("q")).ready == 0


@pytest.mark.parametrize(("state", "gate"), [(State.READY, None), (State.READY, "g:1"), (State.DEAD, None)])
async def test_a_page_goes_on_behind_what_is_no_longer_there(redis_server, state, gate):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        batch = publications("q", 25, gate=gate)
        await session.publish(batch)
        if state is State.DEAD:
            buried = [
                Settlement(each.ref, Buried(Failure("E", "no"), "no"))
                for each in await session.lease(["q"], 25, 60.0, owner="me")
            ]
            assert await session.settle(buried) == [Reply.APPLIED] * 25
        call = session._engine.servers.call
        await call("", "HDEL", "{trepid:q}:life", *(each.id for each in batch[:20]))
        with trio.fail_after(5):
            page = await session.peek("q", state, limit=3)
        assert [view.id for view in page.messages] == [each.id for each in batch[20:23]]
        stats = await session.stats("q")
        assert (stats.ready, stats.scheduled, stats.dead) == ((0, 0, 5) if state is State.DEAD else (5, 0, 0))
        if state is State.READY:
            assert len(await session.lease(["q"], 25, 60.0, owner="me")) == 5


@pytest.mark.parametrize("key", ["leased", "ttl", "forget"])
async def test_what_is_no_longer_there_is_not_looked_for_again(redis_server, key):
    """As if the server had thrown the records away, and kept the times at which something is to happen to them."""
    clock = [1000.0]
    async with RedisBroker(redis_server.new_database(), clock=lambda: clock[0]).open() as session:
        await session.declare(["q"])
        await session.limit([Limit("q", max_size=150), Limit("q", "a", concurrency=150)])
        await session.publish(publications("q", 150, ttl=5.0, gate="a"))
        if key != "ttl":
            got = await session.lease(["q"], 150, 5.0, owner="me")
        if key == "forget":
            await settled(session, got, keep=5.0)
        life = session._engine.keys.meta("q").replace(":meta", ":life")
        await session._engine.servers.call(life, "DEL", life)
        clock[0] += 10
        with trio.fail_after(5):
            await session.publish(publications("q", 1))
            await session.stats("q")
            await session.lease(["q"], 1, 5.0, owner="me")
            (again,) = batch = publications("q", 1, gate="a")
            assert (await session.publish(batch))[0].outcome is Publishing.ACCEPTED
            assert again.id in [each.id for each in await session.lease(["q"], 2, 5.0, owner="me")]


async def test_many_that_died_waiting_hide_nothing_and_keep_nobody_waiting(redis_server):
    """One call carries out a part of what time has decided; who asks for a message gets it in the end."""
    clock = [1000.0]
    async with RedisBroker(redis_server.new_database(), clock=lambda: clock[0]).open() as session:
        await session.declare(["q"])
        for _ in range(5):
            await session.publish(publications("q", 1000, ttl=1.0))
        (live,) = batch = publications("q", 1)
        await session.publish(batch)
        clock[0] += 10
        await session._engine.run(LEASE, ["q"], 10, 60.0, "me", 1, False)
        assert await session._engine.servers.call("", "ZCARD", "{trepid:q}:dead") <= 1100
        assert [each.id for each in await session.lease(["q"], 10, 60.0, owner="me")] == [live.id]
        assert (await session.stats("q")).dead == 5000


async def test_more_leases_than_a_script_may_return_at_once(redis_server):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        await session.publish(publications("q", 9000))
        got = []
        while deliveries := await session.lease(["q"], 2500, 60.0, owner="me"):
            got += deliveries
        page = await session.peek("q", State.LEASED, limit=150)
        ids = [view.id for view in page.messages]
        while page.cursor is not None and len(ids) < 450:
            page = await session.peek("q", State.LEASED, limit=150, after=page.cursor)
            ids += [view.id for view in page.messages]
        assert ids == [each.id for each in got[:450]]


async def test_pages_of_large_messages_come_over_a_connection_that_listens(redis_server):
    """A server gives up a connection that listens to channels once 32 MiB wait to be read."""
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        assert not await session.lease(["q"], 1, 60.0, owner="me", wait=0.01)
        for _ in range(10):
            await session.publish(publications("q", 4, payload=bytes(1 << 20)))
        with trio.fail_after(20):
            page = await session.peek("q", State.READY, limit=100)
        assert [len(view.payload) for view in page.messages] == [1 << 20] * 40


async def test_a_page_does_not_look_through_a_whole_queue_for_another_state(redis_server):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        await session.publish(publications("q", 2500))
        (late,) = batch = publications("q", 1, delay=600.0)
        await session.publish(batch)
        found, pages, page = [], 0, None
        while page is None or page.cursor is not None:
            page = await session.peek("q", State.SCHEDULED, after=None if page is None else page.cursor)
            found += [view.id for view in page.messages]
            pages += 1
        assert found == [late.id]
        assert pages == 3


async def test_long_lists_of_ids_are_carried_out_whole(redis_server):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        batch = publications("q", 1200)
        ids = [each.id for each in batch]
        await session.publish(batch)
        got = await session.lease(["q"], 1200, 60.0, owner="me")
        buried = [Settlement(each.ref, Buried(Failure("E"))) for each in got]
        assert await session.settle(buried) == [Reply.APPLIED] * 1200
        assert await session.requeue("q", ids[:700], limit=650) == 650
        assert await session.requeue("q", ids, limit=5000) == 550
        assert await session.cancel("q", ids, "why not") == [CancelReply.WITHDRAWN] * 1200
        assert await session.purge("q", [State.CANCELLED], ids, limit=5000) == 1200


async def test_large_results_travel_in_portions_and_follow_ups_with_the_first(redis_server):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await session.declare(["q"])
        await session.publish(publications("q", 40))
        got = await session.lease(["q"], 40, 60.0, owner="me")
        done = [Settlement(each.ref, Done(b"%07d" % n * 150_000, 60.0)) for n, each in enumerate(got)]
        assert await session.settle(done, then=publications("q", 1)) == [Reply.APPLIED] * 40
        assert (await session.stats("q")).ready == 1
        for n, each in enumerate(got):
            assert (await session.result("q", each.id)).result == b"%07d" % n * 150_000


def test_portions():
    assert list(portions([], len)) == []
    assert [len(each) for each in portions([b""] * 12_000, len)] == [5000, 5000, 2000]
    large = bytes(3 << 20)
    assert [len(each) for each in portions([large] * 5, len)] == [2, 2, 1]
    assert [len(each) for each in portions([bytes(9 << 20), b"", bytes(9 << 20)], len)] == [1, 1, 1]
