"""Leasing: who gets which message, and with what proof."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import trio

from trepid.ports.broker import Session
from trepid.ports.messages import Settlement
from trepid.rules.life import State, Token
from trepid.rules.verdicts import Done, Failed, Returned
from trepid.testing.conformance.report import holds, same
from trepid.testing.conformance.world import COMEBACK, DAY, LONG, OOPS, OWNER, QUEUE, World, case


@case()
async def a_leased_message_has_one_holder(world: World) -> None:
    """What is leased cannot be leased again, by nobody."""
    await world.put()
    await world.take(owner="one")
    same("leased by the same", await world.lease(owner="one"), [])
    other = await world.other_session()
    same("leased by another", await world.lease(owner="two", session=other), [])
    await world.is_(State.LEASED)


@case()
async def a_lease_call_never_exceeds_its_limit(world: World) -> None:
    """At most so many as asked for, over all queues; all that there are, if they are fewer."""
    await world.session.declare(["r"])
    await world.put(*(f"m{number}" for number in range(7)))
    await world.put(*(f"n{number}" for number in range(7)), queue="r")
    counts = [len(await world.lease(limit, queues=[QUEUE, "r"])) for limit in (1, 2, 3, 5, 10, 10)]
    same("leases per call", counts, [1, 2, 3, 5, 3, 0])


@case()
async def a_delivery_says_what_is_known(world: World) -> None:
    """Times by the broker's clock; and a deadline on Trio's, counted from before the lease was asked for."""
    await world.put()
    asked = trio.current_time()
    got = await world.take(lease_for=LONG)
    holds("published, due, leased, in this order", got.enqueued <= got.due <= got.leased, got)
    holds("a deadline no later than asked plus the lease", got.deadline <= asked + LONG + 0.001, (asked, got.deadline))
    holds("a deadline that leaves most of the lease", got.deadline > asked + LONG * 0.8, (asked, got.deadline))
    same("ref", (got.ref.queue, got.ref.id, got.ref.token), (QUEUE, "m", got.token))


@case("peek")
async def a_lease_names_its_owner(world: World) -> None:
    """Looking at a leased message shows who has it; once settled, nobody has."""
    await world.put()
    got = await world.take(owner="somebody")
    same("owner", (await world.view()).owner, "somebody")
    await world.end(got)
    same("owner once done", (await world.view()).owner, None)


@case()
async def tokens_grow_and_never_repeat(world: World) -> None:
    """Each lease of an id has a token greater than all before it: after retries, returns, crashes and new runs."""
    tokens: list[Token] = []
    await world.put()
    for verdict in (Returned(), Failed(OOPS, delay=0), Returned(), Done(b"1", DAY)):
        got = await world.take()
        tokens.append(got.token)
        await world.end(got, verdict)
    await world.put()
    tokens.append((await world.crash()).token)
    await world.pass_time(COMEBACK)
    got = await world.take()
    tokens.append(got.token)
    await world.end(got, Done(b"1", 0))
    await world.put()
    tokens.append((await world.take()).token)
    holds("strictly growing tokens", all(a < b for a, b in pairwise(tokens)), tokens)


@case("requeue")
async def a_token_is_not_reused_after_a_requeue(world: World) -> None:
    """A message that comes back from the dead is leased under a token of its own."""
    old = await world.bring(State.DEAD)
    same("requeued", await world.session.requeue(QUEUE), 1)
    new = await world.take()
    holds("a greater token", old is not None and new.token > old.token, (old, new))


@case()
async def two_consumers_never_share_a_message(world: World) -> None:
    """Consumers that lease at the same time get each message once, and leave none."""
    total = 200
    await world.session.publish([world.publication(f"m{number}") for number in range(total)])
    got: Counter[str] = Counter()

    async def consume(session: Session, owner: str, limit: int) -> None:
        while deliveries := await world.lease(limit, owner=owner, session=session):
            got.update(each.id for each in deliveries)
            replies = await session.settle([Settlement(each.ref, Done(None, 0)) for each in deliveries])
            same("settlements applied", len({*replies}), 1)

    other = await world.other_session()
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(consume, (world.session, other)[number % 2], f"w{number}", number + 1)
    same("messages, deliveries", (len(got), got.total()), (total, total))


@case()
async def a_lease_that_ran_out_is_leasable_again(world: World) -> None:
    """After its comeback the message is leased once more, and the crash is counted."""
    await world.put()
    first = await world.crash()
    same("leased before its comeback", await world.lease(), [])
    await world.pass_time(COMEBACK)
    deliveries = await world.lease()
    same("leased after it", [each.id for each in deliveries], ["m"])
    same("crashes, failures", (deliveries[0].crashes, deliveries[0].failures), (1, 0))
    holds("another token", deliveries[0].token > first.token, (first, deliveries[0]))
    same("leased again", await world.lease(), [])


@case()
async def an_undeclared_queue_is_empty(world: World) -> None:
    """Looking for messages where nothing can be is no error, nor does it declare the queue."""
    await world.put()
    same("leased from nowhere", await world.lease(queues=["nowhere"]), [])
    same("leased from both", [each.id for each in await world.lease(queues=["nowhere", QUEUE])], ["m"])
    same("queues", await world.session.queues(), [QUEUE])


@case()
async def only_the_queues_asked_for_are_looked_at(world: World) -> None:
    """Messages elsewhere stay where they are."""
    await world.session.declare(["r"])
    await world.put("here")
    await world.put("there", queue="r")
    same("leased", [(each.queue, each.id) for each in await world.lease(queues=["r"])], [("r", "there")])
    await world.is_(State.READY, "here")


@case()
async def queues_take_turns(world: World) -> None:
    """A queue that is always full does not starve the others."""
    queues = ["a", "b", "c"]
    await world.session.declare(queues)
    for queue in queues:
        await world.put(*(f"m{number}" for number in range(30)), queue=queue, priority=9 if queue == "a" else 5)
    got: Counter[str] = Counter()
    for _ in range(30):
        got.update(each.queue for each in await world.lease(1, queues=queues))
    same("leases", got.total(), 30)
    holds("each queue to have its turns among 30 leases", min(got[queue] for queue in queues) >= 5, got)


@case("pause")
async def a_paused_queue_leases_nothing(world: World) -> None:
    """Pausing stops leases for everybody, and only leases."""
    await world.put("held")
    held = await world.take()
    await world.session.pause(QUEUE)
    await world.session.pause(QUEUE)
    await world.put("waits")
    other = await world.other_session()
    same("leased", [*await world.lease(), *await world.lease(session=other)], [])
    same("said to be paused", (await world.session.stats(QUEUE)).paused, True)
    await world.end(held)
    await other.resume(QUEUE)
    await other.resume(QUEUE)
    same("said to be paused", (await world.session.stats(QUEUE)).paused, False)
    same("leased after resuming", [each.id for each in await world.lease()], ["waits"])


@case()
async def held_leases_are_listed(world: World) -> None:
    """An owner can learn what it holds: exactly that, and only while it does."""
    await world.session.declare(["r"])
    await world.put("a", "b", "c")
    await world.put("d", queue="r")
    mine = [await world.take(owner="me"), await world.take(owner="me"), await world.take(owner="me", queue="r")]
    await world.take(owner="you")
    same("held", set(await world.session.held("me")), {each.ref for each in mine})
    await world.end(mine[0])
    await world.end(mine[1], Returned())
    same("held after settling", await world.session.held("me"), [mine[2].ref])
    same("held by nobody", await world.session.held("nobody"), [])


@case()
async def a_lease_that_ran_out_is_not_held(world: World) -> None:
    """Time goes first, also for who asks what it holds."""
    await world.put()
    await world.crash()
    same("held", await world.session.held(OWNER), [])


@case()
async def a_dead_owner_expires_at_once(world: World) -> None:
    """The leases of an owner known to be dead end now, as crashes; those of others stand."""
    await world.put("a", "b", "c")
    for owner in ("dead", "dead", "alive"):
        await world.take(owner=owner)
    same("expired", await world.session.expire_owner("dead"), 2)
    same("expired again", await world.session.expire_owner("dead"), 0)
    same("still held", len(await world.session.held("alive")), 1)
    await world.pass_time(COMEBACK + world.tick)
    got = await world.lease()
    same("leased again, with their crashes", [(each.id, each.crashes) for each in got], [("a", 1), ("b", 1)])
