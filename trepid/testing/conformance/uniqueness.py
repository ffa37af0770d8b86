"""Unique keys: at most one live message per key and queue."""

from __future__ import annotations

from collections import Counter

import trio

from trepid.rules.life import Reply, State
from trepid.rules.publishing import Published, Publishing, replaced_by
from trepid.rules.verdicts import Buried, Done, Failed, Returned, Verdict, Withdrawn
from trepid.testing.conformance.report import holds, same
from trepid.testing.conformance.world import COMEBACK, DAY, LONG, OOPS, QUEUE, World, case
from trepid.values.unique import Unique

ACCEPTED, EXISTING, CONFLICT = Publishing.ACCEPTED, Publishing.EXISTING, Publishing.CONFLICT
_KEYS = (
    "k",
    "a" * 256,
    "'; DROP TABLE messages; --",
    "{x}*>%_?[a]",
    "\N{SNOWMAN}\N{GRINNING FACE}",
    " ",
    "\n\t",
    '"\\',
)


@case("unique")
async def a_live_holder_is_existing(world: World) -> None:
    """A key that is held gives the holder, in every live state; nothing is published."""
    for state in (State.SCHEDULED, State.READY, State.LEASED):
        queue = f"q.{state}"
        await world.session.declare([queue])
        await world.bring(state, "holder", queue=queue, unique=Unique("k"))
        got = await world.publish("other", queue=queue, unique=Unique("k"))
        same(f"a publish while the holder is {state}", got, Published(EXISTING, "holder"))
        same("the other message", await world.look("other", queue), None)
        same("the key as seen", (await world.view("holder", queue)).unique, "k")


@case("unique")
async def a_conflict_is_answered_if_asked_for(world: World) -> None:
    """on_conflict="raise" gets a conflict that names the holder, in every live state."""
    for state in (State.SCHEDULED, State.READY, State.LEASED):
        queue = f"q.{state}"
        await world.session.declare([queue])
        await world.bring(state, "holder", queue=queue, unique=Unique("k"))
        got = await world.publish("other", queue=queue, unique=Unique("k", "raise"))
        same(f"a publish while the holder is {state}", got, Published(CONFLICT, "holder"))


@case("unique")
async def a_waiting_holder_is_replaced_if_asked_for(world: World) -> None:
    """on_conflict="replace" withdraws a holder that waits, and takes its key."""
    for state in (State.SCHEDULED, State.READY):
        queue = f"q.{state}"
        await world.session.declare([queue])
        await world.bring(state, "holder", queue=queue, unique=Unique("k"))
        got = await world.publish("other", queue=queue, unique=Unique("k", "replace"))
        same(f"a publish while the holder is {state}", got, Published(ACCEPTED, "other"))
        await world.is_(State.CANCELLED, "holder", queue)
        if (view := await world.glimpse("holder", queue)) is not None:
            same("the reason", view.reason, replaced_by("other"))
        same("leased", [each.id for each in await world.lease(queues=[queue])], ["other"])
        same("a third", await world.publish("third", queue=queue, unique=Unique("k")), Published(EXISTING, "other"))


@case("unique")
async def a_running_holder_is_left_alone(world: World) -> None:
    """on_conflict="replace" does nothing to a holder that runs: it is answered as existing."""
    delivery = await world.bring(State.LEASED, "holder", unique=Unique("k"))
    got = await world.publish("other", unique=Unique("k", "replace"))
    same("a publish", got, Published(EXISTING, "holder"))
    assert delivery is not None
    await world.end(delivery)


@case("unique")
async def each_end_frees_the_key(world: World) -> None:
    """Done, failed, buried or kept for nobody: the key is free with the settlement, and not before."""
    ends: tuple[Verdict, ...] = (Done(b"1", DAY), Done(b"1", 0), Failed(OOPS), Buried(OOPS))
    for number, verdict in enumerate(ends):
        await world.put(f"m{number}", unique=Unique("k"))
        delivery = await world.take()
        same("a publish before the end", (await world.publish("x", unique=Unique("k"))).outcome, EXISTING)
        await world.end(delivery, verdict)
    same("after the last", (await world.publish("free", unique=Unique("k"))).outcome, ACCEPTED)


@case("unique", "cancel_waiting")
async def a_cancel_frees_the_key(world: World) -> None:
    """A message withdrawn, or cancelled while it ran, holds no key."""
    await world.put("a", unique=Unique("k"))
    await world.session.cancel(QUEUE, ["a"], "no")
    await world.put("b", unique=Unique("k"))
    if not world.session.capabilities.cancel_running:
        return
    delivery = await world.take()
    await world.session.cancel(QUEUE, ["b"], "no")
    same("a publish while asked to stop", (await world.publish("x", unique=Unique("k"))).outcome, EXISTING)
    await world.end(delivery, Withdrawn(DAY))
    await world.put("c", unique=Unique("k"))


