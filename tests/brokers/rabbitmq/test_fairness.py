"""What the server pushes to one session, and is not leased there, does not keep another one waiting."""

import itertools
from functools import partial

import pytest
import trio

from tests.brokers.rabbitmq.tools import new_url, opened, put, settle, take
from trepid.brokers.rabbitmq import RabbitMQBroker
from trepid.brokers.rabbitmq.tap import Tap
from trepid.ports.messages import Settlement
from trepid.rules.verdicts import Done

pytestmark = pytest.mark.usefixtures("rabbitmq_server")
QUEUES = ("q", "r", "s")
DONE = Done(None, 0)


class Crew:
    """A worker with some slots: it asks whenever one is free, and holds each message for a while."""

    def __init__(self, session, slots, seconds, queues=QUEUES):
        self.session, self.slots, self.seconds, self.queues = session, slots, seconds, queues
        self.got = []
        self.running = 0
        self.freed = trio.Event()

    async def _job(self, delivery):
        await trio.sleep(self.seconds)
        await settle(self.session, delivery, DONE)
        self.running -= 1
        self.freed.set()

    async def work(self, nursery):
        while True:
            self.freed = trio.Event()
            if self.running == self.slots:
                await self.freed.wait()
                continue
            found = await take(self.session, self.slots - self.running, queues=self.queues, wait=1)
            for delivery in found:
                self.running += 1
                self.got.append((trio.current_time(), delivery))
                nursery.start_soon(self._job, delivery)


@pytest.fixture
def url(rabbitmq_server):
    return new_url(rabbitmq_server.url)


async def test_what_lies_unclaimed_goes_to_others_while_its_holder_asks_for_more(url):
    """The first worker waits with all its slots free, so it is pushed three queues' worth of long jobs."""
    async with opened(url, *QUEUES) as session, RabbitMQBroker(url).open() as late, trio.open_nursery() as nursery:
        first = Crew(session, 6, 1.5)
        nursery.start_soon(first.work, nursery)
        await trio.sleep(0.3)
        for queue in QUEUES:
            await put(session, *(f"{queue}{number}" for number in range(12)), queue=queue)
        second = Crew(late, 6, 1.5)
        began = trio.current_time()
        nursery.start_soon(second.work, nursery)
        with trio.fail_after(30):
            while len({each.id for crew in (first, second) for _, each in crew.got}) < 36:
                await trio.sleep(0.05)
        seconds = trio.current_time() - began
        # Alone it takes 6 rounds of 1.5 s; together 3, and what was pushed lies for a while first.
        assert len(second.got) >= 12, f"the second worker got {len(second.got)} of 36, in {seconds:.1f} s"
        assert {(each.crashes, each.failures) for crew in (first, second) for _, each in crew.got} == {(0, 0)}
        assert len(first.got) + len(second.got) == 36, "and nothing came twice"
        nursery.cancel_scope.cancel()


async def test_two_callers_of_one_session_share_what_comes(url):
    async with opened(url, *QUEUES) as session, trio.open_nursery() as nursery:
        crews = [Crew(session, 4, 0.5), Crew(session, 4, 0.5)]
        for crew in crews:
            nursery.start_soon(crew.work, nursery)
        await trio.sleep(0.3)
        for queue in QUEUES:
            await put(session, *(f"{queue}{number}" for number in range(16)), queue=queue)
        with trio.fail_after(30):
            while sum(len(crew.got) for crew in crews) < 48:
                await trio.sleep(0.05)
        assert min(len(crew.got) for crew in crews) >= 16
        nursery.cancel_scope.cancel()


async def test_a_window_is_as_wide_as_the_free_room(url):
    """Messages in work at one level leave room at that level only, and none is pushed beyond what is wanted."""
    async with opened(url) as session:
        async with trio.open_nursery() as nursery:
            got = []

            async def lease():
                got.extend(await take(session, 20))

            nursery.start_soon(lease)
            await trio.sleep(0.3)
            await put(session, *(f"m{number}" for number in range(20)))
        assert len(got) + len(session._depot.taps["q"].stock) == 20
        tap = session._depot.taps["q"]
        while len(got) < 20:
            got += await take(session, 20 - len(got))
        tap.listen(5)
        widths = {level: sum(each.window for each in tap._consumers[level]) for level in ("high", "medium", "low")}
        assert widths["high"] <= 20
        assert widths["low"] <= 20
        # Of what is in work, some may have been fetched: that takes no room in a window.
        assert tap._held["medium"] + 5 <= widths["medium"] <= 40
        for each in got:
            await settle(session, each, DONE)


@pytest.fixture
def fetched(monkeypatch):
    """Return the numbers of messages that were fetched singly, one for each time."""
    fetch, counts = Tap.fetch, []

    async def counting(tap, most, levels):
        counts.append(await fetch(tap, most, levels))
        return counts[-1]

    monkeypatch.setattr(Tap, "fetch", counting)
    return counts


async def lease_one_urgent(session, id):
    await put(session, id, priority=9)
    (delivery,) = await take(session, 1)
    assert delivery.priority == 9
    await settle(session, delivery, DONE)


async def less_urgent_ones_are_pushed_in_vain(session):
    """Lease urgent messages, and nothing else, until the others that were pushed with them have gone back."""
    await put(session, *(f"low{number}" for number in range(400)), priority=0)
    await put(session, *(f"high{number}" for number in range(20)), priority=9)
    for delivery in await take(session, 20):
        assert delivery.priority == 9
        await settle(session, delivery, DONE)
    tap = session._depot.taps["q"]
    with trio.fail_after(5):
        for number in itertools.count():
            if "low" in tap.unheard:
                break
            await trio.sleep(0.1)
            await lease_one_urgent(session, f"next{number}")
    return tap


async def test_only_the_level_that_was_pushed_in_vain_is_fetched(url):
    """A backlog that is less urgent does not take the urgent level's pushes away; this made a drain 8 times slower."""
    async with opened(url) as session:
        tap = await less_urgent_ones_are_pushed_in_vain(session)
        for number in range(5):
            await lease_one_urgent(session, f"last{number}")
            assert "low" in tap.unheard
            assert "high" not in tap.unheard


async def test_what_was_pushed_in_vain_is_pushed_again_to_who_is_quick(url, fetched):
    async with opened(url) as session:
        tap = await less_urgent_ones_are_pushed_in_vain(session)
        fetched.clear()
        got = []
        with trio.fail_after(20):
            while len(got) < 400:
                some = await take(session, 50)
                await session.settle([Settlement(delivery.ref, DONE) for delivery in some])
                got += [delivery.id for delivery in some if delivery.priority == 0]
        assert len(set(got)) == 400, "and none came twice"
        assert 0 < sum(fetched) <= 240, "the first of them are fetched, and then they are pushed"
        assert "low" not in tap.unheard


async def test_while_urgent_ones_flow_no_others_are_fetched(url, fetched):
    async with opened(url) as session:
        await less_urgent_ones_are_pushed_in_vain(session)
        fetched.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(put, session, *(f"more{number}" for number in range(600)), priority=9))
            got = []
            while len(got) < 600:
                some = await take(session, 50)
                await session.settle([Settlement(delivery.ref, DONE) for delivery in some])
                got += [delivery for delivery in some if delivery.priority == 9]
        assert len(fetched) <= 10, "before the first were pushed, and whenever the server paused"
