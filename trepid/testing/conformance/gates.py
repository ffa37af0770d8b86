"""Gates: how many messages run at once, how many start in a span of time, and who is let through."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from trepid.ports.messages import Delivery
from trepid.rules.gates import QUEUE as ANY
from trepid.rules.gates import Limit
from trepid.rules.verdicts import Done, Failed, Returned
from trepid.testing.conformance.report import holds, same
from trepid.testing.conformance.waiting import waiting
from trepid.testing.conformance.world import DAY, LONG, OOPS, QUEUE, World, case

_AWHILE = 600.0


def _ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.id for delivery in deliveries]


async def _limit(world: World, *limits: Limit) -> None:
    await world.session.limit(limits)


@case("limits")
async def a_gate_lets_so_many_run(world: World) -> None:
    """No more messages are leased behind one gate than its limit says; each that ends lets one more through."""
    await _limit(world, Limit(QUEUE, "a", concurrency=2))
    await world.put("1", "2", "3", "4", gate="a")
    first, second = await world.lease()
    same("leased", _ids([first, second]), ["1", "2"])
    same("the gate each has passed", [first.gate, second.gate], ["a", "a"])
    same("while two run", await world.lease(), [])
    await world.end(first)
    (third,) = await world.lease()
    same("after one was done", third.id, "3")
    await world.end(second, Failed(OOPS, LONG))
    (fourth,) = await world.lease()
    same("after one has failed", fourth.id, "4")
    same("with both places taken", await world.lease(), [])


@case("limits")
async def a_returned_message_gives_its_place_back(world: World) -> None:
    """A message that is given back stands before its gate again, at its place."""
    await _limit(world, Limit(QUEUE, "a", concurrency=1))
    await world.put("1", "2", gate="a")
    held = await world.take()
    await world.end(held, Returned())
    (again,) = await world.lease()
    same("let through next", again.id, "1" if world.session.capabilities.keeps_place else again.id)


@case("limits")
async def a_limit_counts_by_key(world: World) -> None:
    """Gates of one family have a limit in common, and each counts for itself."""
    await _limit(world, Limit(QUEUE, "a", concurrency=1))
    await world.put("x1", "x2", gate="a:x")
    await world.put("y1", "y2", gate="a:y")
    await world.put("ab", gate="ab")
    leased = await world.lease()
    same("leased", _ids(leased), ["x1", "y1", "ab"])
    await world.end(leased[1])
    same("after one was done", _ids(await world.lease()), ["y2"])


@case("limits")
async def who_stands_before_a_gate_holds_up_nobody(world: World) -> None:
    """However many wait before a closed gate, others pass, and in the order of priority, due time and publishing."""
    await _limit(world, Limit(QUEUE, "a", concurrency=1))
    await world.put(*(f"a{n}" for n in range(300)), gate="a", priority=9)
    await world.put("b1", "b2", gate="b")
    await world.put("free")
    await world.put("low", priority=0)
    same("the first three", _ids(await world.lease(3)), ["a0", "b1", "b2"])
    same("the rest", _ids(await world.lease()), ["free", "low"])


@case("limits")
async def the_order_is_the_same_with_gates(world: World) -> None:
    """Messages behind open gates and without one mix by priority, then due time, then publishing."""
    await _limit(world, Limit(QUEUE, "a", concurrency=20))

    async def put_all() -> None:
        await world.put("1", gate="a")
        await world.put("2")
        await world.put("3", gate="b:k")
        await world.put("4", priority=9, gate="a")
        await world.put("5", priority=9)
        await world.put("6", priority=0, gate="a")

    await put_all()
    taken = [await world.take() for _ in range(6)]
    same("one by one", _ids(taken), ["4", "5", "1", "2", "3", "6"])
    for delivery in taken:
        await world.end(delivery)
    await put_all()
    same("all at once", _ids(await world.lease()), ["4", "5", "1", "2", "3", "6"])


@case("limits")
async def the_share_of_a_dead_worker_comes_back(world: World) -> None:
    """A lease that runs out makes room at its gate."""
    await _limit(world, Limit(QUEUE, "a", concurrency=1))
    await world.put("1", "2", gate="a")
    await world.crash()
    same("after the crash", _ids(await world.lease(1)), ["2"])


@case("limits")
async def a_queue_limits_all_it_has(world: World) -> None:
    """The limit of a queue counts all its messages, with gates and without, and those of no other queue."""
    await world.session.declare(["other"])
    await _limit(world, Limit(QUEUE, concurrency=2), Limit(QUEUE, "a", concurrency=1))
    await world.put("1", "2", gate="a")
    await world.put("3", "4")
    await world.put("5", "6", queue="other")
    leased = await world.lease(queues=[QUEUE])
    same("leased", _ids(leased), ["1", "3"])
    same("another queue", _ids(await world.lease(queues=["other"])), ["5", "6"])
    await world.end(leased[1])
    same("after one was done", _ids(await world.lease()), ["4"])


@case("limits", hours=True)
async def a_rate_lets_so_many_start(world: World) -> None:
    """In no span of time do more start than the rate says, by key, whatever becomes of them."""
    await _limit(world, Limit(QUEUE, "a", count=2, per=_AWHILE))
    await world.put("x1", "x2", "x3", "x4", "x5", gate="a:x")
    await world.put("y1", gate="a:y")
    leased = await world.lease()
    same("leased at first", _ids(leased), ["x1", "x2", "y1"])
    for delivery in leased:
        await world.end(delivery, Done(None, 0))
    same("soon after", await world.lease(), [])
    await world.pass_time(_AWHILE / 2)
    same("after half the time", await world.lease(), [])
    await world.pass_time(_AWHILE / 2)
    same("after the time", _ids(await world.lease()), ["x3", "x4"])
    same("and no more", await world.lease(), [])


@case("limits", hours=True)
async def a_rate_slides(world: World) -> None:
    """A start counts for as long as the span lasts, not until the end of a window."""
    await _limit(world, Limit(QUEUE, count=2, per=_AWHILE))
    await world.put("1", "2", "3", "4")
    same("the first", _ids(await world.lease(1)), ["1"])
    await world.pass_time(_AWHILE * 0.75)
    same("the second", _ids(await world.lease()), ["2"])
    await world.pass_time(_AWHILE * 0.5)
    same("when the first has gone by", _ids(await world.lease()), ["3"])
    await world.pass_time(_AWHILE * 0.25)
    same("before the second has", await world.lease(), [])


@case("limits")
async def who_waits_is_woken_when_a_gate_opens(world: World) -> None:
    """A settlement that makes room wakes a worker that waits, by whichever session it came."""
    await _limit(world, Limit(QUEUE, "a", concurrency=1))
    await world.put("1", "2", "3", gate="a")
    held = await world.take()
    async with waiting(world) as got:
        await world.end(held)
    other = await world.other_session()
    async with waiting(world):
        await world.settle(got[0], Done(None, 0), session=other)


@case("limits")
async def who_waits_is_woken_when_a_queue_has_room(world: World) -> None:
    """The same holds for the limit of a queue, and for a limit that is raised."""
    await _limit(world, Limit(QUEUE, concurrency=1))
    await world.put("1", "2", "3")
    held = await world.take()
    async with waiting(world):
        await world.end(held)
    async with waiting(world):
        await _limit(world, Limit(QUEUE, concurrency=2))


@case("limits")
async def who_waits_is_woken_when_a_rate_allows(world: World) -> None:
    """Time alone opens a gate, and a queue: the next message comes when the span is over."""
    per = 3 * world.tick
    for family, ids in (("a", ("1", "2")), (ANY, ("3", "4"))):
        await _limit(world, Limit(QUEUE, family, count=1, per=per))
        await world.put(*ids, gate="a")
        began = trio.current_time()
        await world.take()
        async with waiting(world) as got:
            pass
        same("the message that came", got[0].id, ids[1])
        waited = trio.current_time() - began
        holds("nothing before the span is over", waited >= 0.9 * per, f"{waited:.3f} s")
        await _limit(world, Limit(QUEUE, family))


@case("limits")
async def a_limit_holds_for_all_sessions(world: World) -> None:
    """Who is let through counts for everybody, however many ask at once."""
    await _limit(world, Limit(QUEUE, "a", concurrency=3))
    await world.put(*(f"m{n}" for n in range(20)), gate="a")
    sessions = [world.session, await world.other_session(), await world.other_session()]
    got: list[Delivery] = []

    async def ask(number: int) -> None:
        got.extend(await world.lease(2, session=sessions[number % 3], owner=f"owner{number}"))

    async with trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(partial(ask, number))
    same("leased, all told", len(got), 3)


@case("limits")
async def limits_are_replaced_and_lifted(world: World) -> None:
    """The last word counts; a limit that limits nothing is none."""
    await world.put("1", "2", "3", "4", gate="a")
    await _limit(world, Limit(QUEUE, "a", concurrency=1), Limit("nowhere", "a", concurrency=1))
    same("with one place", _ids(await world.lease()), ["1"])
    await _limit(world, Limit(QUEUE, "a", concurrency=2))
    same("with two", _ids(await world.lease()), ["2"])
    await _limit(world, Limit(QUEUE, "a"))
    same("without a limit", _ids(await world.lease()), ["3", "4"])
    same("what was declared", await world.session.queues(), [QUEUE])


@case("limits")
async def a_message_is_put_behind_another_gate(world: World) -> None:
    """A return may name the gate that counts from now on, or that none does."""
    await _limit(world, Limit(QUEUE, "a", concurrency=1))
    await world.put("1", "2")
    for delivery in await world.lease():
        await world.end(delivery, Returned(gate="a:k", started=False))
    (first,) = await world.lease()
    same("the gate of the first", first.gate, "a:k")
    same("while it runs", await world.lease(), [])
    await world.end(first, Returned(gate="", started=False))
    same("without its gate", {(d.id, d.gate) for d in await world.lease()}, {("1", None), ("2", "a:k")})


@case("limits", "peek")
async def a_gate_can_be_seen(world: World) -> None:
    """A view says which gate a message has to pass, also when it is leased and when it has ended."""
    await world.put("a", gate="a:k")
    await world.put("b")
    same("while it waits", ((await world.view("a")).gate, (await world.view("b")).gate), ("a:k", None))
    for delivery in await world.lease():
        await world.end(delivery, Done(b"1", DAY))
    same("when it is done", ((await world.view("a")).gate, (await world.view("b")).gate), ("a:k", None))
