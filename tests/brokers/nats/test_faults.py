"""Faults of the server and of the wire: nothing that was accepted is lost, and workers go on by themselves."""

from contextlib import asynccontextmanager

import pytest
import trio

import trepid
from tests.brokers.nats.kit import drained, fresh_broker, open_wire, publication, settle, take
from tests.servers.proxy import open_proxy
from trepid.brokers.nats import NatsBroker
from trepid.brokers.nats.intake import Intake
from trepid.brokers.nats.jetstream import JetStream, JetStreamError, api, deleting, last_of, look, storing
from trepid.brokers.nats.names import LOW, MAIN
from trepid.errors import BrokerFullError, BrokerLostError, BrokerRefusedError, PayloadTooLargeError, UnsupportedError
from trepid.rules.life import Reply
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Failed, Failure
from trepid.wire.nats.connection import NatsConnection, NoRespondersError
from trepid.wire.nats.protocol import Message

OOPS = Failure("ValueError", "oops")


@asynccontextmanager
async def open_session(url, **options):
    async with NatsBroker(url, **options).open() as session:
        await session.declare(["q"])
        yield session


async def back(session, within=5.0):
    """Wait until the session serves again."""
    with trio.fail_after(within):
        while True:
            try:
                return await session.stats("q")
            except BrokerLostError:
                await trio.sleep(0.02)


async def test_a_server_without_jetstream_is_refused(own_nats):
    server = own_nats(jetstream=False)
    with pytest.raises(BrokerRefusedError, match="no JetStream"):
        async with NatsBroker(server.url).open():
            pytest.fail("it was opened")


async def test_who_may_not_use_jetstream_is_refused(own_nats):
    permissions = '{ users: [ { user: a, password: hunter2, permissions: { publish: ["nothing"] } } ] }'
    server = own_nats(options={"authorization": permissions})
    with pytest.raises(BrokerRefusedError, match="Permissions Violation") as caught:
        async with NatsBroker(f"nats://a:hunter2@{server.host}:{server.port}").open():
            pytest.fail("it was opened")
    assert "hunter2" not in f"{caught.value}{caught.value!r}"


async def test_nobody_there():
    with pytest.raises(BrokerLostError, match="nobody answers"):
        async with NatsBroker("nats://user:hunter2@127.0.0.1:1").open():
            pytest.fail("it was opened")


async def test_a_stream_that_does_not_fit_is_refused(nats_server):
    broker = fresh_broker(nats_server, prefix="misfit")
    async with open_wire(nats_server.url) as connection:
        config = {"name": "misfit-medium-q", "subjects": ["misfit.medium.q.*"], "retention": "workqueue"}
        await api(connection, "STREAM.CREATE.misfit-medium-q", config)
    async with broker.open() as session:
        with pytest.raises(BrokerRefusedError, match="misfit-medium-q has retention='workqueue' where Trepid needs"):
            await session.declare(["q"])


async def test_too_large_a_message_is_refused_and_the_connection_lives(own_nats):
    server = own_nats(options={"max_payload": "8KB"})
    async with open_session(server.url) as session:
        with pytest.raises(PayloadTooLargeError, match="10,000 bytes are more than the 6,"):
            await session.publish([publication("small"), publication("large", payload=bytes(10_000))])
        assert await take(session) == []
        assert session.connected


async def test_what_is_lacking_is_refused_by_name(nats_server):
    async with fresh_broker(nats_server).open() as session:
        await session.declare(["q"])
        for operation in (
            lambda: session.publish([publication(unique=trepid.Unique("k"))]),
            lambda: session.cancel("q", ["m"], "no"),
            lambda: session.pause("q"),
            lambda: session.resume("q"),
            lambda: session.get("q", "m"),
            lambda: session.peek("q", trepid.State.READY),
            lambda: session.purge("q", [trepid.State.READY], ["m"]),
        ):
            with pytest.raises(UnsupportedError, match=r"NATS 2\."):
                await operation()


async def test_a_killed_server_comes_back_with_everything(own_nats):
    server = own_nats()
    async with open_session(server.url) as session:
        await session.publish([publication(f"m{number}") for number in range(20)])
        await session.publish([publication("later", delay=4.0), publication("much later", delay=3600.0)])
        held = await take(session, 5)
        await settle(session, held[0], Failed(OOPS))
        server.kill()
        with pytest.raises(BrokerLostError):
            await session.publish([publication("lost")])
        while session.connected:
            await session._office.jetstream.changed()
        await trio.to_thread.run_sync(server.start)
        await back(session)
        # Leases outlive the server: nobody else was given their messages.
        for delivery in held[1:]:
            assert await settle(session, delivery) is Reply.APPLIED
        ids = await drained(session, 16, within=15)
        assert sorted(ids) == sorted(["later", *(f"m{number}" for number in range(5, 20))])
        stats = await session.stats("q")
        assert (stats.scheduled, stats.dead) == (1, 1)
        # A server that is killed forgets the deletions of its last seconds; the dead letter is dead all the same.
        assert (await session.result("q", held[0].id)).reason == "failed"
        (reply,) = await session.publish([publication(held[0].id)])
        assert reply.outcome is Publishing.ACCEPTED
        assert await drained(session, 1) == [held[0].id]


