"""Settling: each verdict in each state, repeated, late and wrong; results and follow-ups."""

from __future__ import annotations

from collections.abc import Mapping

from trepid.ports.messages import Absent, Ending, Ref, Settlement
from trepid.rules.life import Reply, State
from trepid.rules.verdicts import Buried, Done, Failed, Failure, Returned, Verdict, Withdrawn
from trepid.testing.conformance.report import holds, same
from trepid.testing.conformance.world import COMEBACK, DAY, LONG, OOPS, QUEUE, World, case

VERDICTS: Mapping[str, Verdict] = {
    "done": Done(b"1", DAY),
    "failed": Failed(OOPS),
    "failed, to be retried": Failed(OOPS, delay=LONG),
    "returned": Returned(),
    "buried": Buried(OOPS),
    "withdrawn": Withdrawn(DAY),
}
AFTER: Mapping[str, State] = {
    "done": State.DONE,
    "failed": State.DEAD,
    "failed, to be retried": State.SCHEDULED,
    "returned": State.READY,
    "buried": State.DEAD,
}


@case()
async def each_verdict_has_its_state(world: World) -> None:
    """A verdict in time is applied, and brings the message where it says."""
    for name, state in AFTER.items():
        id = name.replace(", ", "-").replace(" ", "-")
        await world.put(id)
        same(name, await world.settle(await world.take(), VERDICTS[name]), Reply.APPLIED)
        await world.is_(state, id)
        if state is State.READY:
            await world.end(await world.take())


@case()
async def a_settlement_repeated_is_recognised(world: World) -> None:
    """Repeating the last settlement is answered so, and nothing is done twice."""
    for name, verdict in VERDICTS.items():
        if name == "withdrawn":
            continue
        queue = name.replace(", ", "-").replace(" ", "-")
        await world.session.declare([queue])
        await world.put(queue=queue)
        delivery = await world.take(queue=queue)
        await world.end(delivery, verdict)
        before = await world.glimpse(queue=queue)
        same(f"{name}, repeated", await world.settle(delivery, verdict), Reply.REPEATED)
        same(f"the message after {name}, repeated", await world.glimpse(queue=queue), before)


@case()
async def a_batch_is_settled_item_by_item(world: World) -> None:
    """Each item has its own reply, in order; a refused one does not hold up the others."""
    await world.put(*(f"m{number}" for number in range(6)))
    m = await world.lease()
    batch = [Settlement(each.ref, verdict) for each, verdict in zip(m, VERDICTS.values(), strict=True)]
    batch.insert(2, Settlement(Ref(QUEUE, "nothing", (1, 1)), Done(b"1", DAY)))
    batch.append(batch[0])
    got = await world.session.settle(batch)
    applied = Reply.APPLIED
    wanted = [applied, applied, Reply.UNKNOWN, applied, applied, applied, Reply.NOT_ASKED, Reply.REPEATED]
    same("replies", got, wanted)


@case()
async def a_failure_counts_and_waits(world: World) -> None:
    """A failure with a delay is counted, and the message is due again after it."""
    await world.put()
    for failures in range(3):
        delivery = await world.take()
        same("failures of the delivery", delivery.failures, failures)
        await world.end(delivery, Failed(OOPS, delay=3 * world.tick))
        same("leased before the delay is over", await world.lease(), [])
        await world.pass_time(4 * world.tick + world.session.capabilities.delay_resolution)
    delivery = await world.take()
    same("failures, crashes", (delivery.failures, delivery.crashes), (3, 0))


@case("peek")
async def every_failure_is_kept(world: World) -> None:
    """Errors are kept, oldest first, with the time at which the broker learned of them."""
    await world.put()
    before = await world.session.now()
    for number in range(3):
        error = Failure("app.Error", f"no. {number} \N{SNOWMAN}", "frames", attempt=number + 1)
        await world.end(await world.take(), Failed(error, delay=0 if number < 2 else None))
    view = await world.view()
    wanted = [("app.Error", f"no. {number} \N{SNOWMAN}", "frames", number + 1) for number in range(3)]
    same("errors", [(e.type, e.message, e.traceback, e.attempt) for e in view.errors], wanted)
    holds("times by the broker's clock", all(e.at >= before - 0.01 for e in view.errors), view.errors)
    same("state, attempts, reason", (view.state, view.attempts, view.reason), (State.DEAD, 3, "failed"))


@case()
async def a_buried_message_keeps_everything(world: World) -> None:
    """Burying is death at once; payload, error and reason are kept."""
    await world.put(payload=b"\0\xff")
    await world.end(await world.take(), Buried(OOPS, reason="undecodable"))
    same("leased", await world.lease(), [])
    view = await world.view()
    same("state, reason, payload", (view.state, view.reason, view.payload), (State.DEAD, "undecodable", b"\0\xff"))
    same("error", view.error and view.error.message, "oops")
    same("attempts", view.attempts, 1)


