"""Looking: counts, pages, single messages and results; and that looking changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from trepid.errors import UnknownQueueError
from trepid.ports.messages import Absent, Cursor, Ending, MessageView, Settlement
from trepid.rules.life import LIVE, State
from trepid.rules.verdicts import Buried, Done, Failed, Returned, Verdict
from trepid.testing.conformance.report import ConformanceError, holds, same
from trepid.testing.conformance.world import COMEBACK, DAY, LONG, OOPS, QUEUE, World, case


async def refused(what: str, operation: Callable[[], Awaitable[object]]) -> None:
    """The operation must complain of an undeclared queue."""
    try:
        got = await operation()
    except UnknownQueueError as exc:
        same("the queue that the error names", exc.queue, "nowhere")
    else:
        raise ConformanceError(f"{what} of an undeclared queue to raise UnknownQueueError", f"got {got!r}")


async def one_of_each(world: World) -> None:
    """Bring one message into each state, each under the state's name."""
    for state in world.states:
        await world.bring(state, str(state))


@case()
async def an_undeclared_queue_is_an_error(world: World) -> None:
    """Who asks about a queue that was never declared is told so, by name; ordinary messages are just not there."""
    session = world.session
    await refused("stats", lambda: session.stats("nowhere"))
    if session.capabilities.pause:
        await refused("pause", lambda: session.pause("nowhere"))
        await refused("resume", lambda: session.resume("nowhere"))
    if session.capabilities.requeue:
        await refused("requeue", lambda: session.requeue("nowhere"))
    if session.capabilities.peek:
        await refused("purge", lambda: session.purge("nowhere", [State.DEAD]))
        await refused("peek", lambda: session.peek("nowhere", State.READY))
        same("get", await session.get("nowhere", "m"), None)
    if session.capabilities.results != "none":
        same("result", await session.result("nowhere", "m"), Absent.GONE)


