"""Leases on JetStream: who holds them, what becomes of those who sleep, and what is given back."""

import pytest
import trio

from tests.brokers.nats.kit import drained, fresh_broker, open_wire, publication, settle, sweep, take
from trepid.brokers.nats.jetstream import JetStream, JetStreamError, api
from trepid.brokers.nats.letter import HEADER, Letter, written
from trepid.brokers.nats.pulling import Pull
from trepid.errors import BrokerLostError
from trepid.ports.messages import Absent
from trepid.rules.life import Reply, State
from trepid.rules.verdicts import Done, Failed, Failure, Returned
from trepid.wire.nats.protocol import Message, headed
from trepid.wire.supervision import Supervisor

OOPS = Failure("ValueError", "oops")
ACK_WAIT = 1.0


@pytest.fixture
async def broker(nats_server):
    broker = fresh_broker(nats_server, ack_wait=ACK_WAIT)
    async with broker.open() as session:
        await session.declare(["q"])
    yield broker
    await sweep(nats_server.url, str(broker).partition("prefix=")[2])


def prefix_of(broker):
    return str(broker).partition("prefix=")[2]


async def waiting_pulls(server, broker):
    async with open_wire(server.url) as connection:
        places = ("high", "medium", "low", "later")
        infos = [await api(connection, f"CONSUMER.INFO.{prefix_of(broker)}-{place}-q.{place}") for place in places]
        return [info["num_waiting"] for info in infos]


async def test_a_lease_is_kept_beyond_the_patience_of_the_server(broker):
    async with broker.open() as session, broker.open() as other:
        await session.publish([publication()])
        (delivery,) = await take(session)
        assert await take(other, wait=2.5) == []
        assert await settle(session, delivery) is Reply.APPLIED


@pytest.mark.parametrize(
    "verdict", [Done(b'"late"', 60.0), Done(None, 0), Failed(OOPS, delay=0), Failed(OOPS), Returned()]
)
async def test_who_sleeps_too_long_is_refused_by_the_server(broker, verdict, monkeypatch):
    async with broker.open() as zombie, broker.open() as other:
        await zombie.publish([publication()])
        (late,) = await take(zombie)
        # As if the process had been suspended: the server hears nothing, while the lease runs on in its book.
        monkeypatch.setattr(zombie._office.book, "leases", list)
        (holder,) = await take(other, wait=5)
        assert (holder.crashes, holder.token > late.token) == (1, True)
        assert await settle(zombie, late, verdict) is Reply.SUPERSEDED
        assert await other.result("q", "m") is Absent.PENDING
        assert await settle(other, holder, Done(b'"new"', 60.0)) is Reply.APPLIED
        assert await settle(zombie, late, verdict) is not Reply.APPLIED
        assert (await other.result("q", "m")).result == b'"new"'
        assert (await other.stats("q")).live == 0
        assert (await other.stats("q")).dead == 0


async def test_a_late_result_does_not_replace_a_newer_one(broker, monkeypatch):
    async with broker.open() as zombie, broker.open() as other:
        await zombie.publish([publication()])
        (late,) = await take(zombie)
        monkeypatch.setattr(zombie._office.book, "leases", list)
        (holder,) = await take(other, wait=5)
        await settle(other, holder, Done(b'"new"', 60.0))
        assert await settle(zombie, late, Done(b'"old"', 60.0)) is Reply.SUPERSEDED
        assert (await other.result("q", "m")).result == b'"new"'


async def test_who_wakes_up_learns_that_its_lease_is_gone(broker, monkeypatch):
    async with broker.open() as sleeper, broker.open() as other:
        await sleeper.publish([publication()])
        (late,) = await take(sleeper)
        leases = sleeper._office.book.leases
        monkeypatch.setattr(sleeper._office.book, "leases", list)
        (holder,) = await take(other, wait=5)
        monkeypatch.setattr(sleeper._office.book, "leases", leases)
        await sleeper._keeper._check()
        (extension,) = await sleeper.extend([late.ref], 60.0)
        assert extension.reply is Reply.SUPERSEDED
        assert await settle(other, holder) is Reply.APPLIED


async def test_the_messages_of_a_dead_session_come_back(broker):
    async with broker.open() as other:
        async with broker.open() as session:
            await session.publish([publication("a"), publication("b")])
            assert len(await take(session)) == 2
        got = await take(other, wait=8)
        got += await take(other, wait=2) if len(got) < 2 else []
        assert sorted((each.id, each.crashes) for each in got) == [("a", 1), ("b", 1)]


