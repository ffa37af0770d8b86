"""Whatever another program does between any two steps of an operation, keys, ids and results stay true.

Each operation is interrupted before its n-th call of an engine, for every n that it has: there another program on the
same two engines carries out one of its own, from beginning to end.
"""

from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from tests.brokers.assisted.limited import LimitedBroker
from trepid.brokers.assisted import AssistedBroker
from trepid.brokers.assisted.register import deed_key
from trepid.brokers.memory import MemoryBroker
from trepid.errors import BrokerLostError
from trepid.ports.broker import Broker
from trepid.ports.messages import Ending, Publication, Settlement
from trepid.ports.records import Drop, Read
from trepid.rules.life import Reply, State
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Done, Failed, Failure, Returned, Withdrawn
from trepid.testing.relay import Relay
from trepid.values.unique import Unique

DAY = 86_400.0


class Gap:
    """Counts the calls of one program, and lets another act before one of them."""

    def __init__(self):
        self.left = 0
        self.act = None

    async def pass_by(self):
        if self.left > 0:
            self.left -= 1
            if self.left == 0:
                await self.act()


class GappyBroker(Broker):
    def __init__(self, inner, gap):
        self.inner, self.gap = inner, gap

    def __str__(self):
        return f"gappy {self.inner}"

    @asynccontextmanager
    async def open(self):
        async with self.inner.open() as session:
            relay = _Gappy(session)
            relay.gap = self.gap
            yield relay


class _Gappy(Relay):
    async def carry(self, operation, call):
        await self.gap.pass_by()
        return await call()


class World:
    def __init__(self, session, other, gap):
        self.session, self.other, self.gap = session, other, gap
        self.tokens = 0

    def publication(self, id="m", **fields):
        self.tokens += 1
        return Publication("q", id, ("p", self.tokens), b"{}", **fields)

    async def take(self, limit=10):
        return await self.other.lease(["q"], limit, 30.0, owner="o")


@asynccontextmanager
async def two_programs():
    gap, main, second = Gap(), LimitedBroker(), MemoryBroker()
    async with (
        AssistedBroker(GappyBroker(main, gap), GappyBroker(second, gap)).open() as session,
        AssistedBroker(main, second).open() as other,
    ):
        await session.declare(["q"])
        yield World(session, other, gap)


async def between_any_two_steps(prepare, operate, act, check, *, most=25):
    """Let another program *act* before each call that *operate* makes."""
    gaps = 0
    for number in range(1, most):
        async with two_programs() as world:
            prepared = await prepare(world)
            acted = []

            async def acts():
                acted.append(await act(world, prepared))  # noqa: B023

            world.gap.left, world.gap.act = number, acts
            answer = await operate(world, prepared)
            if not acted:
                break
            gaps += 1
            await check(world, prepared, answer, acted[0])
    else:
        pytest.fail(f"it has more than {most} steps")
    assert gaps >= 4, "something came between somewhere"


async def test_a_holder_that_starts_is_not_replaced(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication("old", unique=Unique("k"))])
        return world.publication("new", unique=Unique("k", "replace"))

    async def check(world, item, answers, taken):
        ids = [delivery.id for delivery in taken]
        ids += [delivery.id for delivery in await world.take()]
        [answer] = answers
        if ids == ["old"]:
            assert (answer.outcome, answer.id) == (Publishing.EXISTING, "old")
        else:
            assert (answer.outcome, ids) == (Publishing.ACCEPTED, ["new"])

    await between_any_two_steps(
        prepare, lambda world, item: world.session.publish([item]), lambda world, _: world.take(), check
    )


