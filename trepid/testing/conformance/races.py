"""Races: two operations at once have the outcome of one before the other, and never a third."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio

from trepid.ports.messages import Delivery, Ref, Settlement
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.publishing import Published, Publishing
from trepid.rules.verdicts import Done, Failed, Returned, Verdict
from trepid.testing.conformance.report import holds, same
from trepid.testing.conformance.world import COMEBACK, DAY, LATE, LONG, OOPS, QUEUE, World, case, lacks
from trepid.values.unique import Unique

_ROUNDS = 8
A = TypeVar("A")
B = TypeVar("B")


async def both(one: Callable[[], Awaitable[A]], other: Callable[[], Awaitable[B]]) -> tuple[A, B]:
    """Run two operations at once and return both answers."""
    ones: list[A] = []
    others: list[B] = []

    async def run_one() -> None:
        ones.append(await one())

    async def run_other() -> None:
        others.append(await other())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_one)
        nursery.start_soon(run_other)
    return ones[0], others[0]


@case("peek", "fencing")
async def settling_races_expiry(world: World) -> None:
    """At the end of its lease a message is done, or has crashed; it is never both, and never neither."""
    other = await world.other_session()
    number = 12
    await world.put(*(f"m{each}" for each in range(number)))
    deliveries = await world.lease(lease_for=2 * world.tick)
    replies: dict[str, Reply] = {}

    async def settle(delivery: Delivery, wait: float) -> None:
        await trio.sleep(wait)
        replies[delivery.id] = await world.settle(delivery, Done(b"1", DAY))

    async with trio.open_nursery() as nursery:
        for each, delivery in enumerate(deliveries):
            nursery.start_soon(settle, delivery, 4 * world.tick * each / number)
        for _ in range(number):
            await trio.sleep(4 * world.tick / number)
            await other.reap()
    for id, reply in replies.items():
        view = await world.view(id)
        if reply is Reply.APPLIED:
            same("an applied one", (view.state, view.crashes), (State.DONE, 0))
        else:
            holds("late", reply in LATE, reply)
            same("crashes of a late one", view.crashes, 1)
    holds("some in time, and some late", len({*replies.values()}) > 1, replies)


@case()
async def one_settlement_wins(world: World) -> None:
    """Of many settlements of one lease, one is applied; the same again is recognised, others are refused."""
    # A lease that ends with its session is settled there, and nowhere else.
    known_to_one = lacks(world.session.capabilities, "expiry")
    other = world.session if known_to_one else await world.other_session()
    verdicts: list[Verdict] = [Done(b"1", DAY), Failed(OOPS), Returned(delay=LONG), Failed(OOPS, delay=LONG)]
    for round_ in range(_ROUNDS):
        await world.put(f"m{round_}")
        delivery = await world.take()
        replies: list[Reply] = []

        async def settle(number: int, delivery: Delivery = delivery, replies: list[Reply] = replies) -> None:
            session = (world.session, other)[number % 2]
            replies.append(await world.settle(delivery, verdicts[number % 4], session=session))

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(settle, number)
        same("settlements that were applied", replies.count(Reply.APPLIED), 1)
        same("leased", await world.lease(), [])


@case("cancel_running")
async def settling_races_cancelling(world: World) -> None:
    """Done wins; whoever cancels learns whether it was in time to be heard."""
    other = await world.other_session()
    for round_ in range(_ROUNDS):
        id = f"m{round_}"
        await world.put(id)
        delivery = await world.take()
        reply, (cancelled,) = await both(
            partial(world.settle, delivery, Done(b"1", DAY)),
            partial(other.cancel, QUEUE, [id], "stop"),
        )
        same("reply to done", reply, Reply.APPLIED)
        holds("asked, or too late", cancelled in (CancelReply.REQUESTED, CancelReply.FINISHED), cancelled)
        await world.is_(State.DONE, id)


@case("cancel_waiting")
async def leasing_races_cancelling(world: World) -> None:
    """Withdrawn means that it never starts; else it is leased, and its holder asked to stop."""
    other = await world.other_session()
    for round_ in range(_ROUNDS):
        id = f"m{round_}"
        await world.put(id)
        deliveries, (cancelled,) = await both(
            world.lease,
            partial(other.cancel, QUEUE, [id], "stop"),
        )
        if cancelled is CancelReply.WITHDRAWN:
            same("leased", deliveries, [])
        else:
            same("the other answer", cancelled, CancelReply.REQUESTED)
            (extension,) = await world.session.extend([deliveries[0].ref], LONG)
            same("the request", extension.cancel, "stop")
            await world.end(deliveries[0])


@case("peek")
async def returning_races_a_crash(world: World) -> None:
    """Given back or crashed, one of the two is counted, and there is one message afterwards."""
    other = await world.other_session()
    for round_ in range(_ROUNDS):
        id, owner = f"m{round_}", f"w{round_}"
        await world.put(id)
        delivery = await world.take(owner=owner)
        reply, expired = await both(
            partial(world.settle, delivery, Returned()),
            partial(other.expire_owner, owner),
        )
        view = await world.view(id)
        won = reply is Reply.APPLIED
        same("releases, crashes, expired", (view.releases, view.crashes, expired), (won, not won, not won))
        await world.session.purge(QUEUE, [State.READY, State.SCHEDULED])


@case("fencing", "owners")
async def extending_races_a_crash(world: World) -> None:
    """A lease is extended and then expired, or expired and then refused; it is never held after both."""
    other = await world.other_session()
    for round_ in range(_ROUNDS):
        owner = f"w{round_}"
        await world.put(f"m{round_}")
        delivery = await world.take(owner=owner)
        (extension,), expired = await both(
            partial(world.session.extend, [delivery.ref], LONG),
            partial(other.expire_owner, owner),
        )
        same("expired", expired, 1)
        holds("extended or late", extension.reply in (Reply.APPLIED, *LATE), extension)
        same("held", await world.session.held(owner), [])


@case("unique")
async def publishing_races_the_end_of_the_holder(world: World) -> None:
    """Accepted, or told of the holder: there are never two live messages of a key, nor is one lost."""
    other = await world.other_session()
    for round_ in range(_ROUNDS):
        await world.put(f"a{round_}", unique=Unique("k"))
        delivery = await world.take()
        publication = world.publication(f"b{round_}", unique=Unique("k"))
        reply, (published,) = await both(
            partial(world.settle, delivery, Done(b"1", DAY)),
            partial(other.publish, [publication]),
        )
        same("reply", reply, Reply.APPLIED)
        accepted = published == Published(Publishing.ACCEPTED, f"b{round_}")
        holds("accepted, or existing", accepted or published == Published(Publishing.EXISTING, f"a{round_}"), published)
        left = await world.lease()
        same("leased", [each.id for each in left], [f"b{round_}"] if accepted else [])
        for each in left:
            await world.end(each)


# As above, in uniqueness.py: the keys of dead letters that cannot be looked at are compared when they are leased.
@case("unique", "requeue", "peek")
async def publishing_races_a_requeue(world: World) -> None:
    """One of the two gets the key."""
    other = await world.other_session()
    for round_ in range(_ROUNDS):
        await world.put(f"a{round_}", unique=Unique("k"))
        await world.end(await world.take(), Failed(OOPS))
        publication = world.publication(f"b{round_}", unique=Unique("k"))
        came, (published,) = await both(
            partial(world.session.requeue, QUEUE, [f"a{round_}"]),
            partial(other.publish, [publication]),
        )
        same("requeued or accepted", (came, published.outcome is Publishing.ACCEPTED) in ((1, False), (0, True)), True)
        (delivery,) = await world.lease()
        await world.end(delivery)


@case("exact_stats")
async def purging_races_leasing(world: World) -> None:
    """Each message is purged or leased, and the count agrees."""
    other = await world.other_session()
    for _ in range(_ROUNDS):
        ids = [f"m{number}" for number in range(10)]
        await world.put(*ids)
        deliveries, purged = await both(
            partial(world.lease, 5),
            partial(other.purge, QUEUE, [State.READY], limit=7),
        )
        rest = await world.lease()
        same("purged, leased and left", purged + len(deliveries) + len(rest), 10)
        for each in (*deliveries, *rest):
            await world.end(each, Done(None, 0))


@case("fencing", "owners")
async def a_zombie_harms_nobody(world: World) -> None:
    """Who slept through its lease is refused whatever it does, while the new holder goes on undisturbed."""
    await world.put()
    zombie = await world.crash()
    await world.pass_time(COMEBACK)
    holder = await world.take(owner="new")
    other = await world.other_session()

    async def haunt() -> list[Reply]:
        replies = [each.reply for each in await other.extend([zombie.ref], 2 * LONG)]
        verdicts = (Done(b"0", DAY), Failed(OOPS), Returned())
        return replies + [await world.settle(zombie, verdict, session=other) for verdict in verdicts]

    async def work() -> list[Ref]:
        await world.session.extend([holder.ref], LONG)
        return await world.session.held("new")

    replies, held = await both(haunt, work)
    same("the zombie's replies", replies, [Reply.SUPERSEDED] * 4)
    same("what the holder holds", held, [holder.ref])
    await world.end(holder, Done(b"1", DAY))


@case()
async def deleting_races_publishing(world: World) -> None:
    """A queue that is deleted while messages come has them all, or none; and a publish says which."""
    other = await world.other_session()
    for round_ in range(_ROUNDS):
        batch = [world.publication(f"m{round_}-{number}") for number in range(3)]
        replies, _ = await both(
            partial(world.session.publish, batch),
            partial(other.delete, QUEUE),
        )
        outcomes = {each.outcome for each in replies}
        holds("one answer for all", outcomes in ({Publishing.ACCEPTED}, {Publishing.NO_QUEUE}), outcomes)
        await world.session.declare([QUEUE])
        same("leased", await world.lease(), [])


@case("fencing", "owners")
async def follow_ups_race_a_repetition(world: World) -> None:
    """Settled twice at once, the follow-ups are published once."""
    other = await world.other_session()
    for round_ in range(_ROUNDS):
        await world.put(f"m{round_}")
        batch = [Settlement((await world.take()).ref, Done(b"1", DAY))]
        then = [world.publication(f"next{round_}")]
        one, two = await both(
            partial(world.session.settle, batch, then=then),
            partial(other.settle, batch, then=then),
        )
        same("replies", sorted(one + two), [Reply.APPLIED, Reply.REPEATED])
        (delivery,) = await world.lease()
        same("leased", delivery.id, f"next{round_}")
        await world.end(delivery)
