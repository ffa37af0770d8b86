"""The RabbitMQ engine when the world is bad: killed servers, cut wires, full memories, frozen workers."""

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from pamqp import commands

from tests.brokers.rabbitmq.tools import OOPS, demolish, new_url, opened, publication, put, settle, take
from tests.servers.proxy import open_proxy
from trepid.brokers.rabbitmq import RabbitMQBroker
from trepid.brokers.rabbitmq.building import Builder
from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.ports.messages import Settlement
from trepid.rules.verdicts import Done, Failed, Failure

DONE = Done(b"1", 60)


async def blocking(function, *args):
    return await trio.to_thread.run_sync(function, *args)


async def until(condition, within=20.0):
    """Wait for what no event announces."""
    with trio.fail_after(within):
        while not condition():
            await trio.sleep(0.02)


async def drain(session, count, within=40.0):
    """Lease and settle messages, through whatever is lost meanwhile, until so many have come; return their crashes."""
    crashes = {}
    with trio.fail_after(within):
        while len(crashes) < count:
            try:
                for delivery in await take(session, 100, wait=1):
                    if await settle(session, delivery, DONE) == "applied":
                        crashes[delivery.id] = delivery.crashes
            except BrokerLostError:
                await trio.sleep(0.1)
    return crashes


async def test_a_killed_server_loses_nothing_and_voids_the_leases(own_rabbitmq):
    server = await blocking(own_rabbitmq)
    async with RabbitMQBroker(new_url(server.url)).open() as session:
        await session.declare(["q"])
        await put(session, *(f"m{number}" for number in range(50)))
        leased = await take(session, 10, wait=0)
        server.kill()
        await until(lambda: not session.connected)
        (extension,) = await session.extend([leased[0].ref], 60)
        assert extension.reply == "superseded"
        with pytest.raises(BrokerLostError):
            await put(session, "x")
        assert await settle(session, leased[0], DONE) == "superseded"
        await blocking(server.start)
        with trio.fail_after(5):
            while not session.connected:
                await trio.sleep(0.02)
        crashes = await drain(session, 50, within=60)
        assert set(crashes) == {f"m{number}" for number in range(50)}
        assert {id for id, count in crashes.items() if count} == {each.id for each in leased}


async def test_connections_closed_by_the_server_are_made_again(own_rabbitmq):
    server = await blocking(own_rabbitmq)
    async with RabbitMQBroker(new_url(server.url)).open() as session:
        await session.declare(["q"])
        await put(session, "a", "b")
        (a, _) = await take(session, 2, wait=0)
        await blocking(server.ctl, "close_all_connections", "maintenance")
        await until(lambda: session._supervisor.losses == 1 and session.connected)
        assert await settle(session, a, DONE) == "superseded"
        assert await drain(session, 2) == {"a": 1, "b": 1}
        with pytest.raises(BrokerLostError, match=r"320.*maintenance"):
            raise session._supervisor._error


@pytest.mark.parametrize("fault", ["reset", "hang_up"])
async def test_a_cut_wire_is_mended(rabbitmq_server, fault):
    url = new_url(rabbitmq_server.url)
    async with (
        open_proxy(rabbitmq_server.host, rabbitmq_server.port) as proxy,
        RabbitMQBroker(proxy.instead(url)).open() as session,
    ):
        await session.declare(["q"])
        await put(session, "a")
        (delivery,) = await take(session)
        getattr(proxy, fault)()
        await until(lambda: session._supervisor.losses == 1 and session.connected)
        assert (await session.extend([delivery.ref], 60))[0].reply == "superseded"
        assert await drain(session, 1) == {"a": 1}
    await demolish(url)


async def test_a_black_hole_is_noticed_by_heartbeats(rabbitmq_server):
    url = new_url(rabbitmq_server.url, heartbeat=1)
    async with (
        open_proxy(rabbitmq_server.host, rabbitmq_server.port) as proxy,
        RabbitMQBroker(proxy.instead(url)).open() as session,
    ):
        await session.declare(["q"])
        await put(session, "a")
        await trio.sleep(3)
        assert session._supervisor.losses == 0, "silence with heartbeats is no loss"
        proxy.black_hole(True)
        await until(lambda: not session.connected, within=5)
        proxy.black_hole(False)
        await until(lambda: session.connected)
        assert set(await drain(session, 1)) == {"a"}
    await demolish(url)