@pytest.mark.parametrize("end", ["cancelled", "done", "replaced"])
async def test_a_holder_that_ends_meanwhile_gives_way(end, autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication("old", unique=Unique("k"))])
        return world.publication("new", unique=Unique("k", "replace"))

    async def act(world, _):
        if end == "cancelled":
            await world.other.cancel("q", ["old"], "no")
        elif end == "replaced":
            await world.other.publish([world.publication("other", unique=Unique("k", "replace"))])
        else:
            for delivery in await world.take():
                await world.other.settle([Settlement(delivery.ref, Done(b"1", DAY))])

    async def check(world, _, answers, __):
        assert [(answer.outcome, answer.id) for answer in answers] == [(Publishing.ACCEPTED, "new")]
        rest = [delivery.id for delivery in await world.take()]
        # Done, or replaced, it may also be just after it was stored.
        assert rest in ([["new"]] if end == "cancelled" else [["new"], ["other"], []])
        assert (await world.other.get("q", "old")).state in (State.CANCELLED, State.DONE)

    await between_any_two_steps(prepare, lambda world, item: world.session.publish([item]), act, check)


async def test_a_job_that_starts_before_its_publisher_is_answered_has_its_result(autojump_clock):
    """Also in a queue that was deleted once, and declared again, which its publisher had not heard of."""

    async def prepare(world):
        await world.other.delete("q")
        await world.other.declare(["q"])
        return world.publication()

    async def check(world, _, answers, taken):
        assert [answer.outcome for answer in answers] == [Publishing.ACCEPTED]
        [delivery] = taken or await world.take()
        assert (await world.other.get("q", "m")).state is State.LEASED
        assert await world.other.settle([Settlement(delivery.ref, Done(b"1", DAY))]) == [Reply.APPLIED]
        assert await world.other.result("q", "m") == Ending(State.DONE, b"1")

    await between_any_two_steps(
        prepare, lambda world, item: world.session.publish([item]), lambda world, _: world.take(), check
    )


async def test_a_ticket_that_outlived_its_deed_has_its_result(autojump_clock):
    async with two_programs() as world:
        await world.other.delete("q")
        await world.other.declare(["q"])
        await world.other.publish([world.publication()])
        await world.other._second.records.carry_out([Drop(deed_key(("q", "m")))])
        [delivery] = await world.take()
        assert await world.other.settle([Settlement(delivery.ref, Done(b"1", DAY))]) == [Reply.APPLIED]
        assert await world.other.result("q", "m") == Ending(State.DONE, b"1")


@pytest.mark.parametrize("end", ["poison", "expired"])
async def test_what_time_has_ended_gives_way_to_who_has_its_key_by_now(end, autojump_clock):
    async with two_programs() as world:
        unique = Unique("k")
        await world.other.publish([world.publication("old", unique=unique, max_crashes=1, ttl=50.0)])
        if end == "poison":
            assert len(await world.take()) == 1
        await trio.sleep(60)
        assert (await world.other.result("q", "old")).reason == end
        [answer] = await world.other.publish([world.publication("new", unique=unique)])
        assert answer.outcome is Publishing.ACCEPTED
        assert await world.other.requeue("q") == 1
        assert [delivery.id for delivery in await world.take()] == ["new"]
        assert (await world.other.stats("q")).dead == 1


async def test_what_was_cancelled_while_it_ran_is_forgotten_in_time(autojump_clock):
    async with two_programs() as world:
        await world.other.publish([world.publication(id, result_ttl=10.0) for id in "abc"])
        deliveries = await world.take()
        await world.other.cancel("q", list("abc"), "no")
        verdicts = [Withdrawn(10.0), Failed(Failure("ValueError"), 5.0), Returned()]
        ends = [Settlement(each.ref, verdict) for each, verdict in zip(deliveries, verdicts, strict=True)]
        assert await world.other.settle(ends) == [Reply.APPLIED] * 3
        assert {(await world.other.result("q", id)).state for id in "abc"} == {State.CANCELLED}
        await trio.sleep(700)
        await world.other.publish([world.publication("d")])
        found = await world.other._second.records.carry_out([Read(deed_key(("q", id))) for id in "abc"])
        assert found == [None] * 3