async def test_a_worker_goes_on_when_the_server_returns(own_nats):
    server = own_nats()
    ran = []
    more = trio.Event()

    async def job(number: int) -> None:
        await trio.lowlevel.checkpoint()
        ran.append(number)
        more.set()

    actor = trepid.Actor(job, name="job")
    async with trepid.open_connection(server.url) as connection, trio.open_nursery() as nursery:
        running = await nursery.start(trepid.Worker(actor).run, connection)
        await connection.enqueue(actor.job(1))
        with trio.fail_after(5):
            await more.wait()
        for number in (2, 3):
            server.kill()
            await trio.sleep(1.5)
            await trio.to_thread.run_sync(server.start)
            more = trio.Event()
            with trio.fail_after(5):
                while True:
                    try:
                        await connection.enqueue(actor.job(number))
                        break
                    except BrokerLostError:
                        await trio.sleep(0.05)
                while number not in ran:
                    await more.wait()
                    more = trio.Event()
        running.stop()
    # A server that was killed forgets what it deleted last, so a job may run again.
    assert set(ran) == {1, 2, 3}


async def test_a_lost_reply_to_a_publish_is_a_duplicate(nats_server):
    async with open_proxy(nats_server.host, nats_server.port) as proxy:
        url = f"{proxy.instead(nats_server.url)}?prefix=lostpublish"
        async with open_session(url) as session:
            again = publication()
            proxy.drop_replies_after(0, then_reset=True)
            with pytest.raises(BrokerLostError):
                await session.publish([again])
            await back(session)
            (reply,) = await session.publish([again])
            assert reply.outcome is Publishing.DUPLICATE
            assert await drained(session, 1) == ["m"]


@pytest.mark.parametrize("verdict", ["done", "failed", "retried", "kept"])
async def test_a_lost_reply_to_a_settlement_is_repeated(nats_server, verdict):
    from trepid.rules.verdicts import Done

    verdicts = {
        "done": Done(None, 0),
        "kept": Done(b"1", 60.0),
        "failed": Failed(OOPS),
        "retried": Failed(OOPS, delay=60.0),
    }
    async with open_proxy(nats_server.host, nats_server.port) as proxy:
        url = f"{proxy.instead(nats_server.url)}?prefix=lost{verdict}"
        async with open_session(url) as session:
            await session.publish([publication()])
            (delivery,) = await take(session)
            for swallowed in (0, 200, 400, 700):
                proxy.drop_replies_after(swallowed, then_reset=True)
                try:
                    reply = await settle(session, delivery, verdicts[verdict])
                except BrokerLostError:
                    await back(session)
                    proxy.drop_replies_after(None)
                    reply = await settle(session, delivery, verdicts[verdict])
                proxy.drop_replies_after(None)
                assert reply in (Reply.APPLIED, Reply.REPEATED)
                if session.connected and reply is Reply.APPLIED:
                    break
            stats = await back(session)
            assert (stats.live, stats.dead) == {"failed": (0, 1), "retried": (1, 0)}.get(verdict, (0, 0))
            assert await settle(session, delivery, verdicts[verdict]) is Reply.REPEATED


async def test_a_black_hole_is_noticed_and_left(nats_server):
    async with (
        open_proxy(nats_server.host, nats_server.port) as proxy,
        open_session(f"{proxy.instead(nats_server.url)}?prefix=hole") as session,
    ):
        await session.publish([publication()])
        proxy.black_hole(True)
        with trio.fail_after(12), pytest.raises(BrokerLostError):
            await take(session, wait=60)
        proxy.black_hole(False)
        await back(session)
        # What was sent into the hole is handed out again, once the server has missed us.
        assert await drained(session, 1, within=30) == ["m"]


async def test_one_byte_at_a_time(nats_server):
    async with open_proxy(nats_server.host, nats_server.port) as proxy:
        proxy.slice(1)
        async with open_session(f"{proxy.instead(nats_server.url)}?prefix=slices") as session:
            await session.publish([publication(f"m{number}", payload=bytes([number])) for number in range(20)])
            assert await drained(session, 20) == [f"m{number}" for number in range(20)]