async def test_a_lost_answer_leaves_the_outcome_open_and_no_wrong_one(rabbitmq_server):
    url = new_url(rabbitmq_server.url)
    async with (
        open_proxy(rabbitmq_server.host, rabbitmq_server.port) as proxy,
        RabbitMQBroker(proxy.instead(url)).open() as session,
    ):
        await session.declare(["q"])
        await put(session, "first")
        proxy.drop_replies_after(0, then_reset=True)
        with pytest.raises(BrokerLostError):
            await put(session, "second")
        await until(lambda: session.connected)
        assert set(await drain(session, 2)) == {"first", "second"}
    await demolish(url)


async def test_a_server_without_room_lets_publishers_wait_and_workers_settle(own_rabbitmq):
    server = await blocking(own_rabbitmq)
    async with RabbitMQBroker(new_url(server.url)).open() as session:
        await session.declare(["q"])
        await put(session, "a", "b")
        a, b = await take(session, 2, wait=0)
        await blocking(server.ctl, "set_vm_memory_high_watermark", "absolute", "1MB")
        lines = await session._supervisor.connection()
        with trio.move_on_after(3) as scope:  # the first one is sent, and blocks the connection behind it
            await put(session, "c")
        await until(lambda: lines.publisher.blocked)
        with trio.move_on_after(0.5) as scope:
            await put(session, "never sent")
        assert scope.cancelled_caught
        with trio.move_on_after(0.5) as scope:
            await session.settle([Settlement(b.ref, Failed(OOPS, delay=0)), Settlement(a.ref, DONE)])
        assert scope.cancelled_caught, "what needs a copy waits"
        assert await settle(session, a, DONE) == "repeated", "and what needs none went through beside it"
        await blocking(server.ctl, "set_vm_memory_high_watermark", "absolute", "1GB")
        await until(lambda: not lines.publisher.blocked)
        assert await settle(session, b, Failed(OOPS, delay=0)) == "applied"
        assert await put(session, "d") == ["accepted"]
        assert session._supervisor.losses == 0
        assert set(await drain(session, 3)) == {"b", "c", "d"}


async def test_a_channel_that_the_server_closes_takes_its_leases_along_and_nothing_else(rabbitmq_server):
    """As it does to a consumer that has held a message for longer than its ``consumer_timeout``: 406."""
    async with opened(new_url(rabbitmq_server.url), "q", "other") as session:
        await put(session, "slow")
        await put(session, "elsewhere", queue="other")
        (elsewhere,) = await take(session, queues=["other"])
        (slow,) = await take(session)
        session._depot.taps["q"].channel.ack(99_999)  # a tag of nobody: the server closes the channel
        with trio.fail_after(10):
            while (await session.extend([slow.ref], 60))[0].reply == "applied":
                await trio.sleep(0.01)
        assert (await session.extend([slow.ref], 60))[0].reply == "superseded"
        assert await settle(session, slow, DONE) == "superseded"
        assert session._supervisor.losses == 0
        assert await settle(session, elsewhere, DONE) == "applied"
        assert await drain(session, 1) == {"slow": 1}


STOPPED = """
import sys, trio
from tests.brokers.rabbitmq.tools import settle, take
from trepid.brokers.rabbitmq import RabbitMQBroker
from trepid.rules.verdicts import Done

async def main():
    async with RabbitMQBroker(sys.argv[1]).open() as session:
        (delivery,) = await take(session, lease_for=3600)
        print("leased", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        await trio.sleep(0.5)
        print((await session.extend([delivery.ref], 3600))[0].reply.value, flush=True)
        print(await settle(session, delivery, Done(None, 0)), flush=True)

trio.run(main)
"""


