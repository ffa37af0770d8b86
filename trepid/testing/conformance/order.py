"""Order: strict priority, then due time, then order of publishing."""

from __future__ import annotations

import random

from trepid.rules.verdicts import Failed, Returned
from trepid.testing.conformance.report import same
from trepid.testing.conformance.world import COMEBACK, OOPS, World, case


async def _all(world: World) -> list[str]:
    return [each.id for each in await world.lease()]


@case()
async def equal_messages_come_in_the_order_of_publishing(world: World) -> None:
    """First in, first out, within a batch and across batches and sessions."""
    await world.put("a", "b")
    other = await world.other_session()
    await other.publish([world.publication("c"), world.publication("d")])
    await world.put("e")
    same("leased", await _all(world), ["a", "b", "c", "d", "e"])


@case("priorities")
async def urgent_messages_come_first(world: World) -> None:
    """A more urgent message is leased before all less urgent ones, however long those have waited."""
    ids: list[tuple[int, int]] = []
    for number, priority in enumerate((0, 5, 9, 5, 0, 9, 3, 7)):
        await world.put(f"m{number}", priority=priority)
        ids.append((-priority, number))
    same("leased", await _all(world), [f"m{number}" for _, number in sorted(ids)])


@case("priorities")
async def each_lease_takes_the_most_urgent(world: World) -> None:
    """Priority is obeyed lease by lease, also for what is published in between."""
    await world.put("low", "low2", priority=0)
    await world.put("medium", priority=5)
    same("first", (await world.take()).id, "medium")
    await world.put("high", priority=9)
    same("second", (await world.take()).id, "high")
    same("third", (await world.take()).id, "low")


@case("priorities", "delay")
async def priority_goes_before_due_time(world: World) -> None:
    """Among what is due, an urgent message that became due last still comes first."""
    await world.put("early", priority=0)
    await world.put("late", priority=9, delay=world.tick)
    await world.pass_time(2 * world.tick + world.session.capabilities.delay_resolution)
    same("leased", await _all(world), ["late", "early"])


@case("delay")
async def due_time_goes_before_order_of_publishing(world: World) -> None:
    """A message that became due earlier comes first, although it was published later."""
    await world.put("second", delay=2 * world.tick)
    await world.put("first", delay=world.tick)
    await world.pass_time(3 * world.tick + world.session.capabilities.delay_resolution)
    same("leased", await _all(world), ["first", "second"])


@case("keeps_place")
async def a_return_keeps_its_place(world: World) -> None:
    """Given back without a delay, a message stands where it stood."""
    await world.put("a", "b", "c", "d")
    a, b = await world.lease(2)
    await world.end(b, Returned())
    await world.end(a, Returned())
    same("leased", await _all(world), ["a", "b", "c", "d"])


@case()
async def a_retry_goes_to_the_end(world: World) -> None:
    """Tried again without a delay, a message stands behind those that were due before."""
    await world.put("a", "b", "c")
    await world.pass_time(world.tick)
    await world.end(await world.take(), Failed(OOPS, delay=0))
    same("leased", await _all(world), ["b", "c", "a"])


@case()
async def a_snooze_goes_to_the_end(world: World) -> None:
    """Put back with a delay, a message has a new due time."""
    await world.put("a", "b", "c")
    await world.pass_time(world.tick)
    await world.end(await world.take(), Returned(delay=world.tick / 2, reason="snooze"))
    await world.pass_time(world.tick + world.session.capabilities.delay_resolution)
    same("leased", await _all(world), ["b", "c", "a"])


@case()
async def a_crash_goes_behind_what_was_due(world: World) -> None:
    """A message whose lease ran out does not hold up those that waited meanwhile."""
    await world.put("a", "b")
    await world.crash()
    await world.put("c")
    await world.pass_time(COMEBACK)
    same("leased", await _all(world), ["b", "c", "a"])


@case("priorities", "keeps_place")
async def shuffled_messages_come_sorted(world: World) -> None:
    """A hundred messages of mixed priority, some given back, are leased in the one right order."""
    dice = random.Random(3)  # noqa: S311 - a fixed sequence is the point
    order: list[tuple[int, int]] = []
    for number in range(100):
        priority = dice.choice((0, 5, 9))
        order.append((-priority, number))
        await world.put(f"m{number}", priority=priority)
    taken = await world.lease(40)
    for delivery in dice.sample(taken, 40):
        await world.end(delivery, Returned())
    got: list[str] = []
    while deliveries := await world.lease(dice.randint(1, 9)):
        got += [each.id for each in deliveries]
    same("leased", got, [f"m{number}" for _, number in sorted(order)])
