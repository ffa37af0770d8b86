"""Cancelling: withdrawn if it waits, asked to stop if it runs, and too late if it has ended."""

from __future__ import annotations

import trio

from trepid.ports.messages import Ending, Ref
from trepid.rules.life import CancelReply, Reply, State
from trepid.rules.verdicts import Buried, Done, Failed, Returned, Verdict, Withdrawn
from trepid.testing.conformance.report import holds, same
from trepid.testing.conformance.world import DAY, LONG, OOPS, QUEUE, World, case

WITHDRAWN, REQUESTED, FINISHED = CancelReply.WITHDRAWN, CancelReply.REQUESTED, CancelReply.FINISHED


async def _cancel(world: World, *ids: str, reason: str = "stop") -> list[CancelReply]:
    return await world.session.cancel(QUEUE, ids or ("m",), reason)


@case("cancel_waiting")
async def a_ready_message_is_withdrawn(world: World) -> None:
    """A message that waits never starts; it is cancelled, with the reason that was given."""
    await world.put()
    same("reply", await _cancel(world, reason="changed my mind \N{SNOWMAN}"), [WITHDRAWN])
    same("leased", await world.lease(), [])
    await world.is_(State.CANCELLED)
    view = await world.view()
    same("reason, attempts", (view.reason, view.attempts), ("changed my mind \N{SNOWMAN}", 0))


@case("cancel_waiting", "delay")
async def a_scheduled_message_is_withdrawn(world: World) -> None:
    """A message that is not due yet never becomes it; nor does one that waits for its retry."""
    await world.put("first", delay=2 * world.tick)
    same("reply", await _cancel(world, "first"), [WITHDRAWN])
    await world.put("retry")
    await world.end(await world.take(), Failed(OOPS, delay=2 * world.tick))
    same("reply", await _cancel(world, "retry"), [WITHDRAWN])
    await world.pass_time(3 * world.tick)
    same("leased", await world.lease(), [])
    await world.is_(State.CANCELLED, "first")


@case("cancel_running")
async def a_leased_message_is_asked_to_stop(world: World) -> None:
    """The request is recorded, the lease goes on, and a withdrawal is then granted."""
    await world.put()
    delivery = await world.take()
    same("reply", await _cancel(world), [REQUESTED])
    await world.is_(State.LEASED)
    await world.end(delivery, Withdrawn(DAY))
    await world.is_(State.CANCELLED)
    same("repeated", await world.settle(delivery, Withdrawn(DAY)), Reply.REPEATED)
    same("otherwise", await world.settle(delivery, Done(b"1", DAY)), Reply.ENDED)


@case("cancel_running")
async def a_worker_withdraws_on_grounds_of_its_own(world: World) -> None:
    """A withdrawal with a reason need not be asked for; where it was, what was asked for is the reason."""
    await world.put("own", "asked")
    own, asked = await world.lease()
    same("without a reason", await world.settle(own, Withdrawn(DAY)), Reply.NOT_ASKED)
    await world.end(own, Withdrawn(DAY, reason="deadline"))
    await world.is_(State.CANCELLED, "own")
    same("repeated", await world.settle(own, Withdrawn(DAY, reason="deadline")), Reply.REPEATED)
    await _cancel(world, "asked", reason="enough")
    await world.end(asked, Withdrawn(DAY, OOPS, reason="deadline"))
    if world.session.capabilities.results != "none":
        same("how it ended", await world.session.result(QUEUE, "own"), Ending(State.CANCELLED, reason="deadline"))
        ending = await world.session.result(QUEUE, "asked")
        holds("the reason that was asked for", getattr(ending, "reason", None) == "enough", ending)


@case("cancel_running", "peek")
async def the_first_request_stands(world: World) -> None:
    """Asking again is answered the same and changes nothing, whoever asks."""
    await world.put()
    await world.take()
    other = await world.other_session()
    same("first", await _cancel(world, reason="first"), [REQUESTED])
    same("second", await other.cancel(QUEUE, ["m"], "second"), [REQUESTED])
    same("the request as seen", (await world.view()).cancel, "first")


@case("cancel_running")
async def done_wins_over_a_cancel(world: World) -> None:
    """Work that was finished is done, and its result real, also if somebody no longer wanted it."""
    await world.put()
    delivery = await world.take()
    await _cancel(world)
    await world.end(delivery, Done(b"42", DAY))
    await world.is_(State.DONE)
    if world.session.capabilities.results != "none":
        same("result", await world.session.result(QUEUE, "m"), Ending(State.DONE, b"42"))
    same("cancelled again", await _cancel(world), [FINISHED])