@case("unique")
async def time_frees_the_key(world: World) -> None:
    """A message that died of its ttl, or of its crashes, holds no key, although nobody had looked."""
    await world.put("old", ttl=world.tick, unique=Unique("k"))
    await world.pass_time(2 * world.tick)
    await world.put("poison", max_crashes=1, unique=Unique("k"))
    await world.crash()
    await world.put("next", unique=Unique("k"))


@case("unique")
async def a_purge_frees_the_key(world: World) -> None:
    """A message that was forgotten while it waited holds no key."""
    await world.put("a", unique=Unique("k"))
    await world.session.purge(QUEUE, [State.READY])
    await world.put("b", unique=Unique("k"))


@case("unique")
async def a_message_that_waits_again_keeps_its_key(world: World) -> None:
    """Retries, returns and crashes do not free the key."""
    await world.put("m", unique=Unique("k"))
    await world.end(await world.take(), Failed(OOPS, delay=0))
    same("after a failure", await world.publish("x", unique=Unique("k")), Published(EXISTING, "m"))
    await world.end(await world.take(), Returned())
    same("after a return", await world.publish("x", unique=Unique("k")), Published(EXISTING, "m"))
    await world.crash()
    same("after a crash", await world.publish("x", unique=Unique("k")), Published(EXISTING, "m"))
    await world.pass_time(COMEBACK)
    await world.end(await world.take(), Failed(OOPS, delay=LONG))
    same("while it waits for its retry", await world.publish("x", unique=Unique("k")), Published(EXISTING, "m"))


@case("unique")
async def keys_are_separate_from_ids_and_queues(world: World) -> None:
    """A key belongs to its queue, and is no id; and any text is a key."""
    await world.session.declare(["r"])
    await world.put("k", unique=Unique("m"))
    await world.put("m", unique=Unique("k"))
    await world.put("m", queue="r", unique=Unique("k"))
    for number, key in enumerate(_KEYS[1:]):
        await world.put(f"odd{number}", unique=Unique(key))
        same(f"key {key!r} again", await world.publish("x", unique=Unique(key)), Published(EXISTING, f"odd{number}"))


@case("unique")
async def twins_in_one_batch_share_a_key(world: World) -> None:
    """Within a batch, the first holds the key."""
    batch = [world.publication(id, unique=Unique("k")) for id in ("a", "b", "c")]
    got = await world.session.publish(batch)
    same("replies", got, [Published(ACCEPTED, "a"), Published(EXISTING, "a"), Published(EXISTING, "a")])
    same("leased", [each.id for each in await world.lease()], ["a"])


@case("unique")
async def one_of_a_hundred_publishers_wins(world: World) -> None:
    """Publishers that come at the same time agree on who holds the key."""
    other = await world.other_session()
    got: list[Published] = []

    async def publish(number: int) -> None:
        publication = world.publication(f"m{number}", unique=Unique("k"))
        got.extend(await (world.session, other)[number % 2].publish([publication]))

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(publish, number)
    outcomes = Counter(each.outcome for each in got)
    same("accepted and existing", (outcomes[ACCEPTED], outcomes[EXISTING]), (1, 99))
    same("holders that were named", len({each.id for each in got}), 1)
    same("leased", [each.id for each in await world.lease()], [got[0].id])


# Who cannot look at its dead letters cannot look for their keys; such an engine finds out when they are leased.
@case("unique", "requeue", "peek")
async def a_requeue_claims_the_key_or_waits(world: World) -> None:
    """A dead message whose key somebody else holds stays dead; it comes back, key and all, once that is free."""
    await world.put("dead", unique=Unique("k"))
    await world.end(await world.take(), Failed(OOPS))
    await world.put("holder", unique=Unique("k"))
    same("requeued while the key is held", await world.session.requeue(QUEUE), 0)
    await world.is_(State.DEAD, "dead")
    await world.end(await world.take())
    same("requeued once it is free", await world.session.requeue(QUEUE, ["dead"]), 1)
    same("another publish", await world.publish("x", unique=Unique("k")), Published(EXISTING, "dead"))


@case("unique", "requeue", "peek")
async def of_two_dead_holders_one_comes_back(world: World) -> None:
    """Requeuing everything cannot bring two messages of one key to life."""
    for id in ("a", "b"):
        await world.put(id, unique=Unique("k"))
        await world.end(await world.take(), Failed(OOPS))
    same("requeued", await world.session.requeue(QUEUE), 1)
    same("leased", [each.id for each in await world.lease()], ["a"])
    await world.is_(State.DEAD, "b")


@case("unique", "purge")
async def a_former_holder_does_not_free_the_key(world: World) -> None:
    """Whatever is said of a message that has ended, the key belongs to the one that lives."""
    await world.put("a", unique=Unique("k"))
    a = await world.take()
    await world.end(a)
    await world.put("b", unique=Unique("k"))
    holds("a repetition to be refused", (reply := await world.settle(a, Failed(OOPS))) is Reply.ENDED, reply)
    await world.session.purge(QUEUE, [State.DONE])
    same("another publish", await world.publish("c", unique=Unique("k")), Published(EXISTING, "b"))