@case()
async def a_return_is_never_counted(world: World) -> None:
    """A thousand returns use up no budget, and change nothing but their own count."""
    await world.put(max_crashes=1)
    for number in range(1000):
        (delivery,) = await world.lease(1)
        same("failures, crashes", (delivery.failures, delivery.crashes), (0, 0))
        await world.end(delivery, Returned(reason="shutdown", started=bool(number % 2)))
    if world.session.capabilities.peek:
        view = await world.view()
        same("state, releases, attempts", (view.state, view.releases, view.attempts), (State.READY, 1000, 0))


@case()
async def a_return_with_a_delay_waits(world: World) -> None:
    """A snooze is due again after its delay, uncounted."""
    await world.put()
    await world.end(await world.take(), Returned(delay=3 * world.tick, reason="snooze"))
    same("leased before", await world.lease(), [])
    await world.pass_time(4 * world.tick + world.session.capabilities.delay_resolution)
    delivery = await world.take()
    same("failures, crashes", (delivery.failures, delivery.crashes), (0, 0))


@case()
async def a_stray_message_remembers_since_when(world: World) -> None:
    """The first return for want of an actor is remembered through all that follow, until somebody has the actor."""
    await world.put()
    same("before", (await world.take()).stray_since, None)
    (held,) = await world.session.held("owner")
    await world.session.settle([Settlement(held, Returned(reason="unknown actor", started=False))])
    first = await world.take()
    holds("the moment of the return", first.stray_since is not None, first)
    await world.pass_time(world.tick)
    await world.end(first, Returned(reason="unknown actor", started=False))
    second = await world.take()
    same("the moment, after another", second.stray_since, first.stray_since)
    await world.end(second, Returned(reason="shutdown"))
    third = await world.take()
    same("the moment, after a start", third.stray_since, None)
    await world.end(third, Returned(reason="unknown actor", started=False))
    await world.end(await world.take(), Failed(OOPS, delay=0))
    same("the moment, after a failure", (await world.take()).stray_since, None)


@case("results")
async def a_result_is_there_with_its_settlement(world: World) -> None:
    """Done and its result are one fact; so is why there is none."""
    await world.put("a", "b", "c")
    results = [Done(b'{"x":1}', DAY), Done(None, DAY), Done(None, DAY, unreadable="too large")]
    await world.session.settle([Settlement(m.ref, done) for m, done in zip(await world.lease(), results, strict=True)])
    got = [await world.session.result(QUEUE, id) for id in ("a", "b", "c")]
    ended = State.DONE
    same("results", got, [Ending(ended, b'{"x":1}'), Ending(ended), Ending(ended, unreadable="too large")])


@case("results")
async def a_result_not_kept_is_gone_at_once(world: World) -> None:
    """keep=0 leaves nothing to read, or to count."""
    await world.put()
    await world.end(await world.take(), Done(b"1", keep=0))
    same("result", await world.session.result(QUEUE, "m"), Absent.GONE)
    same("looked at", await world.look(), None)
    same("counted", await world.counts(), {})


@case("results", "fencing")
async def a_former_holder_cannot_overwrite_a_result(world: World) -> None:
    """The result that is read is that of the lease which was current."""
    await world.put()
    old = await world.crash()
    await world.pass_time(COMEBACK)
    await world.end(await world.take(), Done(b'"new"', DAY))
    await world.settle(old, Done(b'"old"', DAY))
    same("result", await world.session.result(QUEUE, "m"), Ending(State.DONE, b'"new"'))


@case("cancel_running")
async def a_withdrawal_that_nobody_asked_for_stands_no_chance(world: World) -> None:
    """A worker cannot cancel a message by itself; the lease stands."""
    await world.put()
    delivery = await world.take()
    same("reply", await world.settle(delivery, Withdrawn(DAY)), Reply.NOT_ASKED)
    await world.is_(State.LEASED)
    await world.end(delivery)


@case()
async def follow_ups_come_with_the_settlement(world: World) -> None:
    """Messages given with a settlement are published if it is applied, and only then, and only once."""
    await world.put()
    delivery = await world.take()
    done, then = Settlement(delivery.ref, Done(b"1", DAY)), [world.publication("a"), world.publication("b")]
    same("reply", await world.session.settle([done], then=then), [Reply.APPLIED])
    same("leased", sorted(each.id for each in await world.lease()), ["a", "b"])
    same("repeated", await world.session.settle([done], then=then), [Reply.REPEATED])
    refused = [world.publication("c")]
    other = Settlement(delivery.ref, Failed(OOPS))
    same("refused", await world.session.settle([other], then=refused), [Reply.ENDED])
    same("leased after the repetition and the refusal", await world.lease(), [])
