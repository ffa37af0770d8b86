"""Leases that are extended, and leases that run out."""

from __future__ import annotations

import trio
from msgspec.structs import replace

from trepid.ports.messages import Ref
from trepid.rules.life import Reply, State
from trepid.rules.verdicts import Buried, Done, Failed, Returned, Verdict
from trepid.testing.conformance.report import holds, same
from trepid.testing.conformance.world import COMEBACK, DAY, LATE, LONG, OOPS, QUEUE, World, case, lacks


@case()
async def an_extension_moves_the_end(world: World) -> None:
    """An extended lease holds beyond its first end."""
    await world.put()
    delivery = await world.take(lease_for=5 * world.tick)
    for _ in range(3):
        await world.pass_time(3 * world.tick)
        (extension,) = await world.session.extend([delivery.ref], 5 * world.tick)
        same("reply", extension.reply, Reply.APPLIED)
    await world.end(delivery)


@case()
async def an_extension_says_until_when(world: World) -> None:
    """The reply carries the deadline by Trio's clock, counted from before it was asked for."""
    await world.put()
    delivery = await world.take()
    asked = trio.current_time()
    (extension,) = await world.session.extend([delivery.ref], 2 * LONG)
    same("reply and cancel", (extension.reply, extension.cancel), (Reply.APPLIED, None))
    holds("no later than asked plus the lease", extension.deadline <= asked + 2 * LONG + 0.001, extension)
    holds("most of the lease", extension.deadline > asked + LONG, extension)


@case()
async def an_extension_never_shortens(world: World) -> None:
    """Asking for less than is left leaves the lease as it is."""
    await world.put()
    delivery = await world.take(lease_for=LONG)
    (extension,) = await world.session.extend([delivery.ref], world.tick)
    same("reply", extension.reply, Reply.APPLIED)
    await world.pass_time(2 * world.tick)
    same("leased by another", await world.lease(), [])
    await world.end(delivery)


@case("fencing")
async def an_extension_never_revives(world: World) -> None:
    """A lease that has run out is not extended: not at once, not later, not by asking again."""
    await world.put()
    late = await world.crash()
    for moment in ("at once", "again"):
        (extension,) = await world.session.extend([late.ref], LONG)
        holds(f"an extension {moment} to be refused", extension.reply in LATE, extension)
    await world.pass_time(COMEBACK)
    new = await world.take(owner="new")
    (extension,) = await world.session.extend([late.ref], LONG)
    same("an extension once another has the message", extension.reply, Reply.SUPERSEDED)
    same("held", await world.session.held("new"), [new.ref])
    await world.end(new)
    (extension,) = await world.session.extend([late.ref], LONG)
    # Where only sessions know leases, each lease is its own story, and this one's ended before.
    ended = (Reply.ENDED,) if not lacks(world.session.capabilities, "expiry") else (Reply.ENDED, Reply.SUPERSEDED)
    holds("an extension once it is done to be refused", extension.reply in ended, extension)


@case()
async def a_settled_lease_is_not_extended(world: World) -> None:
    """No settlement is undone by a beat that comes after it."""
    wanted: dict[str, tuple[Verdict, Reply]] = {
        "done": (Done(b"1", DAY), Reply.ENDED),
        "failed": (Failed(OOPS), Reply.ENDED),
        "retried": (Failed(OOPS, delay=LONG), Reply.SUPERSEDED),
        "buried": (Buried(OOPS), Reply.ENDED),
        "returned": (Returned(delay=LONG), Reply.SUPERSEDED),
        "gone": (Done(b"1", 0), Reply.UNKNOWN),
    }
    for name, (verdict, reply) in wanted.items():
        await world.put(name)
        delivery = await world.take()
        await world.end(delivery, verdict)
        (extension,) = await world.session.extend([delivery.ref], LONG)
        same(f"an extension once {name}", extension.reply, reply)
    same("held", await world.session.held("owner"), [])


@case()
async def a_batch_is_extended_item_by_item(world: World) -> None:
    """Each item has its own reply, in order; a refused one does not hold up the others."""
    await world.put("done", "mine", "forged")
    done, mine, forged = await world.lease(lease_for=5 * world.tick)
    await world.end(done)
    first, second = forged.token
    refs = [done.ref, mine.ref, replace(forged.ref, token=(first, second + 1)), Ref(QUEUE, "nothing", (1, 1)), mine.ref]
    got = [each.reply for each in await world.session.extend(refs, LONG)]
    same("replies", got, [Reply.ENDED, Reply.APPLIED, Reply.SUPERSEDED, Reply.UNKNOWN, Reply.APPLIED])
    await world.pass_time(6 * world.tick)
    await world.end(mine)
    holds(
        "the forged extension to be without effect", (late := await world.settle(forged, Done(None, 0))) in LATE, late
    )


