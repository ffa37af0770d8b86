"""Bringing dead messages back, and forgetting messages and queues."""

from __future__ import annotations

from trepid.errors import QueueBusyError
from trepid.ports.messages import Absent
from trepid.rules.life import Reply, State
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Buried, Done, Failed, Returned
from trepid.testing.conformance.looking import one_of_each
from trepid.testing.conformance.report import ConformanceError, holds, same
from trepid.testing.conformance.world import COMEBACK, DAY, OOPS, QUEUE, World, case


@case("requeue")
async def a_requeue_brings_the_dead_back(world: World) -> None:
    """Dead messages are ready again, at the end of the order, with their payload; others stay as they are."""
    await one_of_each(world)
    same("requeued", await world.session.requeue(QUEUE), 1)
    await world.is_(State.READY, "dead")
    for state in world.states:
        if state is not State.DEAD:
            await world.is_(state, str(state))
    same("requeued again", await world.session.requeue(QUEUE), 0)
    same("leased", [each.id for each in await world.lease()], ["ready", "dead"])


@case("requeue", "peek")
async def a_requeue_starts_both_budgets_afresh(world: World) -> None:
    """Failures, crashes and the time without an actor count from zero again; history and returns to life are kept."""
    await world.put(max_crashes=2)
    await world.crash()
    await world.pass_time(COMEBACK)
    await world.end(await world.take(), Failed(OOPS))
    same("requeued", await world.session.requeue(QUEUE, ["m"]), 1)
    view = await world.view()
    facts = (view.attempts, view.crashes, view.requeues, view.reason, view.ended, len(view.errors))
    same("attempts, crashes, requeues, reason, ended, errors", facts, (0, 0, 1, None, None, 1))
    delivery = await world.crash()
    same("failures, crashes", (delivery.failures, delivery.crashes), (0, 0))
    await world.pass_time(COMEBACK)
    delivery = await world.take()
    same("crashes after one more", delivery.crashes, 1)
    await world.end(delivery, Failed(OOPS, delay=0))
    delivery = await world.take()
    same("failures after one more", delivery.failures, 1)
    await world.end(delivery, Returned(reason="unknown actor", started=False))
    await world.end(await world.take(), Buried(OOPS, "unknown actor"))
    await world.session.requeue(QUEUE, ["m"])
    same("since when it lacks its actor", (await world.take()).stray_since, None)


# Who cannot count or look learns of a ttl that has passed when the message would be leased.
@case("requeue", "exact_stats")
async def a_requeued_message_lives_on_without_its_ttl(world: World) -> None:
    """Who expired unstarted and is brought back does not expire at once."""
    await world.put(ttl=world.tick)
    await world.pass_time(2 * world.tick)
    same("requeued", await world.session.requeue(QUEUE), 1)
    await world.pass_time(2 * world.tick)
    await world.end(await world.take())


@case("requeue")
async def a_requeue_takes_those_it_is_told(world: World) -> None:
    """By id, as many as exist and are dead; without ids, the oldest up to the limit."""
    for number in range(6):
        await world.bring(State.DEAD, f"m{number}")
    await world.put("alive")
    same("by id", await world.session.requeue(QUEUE, ["m4", "nothing", "alive", "m4"]), 1)
    same("no id", await world.session.requeue(QUEUE, []), 0)
    same("up to a limit", await world.session.requeue(QUEUE, limit=2), 2)
    same("leased", [each.id for each in await world.lease()], ["alive", "m4", "m0", "m1"])
    same("the rest", await world.session.requeue(QUEUE), 3)


@case("requeue")
async def a_requeue_voids_the_old_lease(world: World) -> None:
    """Whoever held the message before it died cannot settle its new life."""
    old = await world.bring(State.DEAD)
    assert old is not None
    await world.session.requeue(QUEUE)
    for moment in ("while it waits", "while another has it"):
        reply = await world.settle(old, Done(b"old", DAY))
        refusals = (Reply.SUPERSEDED, Reply.UNKNOWN, Reply.ENDED)
        holds(f"a settlement {moment} to be refused", reply in refusals, reply)
        if moment == "while it waits":
            await world.take(owner="new")
    same("held", len(await world.session.held("new")), 1)


