"""The depot and its taps without a server: what becomes of leases when a channel goes."""

import weakref
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import trio

from tests.brokers.rabbitmq.tools import publication
from trepid.brokers.rabbitmq import keeping, topology
from trepid.brokers.rabbitmq.clock import CLOCK
from trepid.brokers.rabbitmq.depot import Depot
from trepid.brokers.rabbitmq.moving import Fresh
from trepid.brokers.rabbitmq.passport import HEADER, Passport
from trepid.brokers.rabbitmq.tap import Tap
from trepid.brokers.rabbitmq.topology import Names
from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.rules.life import State
from trepid.wire.amqp import Channel, ChannelClosedError, Delivered
from trepid.wire.amqp.frames import FRAME_MAX, persistent
from trepid.wire.reply import Reply


class Carrier:
    """A connection that writes down what it is given."""

    frame_max = FRAME_MAX

    def __init__(self):
        self.written = []

    def write(self, *data):
        self.written += data

    def left(self, number):
        pass


def tapped(depot, *ids):
    """Return a tap over which some messages have come."""
    channel = Channel(Carrier(), 1)
    tap = depot.taps["q"] = Tap("q", channel, Names("p"), depot)
    for tag, id in enumerate(ids, 1):
        message = Delivered(tag, "", False, "")
        papers = Passport.of(publication(id), CLOCK.number(), CLOCK.now())
        message.properties = persistent(HEADER, papers.written())
        tap._got(message)
    return tap


async def test_who_waits_for_the_end_of_a_lease_is_told_when_its_channel_is_lost(nursery, autojump_clock):
    depot = Depot()
    tap = tapped(depot, "m")
    depot.take([tap], 1, 60.0, "me", 0.0)
    (lease,) = depot.book.leases()
    nursery.start_soon(depot.expire, [lease])
    nursery.start_soon(depot.run)  # without lines, so its crash waits to be carried out
    await trio.testing.wait_all_tasks_blocked()
    assert lease.busy
    with trio.fail_after(60):
        async with trio.open_nursery() as waiters:
            waiters.start_soon(depot.ended, [lease.ref])
            await trio.testing.wait_all_tasks_blocked()
            tap.channel.fail(ChannelClosedError(406, "PRECONDITION_FAILED - consumer_timeout"))
    nursery.cancel_scope.cancel()


async def test_a_channel_that_we_are_closing_takes_no_more_acknowledgements(autojump_clock):
    depot = Depot()
    tap = tapped(depot, "m")
    tap.channel.abandon()
    written = len(tap.channel._carrier.written)
    tap.ack([1])
    assert len(tap.channel._carrier.written) == written
    await trio.lowlevel.checkpoint()


async def test_a_deletion_that_comes_to_nothing_leaves_the_tap_where_it_is(autojump_clock):
    """What it holds would lie there until the session ends, and nobody would ever give it back."""
    depot = Depot()
    tap = tapped(depot, "m")

    async def delete(queue):
        await trio.sleep_forever()

    with trio.move_on_after(1):
        await keeping.delete(SimpleNamespace(delete=delete), depot, "q")
    assert depot.taps == {"q": tap}
    assert not tap.channel.closed


class Exit:
    """A channel for publishing, and the lines around it: what is sent is confirmed when the test says so."""

    name = "amqp://here"

    def __init__(self):
        self.names = Names("p")
        self.out = self.publisher = self.builder = self
        self.sent = []
        self.known = {"q"}
        self.blocked = None
        self.shared = nullcontext
        self.sealed = Passport.written

    async def room(self):
        await trio.lowlevel.checkpoint()

    async def ways(self, delays):
        self.way = [topology.steps(delay) for delay in delays]
        await trio.lowlevel.checkpoint()

    async def gone(self, queues):
        await trio.lowlevel.checkpoint()
        return set()

    def publish(self, to, properties, body, batch, index):
        batch.expect()
        self.sent.append(batch)


async def test_a_session_that_closes_waits_for_copies_that_are_under_way(nursery, autojump_clock):
    """Else their originals are not acknowledged, and the server hands both out."""
    depot, lines = Depot(), Exit()
    tap = tapped(depot, "m")
    depot.connect(lines)
    with trio.move_on_after(10):
        await depot.run()  # nobody asks, so it goes back
    (batch,) = lines.sent
    acknowledged = []
    tap.channel.ack = lambda tag, multiple: acknowledged.append(tag)
    nursery.start_soon(depot.give_back, lines, name="give back")
    await trio.testing.wait_all_tasks_blocked()
    assert "give back" in {task.name for task in nursery.child_tasks}
    batch.confirm()
    assert acknowledged == [1]
    await trio.testing.wait_all_tasks_blocked()
    assert not nursery.child_tasks