async def test_leases_outlive_a_connection(broker):
    async with broker.open() as session, broker.open() as other:
        await session.publish([publication("a"), publication("b")])
        a, b = await take(session)
        session._office.jetstream.current.link.lose("a bad moment")
        assert await settle(session, a) is Reply.APPLIED
        assert await take(other, wait=2.5) == []
        assert await settle(session, b) is Reply.APPLIED


async def test_callers_that_leave_at_any_moment_lose_nothing(broker, nats_server):
    total = 60
    async with broker.open() as session:
        seen = []
        async with trio.open_nursery() as nursery:

            async def produce():
                for number in range(total):
                    await session.publish([publication(f"m{number}")])
                    await trio.sleep(0.008)

            nursery.start_soon(produce)
            cancelled = 0
            with trio.fail_after(20):
                while len(seen) < total:
                    with trio.move_on_after(0.004) as scope:
                        for delivery in await take(session, 3, wait=5):
                            seen.append((delivery.id, delivery.crashes))
                            with trio.fail_after(10, shield=True):
                                assert await settle(session, delivery, Done(None, 0)) is Reply.APPLIED
                    cancelled += scope.cancelled_caught
        assert sorted(id for id, _ in seen) == sorted(f"m{number}" for number in range(total))
        assert {crashes for _, crashes in seen} == {0}
        assert cancelled > 0
        assert max(await waiting_pulls(nats_server, broker)) <= 1


async def test_no_more_comes_than_was_asked_for(broker):
    async with broker.open() as session, broker.open() as other:
        async with trio.open_nursery() as nursery:
            got = []

            async def wait():
                got.append(await take(session, 1, wait=5))

            nursery.start_soon(wait)
            await trio.sleep(0.2)
            await other.publish([publication(f"m{priority}", priority=priority) for priority in (0, 5, 9)])
        assert [len(each) for each in got] == [1]
        rest = [each.id for each in await take(other, wait=1)]
        rest += [each.id for each in await take(other, wait=1)] if len(rest) < 2 else []
        assert sorted([got[0][0].id, *rest]) == ["m0", "m5", "m9"]


async def test_a_closed_session_leaves_nothing_behind(broker, nats_server):
    async with broker.open() as other:
        for number in range(10):
            with trio.move_on_after(0.05):
                async with broker.open() as session:
                    await take(session, wait=60)
            await other.publish([publication(f"m{number}")])
            (delivery,) = await take(other, wait=1)
            assert (delivery.id, delivery.crashes) == (f"m{number}", 0)
            await settle(other, delivery)


async def test_a_stranger_on_our_subjects_is_a_dead_letter(broker, nats_server):
    async with broker.open() as session:
        async with open_wire(nats_server.url) as connection:
            connection.say(f"{prefix_of(broker)}.medium.q.stranger", b"not ours")
            connection.say(f"{prefix_of(broker)}.low.q.liar", b"x", raw=b"NATS/1.0\r\nTrepid: \xff\r\n\r\n")
            await connection.round_trip()
        await session.publish([publication("ours")])
        assert await drained(session, 1) == ["ours"]
        assert await take(session) == []
        page = await session.peek("q", State.DEAD)
        assert [(view.id, view.reason, view.payload) for view in page.messages] == [
            ("stranger", "undecodable", b"not ours"),
            ("liar", "undecodable", b"x"),
        ]


async def test_names_that_make_no_sense_are_dead_letters_and_hurt_nobody(broker, nats_server):
    async with broker.open() as session:
        connection = session._office.jetstream.current
        async with open_wire(nats_server.url) as wire:
            wire.say(f"{prefix_of(broker)}.medium.q.=FF", b"no UTF-8 under its escape")
            wire.link.send(b"PUB %s.medium.q.\xff\x0b 8\r\nno UTF-8\r\n" % prefix_of(broker).encode())
            await wire.round_trip()
        await session.publish([publication("ours")])
        assert await drained(session, 1) == ["ours"]
        page = await session.peek("q", State.DEAD)
        assert [(view.id, view.reason) for view in page.messages] == [
            ("\ufffd", "undecodable"),
            ("\ufffd\x0b", "undecodable"),
        ]
        assert session._office.jetstream.current is connection