async def test_a_server_that_leaves_is_left_for_another(own_nats_cluster):
    nodes = await trio.to_thread.run_sync(own_nats_cluster)
    hosts = ",".join(f"{node.host}:{node.port}" for node in nodes)
    async with open_session(f"nats://{hosts}?replicas=3") as session:
        await session.publish([publication(f"m{number}") for number in range(10)])
        held = await take(session, 5)
        first = session._office.jetstream.current.name
        (leaving,) = [node for node in nodes if first.endswith(f":{node.port}")]
        leaving.lame_duck()
        with trio.fail_after(15):
            while session._office.jetstream.current is None or session._office.jetstream.current.name == first:
                await session._office.jetstream.changed()
        await back(session, within=15)
        for delivery in held:
            assert await settle(session, delivery) is Reply.APPLIED
        assert len(await drained(session, 5, within=30)) == 5


async def test_what_is_gone_is_said_so_however_the_server_says_it(nats_server, monkeypatch):
    async with fresh_broker(nats_server).open() as session:
        await session.declare(["q"])
        await session.publish([publication("a"), publication("b")])
        stream = session._office.names.stream("q", "medium")
        wanted = [deleting(stream, 1), deleting(stream, 1), deleting(stream, 99), deleting("nowhere", 1)]
        assert await session._office.jetstream.delete_all(wanted) == [True, False, False, False]
        # What 2.9.10 says after it was killed, when a message is deleted once more.
        answer = b'{"error":{"code":400,"err_code":10043,"description":"sequence 110 not found"}}'

        async def answered(questions, **_):
            await trio.lowlevel.checkpoint()
            return [Message("", 1, "", b"", answer) for _ in questions]

        monkeypatch.setattr(session._office.jetstream.current, "ask_all", answered)
        assert await session._office.jetstream.delete_all([deleting(stream, 2)]) == [False]


@pytest.mark.parametrize("held", [False, True], ids=["waiting", "leased"])
async def test_a_publish_that_is_repeated_after_a_crash_is_recognised_though_its_message_is_done(held, own_nats):
    """NATS finds out what it knows of publishes when it has the first one after a start, from what is there then."""
    server = own_nats()
    async with open_session(server.url) as session, NatsBroker(server.url).open() as worker:
        again = publication()
        await session.publish([again])
        found = await take(worker) if held else []
        server.kill()
        while session.connected or worker.connected:
            await trio.sleep(0.01)
        await trio.to_thread.run_sync(server.start)
        await back(worker)
        found = found or await take(worker, wait=5.0)
        assert [await settle(worker, delivery) for delivery in found] == [Reply.APPLIED]
        await back(session)
        [published] = await session.publish([again])
        assert published.outcome is Publishing.DUPLICATE
        assert await take(worker, wait=0.5) == []


async def test_what_a_killed_server_had_handed_out_is_not_leased_from_the_next(own_nats, monkeypatch):
    """It may have written down that it handed a message out, or not, and then somebody else gets it."""
    server = own_nats()
    pull = Intake._pull

    async def crash(intake, queue, place, *rest):
        if place == LOW:  # what is more urgent is here already
            monkeypatch.undo()
            server.kill()
            while session.connected:
                await trio.sleep(0.01)
            await trio.to_thread.run_sync(server.start)
            await back(session)
        return await pull(intake, queue, place, *rest)

    broker = NatsBroker(server.url, ack_wait=2.0)
    async with broker.open() as session, broker.open() as other:
        await session.declare(["q"])
        await session.publish([publication(f"m{number}") for number in range(20)])
        monkeypatch.setattr(Intake, "_pull", crash)
        ids = [each.id for each in await take(session)]
        givers = {lease.message.parcel.server for lease in session._office.book.leases()}
        assert givers <= {session._office.jetstream.current.server}
        await back(other)
        with trio.fail_after(20):
            while len(ids) < 20:
                ids += [each.id for each in await take(other, wait=1.0)]
        ids += [each.id for each in await take(other, wait=3.0)]
        assert sorted(ids) == sorted(f"m{number}" for number in range(20))


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (JetStreamError(10008, "JetStream system temporarily unavailable"), JetStreamError),
        (NoRespondersError("q"), BrokerLostError),
    ],
    ids=["refused", "no answer"],
)
async def test_what_was_not_stored_is_not_said_to_be_there(answer, raised, nats_server, monkeypatch):
    store_all, told = JetStream.store_all, []

    async def tell(jetstream, questions):
        outcomes = await store_all(jetstream, questions) if not told else [answer]
        told.append(outcomes)
        return outcomes

    async with fresh_broker(nats_server).open() as session:
        await session.declare(["q"])
        await session.publish([publication()])
        look_all = JetStream.look_all

        async def miss(jetstream, questions):
            await look_all(jetstream, questions)
            return [None for _ in questions]  # it has ended just now

        monkeypatch.setattr(JetStream, "store_all", tell)
        monkeypatch.setattr(JetStream, "look_all", miss)
        with pytest.raises(raised):
            await session.publish([publication()])


