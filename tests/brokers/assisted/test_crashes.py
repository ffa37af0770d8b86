"""A crash, or a lost engine, between any two steps: nothing is lost, nothing is stuck, what has ended runs no more.

Each operation is cut off after its n-th call of an engine, before or after that call was applied, for every n that it
has.  Then the program that made it is gone, another one goes on, and what the guide promises must be true.
"""

import itertools
import math
from collections import Counter
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec.structs import replace

from tests.brokers.assisted.limited import LimitedBroker
from trepid.brokers.assisted import AssistedBroker
from trepid.brokers.assisted.publishing import Drafts
from trepid.brokers.memory import MemoryBroker
from trepid.errors import BrokerLostError
from trepid.ports.messages import Absent, Ending, Firing, Publication, Settlement
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Done, Failed, Failure, Returned, Withdrawn
from trepid.testing import FaultyBroker
from trepid.testing.faults import Fault
from trepid.values.unique import Unique

OOPS = Failure("ValueError", "oops")
DAY = 86_400.0


class Cut:
    """Lets the first n calls of two engines through, and none after that."""

    def __init__(self):
        self.left = math.inf
        self.applied = False

    def __call__(self, operation):
        if self.left <= 0:
            return Fault(lambda: BrokerLostError("cut off"), applied=False)
        self.left -= 1
        if self.left == 0 and self.applied:
            return Fault(lambda: BrokerLostError("cut off"), applied=True)
        if self.left == 0:
            return Fault(lambda: BrokerLostError("cut off"), applied=False)
        return None


class World:
    """Two programs on the same two engines: one that will be cut off, and one that goes on."""

    def __init__(self, session, other, cut):
        self.session, self.other, self.cut = session, other, cut
        self.tokens = 0

    def publication(self, id="m", **fields):
        self.tokens += 1
        return Publication("q", id, ("p", self.tokens), b"{}", **fields)

    async def take(self, session=None, limit=10, lease_for=30.0):
        return await (session or self.other).lease(["q"], limit, lease_for, owner="o")

    async def settle(self, delivery, verdict, session=None):
        [reply] = await (session or self.other).settle([Settlement(delivery.ref, verdict)])
        return reply

    async def run_all(self):
        """Work until nothing is left, over hours; return how often each message ran."""
        ran = {}
        for _ in range(20):
            for delivery in await self.take():
                ran[delivery.id] = ran.get(delivery.id, 0) + 1
                assert await self.settle(delivery, Done(b"1", DAY)) is Reply.APPLIED
            await trio.sleep(20)
        return ran


@asynccontextmanager
async def two_programs():
    main, second, cut = LimitedBroker(), MemoryBroker(), Cut()
    async with (
        AssistedBroker(FaultyBroker(main, cut), FaultyBroker(second, cut)).open() as session,
        AssistedBroker(main, second).open() as other,
    ):
        await session.declare(["q"])
        yield World(session, other, cut)


async def cut_off(prepare, operate, check, *, most=25):
    """Cut an operation off at every point that it has."""
    points = 0
    for applied in (False, True):
        for number in range(1, most):
            async with two_programs() as world:
                prepared = await prepare(world)
                world.cut.left, world.cut.applied = number, applied
                try:
                    await operate(world, prepared)
                except BrokerLostError:
                    points += 1
                    await check(world, prepared)
                else:
                    break
        else:
            pytest.fail(f"it has more than {most} steps")
    assert points >= 4, "it was cut off somewhere"


# ------------------------------------------------------------------------------------------------------- publishing


async def test_a_publish_that_is_repeated_is_one_message(autojump_clock):
    async def prepare(world):
        return world.publication(unique=Unique("k"))

    async def check(world, item):
        [again] = await world.other.publish([item])
        assert again.outcome in (Publishing.ACCEPTED, Publishing.DUPLICATE)
        [rival] = await world.other.publish([world.publication("rival", unique=Unique("k"))])
        assert (rival.outcome, rival.id) == (Publishing.EXISTING, "m")
        assert await world.run_all() == {"m": 1}
        assert await world.other.result("q", "m") == Ending(State.DONE, b"1")

    await cut_off(prepare, lambda world, item: world.session.publish([item]), check)