async def test_also_when_the_rest_cannot_be_given_back(nursery, autojump_clock):
    depot, lines = Depot(), Exit()
    tap = tapped(depot, "m")
    depot.connect(lines)
    with trio.move_on_after(10):
        await depot.run()
    (batch,) = lines.sent
    tapped(depot, "n")

    async def refused(delays):
        await trio.lowlevel.checkpoint()
        raise BrokerRefusedError("amqp://here", "access refused")

    lines.ways = refused
    ended = []

    async def give_back():
        with pytest.raises(BrokerRefusedError):
            await depot.give_back(lines)
        ended.append(batch)

    nursery.start_soon(give_back)
    await trio.testing.wait_all_tasks_blocked()
    assert ended == []
    tap.channel.ack = lambda tag, multiple: None
    batch.confirm()
    await trio.testing.wait_all_tasks_blocked()
    assert ended == [batch]


async def test_what_could_not_be_started_is_not_under_way():
    class Lost(Exit):
        def publish(self, *_):
            raise BrokerLostError("gone")

    depot = Depot()
    with pytest.raises(BrokerLostError):
        depot.haulage.start(Lost(), [], lambda *_: None, [Fresh(publication("n"), 0.0)])
    with trio.fail_after(5):
        await depot.haulage.arrive()


class Letter(Delivered):
    """A message of which one can see whether anybody keeps it."""

    __slots__ = ("__weakref__",)


class Graves:
    """The channel by which dead letters are looked at."""

    def __init__(self, *bodies):
        self.waiting = [Letter(tag, "", False, "") for tag in range(1, len(bodies) + 1)]
        for message, body in zip(self.waiting, bodies, strict=True):
            papers = Passport.of(publication(f"m{message.tag}"), CLOCK.number(), CLOCK.now())
            message.properties = persistent(HEADER if body else b"other", papers.written())
            message.body = body
        self.acknowledged, self.left = [], []

    def get(self, name, take):
        reply = Reply()
        if self.waiting:
            take(self.waiting.pop(0))
        reply.set(True)
        return reply

    def ack(self, tag):
        self.acknowledged.append(tag)

    def nack(self, tag):
        self.left.append(tag)

    async def call(self, method):
        await trio.lowlevel.checkpoint()
        return SimpleNamespace(message_count=len(self.left))


async def test_a_requeue_that_is_cancelled_leaves_no_letter_twice(nursery, autojump_clock):
    lines, channel = Exit(), Graves(b"1", b"2")
    with trio.CancelScope() as scope:
        nursery.start_soon(confirm_later, lines, scope)
        await keeping._sift(lines, "q", None, 2, 10, channel, again=True)
    assert channel.acknowledged == [1, 2]


async def confirm_later(lines, scope):
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    for batch in lines.sent:
        batch.confirm()


async def test_of_letters_that_are_refused_only_those_stay(nursery, autojump_clock):
    lines, channel = Exit(), Graves(b"1", b"2", b"3")

    async def refuse_one():
        await trio.testing.wait_all_tasks_blocked()
        lines.sent[0].refused.add(1)
        for batch in lines.sent:
            batch.confirm()

    nursery.start_soon(refuse_one)
    with pytest.raises(BrokerLostError, match="1 of 3"):
        await keeping._sift(lines, "q", None, 3, 10, channel, again=True)
    assert (channel.acknowledged, channel.left) == ([1, 3], [2])


async def test_letters_that_are_only_passed_by_are_not_kept(autojump_clock):
    """A queue may have any number of them, each of a mebibyte."""
    channel = Graves(*(b"%d" % number for number in range(1, 2000)))
    letters = [weakref.ref(message) for message in channel.waiting]
    kept = []
    channel.nack = lambda tag: kept.append(sum(letter() is not None for letter in letters))
    assert await keeping._sift(Exit(), "q", {"m7"}, 1999, 10, channel, again=False) == [1]
    assert len(kept) == 1998
    assert max(kept) < 300


async def test_a_purge_takes_also_what_is_not_ours(autojump_clock):
    channel = Graves(b"1", b"", b"3")
    assert await keeping._sift(Exit(), "q", None, 3, 10, channel, again=False) == [3]
    channel = Graves(b"1", b"", b"3")
    assert await keeping._sift(Exit(), "q", {"m1", "m2"}, 3, 10, channel, again=False) == [1]