@case("cancel_running")
async def what_is_not_done_is_cancelled(world: World) -> None:
    """After a request, a failure or a return ends in cancelled: there is no next attempt."""
    verdicts: tuple[Verdict, ...] = (
        Failed(OOPS, delay=0),
        Failed(OOPS),
        Returned(),
        Returned(delay=0, reason="snooze"),
        Withdrawn(DAY),
    )
    for number, verdict in enumerate(verdicts):
        await world.put(f"m{number}")
        delivery = await world.take()
        await _cancel(world, f"m{number}")
        await world.end(delivery, verdict)
        await world.is_(State.CANCELLED, f"m{number}")
        same(f"leased after {verdict}", await world.lease(), [])


@case("cancel_running")
async def a_burial_is_a_burial(world: World) -> None:
    """What can never work goes to the dead letters, also if it was to be cancelled."""
    await world.put()
    delivery = await world.take()
    await _cancel(world)
    await world.end(delivery, Buried(OOPS))
    await world.is_(State.DEAD)


@case("cancel_waiting")
async def what_has_ended_is_finished(world: World) -> None:
    """Done, dead and cancelled messages cannot be cancelled, and stay as they are."""
    for state in (State.DONE, State.DEAD, State.CANCELLED):
        await world.bring(state, str(state))
        before = await world.look(str(state))
        same(f"cancel of one that is {state}", await _cancel(world, str(state), reason="late"), [FINISHED])
        same("the message", await world.look(str(state)), before)


@case("cancel_waiting")
async def what_is_not_there_is_unknown(world: World) -> None:
    """Neither a message that never was, nor one in a queue that never was, can be cancelled."""
    await world.put()
    unknown = CancelReply.UNKNOWN
    same("unknown id", await _cancel(world, "nothing", "m", "nothing"), [unknown, WITHDRAWN, unknown])
    same("unknown queue", await world.session.cancel("nowhere", ["m"], "?"), [unknown])
    await world.put("brief")
    await world.end(await world.take(), Done(b"1", keep=0))
    same("an id that is gone", await _cancel(world, "brief"), [unknown])


@case("cancel_running", "requeue")
async def a_request_does_not_outlive_its_run(world: World) -> None:
    """A message that was buried while it was to be cancelled comes back without the request."""
    await world.put()
    delivery = await world.take()
    await _cancel(world)
    await world.end(delivery, Buried(OOPS))
    await world.session.requeue(QUEUE)
    delivery = await world.take()
    (extension,) = await world.session.extend([delivery.ref], LONG)
    same("the request", extension.cancel, None)
    await world.end(delivery, Failed(OOPS, delay=0))
    await world.end(await world.take())


@case("cancel_running")
async def who_is_asked_to_stop_can_wait_for_it(world: World) -> None:
    """An engine that pushes requests tells exactly the owner, once, and soon; one that does not just waits."""
    await world.put("a", "b", "c")
    a, b, c = await world.lease(2, owner="me") + await world.lease(1, owner="you")
    same("before anybody asked", await world.session.asked("me", []), [])
    began = trio.current_time()
    same("after a wait for nothing", await world.session.asked("me", [], wait=world.tick), [])
    holds("the wait to be kept", trio.current_time() - began >= 0.9 * world.tick, "it came back early")
    got: list[tuple[Ref, str]] = []

    async def listen() -> None:
        got.extend(await world.session.asked("me", [], wait=4 * world.tick))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.sleep(world.tick / 2)
        await _cancel(world, "c")
        await _cancel(world, "b", reason="enough")
    holds("the request, or nothing without a push", got in ([], [(b.ref, "enough")]), got)
    same("what is known already", await world.session.asked("me", [a.ref, b.ref]), [])
    holds("another's request", (its := await world.session.asked("you", [])) in ([], [(c.ref, "stop")]), its)
    await world.end(b, Withdrawn(DAY))
    same("after the settlement", await world.session.asked("me", []), [])


@case("cancel_waiting", "results")
async def a_cancelled_message_is_kept_for_its_time(world: World) -> None:
    """How long a withdrawn message stays readable is as it was published; zero keeps nothing."""
    await world.put("kept", result_ttl=LONG)
    await world.put("brief", result_ttl=0.0)
    same("replies", await _cancel(world, "kept", "brief"), [WITHDRAWN, WITHDRAWN])
    same("kept", await world.session.result(QUEUE, "kept"), Ending(State.CANCELLED, reason="stop"))
    same("not kept", await world.look("brief"), None)
