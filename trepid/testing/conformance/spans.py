"""Spans of time before a message starts: delays, due times and time to live."""

from __future__ import annotations

from trepid.rules.life import CancelReply, State
from trepid.rules.verdicts import Done, Failed, Returned
from trepid.testing.conformance.report import holds, same
from trepid.testing.conformance.world import DAY, LONG, OOPS, QUEUE, World, case

_TICKS = 4


@case("delay")
async def a_delayed_message_is_never_early(world: World) -> None:
    """Nothing is leased before it is due, and it is once it is."""
    await world.put("delayed", delay=_TICKS * world.tick)
    await world.is_(State.SCHEDULED, "delayed")
    same("leased at once", await world.lease(), [])
    await world.pass_time(_TICKS * world.tick / 2)
    for delivery in await world.lease():
        holds("nothing to be leased before it is due", delivery.leased >= delivery.due, delivery)
    await world.pass_time(_TICKS * world.tick + world.session.capabilities.delay_resolution)
    if not await world.session.held("owner"):
        delivery = await world.take()
        holds("a lease no sooner than due", delivery.leased >= delivery.due, delivery)


@case("delay")
async def a_due_time_is_kept(world: World) -> None:
    """An absolute due time counts by the broker's clock; one in the past is now."""
    now = await world.session.now()
    await world.put("later", due=now + LONG)
    await world.put("past", due=now - LONG)
    same("leased now", [each.id for each in await world.lease()], ["past"])
    await world.is_(State.SCHEDULED, "later")


@case("delay", hours=True)
async def a_long_delay_delivers_once(world: World) -> None:
    """A month is a delay like any other, and the message is delivered once at its end."""
    await world.put(delay=30 * DAY)
    await world.pass_time(30 * DAY - 60)
    same("leased a minute before", await world.lease(), [])
    await world.pass_time(61)
    same("leased at the end", len(await world.lease()), 1)
    same("leased once", await world.lease(), [])


@case("delay")
async def a_long_delay_does_not_hold_up_a_short_one(world: World) -> None:
    """Due times decide, not the order in which delayed messages were published."""
    await world.put("long", delay=LONG)
    await world.put("short", delay=world.tick)
    await world.pass_time(2 * world.tick + world.session.capabilities.delay_resolution)
    same("leased", [each.id for each in await world.lease()], ["short"])


@case("delay")
async def delayed_messages_come_in_the_order_of_their_due_times(world: World) -> None:
    """Order of publishing matters only between equal due times."""
    world.need("delay")
    # At once: where publishing is slow, the later ones would be due later than they are meant to be.
    await world.session.publish([world.publication(f"m{ticks}", delay=ticks * world.tick) for ticks in (3, 1, 2)])
    await world.pass_time(4 * world.tick + world.session.capabilities.delay_resolution)
    same("leased", [each.id for each in await world.lease()], ["m1", "m2", "m3"])


@case()
async def a_message_that_waited_too_long_is_dead(world: World) -> None:
    """A ttl that passes before the first start ends in death, reason expired; it never starts."""
    await world.put("old", ttl=world.tick)
    await world.put("young", ttl=LONG)
    await world.pass_time(2 * world.tick)
    same("leased", [each.id for each in await world.lease()], ["young"])
    await world.is_(State.DEAD, "old")
    if world.session.capabilities.peek:
        view = await world.view("old")
        same("reason and attempts", (view.reason, view.attempts), ("expired", 0))


@case()
async def a_ttl_does_not_kill_what_runs(world: World) -> None:
    """A ttl ends at the first start."""
    await world.put(ttl=world.tick)
    delivery = await world.take()
    await world.pass_time(2 * world.tick)
    await world.session.reap()
    await world.is_(State.LEASED)
    await world.end(delivery, Failed(OOPS, delay=0))
    await world.end(await world.take(), Returned())
    await world.end(await world.take())


@case("delay")
async def a_ttl_counts_from_when_the_message_is_due(world: World) -> None:
    """A delay does not use up the ttl."""
    await world.put(delay=3 * world.tick, ttl=3 * world.tick)
    await world.pass_time(4 * world.tick + world.session.capabilities.delay_resolution)
    await world.take()


@case()
async def a_ttl_survives_a_return_without_a_start(world: World) -> None:
    """A worker that gives a message back unstarted has not stopped its ttl."""
    await world.put("unstarted", ttl=4 * world.tick)
    await world.end(await world.take(), Returned(reason="unstarted", started=False))
    await world.put("started", ttl=4 * world.tick)
    deliveries = {each.id: each for each in await world.lease()}
    await world.end(deliveries["unstarted"], Returned(reason="unstarted", started=False))
    await world.end(deliveries["started"], Returned(reason="shutdown", started=True))
    await world.pass_time(5 * world.tick)
    same("leased", [each.id for each in await world.lease()], ["started"])
    await world.is_(State.DEAD, "unstarted")


@case("cancel_waiting")
async def a_message_that_died_of_its_ttl_cannot_be_cancelled(world: World) -> None:
    """Time goes first: what has expired is finished, although nobody had looked."""
    await world.put(ttl=world.tick)
    await world.pass_time(2 * world.tick)
    same("cancel", await world.session.cancel(QUEUE, ["m"], "late"), [CancelReply.FINISHED])


@case("results", hours=True)
async def an_ended_message_is_forgotten_in_time(world: World) -> None:
    """Done and cancelled messages stay readable for their time, dead ones until somebody acts."""
    await world.put("done")
    await world.end(await world.take(), Done(b"1", keep=100))
    await world.put("cancelled", result_ttl=100)
    await world.session.cancel(QUEUE, ["cancelled"], "no")
    await world.put("dead", result_ttl=100)
    await world.end(await world.take(), Failed(OOPS))
    await world.pass_time(99)
    same("counted after 99 s", await world.counts(), {State.DONE: 1, State.DEAD: 1, State.CANCELLED: 1})
    await world.pass_time(2)
    same("counted after 101 s", await world.counts(), {State.DEAD: 1})
    same("looked at", (await world.look("done"), await world.look("cancelled")), (None, None))
    await world.pass_time(399 * DAY)
    await world.session.reap()
    await world.is_(State.DEAD, "dead")
