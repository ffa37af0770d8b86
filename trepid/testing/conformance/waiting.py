"""Waiting for a message: not longer than said, and not longer than necessary."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from trepid.ports.messages import Delivery, Settlement
from trepid.rules.life import State
from trepid.rules.verdicts import Done, Returned
from trepid.testing.conformance.report import holds, same
from trepid.testing.conformance.world import COMEBACK, LONG, QUEUE, World, case

PATIENCE = 5.0
"""Seconds that waiting consumers wait; whoever is woken returns long before."""


@asynccontextmanager
async def waiting(world: World, wanted: int = 1, consumers: int = 1) -> AsyncGenerator[list[Delivery], None]:
    """Let consumers wait inside the block; at its end *wanted* messages must have come, before anybody gave up."""
    got: list[Delivery] = []
    began = trio.current_time()
    world.patience.deadline += PATIENCE
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def consume() -> None:
                got.extend(await world.lease(1, wait=PATIENCE))
                if len(got) >= wanted:
                    scope.cancel()

            for _ in range(consumers):
                nursery.start_soon(consume)
            await trio.sleep(world.tick / 2)
            yield got
    same("messages that came to those who waited", len(got), wanted)
    waited = trio.current_time() - began
    holds("nobody to give up first", waited < PATIENCE, f"{waited:.3f} s of waiting")


@case()
async def an_empty_wait_ends_on_time(world: World) -> None:
    """With nothing to lease, an empty list comes after the wait, and at once where there is none."""
    began = trio.current_time()
    same("leased without a wait", await world.lease(), [])
    at_once = trio.current_time() - began
    holds("an answer at once", at_once < PATIENCE / 2, f"it took {at_once:.3f} s")
    began = trio.current_time()
    same("leased", await world.lease(wait=2 * world.tick), [])
    waited = trio.current_time() - began
    holds("no answer before the wait is over", waited >= 1.9 * world.tick, f"{waited:.3f} s")
    holds("an answer soon after", waited < 2 * world.tick + 2, f"{waited:.3f} s")


@case()
async def waiting_ends_with_the_first_message(world: World) -> None:
    """Who waits for a hundred takes what is there."""
    await world.put("a", "b")
    began = trio.current_time()
    same("leased", [each.id for each in await world.lease(100, wait=LONG)], ["a", "b"])
    holds("no wait for more", trio.current_time() - began < PATIENCE, "it waited")


@case()
async def a_publish_wakes_who_waits(world: World) -> None:
    """A message that is published is leased by a consumer that waits for it, in this session or another."""
    async with waiting(world):
        await world.put()
    other = await world.other_session()
    async with waiting(world):
        await other.publish([world.publication("n")])


@case("delay")
async def a_due_message_wakes_who_waits(world: World) -> None:
    """A message that becomes due is leased by a consumer that waits, and no sooner."""
    await world.put(delay=2 * world.tick)
    async with waiting(world) as got:
        await world.sleep(world.session.capabilities.delay_resolution)
    holds("no lease before it was due", got[0].leased >= got[0].due, got[0])


@case("delay")
async def an_earlier_message_shortens_the_wait(world: World) -> None:
    """Who waits for a distant message is woken for one that becomes due first."""
    await world.put("late", delay=LONG)
    async with waiting(world) as got:
        await world.put("soon", delay=world.tick)
    same("leased", [each.id for each in got], ["soon"])


@case()
async def a_return_wakes_who_waits(world: World) -> None:
    """A message that is given back is leased by a consumer that waits."""
    await world.put()
    held = await world.take()
    async with waiting(world):
        await world.end(held, Returned())


@case()
async def a_crash_wakes_who_waits(world: World) -> None:
    """A message whose holder is gone is leased by a consumer that waits, after its comeback."""
    await world.put()
    await world.take(lease_for=world.tick)
    async with waiting(world) as got:
        await world.sleep(COMEBACK)
    same("crashes", got[0].crashes, 1)


@case("requeue")
async def a_requeue_wakes_who_waits(world: World) -> None:
    """A message that comes back from the dead is leased by a consumer that waits."""
    await world.bring(State.DEAD)
    async with waiting(world):
        await world.session.requeue(QUEUE)


@case("pause")
async def a_resume_wakes_who_waits(world: World) -> None:
    """Messages of a paused queue are leased by a consumer that waits, once it is resumed."""
    await world.session.pause(QUEUE)
    await world.put()
    async with waiting(world) as got:
        same("leased while paused", got, [])
        await world.session.resume(QUEUE)


@case()
async def a_follow_up_wakes_who_waits(world: World) -> None:
    """A message published with a settlement is leased by a consumer that waits."""
    await world.put()
    held = await world.take()
    async with waiting(world) as got:
        await world.session.settle([Settlement(held.ref, Done(b"1", 0))], then=[world.publication("next")])
    same("leased", [each.id for each in got], ["next"])


@case()
async def each_message_wakes_somebody(world: World) -> None:
    """As many who wait get a message as messages are published, in one batch or singly."""
    async with waiting(world, wanted=6, consumers=10):
        await world.put("a", "b", "c")
        for id in ("d", "e", "f"):
            await world.put(id)
    same("left over", await world.lease(), [])


@case()
async def who_gave_up_takes_no_message_along(world: World) -> None:
    """A consumer that is cancelled while a message comes passes it on to another that waits."""
    for cancel_first in (True, False):
        lost: list[Delivery] = []
        scope = trio.CancelScope()

        async def give_up(scope: trio.CancelScope = scope, lost: list[Delivery] = lost) -> None:
            with scope:
                lost += await world.lease(1, wait=PATIENCE, owner="gives up")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await trio.sleep(world.tick / 2)
            if cancel_first:
                scope.cancel()
            await world.put(f"m-{cancel_first}")
            scope.cancel()
        got = lost or await world.lease(1, wait=PATIENCE)
        same("messages that came", len(got), 1)
        await world.end(got[0])
        same("leases of who gave up", await world.session.held("gives up"), [])
