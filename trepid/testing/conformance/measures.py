"""Measures: how many messages a queue takes, and what share it has among others."""

from __future__ import annotations

from collections import Counter

from trepid.ports.messages import Settlement
from trepid.rules.gates import Limit
from trepid.rules.life import Reply, State
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Done
from trepid.testing.conformance.report import same
from trepid.testing.conformance.world import LONG, QUEUE, World, case
from trepid.values.unique import Unique


@case("limits")
async def a_full_queue_refuses(world: World) -> None:
    """What waits, runs or is delayed takes room; without room nothing of a batch is stored."""
    await world.session.declare(["other"])
    await world.session.limit([Limit(QUEUE, max_size=3)])
    await world.put("ready", "leased")
    await world.put("delayed", delay=LONG)
    held = await world.take()
    same("one too many", (await world.publish("x")).outcome, Publishing.FULL)
    batch = [world.publication("y"), world.publication("z", queue="other")]
    replies = [reply.outcome for reply in await world.session.publish(batch)]
    same("in a batch", replies, [Publishing.FULL, Publishing.NOT_STORED])
    same("the other queue", await world.counts("other"), {})
    await world.end(held, Done(None, 0))
    same("with room again", (await world.publish("x")).outcome, Publishing.ACCEPTED)
    same("and full again", (await world.publish("y")).outcome, Publishing.FULL)
    await world.session.limit([Limit(QUEUE)])
    await world.put("y")


@case("limits")
async def a_batch_fits_as_a_whole(world: World) -> None:
    """Either there is room for all that would be new in a queue, or for none of it."""
    await world.session.limit([Limit(QUEUE, max_size=3)])
    batch = [world.publication(str(n)) for n in range(4)]
    same("four", [reply.outcome for reply in await world.session.publish(batch)], [Publishing.FULL] * 4)
    same("three", [r.outcome for r in await world.session.publish(batch[:3])], [Publishing.ACCEPTED] * 3)


@case("limits", "unique")
async def a_full_queue_recognises_what_it_has(world: World) -> None:
    """Repeats are duplicates, and ids and keys that are taken are found, also where there is no room."""
    await world.session.limit([Limit(QUEUE, max_size=1)])
    first = world.publication("m", unique=Unique("k"))
    await world.session.publish([first])
    same("the same again", [reply.outcome for reply in await world.session.publish([first])], [Publishing.DUPLICATE])
    same("its id", (await world.publish("m")).outcome, Publishing.EXISTING)
    same("its key", (await world.publish("n", unique=Unique("k"))).outcome, Publishing.EXISTING)
    replaced = await world.publish("o", unique=Unique("k", "replace"))
    same("instead of it", replaced.outcome, Publishing.ACCEPTED)


@case("limits", "requeue")
async def a_full_queue_takes_what_comes_back(world: World) -> None:
    """Follow-ups and requeued messages are never refused for want of room."""
    await world.bring(State.DEAD, "d")
    await world.put("held")
    held = await world.take()
    await world.put("waits")
    await world.session.limit([Limit(QUEUE, max_size=1)])
    settlement = Settlement(held.ref, Done(None, 0))
    same("reply", await world.session.settle([settlement], then=[world.publication("next")]), [Reply.APPLIED])
    same("requeued", await world.session.requeue(QUEUE), 1)
    same("ready", (await world.counts())[State.READY], 3)


@case("limits")
async def queues_give_by_their_weight(world: World) -> None:
    """Of what is leased at once each queue gives its share, and over many turns each comes first as often as that."""
    await world.session.declare(["heavy"])
    await world.session.limit([Limit("heavy", weight=3)])
    for queue in (QUEUE, "heavy"):
        await world.put(*(f"{queue}{n}" for n in range(40)), queue=queue)
    both = [QUEUE, "heavy"]
    got = Counter(delivery.queue for delivery in await world.lease(16, queues=both))
    same("of sixteen", dict(got), {"heavy": 12, QUEUE: 4})
    got = Counter([(await world.lease(1, queues=both))[0].queue for _ in range(16)])
    same("one by one", dict(got), {"heavy": 12, QUEUE: 4})


@case("limits")
async def what_a_queue_does_not_have_others_give(world: World) -> None:
    """A weight is a share, not a reservation."""
    await world.session.declare(["heavy"])
    await world.session.limit([Limit("heavy", weight=100)])
    await world.put(*(f"m{n}" for n in range(5)))
    await world.put("h", queue="heavy")
    same("leased", len(await world.lease(6, queues=[QUEUE, "heavy"])), 6)


@case("limits")
async def limits_last(world: World) -> None:
    """Limits are kept with the queue, and end with it."""
    if world.session.capabilities.durability == "none":
        return
    await world.session.limit([Limit(QUEUE, max_size=1), Limit(QUEUE, "a", concurrency=1)])
    await world.put("m", gate="a")
    await world.reopen()
    same("after closing and opening", (await world.publish("n")).outcome, Publishing.FULL)
    await world.session.delete(QUEUE)
    await world.session.declare([QUEUE])
    await world.put("1", "2", gate="a")
    same("in the new queue", len(await world.lease()), 2)
