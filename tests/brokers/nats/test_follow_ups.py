"""Follow-ups of chains, published again when the server has forgotten the first time: they run once all the same.

The server recognises a repeated publish for two minutes; here its streams are told to do so for a moment only.
"""

from contextlib import asynccontextmanager

import pytest
import trio
from msgspec.structs import replace

from tests.brokers.engine_table import BentClock
from tests.brokers.nats.kit import (
    DAY,
    PREFIXES,
    WINDOW,
    fresh_broker,
    open_wire,
    publication,
    ring,
    settle,
    shorten,
    sweep,
    take,
)
from trepid.brokers import marks
from trepid.brokers.nats.pulling import Pull
from trepid.ports.messages import Absent, Firing, Settlement
from trepid.rules.life import Reply, State
from trepid.rules.verdicts import Done, Failed, Failure, Returned

OOPS = Failure("ValueError", "oops")
KEPT, NOTHING = Done(b"1", DAY), Done(b"1", 0.0)


class Stage:
    """A step of a chain whose worker has died after it published the follow-up, and that follow-up.

    Attributes:
      runs: how often the follow-up has run.
    """

    def __init__(self, session, clock, wire, prefix, **fields):
        self.session, self.clock, self.wire, self.prefix = session, clock, wire, prefix
        self.follow_up = publication("next", "after", remembered=True, **fields)
        self.runs = 0

    async def pass_time(self, seconds):
        await self.clock.bend(seconds)
        await ring(self.wire, self.prefix, "after")

    async def publish(self):
        """Publish the follow-up, and die."""
        await self.session.publish([publication("step")])
        assert len(await take(self.session, owner="doomed")) == 1
        await self.session.publish([self.follow_up])

    async def run(self, verdict=KEPT, *, wait=0.5):
        """Run the follow-up, if it is there."""
        for delivery in await take(self.session, queue="after", wait=wait):
            self.runs += 1
            assert await settle(self.session, delivery, verdict) is Reply.APPLIED

    async def publish_again(self):
        """Be the next worker of the step, when the window is over."""
        await trio.sleep(2 * WINDOW)
        await self.session.expire_owner("doomed")
        [delivery] = await take(self.session, wait=5.0)
        assert (delivery.id, delivery.crashes) == ("step", 1)
        settlement = Settlement(delivery.ref, KEPT)
        assert await self.session.settle([settlement], then=[self.follow_up]) == [Reply.APPLIED]

    async def finish(self):
        """Run whatever there is until nothing is left."""
        with trio.fail_after(20):
            while (stats := await self.session.stats("after")).live:
                await self.run()
                await self.pass_time(40)
        assert stats.dead == 0


@asynccontextmanager
async def stage(server, **fields):
    clock, prefix = BentClock(), f"follow{next(PREFIXES)}"
    async with fresh_broker(server, prefix=prefix, clock=clock).open() as session, open_wire(server.url) as wire:
        await session.declare(["q", "after"])
        await shorten(wire, prefix)
        yield Stage(session, clock, wire, prefix, **fields)
    await sweep(server.url, prefix)


async def waiting(stage):
    """It waits."""


async def done(stage):
    await stage.run(wait=5.0)


async def done_and_nothing_kept(stage):
    await stage.run(NOTHING, wait=5.0)
    assert await stage.session.result("after", "next") is Absent.GONE


async def soon_to_be_retried(stage):
    await stage.run(Failed(OOPS, 3.0), wait=5.0)


async def to_be_retried_later(stage):
    await stage.run(Failed(OOPS, 30.0), wait=5.0)
    # It is put aside by whoever looks next.
    await stage.run()


async def given_back(stage):
    await stage.run(Returned(30.0), wait=5.0)
    await stage.run()


RUNS = {
    waiting: 1,
    done: 1,
    done_and_nothing_kept: 1,
    soon_to_be_retried: 2,
    to_be_retried_later: 2,
    given_back: 2,
}
"""States of a follow-up, and how often it runs in all."""