@pytest.mark.parametrize("refusal", ["key", "key, raised", "queue"])
async def test_a_publish_that_is_refused_leaves_what_was_there(refusal, autojump_clock):
    async with two_programs() as world:
        publish = world.other.publish
        await publish([world.publication("done"), world.publication("dead")])
        for delivery in await world.take():
            verdict = Done(b"1", DAY) if delivery.id == "done" else Failed(Failure("ValueError"))
            await world.other.settle([Settlement(delivery.ref, verdict)])
        await publish([world.publication("cancelled")])
        await world.other.cancel("q", ["cancelled"], "no")
        await publish([world.publication("holder", unique=Unique("k"))])
        before = {id: await world.other.result("q", id) for id in ("done", "dead", "cancelled")}

        key = {"key": Unique("k"), "key, raised": Unique("k", "raise"), "queue": None}[refusal]
        lost = [] if key else [Publication("nowhere", "x", ("p", 99), b"{}")]
        for id in before:
            [answer, *_] = await publish([world.publication(id, unique=key), *lost])
            assert answer.outcome not in (Publishing.ACCEPTED, Publishing.DUPLICATE)
        assert {id: await world.other.result("q", id) for id in before} == before
        assert [delivery.id for delivery in await world.take()] == ["holder"], "and what was cancelled never runs"


@pytest.mark.parametrize("end", ["cancelled", "dead"])
async def test_what_has_ended_never_runs_however_long_its_successor_is_forgotten(end, autojump_clock):
    async with two_programs() as world:
        await world.other.publish([world.publication(delay=5 * DAY if end == "cancelled" else 0.0)])
        if end == "cancelled":
            await world.other.cancel("q", ["m"], "no")
        else:
            [delivery] = await world.take()
            await world.other.settle([Settlement(delivery.ref, Failed(Failure("ValueError")))])
        for _ in range(2):
            [answer] = await world.other.publish([world.publication()])
            assert answer.outcome is Publishing.ACCEPTED
            [delivery] = await world.take()
            await world.other.settle([Settlement(delivery.ref, Done(b"1", 0.0))])
        await trio.sleep(6 * DAY)
        await world.other.requeue("q")
        assert await world.take() == []


async def test_a_lease_of_which_the_deed_has_not_heard_is_given_back(autojump_clock):
    """The second engine was lost over the lease of a retry; the worker asks what it holds, and returns that."""
    async with two_programs() as world:
        await world.other.publish([world.publication()])
        [delivery] = await world.take()
        await world.other.settle([Settlement(delivery.ref, Failed(Failure("ValueError"), 1.0))])
        await trio.sleep(2)
        await world.other._main.lease(["q"], 1, 30.0, owner="o")
        [ref] = await world.other.held("o")
        assert await world.other.settle([Settlement(ref, Returned())]) == [Reply.APPLIED]
        [delivery] = await world.take()
        assert (delivery.failures, delivery.crashes) == (1, 0)
        assert await world.other.settle([Settlement(ref, Returned())]) == [Reply.SUPERSEDED]


async def test_of_two_of_one_id_in_a_batch_the_second_is_stored_if_the_first_is_not(autojump_clock):
    async with two_programs() as world:
        await world.other.publish([world.publication("old", unique=Unique("k"))])
        batch = [world.publication(unique=Unique("k")), world.publication(), world.publication()]
        answers = await world.other.publish(batch)
        assert [(answer.outcome, answer.id) for answer in answers] == [
            (Publishing.EXISTING, "old"),
            (Publishing.ACCEPTED, "m"),
            (Publishing.EXISTING, "m"),
        ]
        assert {delivery.id for delivery in await world.take()} == {"old", "m"}


