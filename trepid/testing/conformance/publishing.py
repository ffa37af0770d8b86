"""Publishing: what is stored, what is recognised, and what is refused as a whole."""

from __future__ import annotations

import trio

from trepid.ports.messages import Absent, Ending, Publication
from trepid.rules.life import ENDED, Reply, State
from trepid.rules.publishing import Published, Publishing
from trepid.rules.verdicts import Done
from trepid.testing.conformance.report import holds, same
from trepid.testing.conformance.world import DAY, LONG, QUEUE, World, case
from trepid.values.unique import Unique

ACCEPTED, DUPLICATE, EXISTING = Publishing.ACCEPTED, Publishing.DUPLICATE, Publishing.EXISTING
NO_QUEUE, NOT_STORED = Publishing.NO_QUEUE, Publishing.NOT_STORED
_PAYLOADS = (
    b"",
    b"{}",
    bytes(range(256)),
    '{"a":"\N{SNOWMAN}\N{GRINNING FACE}"}'.encode(),
    b"\0" * 5,
    b"x" * 1_048_576,
)


@case()
async def payloads_arrive_as_they_were(world: World) -> None:
    """A payload is bytes, and the broker never looks inside."""
    for number, payload in enumerate(_PAYLOADS):
        await world.put(f"m{number}", payload=payload)
    got = {delivery.id: delivery.payload for delivery in await world.lease(len(_PAYLOADS))}
    for number, payload in enumerate(_PAYLOADS):
        holds(f"payload {number} of {len(payload)} bytes to arrive unchanged", got.get(f"m{number}") == payload, got)


@case()
async def what_was_published_is_delivered(world: World) -> None:
    """Id, queue, priority and the budgets arrive with the message."""
    await world.put("a.b:c-d_E", priority=9, result_ttl=12.5, max_crashes=3)
    got = await world.take()
    facts = (got.queue, got.id, got.priority, got.result_ttl, got.max_crashes, got.failures, got.crashes)
    same("facts of the delivery", facts, (QUEUE, "a.b:c-d_E", 9, 12.5, 3, 0, 0))


@case()
async def odd_names_are_only_names(world: World) -> None:
    """What means something to an engine's language means nothing inside an id."""
    ids = ["A", "a", "-", ".", "..", "_", ":", "a:b", "a.b", "a-b", "9", "x" * 128, "DROP", "None", "null"]
    await world.put(*ids)
    same("ids that come back", {each.id for each in await world.lease()}, set(ids))


@case("deduplication:window")
async def the_same_publish_again_is_a_duplicate(world: World) -> None:
    """The same id and token are the same publish, and one message."""
    again = world.publication()
    same("first", await world.session.publish([again]), [Published(ACCEPTED, "m")])
    same("again", await world.session.publish([again]), [Published(DUPLICATE, "m")])
    same("and again, from elsewhere", await (await world.other_session()).publish([again]), [Published(DUPLICATE, "m")])
    same("messages that can be leased", len(await world.lease()), 1)


@case("deduplication:window")
async def a_duplicate_is_recognised_in_every_state(world: World) -> None:
    """Repeating a publish changes nothing, wherever its message is in its life."""
    for number, state in enumerate(State):
        queue = f"q.{state}"
        await world.session.declare([queue])
        await world.bring(state, queue=queue, token=("same", number))
        before = await world.look(queue=queue)
        got = await world.session.publish([world.publication(queue=queue, token=("same", number), payload=b"other")])
        same(f"a repetition while the message is {state}", got, [Published(DUPLICATE, "m")])
        same(f"the message that is {state}, afterwards", await world.look(queue=queue), before)


@case("deduplication:window")
async def a_duplicate_is_recognised_after_removal(world: World) -> None:
    """A message that left nothing behind is not run twice because its publisher repeats itself."""
    again = world.publication()
    await world.session.publish([again])
    await world.end(await world.take(), Done(b"1", keep=0))
    same("a repetition", await world.session.publish([again]), [Published(DUPLICATE, "m")])
    purged = world.publication("purged")
    await world.session.publish([purged])
    await world.session.purge(QUEUE, [State.READY])
    same("a repetition after a purge", await world.session.publish([purged]), [Published(DUPLICATE, "purged")])
    same("messages that can be leased", await world.lease(), [])