async def test_a_stream_without_a_leader_does_not_end_the_leases_of_others(broker, monkeypatch):
    look_all = JetStream.look_all

    async def refuse(jetstream, questions):
        if any(question.subject.endswith("-away") for question in questions):
            raise JetStreamError(10008, "JetStream system temporarily unavailable")
        return await look_all(jetstream, questions)

    async with broker.open() as session, broker.open() as other:
        await session.declare(["q", "away"])
        await session.publish([publication("m"), publication("a", queue="away")])
        (mine,) = await take(session)
        (_,) = await take(session, queue="away")
        monkeypatch.setattr(JetStream, "look_all", refuse)
        session._office.jetstream.current.link.lose("lost in a test")
        assert await take(other, wait=3 * ACK_WAIT) == []
        monkeypatch.undo()
        assert await settle(session, mine) is Reply.APPLIED


async def test_what_comes_while_a_session_closes_hurts_nobody(broker, monkeypatch):
    dismiss = Supervisor.dismiss

    def deliver(supervisor):
        # The last moment: the session's tasks have ended, and its connection is still there.
        (pull,) = [pull for (_, place), pull in intakes.pop()._pulls.items() if place == "medium"]
        where = f"{prefix_of(broker)}.medium.q.m", pull._token, f"$JS.ACK.{prefix_of(broker)}-medium-q.medium.1.1.1.1.0"
        letter = Letter("m", 5, ("t", 1), 0.0, 0.0)
        try:
            pull._heard(Message(*where, headed({HEADER: written(letter)}), b"{}"))
        finally:
            dismiss(supervisor)

    intakes = []
    async with broker.open() as session:
        intakes.append(session._intake)
        with trio.move_on_after(0.3):
            await take(session, wait=60.0)
        monkeypatch.setattr(Supervisor, "dismiss", deliver)
    assert not intakes


async def test_a_late_holder_that_keeps_nothing_leaves_a_newer_result(broker, monkeypatch):
    async with broker.open() as session, broker.open() as other:
        await session.publish([publication()])
        (mine,) = await take(session)
        monkeypatch.setattr(session._office.book, "leases", list)  # the server hears nothing of it any more
        (theirs,) = await take(other, wait=5.0)
        assert await settle(other, theirs) is Reply.APPLIED
        assert await settle(session, mine, Done(None, 0.0)) is Reply.SUPERSEDED
        assert (await other.result("q", "m")).result == b"1"


async def test_what_came_before_a_request_failed_is_given_back(broker, monkeypatch):
    heard = Pull._heard

    def fail(pull, message):
        heard(pull, message)
        if message.status >= 400 and pull.parcels:
            pull.status = 409

    async with broker.open() as session, broker.open() as other:
        await session.publish([publication()])
        monkeypatch.setattr(Pull, "_heard", fail)
        with pytest.raises(BrokerLostError, match="JetStream does not answer"):
            await take(session)
        monkeypatch.undo()
        (delivery,) = await take(other, wait=5.0)
        assert delivery.crashes == 0


async def test_a_stranger_that_looks_like_the_end_of_a_request_is_a_dead_letter(broker, nats_server):
    async with broker.open() as session:
        async with open_wire(nats_server.url) as wire:
            for name, number in (("end", 503), ("idle", 100)):
                wire.say(f"{prefix_of(broker)}.medium.q.{name}", raw=b"NATS/1.0 %d\r\n\r\n" % number)
            await wire.round_trip()
        await session.publish([publication("ours")])
        assert await drained(session, 1) == ["ours"]
        page = await session.peek("q", State.DEAD)
        assert [(view.id, view.reason) for view in page.messages] == [("end", "undecodable"), ("idle", "undecodable")]


async def test_what_was_found_is_not_kept_until_the_server_takes_it_back(broker, monkeypatch):
    """Looking through many queues may take a while, and what was found first is nobody's lease yet."""
    async with broker.open() as session, broker.open() as other, trio.open_nursery() as nursery:
        others = [f"q{number}" for number in range(6)]
        await session.declare(others)
        await session.publish([publication()])
        pull, taken = session._intake._pull, []

        async def slow(*args):
            await trio.sleep(ACK_WAIT / 8)
            return await pull(*args)

        async def lease():
            taken.extend(await session.lease(["q", *others], 100, 60.0, owner="me"))

        monkeypatch.setattr(session._intake, "_pull", slow)
        monkeypatch.setattr(session._intake, "_turn", len(others))
        nursery.start_soon(lease)
        await trio.sleep(ACK_WAIT / 2)
        assert await take(other, wait=3 * ACK_WAIT) == []
        assert [each.id for each in taken] == ["m"]
        assert await settle(session, taken[0]) is Reply.APPLIED