async def test_a_worker_that_was_frozen_past_its_heartbeats_is_refused(rabbitmq_server):
    url = new_url(rabbitmq_server.url, heartbeat=1)
    async with opened(url) as session:
        await put(session)
        worker = subprocess.Popen(
            [sys.executable, "-c", STOPPED, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        with worker:
            try:
                assert await blocking(worker.stdout.readline) == "leased\n"
                worker.send_signal(signal.SIGSTOP)
                with trio.fail_after(30):
                    (delivery,) = await take(session, wait=30)
                assert delivery.crashes == 1
                worker.send_signal(signal.SIGCONT)
                worker.stdin.write("\n")
                worker.stdin.flush()
                assert await blocking(worker.stdout.readline) == "superseded\n"
                assert await blocking(worker.stdout.readline) == "superseded\n"
                assert await settle(session, delivery, DONE) == "applied"
            finally:
                worker.kill()


async def test_tls_is_verified(own_rabbitmq, certificates):
    server = await blocking(lambda: own_rabbitmq(tls=True))
    trusted = f"{server.url}?cafile={certificates.ca}"
    async with RabbitMQBroker(trusted).open() as session:
        await session.declare(["q"])
        assert await put(session) == ["accepted"]
    with pytest.raises(BrokerRefusedError, match="certificate"):
        async with RabbitMQBroker(server.url).open():
            pytest.fail("the certificate is nobody's")
    with pytest.raises(BrokerRefusedError, match="certificate"):
        async with RabbitMQBroker(trusted.replace("127.0.0.1", "127.1")).open():
            pytest.fail("the certificate is for another host")
    with pytest.raises((BrokerRefusedError, BrokerLostError)):
        async with RabbitMQBroker(server.url.replace("amqps", "amqp")).open():
            pytest.fail("the server speaks TLS")


async def test_what_is_no_rabbitmq_is_refused(nats_server):
    with pytest.raises((BrokerRefusedError, BrokerLostError), match=r"makes no sense|closed"):
        async with RabbitMQBroker(f"amqp://{nats_server.host}:{nats_server.port}").open():
            pytest.fail("it is NATS")


async def test_without_permissions_it_says_so(own_rabbitmq):
    server = await blocking(lambda: own_rabbitmq(users={"reader": ("secret", "^$", "^$", ".*")}))
    with pytest.raises(BrokerRefusedError, match="does not let us: ACCESS_REFUSED") as caught:
        async with RabbitMQBroker(server.vhost_url("/", user="reader", password="secret")).open():
            pytest.fail("it may not declare anything")
    assert "secret" not in str(caught.value)


async def test_a_worker_that_may_not_read_a_queue_is_told(own_rabbitmq):
    server = await blocking(lambda: own_rabbitmq(users={"producer": ("secret", ".*", ".*", "^trepid::.*$")}))
    async with RabbitMQBroker(server.vhost_url("/")).open() as owner:
        await owner.declare(["q"])
        async with RabbitMQBroker(server.vhost_url("/", user="producer", password="secret")).open() as session:
            assert await put(session) == ["accepted"]
            # Not that there is nothing, and not for ever.
            for wait in (0, 1):
                with trio.fail_after(10), pytest.raises(BrokerRefusedError, match="does not let us: ACCESS_REFUSED"):
                    await take(session, wait=wait)


async def test_what_comes_back_while_the_ladder_is_made_takes_only_steps_that_stand(rabbitmq_server, monkeypatch):
    """One message has crashed for the first time; another, a moment later, for the second, and waits twice as long."""
    url = new_url(rabbitmq_server.url)
    step = Builder._step

    async def slowly(builder, number):
        await trio.sleep(1.0)
        await step(builder, number)

    async with (
        opened(url) as session,
        open_proxy(rabbitmq_server.host, rabbitmq_server.port) as first_way,
        open_proxy(rabbitmq_server.host, rabbitmq_server.port) as second_way,
        RabbitMQBroker(first_way.instead(url)).open() as first,
        RabbitMQBroker(second_way.instead(url)).open() as second,
    ):
        await put(session, "once")
        assert [each.id for each in await take(first)] == ["once"]
        await put(session, "twice")
        await take(session, lease_for=0.1)
        assert [(each.id, each.crashes) for each in await take(second)] == [("twice", 1)]
        got = []

        async def lease():
            while len(got) < 2:
                got.extend(await take(session))

        monkeypatch.setattr(Builder, "_step", slowly)
        session._supervisor.current.builder._built.clear()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lease)
                await trio.sleep(0.3)
                first_way.reset()
                await trio.sleep(0.5)
                second_way.reset()
        assert {each.id: each.crashes for each in got} == {"once": 1, "twice": 2}


async def test_a_step_that_has_gone_is_made_again(rabbitmq_server):
    """Nothing of ours removes one; but a message that it does not take must not be taken for one of a deleted queue."""
    async with opened(new_url(rabbitmq_server.url)) as session:
        await put(session)
        session._supervisor.current.builder._built.update({"step 3", "way None 3"})  # as if it had been there
        await take(session, lease_for=0.1)
        assert [each.crashes for each in await take(session)] == [1]


async def test_a_step_is_not_done_whose_follow_up_found_no_way(rabbitmq_server):
    async with opened(new_url(rabbitmq_server.url)) as session:
        await put(session)
        (delivery,) = await take(session)
        session._supervisor.current.builder._built.update({"step 3", "way None 3"})  # as if it had been there
        settlement, following = Settlement(delivery.ref, DONE), publication("next", delay=1.0)
        with pytest.raises(BrokerLostError, match="did not store"):
            await session.settle([settlement], then=[following])
        assert [each.value for each in await session.settle([settlement], then=[following])] == ["applied"]
        assert [each.id for each in await take(session)] == ["next"]


async def test_who_publishes_to_a_step_that_has_gone_makes_it_again(rabbitmq_server):
    async with opened(new_url(rabbitmq_server.url)) as session:
        session._supervisor.current.builder._built.update({"step 3", "way None 3"})  # as if it had been there
        assert await put(session, delay=1.0) == ["accepted"]
        assert [each.id for each in await take(session)] == ["m"]


@asynccontextmanager
async def without_its_exchange(server):
    """Give a session whose exchange somebody has removed, and what it had leased before."""
    async with opened(new_url(server.url)) as session:
        await put(session, "a")
        (delivery,) = await take(session)
        lines = session._supervisor.current
        await lines.apart(lambda channel: channel.call(commands.Exchange.Delete(exchange=lines.names.door)))
        yield session, delivery


async def test_an_exchange_that_somebody_removes_is_a_lost_connection_and_nothing_stranger(rabbitmq_server):
    """Publishing there ends the channel; what is made again has no bindings, and gets them when they are missed."""
    async with without_its_exchange(rabbitmq_server) as (session, delivery):
        with pytest.raises(BrokerLostError, match="404"):
            await put(session, "b")
        await until(lambda: session._supervisor.losses == 1 and session.connected)
        assert await settle(session, delivery, DONE) == "superseded"
        assert await put(session, "c") == ["accepted"]
        assert set(await drain(session, 2)) == {"a", "c"}


async def test_a_worker_that_settles_over_an_exchange_that_is_gone_loses_its_broker(rabbitmq_server):
    async with without_its_exchange(rabbitmq_server) as (session, delivery):
        with pytest.raises(BrokerLostError, match="404"):
            await settle(session, delivery, Failed(OOPS))
        await until(lambda: session._supervisor.losses == 1 and session.connected)
        assert await drain(session, 1) == {"a": 1}


async def test_who_may_not_write_to_the_registry_is_told_what_is_missing(own_rabbitmq):
    server = await blocking(lambda: own_rabbitmq(users={"mute": ("secret", "^trepid:.*$", "^trepid:.*$", ".*")}))
    async with RabbitMQBroker(server.vhost_url("/", user="mute", password="secret")).open() as session:
        for _ in range(2):
            with pytest.raises(BrokerRefusedError, match=r"does not let us: ACCESS_REFUSED.*'amq.default'"):
                await session.declare(["q"])


async def test_a_history_fits_into_the_frames_of_the_server(own_rabbitmq):
    """One that does not ends the connection, and the job comes back to fail again."""
    server = await blocking(lambda: own_rabbitmq(options={"frame_max": 8192}))
    async with RabbitMQBroker(new_url(server.url)).open() as session:
        await session.declare(["q"])
        await put(session)
        error = Failure("ValueError", "oops", "x" * 16_000)
        (delivery,) = await take(session)
        assert await settle(session, delivery, Failed(error, delay=0.0)) == "applied"
        (delivery,) = await take(session)
        (lease,) = session._depot.book.leases()
        assert [(kept.message, kept.traceback) for kept in lease.message.passport.errors] == [("oops", "")]
        assert await settle(session, delivery, Failed(error)) == "applied"
        assert (await session.stats("q")).dead == 1
        assert session._supervisor.losses == 0
