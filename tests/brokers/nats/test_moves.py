"""Moves of messages between places: two steps, which two sessions may be taking at once."""

from types import SimpleNamespace

import pytest
import trio
from msgspec.structs import replace

from tests.brokers.nats.kit import (
    PREFIXES,
    WINDOW,
    fresh_broker,
    open_wire,
    publication,
    settle,
    shorten,
    sweep,
    take,
)
from trepid.brokers.nats import moving
from trepid.brokers.nats.letter import Letter
from trepid.brokers.nats.parcel import Parcel
from trepid.brokers.nats.pulling import Pull
from trepid.brokers.nats.returning import Returns
from trepid.brokers.nats.sorting import buried
from trepid.errors import BrokerFullError
from trepid.rules.life import Reply
from trepid.rules.verdicts import Failed, Failure, Withdrawn
from trepid.wire.nats.connection import Question

OOPS = Failure("ValueError", "oops")


@pytest.fixture
async def sessions(nats_server):
    prefix = f"moves{next(PREFIXES)}"
    async with (
        fresh_broker(nats_server, prefix=prefix).open() as one,
        fresh_broker(nats_server, prefix=prefix).open() as two,
    ):
        await one.declare(["q"])
        yield one, two
    await sweep(nats_server.url, prefix)


async def drawn(session, place):
    """Take a message as a session is handed it."""
    office = session._office
    connection = await office.jetstream.connection()
    with trio.fail_after(5):
        while True:
            pull = Pull(connection, office.names.stream("q", place), "q", place, 1, now=office.clock.now)
            for parcel in await pull.wait():
                return parcel


def held_up(session, meanwhile):
    """Let a session do something in the middle of its next move: when the copy is there, and the message as well."""
    jetstream = session._office.jetstream
    delete_all = jetstream.delete_all

    async def delete_later(questions):
        jetstream.delete_all = delete_all
        await meanwhile()
        return await delete_all(questions)

    jetstream.delete_all = delete_later


async def come_due(session):
    await session.publish([publication(delay=60.0)])
    return moving.due_now(await drawn(session, "later"))


async def be_parked(session):
    await session.publish([publication()])
    [delivery] = await take(session)
    await settle(session, delivery, Failed(OOPS, 60.0))
    return moving.parked(await drawn(session, "medium"))


async def be_buried(session):
    await session.publish([publication()])
    parcel = await drawn(session, "medium")
    return buried(parcel, replace(parcel.letter, ended=1.0, reason="expired"))


@pytest.mark.parametrize("prepare", [come_due, be_parked, be_buried])
async def test_two_sessions_move_a_message_at_once(sessions, prepare):
    one, two = sessions
    move = await prepare(one)

    async def meanwhile():
        assert await two._office.mover.carry_out([move]) == [True]

    held_up(one, meanwhile)
    assert await one._office.mover.carry_out([move]) == [False]
    stats = await one.stats("q")
    assert stats.live + stats.dead == 1


async def test_one_session_puts_a_message_aside_that_another_has_found_due(sessions):
    one, two = sessions
    move = await be_parked(one)

    async def meanwhile():
        assert await two._office.mover.carry_out([moving.due_now(move.parcel)]) == [True]

    held_up(one, meanwhile)
    assert await one._office.mover.carry_out([move]) == [False]
    assert (await one.stats("q")).live == 1
    assert [each.id for each in await take(one)] == ["m"]


async def test_a_repetition_of_a_follow_up_is_no_reason_to_take_a_copy_back(sessions, nats_server):
    """It will be deleted on account of that very copy."""
    one, two = sessions
    async with open_wire(nats_server.url) as wire:
        await shorten(wire, one._office.names.prefix)
    item = publication(remembered=True)
    await one.publish([item])
    [delivery] = await take(one)
    await settle(one, delivery, Failed(OOPS, 60.0))
    move = moving.parked(await drawn(one, "medium"))
    await trio.sleep(2 * WINDOW)

    async def meanwhile():
        assert await two._office.mover.carry_out([move]) == [True]
        await two.publish([item])

    held_up(one, meanwhile)
    assert await one._office.mover.carry_out([move]) == [False]
    assert await take(two) == []
    assert (await one.stats("q")).scheduled == 1


