"""Opening and closing: what outlives a session, and what leaving one does."""

from __future__ import annotations

import trio

from trepid.rules.life import State
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Done, Failed
from trepid.testing.conformance.report import ConformanceError, holds, same
from trepid.testing.conformance.world import DAY, LONG, OOPS, QUEUE, World, case
from trepid.values.unique import Unique


@case()
async def messages_outlive_a_session(world: World) -> None:
    """Closed and opened again, a broker has the same messages in the same states."""
    await world.session.declare(["r"])
    repeated = (
        world.publication("ready", unique=Unique("k"), payload=b"\xff")
        if world.session.capabilities.unique
        else (world.publication("ready", payload=b"\xff"))
    )
    await world.put("done")
    await world.end(await world.take(), Done(b"42", DAY))
    await world.put("dead")
    await world.end(await world.take(), Failed(OOPS))
    await world.session.publish([repeated])
    before = [await world.glimpse(id) for id in ("done", "dead", "ready")]
    await world.reopen()
    same("queues", await world.session.queues(), [QUEUE, "r"])
    same("messages", [await world.glimpse(id) for id in ("done", "dead", "ready")], before)
    if world.session.capabilities.deduplication != "none":
        (again,) = await world.session.publish([repeated])
        same("a repeated publish", again.outcome, Publishing.DUPLICATE)
    same("leased", [(each.id, each.payload) for each in await world.lease()], [("ready", b"\xff")])


@case("expiry")
async def leases_outlive_a_session(world: World) -> None:
    """A lease belongs to its owner and token, not to the session in which it was taken."""
    await world.put("a", "b")
    a, b = await world.lease(owner="me")
    await world.reopen()
    same("leased again", await world.lease(), [])
    same("held", await world.session.held("me"), [a.ref, b.ref])
    await world.end(a)
    (extension,) = await world.session.extend([b.ref], LONG)
    same("extended", extension.reply, "applied")
    await world.end(b, Failed(OOPS, delay=0))
    holds("a token that was never used", (new := await world.take()).token > b.token, (b, new))


@case("cancel_running", "expiry")
async def a_request_to_cancel_outlives_a_session(world: World) -> None:
    """A cancel is durable once it has been answered."""
    await world.put()
    delivery = await world.take()
    await world.session.cancel(QUEUE, ["m"], "stop")
    await world.reopen()
    (extension,) = await world.session.extend([delivery.ref], LONG)
    same("the request", extension.cancel, "stop")


@case("pause")
async def a_pause_outlives_a_session(world: World) -> None:
    """A paused queue is paused until somebody resumes it."""
    await world.put()
    await world.session.pause(QUEUE)
    await world.reopen()
    same("leased", await world.lease(), [])
    await world.session.resume(QUEUE)
    same("leased after resuming", len(await world.lease()), 1)


@case("owners")
async def what_one_session_does_another_sees(world: World) -> None:
    """Once an operation has returned, every other session knows of it."""
    other = await world.other_session()
    for number in range(20):
        first, second = (world.session, other) if number % 2 else (other, world.session)
        await first.publish([world.publication(f"m{number}")])
        (delivery,) = await second.lease([QUEUE], 1, LONG, owner="x")
        same("leased elsewhere", delivery.id, f"m{number}")
        same("held", await first.held("x"), [delivery.ref])
        await world.end(delivery)


@case()
async def time_never_goes_back(world: World) -> None:
    """The broker's time grows, in each session and between them."""
    other = await world.other_session()
    times = [await (world.session, other)[number % 2].now() for number in range(20)]
    holds("times in order", times == sorted(times), times)
    await world.pass_time(2 * world.tick)
    later = await world.session.now()
    holds("time to have passed", later >= times[-1] + 1.9 * world.tick, (times[-1], later))


@case()
async def the_bodys_exception_stays_bare(world: World) -> None:
    """What is raised inside the block comes out of it as it is, and not in a group."""

    async def fail() -> None:
        async with world.broker.open() as session:
            await session.now()
            raise _ExpectedError

    try:
        await fail()
    except _ExpectedError:
        return
    except BaseExceptionGroup as group:
        raise ConformanceError("the body's own exception", f"it came in {group!r}") from group


@case()
async def a_session_can_be_left_when_cancelled(world: World) -> None:
    """Cancelling whoever holds a session closes it within a few seconds, and harms no other."""
    with trio.move_on_after(world.tick) as scope:
        async with world.broker.open() as session:
            await session.lease([QUEUE], 1, LONG, owner="x", wait=LONG)
    holds("the wait to be cancelled", scope.cancelled_caught, "it was not")
    await world.put()
    await world.end(await world.take())


@case()
async def many_tasks_share_a_session(world: World) -> None:
    """Operations of several tasks at once do not get into each other's way, and each has its own reply."""
    await world.session.declare([f"q{number}" for number in range(20)])

    async def live(number: int) -> None:
        queue = f"q{number}"
        for step in range(5):
            await world.put(f"m{step}", queue=queue, payload=b"%d %d" % (number, step))
            delivery = await world.take(queue=queue)
            same("payload", delivery.payload, b"%d %d" % (number, step))
            await world.end(delivery, Done(b"%d" % step, DAY))
            if world.session.capabilities.results != "none":
                ending = await world.session.result(queue, f"m{step}", wait=LONG)
                same("result", getattr(ending, "result", None), b"%d" % step)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(live, number)
    if world.session.capabilities.peek:
        page = await world.session.peek("q7", State.DONE)
        same("done", [view.id for view in page.messages], [f"m{step}" for step in range(5)])


class _ExpectedError(Exception):
    pass