@pytest.mark.parametrize("meanwhile", ["another", "forgotten"])
async def test_of_those_who_take_the_place_of_what_has_ended_one_is_stored(meanwhile, autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication(unique=Unique("old"))])
        [delivery] = await world.take()
        await world.other.settle([Settlement(delivery.ref, Done(b"1", DAY))])
        return world.publication(unique=Unique("k"))

    async def act(world, _):
        if meanwhile == "another":
            return await world.other.publish([world.publication(unique=Unique("k"))])
        await world.other._second.records.carry_out([Drop(deed_key(("q", "m")))])
        return []

    async def check(world, _, answers, others):
        assert sorted(answer.outcome for answer in [*answers, *others]) in (
            [Publishing.ACCEPTED],
            [Publishing.ACCEPTED, Publishing.EXISTING],
        )
        [delivery] = await world.take()
        [rival] = await world.other.publish([world.publication("rival", unique=Unique("k"))])
        assert (rival.outcome, rival.id) == (Publishing.EXISTING, "m")
        assert await world.other.settle([Settlement(delivery.ref, Done(b"2", DAY))]) == [Reply.APPLIED]
        assert await world.other.result("q", "m") == Ending(State.DONE, b"2")

    await between_any_two_steps(prepare, lambda world, item: world.session.publish([item]), act, check)


async def test_who_takes_the_place_of_what_has_ended_has_its_key_before_or_leaves_all_as_it_was(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication()])
        [delivery] = await world.take()
        await world.other.settle([Settlement(delivery.ref, Done(b"1", DAY))])
        return world.publication(unique=Unique("k"))

    async def act(world, _):
        return await world.other.publish([world.publication("rival", unique=Unique("k"))])

    async def check(world, _, answers, others):
        assert sorted((answer.outcome, answer.id) for answer in [*answers, *others]) in (
            [(Publishing.ACCEPTED, "m"), (Publishing.EXISTING, "m")],
            [(Publishing.ACCEPTED, "rival"), (Publishing.EXISTING, "rival")],
        )
        if answers[0].id == "rival":
            assert await world.other.result("q", "m") == Ending(State.DONE, b"1")
        assert [delivery.id for delivery in await world.take()] == [answers[0].id]

    await between_any_two_steps(prepare, lambda world, item: world.session.publish([item]), act, check)


async def test_a_requeued_message_keeps_its_key_beside_who_wanted_its_place(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication(unique=Unique("old"))])
        [delivery] = await world.take()
        await world.other.settle([Settlement(delivery.ref, Failed(Failure("ValueError")))])
        return world.publication(unique=Unique("k"))

    async def act(world, _):
        await world.other.requeue("q")
        return await world.take()

    async def check(world, _, answers, taken):
        if not taken:
            return  # its place was taken before
        [answer] = answers
        if answer.outcome is Publishing.EXISTING:
            [rival] = await world.other.publish([world.publication("rival", unique=Unique("old"))])
            assert (rival.outcome, rival.id) == (Publishing.EXISTING, "m")

    await between_any_two_steps(prepare, lambda world, item: world.session.publish([item]), act, check)


async def test_a_dead_letter_that_was_settled_twice_and_requeued_is_kept_as_long_as_any(autojump_clock):
    async with two_programs() as world:
        await world.other.publish([world.publication(result_ttl=0.0)])
        [delivery] = await world.take()
        for reply in (Reply.APPLIED, Reply.REPEATED):
            dead = Settlement(delivery.ref, Failed(Failure("ValueError")))
            assert await world.other.settle([dead]) == [reply]
        assert await world.other.requeue("q") == 1
        await world.take()
        await world.other.cancel("q", ["m"], "no")
        # Its worker falls silent; the next one throws its ticket away, and is cut off over that.
        await trio.sleep(60)
        main, settle = world.other._main, type(world.other._main).settle

        async def lost(batch, *, then=()):
            raise BrokerLostError

        main.settle = lost
        with pytest.raises(BrokerLostError):
            await world.take()
        main.settle = partial(settle, main)
        await trio.sleep(3600)
        assert await world.take() == []


async def test_what_was_cancelled_while_it_waited_is_forgotten_once_its_ticket_is_gone(autojump_clock):
    async with two_programs() as world:
        read = partial(world.other._second.records.carry_out, [Read(deed_key(("q", "m")))])
        await world.other.publish([world.publication(result_ttl=10.0)])
        await world.other.cancel("q", ["m"], "no")
        await trio.sleep(DAY)
        assert await read() != [None]
        assert await world.take() == []
        assert await read() != [None]
        await trio.sleep(601)
        assert await read() == [None]