async def test_a_publisher_that_dies_blocks_neither_id_nor_key_for_long(autojump_clock):
    async def prepare(world):
        return world.publication(unique=Unique("k"))

    async def check(world, item):
        ran = await world.run_all()
        assert ran in ({}, {"m": 1})
        [later] = await world.other.publish([world.publication("m", unique=Unique("k"))])
        assert later.outcome is Publishing.ACCEPTED
        assert await world.run_all() == {"m": 1}

    await cut_off(prepare, lambda world, item: world.session.publish([item]), check)


async def test_of_a_dead_publisher_and_a_living_one_with_the_same_id_one_wins(autojump_clock):
    async def prepare(world):
        return world.publication()

    async def check(world, item):
        # After a minute the claim has run out, but the ticket may be there: it fits no deed, and is thrown away.
        await trio.sleep(61)
        [rival] = await world.other.publish([world.publication()])
        assert rival.outcome in (Publishing.ACCEPTED, Publishing.EXISTING)
        assert await world.run_all() == {"m": 1}

    await cut_off(prepare, lambda world, item: world.session.publish([item]), check)


async def test_a_replacement_withdraws_the_holder_or_leaves_it(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication("old", unique=Unique("k"))])
        return world.publication("new", unique=Unique("k", "replace"))

    async def check(world, item):
        [again] = await world.other.publish([item])
        assert (again.id, again.outcome) != ("new", Publishing.CONFLICT)
        assert await world.run_all() == {"new": 1}
        ending = await world.other.result("q", "old")
        assert (ending.state, ending.reason) == (State.CANCELLED, "replaced by new")

    await cut_off(prepare, lambda world, item: world.session.publish([item]), check)


async def test_a_repetition_that_has_lost_its_key_is_not_stored(autojump_clock):
    async def prepare(world):
        return world.publication(unique=Unique("k"))

    async def check(world, item):
        await trio.sleep(61)  # the claims have run out
        [rival] = await world.other.publish([world.publication("rival", unique=Unique("k"))])
        if rival.outcome is Publishing.ACCEPTED:
            [again] = await world.other.publish([item])
            assert (again.outcome, again.id) == (Publishing.EXISTING, "rival")
        assert await world.run_all() == {rival.id: 1}

    await cut_off(prepare, lambda world, item: world.session.publish([item]), check)


@pytest.mark.parametrize("on_conflict", ["existing", "raise"])
async def test_a_publish_that_is_cut_off_twice_is_refused_like_any_other(autojump_clock, on_conflict):
    async def cut(world, item, number):
        world.cut.left, world.cut.applied = number, True
        try:
            await world.session.publish([item])
        except BrokerLostError:
            return True
        finally:
            world.cut.left = math.inf
        return False

    twice = 0
    for first, second in itertools.product(range(1, 9), repeat=2):
        async with two_programs() as world:
            await world.other.publish([world.publication("old", unique=Unique("k"))])
            item = world.publication(unique=Unique("k", on_conflict))
            twice += await cut(world, item, first) and await cut(world, item, second)
            [answer] = await world.session.publish([item])
            wanted = Publishing.EXISTING if on_conflict == "existing" else Publishing.CONFLICT
            assert (answer.outcome, answer.id) == (wanted, "old")
            assert await world.run_all() == {"old": 1}
            [free] = await world.session.publish([item])
            assert (free.outcome, free.id) == (Publishing.ACCEPTED, "m")
            assert await world.run_all() == {"m": 1}
    assert twice > 10


async def test_of_a_dead_publisher_and_a_living_one_with_the_same_key_one_runs(autojump_clock):
    async def prepare(world):
        return world.publication(unique=Unique("k"))

    async def check(world, item):
        await trio.sleep(61)
        [rival] = await world.other.publish([world.publication("rival", unique=Unique("k"))])
        deliveries = await world.take()
        assert [delivery.id for delivery in deliveries] == [rival.id]

    await cut_off(prepare, lambda world, item: world.session.publish([item]), check)