@pytest.mark.parametrize("delay", [None, 0.3], ids=["at once", "delayed"])
@pytest.mark.parametrize("state", RUNS)
async def test_a_follow_up_that_is_published_again_does_not_run_again(state, delay, nats_server):
    async with stage(nats_server, delay=delay) as each:
        await each.publish()
        await state(each)
        await each.publish_again()
        await each.finish()
        assert each.runs == RUNS[state]
        ending = await each.session.result("after", "next")
        if state is done_and_nothing_kept:
            assert ending is Absent.GONE
        else:
            assert (ending.state, ending.result) == (State.DONE, b"1")


async def test_a_follow_up_that_runs_is_not_published_again(nats_server):
    async with stage(nats_server) as each:
        await each.publish()
        [delivery] = await take(each.session, queue="after")
        await each.publish_again()
        await each.run()
        assert await settle(each.session, delivery) is Reply.APPLIED
        await each.finish()
        assert each.runs == 0


@pytest.mark.parametrize("delay", [None, 0.3], ids=["at once", "delayed"])
@pytest.mark.parametrize("meanwhile", ["nothing", "purged", "requeued", "requeued and done"])
async def test_a_follow_up_that_is_dead_is_not_published_again(meanwhile, delay, nats_server):
    async with stage(nats_server, delay=delay) as each:
        await each.publish()
        await each.run(Failed(OOPS, None), wait=5.0)
        if meanwhile == "purged":
            assert await each.session.purge("after", [State.DEAD]) == 1
            assert await each.session.result("after", "next") is Absent.GONE
        elif meanwhile != "nothing":
            assert await each.session.requeue("after") == 1
        if meanwhile == "requeued and done":
            await each.run(NOTHING)
        await each.publish_again()
        await each.pass_time(1)
        await each.run()
        if meanwhile == "nothing":
            assert each.runs == 1
            assert (await each.session.result("after", "next")).state is State.DEAD
            assert await each.session.requeue("after") == 1
        await each.finish()
        assert each.runs == (1 if meanwhile == "purged" else 2)


async def test_a_follow_up_that_has_ended_leaves_no_dead_letter_when_it_is_published_again_and_expires(nats_server):
    async with stage(nats_server, ttl=20.0) as each:
        await each.publish()
        await each.run()
        await each.publish_again()
        await each.pass_time(30)
        await each.finish()
        assert each.runs == 1


async def test_a_repetition_that_was_lost_on_its_way_to_a_worker_does_not_run(nats_server):
    async with stage(nats_server) as each:
        await each.publish()
        await each.run()
        await each.publish_again()
        pull = Pull(each.wire, f"{each.prefix}-medium-after", "after", "medium", 1, now=each.clock)
        [parcel] = await pull.wait()
        each.wire.say(parcel.message.reply, b"-NAK")
        await each.wire.round_trip()
        await each.finish()
        assert each.runs == 1


@pytest.mark.parametrize("verdict", [KEPT, NOTHING], ids=["kept", "nothing kept"])
async def test_an_instant_that_a_dead_worker_has_published_and_not_marked_is_fired_once(
    verdict, nats_server, monkeypatch
):
    class DiedError(Exception):
        pass

    async def die(*_):
        await trio.lowlevel.checkpoint()
        raise DiedError

    async with stage(nats_server) as each:
        firing = Firing("after", "nightly", 1.0, publication("next", "after"))
        with monkeypatch.context() as dying:
            dying.setattr(marks, "_change", die)
            with pytest.raises(DiedError):
                await each.session.fire([firing])
        await each.run(verdict, wait=5.0)
        await trio.sleep(2 * WINDOW)
        await each.session.fire([firing])
        await each.run()
        assert each.runs == 1
        assert await each.session.marks("after") == {"nightly": 1.0}


async def test_a_chain_that_begins_anew_under_the_same_id_has_its_follow_up_run(nats_server):
    async with stage(nats_server) as each:
        await each.publish()
        await each.run()
        await each.session.publish([publication("next", "after", remembered=True)])
        await each.run()
        assert each.runs == 2


async def test_a_follow_up_that_was_delayed_when_it_was_published_first_and_is_due_the_second_time(nats_server):
    async with stage(nats_server) as each:
        each.follow_up = replace(each.follow_up, due=each.clock() + 0.3)
        await each.publish()
        await each.publish_again()
        assert (await each.session.stats("after")).live == 2
        await each.finish()
        assert each.runs == 1