async def bury(session):
    await session.publish([publication()])
    [delivery] = await take(session)
    await settle(session, delivery, Failed(OOPS, None))


async def test_two_sessions_requeue_a_dead_letter_at_once(sessions):
    one, two = sessions
    await bury(one)

    async def meanwhile():
        assert await two.requeue("q") == 1

    held_up(one, meanwhile)
    assert await one.requeue("q") == 0
    stats = await one.stats("q")
    assert (stats.ready, stats.dead) == (1, 0)


async def test_a_dead_letter_is_requeued_whose_message_has_come_to_somebody_else(sessions):
    one, two = sessions
    await bury(one)

    async def meanwhile():
        assert await two.requeue("q") == 1
        [again] = await take(two)
        assert await settle(two, again, Failed(OOPS, 60.0)) is Reply.APPLIED

    held_up(one, meanwhile)
    assert await one.requeue("q") == 0
    assert (await one.stats("q")).live == 1


async def test_a_message_that_is_withdrawn_is_gone(sessions):
    """As where a worker of this engine alone comes upon the job of a nursery that has a second one."""
    one, _ = sessions
    await one.publish([publication()])
    [delivery] = await take(one)
    assert await settle(one, delivery, Withdrawn(60.0, reason="deadline")) is Reply.APPLIED
    stats = await one.stats("q")
    assert stats.live + stats.dead == 0


@pytest.mark.parametrize("returns", [True, False])
async def test_what_nobody_wants_is_given_back_also_after_a_long_outage(returns, autojump_clock):
    """The first is given up, for the server has taken it back long since; the next one is not."""
    moved, here = [], trio.Event()

    class JetStream:
        async def connection(self):
            await here.wait()
            return SimpleNamespace(server="s")

    class Mover:
        async def carry_out(self, moves):
            await trio.lowlevel.checkpoint()
            moved.extend(move.parcel for move in moves)

    async with trio.open_nursery() as nursery:
        office = SimpleNamespace(
            jetstream=JetStream(),
            mover=Mover(),
            nursery=nursery,
            topology=SimpleNamespace(ack_wait=12.0),
            clock=SimpleNamespace(now=trio.current_time),
            holds=lambda _: False,
        )
        returning = Returns(office)
        letter = Letter("m", 5, ("t", 1), 0.0, 0.0)
        first, second = (Parcel("q", "medium", seq, 1, seq, letter, None, "s") for seq in (1, 2))
        returning.add(first)
        await trio.sleep(10 if returns else 100)
        here.set()
        await trio.sleep(1)
        returning.add(second)
        await trio.sleep(1)
        assert moved == ([first, second] if returns else [second])


async def test_what_there_is_no_room_for_keeps_nothing_else_from_going_back():
    """Such as where an operator has lowered what the server takes: a session that closes gives back the rest."""
    said = []

    async def answered():
        await trio.lowlevel.checkpoint()

    def question(move, largest):
        if move.parcel.seq == 1:
            raise BrokerFullError("it needs 9,000 bytes, and the server has a max_payload of 8,192")
        return Question(f"q.{move.parcel.seq}")

    connection = SimpleNamespace(
        server="s",
        largest=8192,
        deafen=answered,
        round_trip=answered,
        say=lambda subject, *_, **__: said.append(subject),
    )
    clock = SimpleNamespace(now=lambda: 0.0)
    returning = Returns(SimpleNamespace(holds=lambda _: False, clock=clock, mover=SimpleNamespace(question=question)))
    returning.closing()
    for seq in (1, 2):
        returning.add(Parcel("q", "medium", seq, 1, seq, Letter("m", 5, ("t", seq), 0.0, 0.0), None, "s"))
    await returning.part_from(connection)
    assert said == ["q.2"]