async def test_another_session_deletes_a_queue_first(nats_server):
    broker = fresh_broker(nats_server)
    async with broker.open() as session, broker.open() as other:
        await session.declare(["q"])
        await other.declare(["q"])
        await session.delete("q")
        await other.delete("q")
        assert await other.queues() == []


async def test_a_deletion_that_was_cut_short_is_finished_when_it_is_repeated(nats_server):
    broker = fresh_broker(nats_server)
    async with broker.open() as session:
        await session.declare(["q"])
        await session.publish([publication(priority=9)])
        await session._office.jetstream.api(f"STREAM.DELETE.{session._office.names.stream('q', MAIN)}")
        assert await session.queues() == []
        await session.delete("q")
        await session.declare(["q"])
        assert await take(session) == []


async def test_a_look_at_a_server_without_jetstream_says_that_the_broker_is_lost(own_nats):
    async with open_wire(own_nats(jetstream=False).url) as connection:
        with pytest.raises(BrokerLostError, match="JetStream does not answer"):
            await look(connection, last_of("s", "s.m"))


async def limit(connection, stream, **limits):
    config = (await api(connection, f"STREAM.INFO.{stream}"))["config"]
    await api(connection, f"STREAM.UPDATE.{stream}", {**config, **limits})


async def test_a_queue_that_an_operator_has_limited_refuses_and_loses_nothing(nats_server):
    broker = fresh_broker(nats_server)
    async with broker.open() as session, open_wire(nats_server.url) as connection:
        await session.declare(["q"])
        await limit(connection, session._office.names.stream("q", MAIN), max_msgs=5)
        for number in range(5):
            await session.publish([publication(f"m{number}")])
        with pytest.raises(BrokerFullError, match="maximum messages exceeded"):
            await session.publish([publication("m5")])
        await session.declare(["q"])
        assert await drained(session, 5) == [f"m{number}" for number in range(5)]


async def test_a_queue_that_would_throw_away_messages_is_refused(nats_server):
    """Streams of earlier versions would, if an operator limits them."""
    broker = fresh_broker(nats_server)
    async with broker.open() as session, open_wire(nats_server.url) as connection:
        await session.declare(["q"])
        stream = session._office.names.stream("q", MAIN)
        await limit(connection, stream, discard="old")
        await session.declare(["q"])
        await limit(connection, stream, max_bytes=1_000_000)
        with pytest.raises(BrokerRefusedError, match="medium-q throws away what does not fit"):
            await session.declare(["q"])


async def test_who_may_hear_no_answers_is_told_so(own_nats):
    users = '{ users: [ { user: a, password: b, permissions: { publish: ">", subscribe: "elsewhere.>" } } ] }'
    server = own_nats(options={"authorization": users})
    with pytest.raises(BrokerRefusedError, match=r"Permissions Violation for Subscription to ._INBOX"):
        async with NatsBroker(server.url.replace("://", "://a:b@")).open():
            pytest.fail("it was opened")


async def test_the_time_is_not_learned_from_what_was_not_stored(nats_server, monkeypatch):
    broker = fresh_broker(nats_server)
    async with broker.open() as session:
        ask = NatsConnection.ask
        names = session._office.names

        async def refuse(connection, question, **options):
            if question.subject == names.tick:
                question = storing(names.tick, b"", {}, last=1 << 60)
            return await ask(connection, question, **options)

        before = await session.now()
        await trio.sleep(0.5)
        monkeypatch.setattr(NatsConnection, "ask", refuse)
        with pytest.raises(JetStreamError, match="wrong last sequence"):
            await session._office.clock.ask(session._office.jetstream.current, names)
        assert await session.now() >= before + 0.5


async def test_a_queue_whose_server_waits_less_than_the_session_reckons_is_refused(nats_server):
    async with fresh_broker(nats_server, prefix="patience", ack_wait=2.0).open() as session:
        await session.declare(["q"])
    async with fresh_broker(nats_server, prefix="patience", ack_wait=1.0).open() as session:
        await session.declare(["q"])
    async with fresh_broker(nats_server, prefix="patience").open() as session:
        with pytest.raises(BrokerRefusedError, match="takes messages back after 2 s where 12 s are reckoned with"):
            await session.declare(["q"])
