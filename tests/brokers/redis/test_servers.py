"""Servers as they are: closed, wrong, full, replaced, killed, silent."""

from functools import partial

import pytest
import trio

from tests.brokers.redis.steps import publications, settled
from tests.servers.proxy import open_proxy
from trepid.brokers.redis import RedisBroker
from trepid.errors import BrokerBusyError, BrokerFullError, BrokerLostError, BrokerRefusedError
from trepid.ports.messages import Absent
from trepid.rules.life import CancelReply, Reply
from trepid.rules.publishing import Publishing


async def refused(url):
    """Open a broker that must refuse; return what it says."""
    with trio.fail_after(10), pytest.raises(BrokerRefusedError) as caught:
        async with RedisBroker(url).open():
            pytest.fail("it was opened")
    return str(caught.value)


async def works(session, queue="q"):
    """Bring one message through its life."""
    await session.declare([queue])
    (published,) = await session.publish(publications(queue, 1))
    assert published.outcome is Publishing.ACCEPTED
    deliveries = await session.lease([queue], 1, 30.0, owner="me", wait=5.0)
    assert await settled(session, deliveries) == 1


async def until_it_works(session, queue="q"):
    """Repeat, as a worker does, until the broker is back."""
    with trio.fail_after(20):
        while True:
            try:
                return await works(session, queue)
            except BrokerLostError:
                await trio.sleep(0.05)


async def test_passwords(own_redis):
    server = own_redis(password="hunter2")
    async with RedisBroker(server.url).open() as session:
        await works(session)
    for secret in ("", ":wrong-one@"):
        said = await refused(f"redis://{secret}{server.host}:{server.port}")
        assert "wrong-one" not in said
        assert "NOAUTH" in said or "password" in said.lower() or "auth" in said.lower()


async def test_a_user_who_may_not_publish_in_channels_only_waits_longer(own_redis):
    server = own_redis(users={"worker": ">secret ~* +@all resetchannels"})
    url = f"redis://worker:secret@{server.host}:{server.port}"
    async with RedisBroker(url).open() as session, trio.open_nursery() as nursery:
        await session.declare(["q"])
        got = []

        async def wait():
            got.extend(await session.lease(["q"], 1, 30.0, owner="me", wait=20.0))

        nursery.start_soon(wait)
        await trio.sleep(0.1)
        await session.publish(publications("q", 1))
        with trio.fail_after(10):
            while not got:
                await trio.sleep(0.05)


async def test_a_user_who_may_not_do_what_we_need_is_told(own_redis):
    server = own_redis(users={"reader": ">secret ~* &* +@read +@connection +info"})
    async with RedisBroker(f"redis://reader:secret@{server.host}:{server.port}").open() as session:
        # CONFIG is forbidden, too.
        assert "CONFIG is forbidden" in session.capabilities.durability_proof
        with pytest.raises(BrokerRefusedError, match="evalsha"):
            await session.declare(["q"])


async def test_a_database_that_is_not_there(own_redis):
    server = own_redis(options={"databases": 2})
    assert "database 7" in await refused(server.database_url(7))


async def test_databases_and_prefixes_keep_brokers_apart(redis_server):
    one, two = redis_server.new_database(), redis_server.new_database()
    for other in (two, f"{one}?prefix=other"):
        async with RedisBroker(one).open() as left, RedisBroker(other).open() as right:
            await left.declare(["mine"])
            assert "mine" not in await right.queues()


async def test_tls(own_redis, certificates):
    server = own_redis(tls=True)
    trusted = f"{server.url}?ssl_ca_certs={certificates.ca}"
    async with RedisBroker(trusted).open() as session:
        await works(session)
    assert "certificate does not hold" in await refused(server.url)
    # The certificate is for 127.0.0.1 and localhost; this is another name of the same machine.
    said = await refused(f"rediss://127.1:{server.port}?ssl_ca_certs={certificates.ca}")
    assert "certificate does not hold" in said


async def test_tls_where_there_is_none(redis_server):
    url = f"rediss://{redis_server.host}:{redis_server.port}"
    with trio.fail_after(10), pytest.raises((BrokerRefusedError, BrokerLostError)):
        async with RedisBroker(url).open():
            pytest.fail("it was opened")


async def test_a_unix_socket(own_redis):
    server = own_redis(unix=True, password="se/cret")
    async with RedisBroker(server.url).open() as session:
        await works(session)


async def test_nobody_there():
    with pytest.raises(BrokerLostError, match="redis://127\\.0\\.0\\.1:1: nobody answers there"):
        async with RedisBroker("redis://127.0.0.1:1").open():
            pytest.fail("it was opened")