@case("purge", hours=True)
async def a_duplicate_is_recognised_for_ten_minutes(world: World) -> None:
    """The memory of a removed message lasts ten minutes, whatever happens in between."""
    again = world.publication()
    await world.session.publish([again])
    await world.end(await world.take(), Done(b"1", keep=30))
    for _ in range(20):
        await world.pass_time((30 + 590) / 20)
        await world.session.reap()
        await world.publish()
        await world.session.purge(QUEUE, list(State))
    same("a repetition after 9:50 min", await world.session.publish([again]), [Published(DUPLICATE, "m")])


@case("unique_ids")
async def an_id_that_lives_is_existing(world: World) -> None:
    """Another publish of a living id gets the message that is there; its own payload is ignored."""
    for state in (State.SCHEDULED, State.READY, State.LEASED):
        queue = f"q.{state}"
        await world.session.declare([queue])
        await world.bring(state, queue=queue, payload=b"old")
        got = await world.publish(queue=queue, payload=b"new", priority=9)
        same(f"another publish while the message is {state}", got, Published(EXISTING, "m"))
        if state is State.READY:
            same(
                "payload and priority",
                [(m.payload, m.priority) for m in await world.lease(queues=[queue])],
                [(b"old", 5)],
            )
        await world.is_(State.LEASED if state is State.READY else state, queue=queue)


@case()
async def an_id_that_ended_runs_anew(world: World) -> None:
    """Another publish of an ended id is a new run, and nothing is left of the old one."""
    for state in world.states:
        if state not in ENDED:
            continue
        queue = f"q.{state}"
        await world.session.declare([queue])
        old = await world.bring(state, queue=queue)
        same(
            f"another publish once it is {state}",
            await world.publish(queue=queue, payload=b"new"),
            Published(ACCEPTED, "m"),
        )
        await world.is_(State.READY, queue=queue)
        if world.session.capabilities.results != "none":
            same("result of the new run", await world.session.result(queue, "m"), Absent.PENDING)
        new = await world.take(queue=queue)
        same("payload, failures, crashes", (new.payload, new.failures, new.crashes), (b"new", 0, 0))
        holds("a token that was never used before", old is None or new.token > old.token, (old, new))
        if old is not None:
            holds(
                "the old run's lease to be void",
                await world.settle(old, Done(b"0", DAY)) is not Reply.APPLIED,
                "APPLIED",
            )


@case("results")
async def a_new_run_replaces_the_old_result(world: World) -> None:
    """After a second run under the same id, only its own result is read."""
    for result in (b"1", b"2"):
        await world.put()
        await world.end(await world.take(), Done(result, DAY))
        got = await world.session.result(QUEUE, "m")
        same("the result", got, Ending(State.DONE, result))


@case("deduplication:window")
async def a_replaced_publish_is_recognised(world: World) -> None:
    """A publish is a duplicate also when a later one has taken over its id and ended."""
    first = world.publication()
    await world.session.publish([first])
    await world.end(await world.take())
    await world.put()
    await world.end(await world.take())
    same("a repetition of the first", await world.session.publish([first]), [Published(DUPLICATE, "m")])


@case()
async def an_undeclared_queue_stores_nothing(world: World) -> None:
    """One item for a queue that nobody declared, and nothing of the batch is stored, or remembered."""
    batch = [world.publication("a"), world.publication("b", queue="nowhere"), world.publication("c")]
    replies = await world.session.publish(batch)
    same("replies", [each.outcome for each in replies], [NOT_STORED, NO_QUEUE, NOT_STORED])
    same("messages that can be leased", await world.lease(queues=[QUEUE, "nowhere"]), [])
    await world.session.declare(["nowhere"])
    same("the batch again", [each.outcome for each in await world.session.publish(batch)], [ACCEPTED] * 3)