async def test_what_was_cancelled_before_it_was_confirmed_never_runs(autojump_clock):
    async def prepare(world):
        return world.publication(delay=1000)

    async def check(world, item):
        [reply] = await world.other.cancel("q", ["m"], "no")
        await trio.sleep(900)
        ran = await world.run_all()
        assert ran == {} or (reply is CancelReply.UNKNOWN and ran == {"m": 1})

    await cut_off(prepare, lambda world, item: world.session.publish([item]), check)


async def test_a_repetition_after_a_long_outage_is_one_message(autojump_clock):
    async def prepare(world):
        return world.publication(unique=Unique("k"))

    async def check(world, item):
        await trio.sleep(300)
        await world.other.publish([item])
        assert [delivery.id for delivery in await world.take()] == ["m"], "the other ticket is a surplus"

    await cut_off(prepare, lambda world, item: world.session.publish([item]), check)


@pytest.mark.parametrize("rival", ["m", "rival"])
async def test_who_is_slow_to_publish_has_lost_id_and_key_to_who_was_faster(autojump_clock, rival):
    async with two_programs() as world:
        slow = Drafts(world.session._register, world.session._main, [world.publication(unique=Unique("k"))])
        assert await slow.claim()
        await trio.sleep(61)
        await world.other.publish([world.publication(rival, unique=Unique("k"))])
        await slow.confirm(await world.session._main.publish(slow.tickets))
        [answer] = slow.answers
        assert (answer.outcome, answer.id) == (Publishing.EXISTING, rival)
        assert [delivery.id for delivery in await world.take()] == [rival]


async def test_nobody_is_withdrawn_for_what_is_refused(autojump_clock):
    async with two_programs() as world:
        await world.other.publish([world.publication("old", unique=Unique("k"))])
        lost = Publication("nowhere", "x", ("p", 99), b"{}")
        replies = await world.other.publish([world.publication("new", unique=Unique("k", "replace")), lost])
        assert [reply.outcome for reply in replies] == [Publishing.NOT_STORED, Publishing.NO_QUEUE]
        assert await world.run_all() == {"old": 1}


# ---------------------------------------------------------------------------------------------------------- leasing


async def test_a_lease_that_is_cut_off_comes_back(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication("a"), world.publication("b")])

    async def check(world, _):
        assert await world.run_all() == {"a": 1, "b": 1}

    await cut_off(prepare, lambda world, _: world.take(world.session), check)


async def test_a_cancelled_message_never_starts_whoever_dies_over_its_ticket(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication()])
        assert await world.other.cancel("q", ["m"], "no") == [CancelReply.WITHDRAWN]

    async def check(world, _):
        assert await world.run_all() == {}
        assert (await world.other.result("q", "m")).state is State.CANCELLED

    await cut_off(prepare, lambda world, _: world.take(world.session), check)


# --------------------------------------------------------------------------------------------------------- settling


async def test_a_result_that_was_written_stands_and_the_job_does_not_run_again(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication(unique=Unique("k"))])
        [delivery] = await world.take(world.session)
        return delivery

    async def check(world, delivery):
        ran = await world.run_all()
        ending = await world.other.result("q", "m")
        assert ran in ({}, {"m": 1})
        # Its own result if it was written, and the result of the one that ran instead if not.
        assert ending == Ending(State.DONE, b"1" if ran else b"mine")
        [free] = await world.other.publish([world.publication("n", unique=Unique("k"))])
        assert free.outcome is Publishing.ACCEPTED, "and the key is free"

    await cut_off(prepare, lambda world, delivery: world.settle(delivery, Done(b"mine", DAY), world.session), check)