@pytest.mark.parametrize(
    "change",
    [
        {b'"due":1.0': b'"due":1e308'},
        {b'"due":1.0': b'"due":-1e308'},
        {b'"due":1.0': b'"due":1.0,"crashes":1' + b"0" * 400},
        {b'"due":1.0': b'"due":1.0,"crashes":-1' + b"0" * 400},
        {b'"due":1.0': b'"due":1.0,"later":' + b"[" * 30_000 + b"]" * 30_000},
        {b'"id":"m"': b'"id":"m\xff"'},
        {b'"due":1.0': b'"due":null'},
        {b'"due":1.0': b'"due":1.0,"expires":-1e308'},
    ],
)
@pytest.mark.parametrize("redelivered", [False, True])
async def test_a_passport_that_others_have_changed_ends_nobody(autojump_clock, change, redelivered):
    """Whoever is pushed such a message would die of it, and the next one after it."""
    depot, lines = Depot(), Exit()
    tap = tapped(depot)
    papers = Passport("m", ("tests", 1), 1, 1.0, 1.0)
    text = papers.written()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    message = Delivered(1, "", redelivered, "")
    message.properties = persistent(HEADER, text)
    tap._got(message)
    depot.connect(lines)
    with trio.move_on_after(1):
        await depot.run()
    taken = depot.take([tap], 1, 60.0, "me", 0.0)
    assert len(taken) + len(lines.sent) == 1


def test_the_ladder_has_a_way_for_every_delay():
    assert topology.steps(-1e308) == topology.steps(-1.0) == topology.steps(0.0) == ()
    assert topology.steps(1e308) == tuple(reversed(range(topology.RUNGS)))
    assert topology.steps(1.0) == (3,)
    assert topology.steps(1.01) == (3, 0)


async def test_a_purge_forgets_also_what_was_pushed_here_and_not_leased(autojump_clock):
    depot = Depot()
    tap = tapped(depot, "leased", "b", "c")
    depot.take([tap], 1, 60.0, "me", 0.0)

    async def apart(work):
        await trio.lowlevel.checkpoint()
        return [0] if isinstance(work, partial) else [0, 0, 0, 0]

    lines = SimpleNamespace(names=Names("p"), apart=apart)
    assert await keeping.purge(lines, depot, "q", [State.READY], None, limit=1) == 0, "there is more than it may take"
    assert await keeping.purge(lines, depot, "q", [State.READY], None, limit=10) == 2
    assert len(tap.stock) == 0
    assert list(tap.drawn) == [1], "the others are acknowledged"


async def test_what_comes_early_is_handed_out_in_time_also_while_a_move_waits_for_room(nursery):
    depot, lines = Depot(), Exit()
    lines.room = trio.sleep_forever
    tap = tapped(depot, "crashed")
    depot.connect(lines)
    depot.take([tap], 1, 0.0, "me", 0.0)
    nursery.start_soon(depot.run)
    await trio.testing.wait_all_tasks_blocked()
    assert depot.haulage.waiting, "its crash waits for room"
    message = Delivered(2, "", False, "")
    papers = Passport.of(publication("early", due=CLOCK.now() + 0.1), CLOCK.number(), CLOCK.now())
    message.properties = persistent(HEADER, papers.written())
    tap._got(message)
    assert not depot.take([tap], 1, 60.0, "me", 0.0)
    with trio.fail_after(5):
        while not depot.take([tap], 1, 60.0, "me", 0.0):
            await depot.to_wait().wait()
    nursery.cancel_scope.cancel()


async def test_what_finds_no_room_elsewhere_can_still_be_leased_here(nursery, autojump_clock):
    """Waiting to be given back it would be nobody's until the server has room again."""
    depot, lines = Depot(), Exit()
    tap = tapped(depot, "m")
    lines.blocked, lines.room = "low on memory", trio.sleep_forever
    depot.connect(lines)
    nursery.start_soon(depot.run)
    await trio.sleep(60)
    assert [each.id for each in depot.take([tap], 1, 60.0, "me", 0.0)] == ["m"]
    nursery.cancel_scope.cancel()


async def test_what_was_early_is_told_of_once_also_if_nobody_has_a_slot(nursery):
    depot = Depot()
    tap = tapped(depot)
    message = Delivered(1, "", False, "")
    papers = Passport.of(publication("early", due=CLOCK.now() + 0.1), CLOCK.number(), CLOCK.now())
    message.properties = persistent(HEADER, papers.written())
    tap._got(message)
    looks, look_round = [], depot._look_round

    def counted():
        looks.append(None)
        return look_round()

    depot._look_round = counted
    stirred = depot.to_wait()
    nursery.start_soon(depot.run)
    with trio.fail_after(5):
        await stirred.wait()
    await trio.sleep(0.2)
    assert len(looks) < 20
    assert depot.take([tap], 1, 60.0, "me", 0.0)
    nursery.cancel_scope.cancel()