@case("unique")
async def a_conflict_stores_nothing(world: World) -> None:
    """One item in conflict, and nothing of the batch is stored, or remembered."""
    await world.put("holder", unique=Unique("k"))
    mine = world.publication("b", unique=Unique("k", "raise"))
    batch = [world.publication("a"), mine, world.publication("c")]
    replies = await world.session.publish(batch)
    same("replies", [each.outcome for each in replies], [NOT_STORED, Publishing.CONFLICT, NOT_STORED])
    same("the holder", replies[1].id, "holder")
    deliveries = await world.lease()
    same("ids that can be leased", [each.id for each in deliveries], ["holder"])
    await world.end(deliveries[0])
    same("the batch again", [each.outcome for each in await world.session.publish(batch)], [ACCEPTED] * 3)


@case()
async def an_empty_batch_is_nothing(world: World) -> None:
    """No items, no replies."""
    same("publish", await world.session.publish([]), [])
    same("settle", await world.session.settle([]), [])
    same("extend", await world.session.extend([], 30.0), [])
    same("cancel", await world.session.cancel(QUEUE, [], "?"), [])
    same("lease from no queue", await world.lease(queues=[]), [])


@case("deduplication:window")
async def replies_come_in_order(world: World) -> None:
    """A batch has one reply per item, in order."""
    old = world.publication("old")
    await world.session.publish([old])
    batch: list[Publication] = []
    wanted: list[Published] = []
    for number in range(100):
        batch.append(old if number % 7 == 0 else world.publication(f"n{number}"))
        wanted.append(Published(DUPLICATE, "old") if number % 7 == 0 else Published(ACCEPTED, f"n{number}"))
    same("replies", await world.session.publish(batch), wanted)


@case("deduplication:window", "unique_ids")
async def twins_in_one_batch_are_one_message(world: World) -> None:
    """Within a batch, later items see what earlier ones did."""
    twin = world.publication("twin")
    got = await world.session.publish([twin, twin, world.publication("twin")])
    same("replies", [each.outcome for each in got], [ACCEPTED, DUPLICATE, EXISTING])
    same("messages that can be leased", len(await world.lease()), 1)


@case()
async def ids_belong_to_their_queue(world: World) -> None:
    """The same id in two queues names two messages."""
    await world.session.declare(["r"])
    await world.put("m")
    await world.put("m", queue="r")
    await world.end(await world.take(queue="r"))
    await world.is_(State.READY)


@case("deduplication:window")
async def concurrent_repetitions_store_one_message(world: World) -> None:
    """Of many publishers of one id and token, one is accepted and the others are duplicates."""
    other = await world.other_session()
    again = world.publication()
    got: list[Publishing] = []

    async def publish(number: int) -> None:
        got.extend(each.outcome for each in await (world.session, other)[number % 2].publish([again]))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(publish, number)
    same("accepted, duplicates", (got.count(ACCEPTED), got.count(DUPLICATE)), (1, 19))
    same("messages that can be leased", len(await world.lease()), 1)


@case("peek")
async def a_message_can_be_seen_as_published(world: World) -> None:
    """Looking shows what was published, and when; a payload that is no envelope names no actor."""
    before = await world.session.now()
    await world.put("m", payload=b"\xff", priority=9)
    await world.put("n", payload=b'{"v":1,"actor":"greet"}', delay=LONG)
    after = await world.session.now()
    m, n = await world.view("m"), await world.view("n")
    same("facts", (m.state, m.actor, m.priority, m.payload, m.attempts), (State.READY, None, 9, b"\xff", 0))
    same("facts of the other", (n.state, n.actor, n.priority), (State.SCHEDULED, "greet", 5))
    holds("times within those of the publish", before - 0.01 <= m.enqueued <= after + 0.01, (before, m, after))
    holds("due at once", abs(m.due - m.enqueued) < 0.01, m)
    holds("due after the delay", abs(n.due - n.enqueued - LONG) < 0.01, n)