@pytest.mark.parametrize("verdict", [Done(b"1", DAY), Failed(OOPS), Failed(OOPS, 5.0), Returned(), Withdrawn(DAY)])
async def test_a_settlement_that_is_repeated_is_applied_once(autojump_clock, verdict):
    async def prepare(world):
        await world.other.publish([world.publication()])
        [delivery] = await world.take(world.session)
        if isinstance(verdict, Withdrawn):
            await world.other.cancel("q", ["m"], "no")
        return delivery

    async def check(world, delivery):
        world.cut.left = math.inf
        assert await world.settle(delivery, verdict, world.session) in (Reply.APPLIED, Reply.REPEATED)
        assert await world.settle(delivery, verdict, world.session) is Reply.REPEATED
        waits = isinstance(verdict, Returned) or getattr(verdict, "delay", None) is not None
        assert await world.run_all() == ({"m": 1} if waits else {})
        wanted = {Failed: State.DEAD, Withdrawn: State.CANCELLED}.get(type(verdict), State.DONE)
        assert (await world.other.result("q", "m")).state is (State.DONE if waits else wanted)

    await cut_off(prepare, lambda world, delivery: world.settle(delivery, verdict, world.session), check)


async def test_a_failure_that_is_cut_off_is_a_failure_or_a_crash(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication()])
        [delivery] = await world.take(world.session)
        return delivery

    async def check(world, delivery):
        ran = await world.run_all()
        ending = await world.other.result("q", "m")
        assert ending.state is (State.DONE if ran else State.DEAD)

    await cut_off(prepare, lambda world, delivery: world.settle(delivery, Failed(OOPS), world.session), check)


async def test_an_extension_that_is_cut_off_can_be_repeated(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication()])
        [delivery] = await world.take(world.session)
        return delivery

    async def check(world, delivery):
        world.cut.left = math.inf
        await trio.sleep(20)
        [extension] = await world.session.extend([delivery.ref], 30.0)
        assert extension.reply is Reply.APPLIED
        await trio.sleep(20)
        assert await world.take() == [], "nobody else has it meanwhile"
        assert await world.settle(delivery, Done(b"mine", DAY), world.session) is Reply.APPLIED
        assert await world.other.result("q", "m") == Ending(State.DONE, b"mine")

    await cut_off(prepare, lambda world, delivery: world.session.extend([delivery.ref], 30.0), check)


@pytest.mark.parametrize("keep", [DAY, 0.0], ids=["kept", "nothing kept"])
@pytest.mark.parametrize("away", [0.0, DAY / 2], ids=["at once", "later"])
async def test_a_follow_up_is_there_once_wherever_its_worker_dies(away, keep, autojump_clock):
    """Whoever comes next, at once or much later, is handed the step again, or its follow-up is there."""

    async def prepare(world):
        await world.session.declare(["after"])
        await world.other.publish([world.publication()])
        [delivery] = await world.take(world.session)
        return delivery, replace(world.publication("next", unique=Unique("k")), queue="after", remembered=True)

    async def operate(world, prepared):
        delivery, following = prepared
        await world.session.settle([Settlement(delivery.ref, Done(b"mine", keep))], then=[following])

    async def check(world, prepared):
        ran = Counter()

        async def work(queues):
            for _ in range(10):
                for delivery in await world.other.lease(queues, 10, 30.0, owner="o"):
                    ran[delivery.id] += 1
                    then = [prepared[1]] if delivery.id == "m" else []
                    done = Settlement(delivery.ref, Done(b"1", keep))
                    assert await world.other.settle([done], then=then) == [Reply.APPLIED]
                await trio.sleep(20)

        await work(["after"])
        await trio.sleep(away)
        await work(["q", "after"])
        assert (ran["next"], ran["m"]) in ((1, 0), (1, 1))
        [free] = await world.other.publish([replace(world.publication("x", unique=Unique("k")), queue="after")])
        assert free.outcome is Publishing.ACCEPTED

    await cut_off(prepare, operate, check)


@pytest.mark.parametrize("keep", [DAY, 0.0], ids=["kept", "nothing kept"])
@pytest.mark.parametrize("away", [0.0, DAY / 2], ids=["at once", "later"])
async def test_an_instant_is_fired_once_wherever_its_worker_dies(away, keep, autojump_clock):
    """Whoever comes next, at once or when its message is long forgotten, publishes nothing that runs again."""

    async def prepare(world):
        return Firing("q", "nightly", 1.0, world.publication())

    async def operate(world, firing):
        await world.session.fire([firing])

    async def check(world, firing):
        ran = Counter()

        async def work():
            for _ in range(10):
                for delivery in await world.take():
                    ran[delivery.id] += 1
                    assert await world.settle(delivery, Done(b"1", keep)) is Reply.APPLIED
                await trio.sleep(20)

        await work()
        await trio.sleep(away)
        await world.other.fire([firing])
        await work()
        assert ran == {"m": 1}
        assert await world.other.marks("q") == {"nightly": 1.0}

    await cut_off(prepare, operate, check)