@case("exact_stats", "purge")
async def a_purge_counts_what_it_forgets(world: World) -> None:
    """Messages in the states given are gone, and exactly those; the count says how many."""
    await one_of_each(world)
    await world.put("ready2")
    same("purged", await world.session.purge(QUEUE, [State.READY, State.DONE]), 3)
    same("purged again", await world.session.purge(QUEUE, [State.READY, State.DONE]), 0)
    left = {state: 1 for state in (State.SCHEDULED, State.LEASED, State.DEAD, State.CANCELLED) if state in world.states}
    same("left", await world.counts(), left)
    same("leased", await world.lease(), [])
    if world.session.capabilities.results != "none":
        same("result of a purged one", await world.session.result(QUEUE, "done"), Absent.GONE)


@case("exact_stats", "purge")
async def a_purge_never_takes_what_is_leased(world: World) -> None:
    """What runs is left alone, also if asked for by state and by id."""
    await world.put()
    delivery = await world.take()
    same("purged by state", await world.session.purge(QUEUE, list(State)), 0)
    same("purged by id", await world.session.purge(QUEUE, [State.LEASED], ["m"]), 0)
    await world.end(delivery)


@case("exact_stats", "purge")
async def a_purge_takes_those_it_is_told(world: World) -> None:
    """By id, those that exist and are in one of the states; without ids, up to the limit."""
    await world.put(*(f"m{number}" for number in range(6)))
    purge = world.session.purge
    same("by id", await purge(QUEUE, [State.READY], ["m1", "nothing", "m3", "m3"]), 2)
    same("by id in another state", await purge(QUEUE, [State.DEAD], ["m0"]), 0)
    same("no id", await purge(QUEUE, [State.READY], []), 0)
    same("up to a limit", await purge(QUEUE, [State.READY], limit=1), 1)
    same("left", await world.counts(), {State.READY: 3})


@case("purge")
async def a_purged_lease_cannot_settle_the_next_of_its_id(world: World) -> None:
    """A message published anew under an id is out of reach for who held the former one."""
    await world.put()
    old = await world.take()
    await world.end(old, Failed(OOPS))
    await world.session.purge(QUEUE, [State.DEAD])
    same("settled while nothing is there", await world.settle(old, Done(b"1", DAY)), Reply.UNKNOWN)
    await world.put()
    await world.take(owner="new")
    reply = await world.settle(old, Done(b"1", DAY))
    holds("a refusal", reply in (Reply.SUPERSEDED, Reply.UNKNOWN), reply)
    same("held", len(await world.session.held("new")), 1)


@case()
async def a_queue_is_deleted_with_all_in_it(world: World) -> None:
    """Nothing of it is left, nor comes back when it is declared again; deleting it twice is no error."""
    for state in world.states:
        if state is not State.LEASED:
            await world.bring(state, str(state))
    await world.session.delete(QUEUE)
    await world.session.delete(QUEUE)
    same("queues", await world.session.queues(), [])
    same("a publish", (await world.publish()).outcome, Publishing.NO_QUEUE)
    await world.session.declare([QUEUE])
    same("leased", await world.lease(), [])
    same("looked at", await world.glimpse("done"), None)
    await world.put()
    await world.take()


@case()
async def a_queue_in_use_is_not_deleted(world: World) -> None:
    """While a message of it is leased a queue stays, with everything in it; an expired lease is no lease."""
    await world.put("running", "waiting")
    delivery = await world.take()
    try:
        await world.session.delete(QUEUE)
    except QueueBusyError as exc:
        same("queue and leased messages that the error names", (exc.queue, exc.leased), (QUEUE, 1))
    else:
        raise ConformanceError("QueueBusyError", "the queue was deleted")
    await world.is_(State.READY, "waiting")
    await world.end(delivery)
    await world.crash()
    await world.session.delete(QUEUE)
    same("queues", await world.session.queues(), [])


@case("exact_stats", hours=True)
async def reaping_is_never_needed(world: World) -> None:
    """With or without reaping, time decides the same."""
    for reaping in (False, True):
        async with world.fresh() as fresh:
            await fresh.put("done")
            await fresh.end(await fresh.take(), Done(b"1", keep=50))
            await fresh.put("leased")
            await fresh.take(lease_for=50)
            await fresh.put("due", delay=50)
            await fresh.put("old", ttl=50)
            await fresh.pass_time(60)
            if reaping:
                await fresh.session.reap()
                same("reaped again", await fresh.session.reap(), 0)
            same("counted", await fresh.counts(), {State.READY: 2, State.DEAD: 1})