@case("cancel_running")
async def an_extension_carries_the_request_to_cancel(world: World) -> None:
    """A worker learns with its next beat that its message is to be cancelled, and why; the lease goes on."""
    await world.put("a", "b")
    a, b = await world.lease()
    await world.session.cancel(QUEUE, ["b"], "changed my mind \N{SNOWMAN}")
    got = await world.session.extend([a.ref, b.ref], LONG)
    same("replies", [each.reply for each in got], [Reply.APPLIED, Reply.APPLIED])
    same("requests", [each.cancel for each in got], [None, "changed my mind \N{SNOWMAN}"])
    (again,) = await world.session.extend([b.ref], LONG)
    same("the request with the beat after", again.cancel, "changed my mind \N{SNOWMAN}")


@case()
async def each_crash_is_counted_once(world: World) -> None:
    """However many operations observe an expired lease, it was one crash."""
    other = await world.other_session()
    await world.put()
    await world.crash()
    for session in (world.session, other, world.session):
        await session.reap()
        await session.stats(QUEUE)
        await session.lease([QUEUE], 1, LONG, owner="x")
        await session.expire_owner("owner")
    await world.pass_time(COMEBACK)
    delivery = await world.take()
    same("crashes", delivery.crashes, 1)


@case(hours=True)
async def crashes_come_back_ever_later(world: World) -> None:
    """After its first crash a message stays away for a second, then two, four ... and at most sixty."""
    await world.put()
    for wait in (1, 2, 4, 8, 16, 32, 60, 60):
        delivery = await world.take(lease_for=30)
        await world.pass_time(30 + wait - 0.5)
        same(f"leased half a second before its comeback in {wait} s", await world.lease(), [])
        await world.pass_time(1)
        same("failures", delivery.failures, 0)
    same("crashes", (await world.take()).crashes, 8)


@case()
async def poison_is_found_out(world: World) -> None:
    """As many crashes as the budget allows, and the message is dead, reason poison; not one fewer."""
    await world.put("last", max_crashes=1)
    await world.crash()
    await world.pass_time(COMEBACK)
    same("leased after the only crash", await world.lease(), [])
    await world.is_(State.DEAD, "last")
    await world.put("twice", max_crashes=2)
    await world.crash()
    await world.pass_time(COMEBACK)
    await world.crash()
    await world.pass_time(2 * COMEBACK)
    same("leased after the second crash", await world.lease(), [])
    if world.session.capabilities.peek:
        view = await world.view("twice")
        facts = (view.state, view.reason, view.crashes, view.attempts)
        same("state, reason, crashes, attempts", facts, (State.DEAD, "poison", 2, 0))


@case(hours=True)
async def crashes_without_a_budget_are_survived(world: World) -> None:
    """Where only workers know the budget, the broker goes on counting."""
    await world.put()
    for crashes in range(12):
        delivery = await world.take(lease_for=30)
        same("crashes", delivery.crashes, crashes)
        await world.pass_time(30 + 61)


@case()
async def failures_and_returns_are_no_crashes(world: World) -> None:
    """Each budget is its own."""
    await world.put(max_crashes=2)
    await world.end(await world.take(), Failed(OOPS, delay=0))
    await world.end(await world.take(), Returned())
    await world.crash()
    await world.pass_time(COMEBACK)
    await world.end(await world.take(), Failed(OOPS, delay=0))
    delivery = await world.take()
    same("failures, crashes", (delivery.failures, delivery.crashes), (2, 1))


@case("cancel_running")
async def a_crash_ends_what_was_to_be_cancelled(world: World) -> None:
    """A request to cancel outlives the worker that did not carry it out."""
    await world.put()
    await world.take(lease_for=2 * world.tick)
    await world.session.cancel(QUEUE, ["m"], "stop")
    await world.pass_time(3 * world.tick + COMEBACK)
    same("leased", await world.lease(), [])
    await world.is_(State.CANCELLED)
    view = await world.view()
    same("reason, crashes", (view.reason, view.crashes), ("stop", 1))