async def test_a_settlement_with_a_follow_up_can_be_repeated(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication()])
        [delivery] = await world.take(world.session)
        return delivery, world.publication("next", unique=Unique("k"))

    async def operate(world, prepared):
        delivery, following = prepared
        return await world.session.settle([Settlement(delivery.ref, Done(b"mine", DAY))], then=[following])

    async def check(world, prepared):
        world.cut.left = math.inf
        assert await operate(world, prepared) in ([Reply.APPLIED], [Reply.REPEATED])
        assert await world.run_all() == {"next": 1}

    await cut_off(prepare, operate, check)


# ------------------------------------------------------------------------------------------------------- cancelling


async def test_a_cancel_can_be_repeated(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication(unique=Unique("k"))])

    async def check(world, _):
        assert await world.other.cancel("q", ["m"], "no") in ([CancelReply.WITHDRAWN], [CancelReply.FINISHED])
        assert await world.run_all() == {}
        [free] = await world.other.publish([world.publication("n", unique=Unique("k"))])
        assert free.outcome is Publishing.ACCEPTED

    await cut_off(prepare, lambda world, _: world.session.cancel("q", ["m"], "no"), check)


async def test_a_request_to_cancel_outlives_whoever_ran_the_message(autojump_clock):
    async with two_programs() as world:
        await world.other.publish([world.publication()])
        await world.take(world.session)
        assert await world.other.cancel("q", ["m"], "no") == [CancelReply.REQUESTED]
        world.cut.left = 0  # the worker is gone
        assert await world.run_all() == {}
        assert (await world.other.result("q", "m")).state is State.CANCELLED


# ---------------------------------------------------------------------------------------------------------- flushing


async def test_a_flush_frees_ids_and_keys(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication(unique=Unique("k"))])

    async def check(world, _):
        assert await world.other.purge("q", [State.READY, State.SCHEDULED]) in (0, 1)
        assert await world.other.result("q", "m") is Absent.GONE
        [free] = await world.other.publish([world.publication(unique=Unique("k"))])
        assert free.outcome is Publishing.ACCEPTED
        assert await world.run_all() == {"m": 1}

    await cut_off(prepare, lambda world, _: world.session.purge("q", [State.READY, State.SCHEDULED]), check)


async def test_a_deletion_that_is_repeated_frees_ids_and_keys(autojump_clock):
    async def prepare(world):
        await world.other.publish([world.publication(unique=Unique("k"))])

    async def check(world, _):
        await world.other.delete("q")
        await world.other.declare(["q"])
        assert await world.other.result("q", "m") is Absent.GONE
        [free] = await world.other.publish([world.publication(unique=Unique("k"))])
        assert free.outcome is Publishing.ACCEPTED
        assert await world.run_all() == {"m": 1}

    await cut_off(prepare, lambda world, _: world.session.delete("q"), check)


# ------------------------------------------------------------------------------------------------- losing an engine


@pytest.mark.parametrize("which", ["main", "second"])
async def test_without_one_engine_operations_say_so_and_afterwards_nothing_is_missing(autojump_clock, which):
    async with two_programs() as world:
        inner = world.session._main if which == "main" else world.session._second
        inner._plan = lambda operation: Fault(lambda: BrokerLostError("away"), applied=False)
        if which == "second":
            world.session._register._records = inner.records
        await world.other.publish([world.publication("a"), world.publication("b")])
        for operation in (
            lambda: world.session.publish([world.publication("c")]),
            lambda: world.take(world.session),
            lambda: world.session.cancel("q", ["a"], "no"),
            lambda: world.session.result("q", "a"),
        ):
            with pytest.raises(BrokerLostError):
                await operation()
        inner._plan = lambda operation: None
        ran = await world.run_all()
        assert ran == {"a": 1, "b": 1}