@case("peek")
async def who_watches_a_message_sees_it_move(world: World) -> None:
    """Each move is told to who knows how it was before; without one, the wait ends with the message as it is."""

    async def moved(known: MessageView | None) -> MessageView | None:
        return await world.session.moved(QUEUE, "m", known, wait=LONG)

    same("what is not there", await world.session.moved(QUEUE, "m", None, wait=world.tick), None)
    await world.put()
    view = await moved(None)
    same("put", view and view.state, State.READY)
    same("nothing moves", await world.session.moved(QUEUE, "m", view, wait=world.tick), view)
    delivery = await world.take()
    same("leased", (view := await moved(view)) and view.state, State.LEASED)
    await world.end(delivery, Failed(OOPS, 2 * world.tick))
    same("failed", (view := await moved(view)) and (view.state, view.attempts), (State.SCHEDULED, 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.pass_time, 2 * world.tick)
        same("due", (view := await moved(view)) and view.state, State.READY)
    await world.end(await world.take())
    same("done", (view := await moved(view)) and view.state, State.DONE)


@case()
async def declaring_again_changes_nothing(world: World) -> None:
    """Queues are listed sorted, and once; their messages stay."""
    await world.put()
    await world.session.declare(["b", "a", QUEUE, "a"])
    await (await world.other_session()).declare([QUEUE])
    same("queues", await world.session.queues(), ["a", "b", QUEUE])
    same("leased", len(await world.lease()), 1)


@case("exact_stats")
async def each_state_is_counted(world: World) -> None:
    """Each message is counted once, in its state, as seen from every session."""
    same("at first", await world.counts(), {})
    await one_of_each(world)
    same("then", await world.counts(), dict.fromkeys(world.states, 1))
    elsewhere = await (await world.other_session()).stats(QUEUE)
    counts = [getattr(elsewhere, state) for state in State]
    same("from elsewhere", counts, [int(state in world.states) for state in State])
    same("live", elsewhere.live, len(LIVE.intersection(world.states)))


@case("exact_stats", "delay")
async def counts_follow_the_clock(world: World) -> None:
    """What time has decided is counted so, although nobody has touched the messages."""
    await world.put("leased", max_crashes=1)
    await world.take(lease_for=world.tick)
    await world.put("due", delay=world.tick)
    await world.put("old", ttl=world.tick)
    await world.pass_time(2 * world.tick + world.session.capabilities.delay_resolution)
    same("counted", await world.counts(), {State.READY: 1, State.DEAD: 2})


@case("exact_stats")
async def the_age_of_the_oldest_is_known(world: World) -> None:
    """For how long the oldest ready message has been due; scheduled and leased ones do not count."""
    same("of none", (await world.session.stats(QUEUE)).oldest_ready, None)
    if world.session.capabilities.delay != "none":
        await world.put("later", delay=LONG)
    same("of a scheduled one, or none", (await world.session.stats(QUEUE)).oldest_ready, None)
    await world.put("first")
    await world.pass_time(3 * world.tick)
    await world.put("second")
    age = (await world.session.stats(QUEUE)).oldest_ready
    holds("an age of three ticks or little more", age is not None and 2.9 * world.tick <= age < LONG, age)
    await world.lease()
    same("of leased ones", (await world.session.stats(QUEUE)).oldest_ready, None)


@case("peek")
async def looking_changes_nothing(world: World) -> None:
    """Peeking, getting, counting and reading results a hundred times moves and counts nothing."""
    await one_of_each(world)
    before = [await world.view(str(state)) for state in world.states]
    for _ in range(100):
        for state in State:
            await world.session.peek(QUEUE, state)
        await world.session.stats(QUEUE)
        if world.session.capabilities.results != "none":
            await world.session.result(QUEUE, "done")
    same("the messages", [await world.view(str(state)) for state in world.states], before)
    same("leased", [each.id for each in await world.lease()], ["ready"])


@case("peek")
async def a_peek_shows_one_state(world: World) -> None:
    """A page holds the messages of the state that was asked for, the same as are got one by one."""
    await one_of_each(world)
    for state in world.states:
        page = await world.session.peek(QUEUE, state)
        same(f"messages that are {state}", page.messages, (await world.view(str(state)),))
        same("the cursor at the end", page.cursor, None)


@case("peek")
async def pages_follow_each_other(world: World) -> None:
    """Page by page, each message is seen once, in the order of publishing, whatever its priority or due time."""
    ids = [f"m{number:02}" for number in range(25)]
    for number, id in enumerate(ids):
        await world.put(id, priority=(0, 5, 9)[number % 3])
    seen: list[str] = []
    cursor: Cursor | None = None
    for _ in range(10):
        page = await world.session.peek(QUEUE, State.READY, limit=7, after=cursor)
        holds("no page beyond its limit", len(page.messages) <= 7, page)
        seen += [view.id for view in page.messages]
        cursor = page.cursor
        if cursor is None:
            break
    same("seen", seen, ids)


@case("peek")
async def pages_stand_while_messages_come_and_go(world: World) -> None:
    """Between two pages nothing is skipped or seen twice, although messages before the cursor leave."""
    await world.put(*(f"m{number}" for number in range(9)))
    first = await world.session.peek(QUEUE, State.READY, limit=4)
    await world.lease(2)
    await world.put("new")
    second = await world.session.peek(QUEUE, State.READY, limit=100, after=first.cursor)
    seen = [view.id for page in (first, second) for view in page.messages]
    same("seen", seen, [*(f"m{number}" for number in range(9)), "new"])


@case("peek")
async def a_view_tells_the_whole_story(world: World) -> None:
    """Attempts, crashes, releases, errors and times of a message that has seen much."""
    await world.put(max_crashes=5)
    await world.end(await world.take(), Failed(OOPS, delay=0))
    await world.end(await world.take(), Returned())
    await world.crash()
    await world.pass_time(COMEBACK)
    leased = await world.take(owner="somebody")
    view = await world.view()
    same("while it runs", (view.state, view.owner, view.ended), (State.LEASED, "somebody", None))
    await world.end(leased, Done(b"1", DAY))
    view = await world.view()
    facts = (view.state, view.attempts, view.crashes, view.releases, view.requeues, len(view.errors), view.owner)
    same("once done", facts, (State.DONE, 2, 1, 1, 0, 1, None))
    holds("times in their order", view.enqueued <= view.due <= (view.ended or 0.0), view)


@case("results")
async def a_result_says_how_it_stands(world: World) -> None:
    """Waiting messages are pending; done, dead and cancelled ones say how they ended; others are gone."""
    await one_of_each(world)
    for state in {State.SCHEDULED, State.READY, State.LEASED}.intersection(world.states):
        same(f"of one that is {state}", await world.session.result(QUEUE, str(state)), Absent.PENDING)
    same("of a done one", await world.session.result(QUEUE, "done"), Ending(State.DONE, b"1"))
    if State.CANCELLED in world.states:
        cancelled = Ending(State.CANCELLED, reason="not wanted")
        same("of a cancelled one", await world.session.result(QUEUE, "cancelled"), cancelled)
    dead = await world.session.result(QUEUE, "dead")
    holds("an ending of a dead one", isinstance(dead, Ending) and dead.error is not None, dead)
    assert isinstance(dead, Ending)
    assert dead.error is not None
    facts = (dead.state, dead.result, dead.reason, dead.error.type, dead.error.message, dead.error.traceback)
    same("of a dead one", facts, (State.DEAD, None, "failed", "ValueError", "oops", "frame 1"))
    same("of none", await world.session.result(QUEUE, "nothing", wait=LONG), Absent.GONE)


@case("results")
async def a_result_is_waited_for(world: World) -> None:
    """Who waits for a result gets it when the message ends, however it ends, and through retries and returns."""
    verdicts: tuple[Verdict, ...] = (Done(b"1", DAY), Failed(OOPS), Buried(OOPS))
    for number, verdict in enumerate(verdicts):
        id = f"m{number}"
        await world.put(id)
        got: list[Ending | Absent] = []

        async def wait(id: str = id, got: list[Ending | Absent] = got) -> None:
            got.append(await world.session.result(QUEUE, id, wait=LONG))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(world.tick / 2)
            await world.end(await world.take(), Failed(OOPS, delay=0))
            await world.end(await world.take(), Returned())
            await trio.sleep(world.tick / 2)
            same("before the end", got, [])
            await world.session.settle([Settlement((await world.take()).ref, verdict)])
        holds("an ending", isinstance(got[0], Ending), got)


@case("results", "cancel_waiting")
async def a_wait_for_a_result_ends_otherwise(world: World) -> None:
    """A cancel, a ttl and a purge end the wait, too; and so does the end of the wait."""
    same("pending after the wait", await _awaited(world, "a", world.tick, delay=LONG), Absent.PENDING)

    async def withdraw() -> None:
        await world.session.cancel(QUEUE, ["b"], "no")

    same("cancelled", await _awaited(world, "b", LONG, withdraw), Ending(State.CANCELLED, reason="no"))

    async def purge() -> None:
        await world.session.purge(QUEUE, [State.READY])

    same("purged", await _awaited(world, "c", LONG, purge), Absent.GONE)
    got = await _awaited(world, "d", LONG, ttl=world.tick)
    holds("dead of its ttl", isinstance(got, Ending) and got.reason == "expired", got)


async def _awaited(
    world: World, id: str, wait: float, meanwhile: Callable[[], Awaitable[None]] | None = None, **fields: float
) -> Ending | Absent:
    await world.put(id, **fields)
    got: list[Ending | Absent] = []

    async def listen() -> None:
        got.append(await world.session.result(QUEUE, id, wait=wait))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.sleep(world.tick / 2)
        if meanwhile is not None:
            await meanwhile()
    return got[0]