@pytest.mark.parametrize(
    ("options", "durability", "proof"),
    [
        ({}, "fsync", "appendfsync always"),
        ({"appendfsync": "everysec"}, "process", "up to a second"),
        ({"no-appendfsync-on-rewrite": "yes"}, "process", "no-appendfsync-on-rewrite yes"),
        ({"appendonly": "no"}, "none", "nothing is written"),
        ({"appendonly": "no", "save": "60 1"}, "none", "snapshots only"),
    ],
)
async def test_durability_is_read_from_the_server(own_redis, options, durability, proof):
    async with RedisBroker(own_redis(options=options).url).open() as session:
        assert session.capabilities.durability == durability
        assert proof in session.capabilities.durability_proof


async def test_a_server_that_throws_keys_away_is_refused(own_redis):
    server = own_redis(options={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"})
    assert "set it to noeviction" in await refused(server.url)
    async with RedisBroker(f"{server.url}?allow_eviction=1").open() as session:
        assert session.capabilities.durability == "none"
        await works(session)


async def test_a_replica_is_refused(own_redis):
    primary = own_redis()
    assert f"it is a replica of 127.0.0.1:{primary.port}" in await refused(own_redis(replica_of=primary).url)


async def test_a_full_memory_takes_nothing_and_can_be_drained(own_redis):
    server = own_redis(options={"maxmemory": "4mb"})
    async with RedisBroker(server.url).open() as session:
        await session.declare(["q"])
        stored = 0
        with pytest.raises(BrokerFullError, match="its memory is full"):
            for _ in range(100):
                await session.publish(publications("q", 4, payload=bytes(50_000)))
                stored += 4
        assert stored
        assert (await session.stats("q")).ready == stored
        got = []
        while deliveries := await session.lease(["q"], 10, 60.0, owner="me"):
            got += deliveries
            assert await settled(session, deliveries) == len(deliveries)
        assert len(got) == stored
        await works(session)


async def test_kill_and_restart(own_redis):
    server = own_redis()
    async with RedisBroker(server.url).open() as session:
        await session.declare(["q"])
        await session.publish(publications("q", 10))
        first = await session.lease(["q"], 4, 60.0, owner="me")
        server.kill()
        with trio.fail_after(10), pytest.raises(BrokerLostError):
            while True:
                await session.now()
        assert not session.connected
        await trio.to_thread.run_sync(server.start)
        with trio.fail_after(10):
            while not session.connected:
                await trio.sleep(0.02)
        # What was accepted and leased is there, and so is the memory of who holds it; scripts are loaded anew.
        assert len(await session.held("me")) == 4
        rest = await session.lease(["q"], 100, 60.0, owner="me")
        assert await settled(session, [*first, *rest]) == 10


async def test_a_killed_connection_is_made_again(redis_server):
    async with RedisBroker(redis_server.new_database()).open() as session:
        await works(session)
        await trio.to_thread.run_sync(redis_server.command, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until_it_works(session)


async def test_a_waiting_lease_survives_a_lost_bell(redis_server):
    """Who waits hears of the loss at once, and of work after it."""
    url = redis_server.new_database()
    async with (
        open_proxy(redis_server.host, redis_server.port) as proxy,
        RedisBroker(proxy.instead(url)).open() as session,
        RedisBroker(url).open() as other,
    ):
        await session.declare(["q"])
        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:

                async def wait():
                    while True:
                        try:
                            deliveries = await session.lease(["q"], 1, 30.0, owner="me", wait=3600.0)
                        except BrokerLostError:
                            continue
                        assert await settled(session, deliveries) == 1
                        return

                nursery.start_soon(wait)
                await trio.sleep(0.2)
                proxy.reset()
                await trio.sleep(0.2)
                await other.publish(publications("q", 1))


async def test_a_server_that_falls_silent_is_given_up(redis_server):
    async with (
        open_proxy(redis_server.host, redis_server.port) as proxy,
        RedisBroker(proxy.instead(redis_server.new_database())).open() as session,
    ):
        await session.declare(["q"])
        proxy.black_hole(True)
        with trio.fail_after(15), pytest.raises(BrokerLostError, match="silent for"):
            await session.lease(["q"], 1, 30.0, owner="me", wait=3600.0)
        proxy.black_hole(False)
        await until_it_works(session)


async def test_a_lost_reply_is_repeated_in_peace(redis_server):
    async with (
        open_proxy(redis_server.host, redis_server.port) as proxy,
        RedisBroker(proxy.instead(redis_server.new_database())).open() as session,
    ):
        await session.declare(["q"])
        batch = publications("q", 3)
        proxy.drop_replies_after(0, then_reset=True)
        with pytest.raises(BrokerLostError):
            await session.publish(batch)
        with trio.fail_after(10):
            while not session.connected:
                await trio.sleep(0.02)
        assert {each.outcome for each in await session.publish(batch)} == {Publishing.DUPLICATE}
        assert (await session.stats("q")).ready == 3


async def test_bytes_one_by_one(redis_server):
    async with open_proxy(redis_server.host, redis_server.port) as proxy:
        proxy.slice(1)
        async with RedisBroker(proxy.instead(redis_server.new_database())).open() as session:
            await works(session)


async def test_sentinels_find_the_primary_and_its_successor(own_redis):
    primary = own_redis()
    replica = own_redis(replica_of=primary)
    sentinel = own_redis(sentinel_of=primary)
    url = f"redis+sentinel://127.0.0.1:1,{sentinel.host}:{sentinel.port}/primary"
    assert "know no service 'other'" in await refused(url.replace("/primary", "/other"))
    assert "it is a sentinel; write redis+sentinel://" in await refused(sentinel.url)

    def known():
        return "slaves=1" in sentinel.command("INFO", "sentinel")

    with trio.fail_after(30):
        while not await trio.to_thread.run_sync(known):
            await trio.sleep(0.1)
    async with RedisBroker(url).open() as session:
        await works(session)
        primary.kill()
        with trio.fail_after(40):
            while True:
                try:
                    await works(session)
                    break
                except BrokerLostError:
                    await trio.sleep(0.1)
        assert "role:master" in await trio.to_thread.run_sync(replica.command, "INFO", "replication")


@pytest.mark.parametrize("what", ["publish", "lease", "wait"])
async def test_a_primary_that_becomes_a_replica_is_given_up(own_redis, what):
    """Also by who only waits: scripts that find nothing to do write nothing, and would never be told."""
    server = own_redis()
    async with RedisBroker(server.url).open() as session:
        await session.declare(["q"])
        assert not await session.lease(["q"], 1, 30.0, owner="me", wait=0.01)

        async def demote():
            await trio.to_thread.run_sync(server.command, "REPLICAOF", "127.0.0.1", "1")  # where nobody is

        async def wait():
            with pytest.raises(BrokerLostError, match="READONLY"):
                await session.lease(["q"], 1, 30.0, owner="me", wait=3600.0)

        with trio.fail_after(10):
            if what == "wait":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    await trio.sleep(0.1)
                    await demote()
            else:
                await demote()
                with pytest.raises(BrokerLostError, match="READONLY"):
                    if what == "publish":
                        await session.publish(publications("q", 1))
                    else:
                        await session.lease(["q"], 1, 30.0, owner="me")
        await trio.to_thread.run_sync(server.command, "REPLICAOF", "NO", "ONE")
        await until_it_works(session)


async def test_a_full_memory_lets_running_jobs_go_on(own_redis):
    """Leases run on, cancellations are told, results are waited for: none of it is a message more."""
    server = own_redis(options={"maxmemory": "4mb"})
    async with RedisBroker(server.url).open() as session:
        await session.declare(["q"])
        await session.publish(publications("q", 3))
        held = await session.lease(["q"], 3, 30.0, owner="me")
        with pytest.raises(BrokerFullError):
            for _ in range(200):
                await session.publish(publications("q", 1, payload=bytes(50_000)))
        assert {each.reply for each in await session.extend([each.ref for each in held], 60.0)} == {Reply.APPLIED}
        assert await session.cancel("q", [held[0].id], "enough") == [CancelReply.REQUESTED]
        assert await session.asked("me", []) == [(held[0].ref, "enough")]
        assert await session.result("q", held[1].id, wait=0.05) is Absent.PENDING
        assert await session.endings("q", [held[1].id], wait=0.05) == {}
        await session.pause("q")
        await session.resume("q")
        async with RedisBroker(server.url).open() as other:
            await other.declare(["q"])  # as a worker does that comes to drain it
            assert len(await other.lease(["q"], 1, 30.0, owner="other")) == 1
        assert await settled(session, held) == 3


async def test_a_server_that_is_busy_is_waited_for(own_redis):
    """A connection is lost while somebody's script keeps the server busy: until that is over it says nothing else."""
    server = own_redis(options={"busy-reply-threshold": 100})
    script = "local ends = tonumber(redis.call('TIME')[1]) + 2 while tonumber(redis.call('TIME')[1]) < ends do end"
    async with open_proxy(server.host, server.port) as proxy, RedisBroker(proxy.instead(server.url)).open() as session:
        await works(session)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, partial(server.command, "EVAL", script, 0))
            with pytest.raises(BrokerBusyError, match="a script keeps it busy"):
                while True:
                    await session.now()
                    await trio.sleep(0.01)
            proxy.reset()
            with pytest.raises(BrokerLostError):
                await session.now()
            with pytest.raises(BrokerLostError, match="a script keeps it busy"):
                await session.now()
        await until_it_works(session)
