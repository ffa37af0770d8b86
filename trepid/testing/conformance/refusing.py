"""Refusing: who does not hold the current lease, in time, settles nothing, and is told why."""

from __future__ import annotations

from msgspec.structs import replace

from trepid.ports.messages import Delivery, Ref, Settlement
from trepid.rules.life import Reply, State
from trepid.rules.verdicts import Done, Failed, Returned
from trepid.testing.conformance.report import holds, same
from trepid.testing.conformance.settling import VERDICTS
from trepid.testing.conformance.world import COMEBACK, LATE, LONG, OOPS, QUEUE, World, case


async def _refused(world: World, situation: str, delivery: Delivery, wanted: tuple[Reply, ...], *but: str) -> None:
    """Every verdict with this lease must be refused so, and leave no trace."""
    before = await world.session.get(QUEUE, delivery.id)
    for name, verdict in VERDICTS.items():
        if name in but:
            continue
        reply = await world.settle(delivery, verdict)
        holds(f"{name}, {situation}, to be answered {wanted}", reply in wanted, reply)
        same(f"the message after {name}, {situation}", await world.session.get(QUEUE, delivery.id), before)


@case("peek")
async def an_ended_message_cannot_be_settled_otherwise(world: World) -> None:
    """Done, dead and cancelled are final for whoever held the message."""
    await world.put("m")
    done = await world.take()
    await world.end(done)
    await _refused(world, "of a done message", done, (Reply.ENDED,), "done")
    await world.put("n")
    dead = await world.take()
    await world.end(dead, Failed(OOPS))
    await _refused(world, "of a dead message", dead, (Reply.ENDED,), "failed", "failed, to be retried")


@case("peek")
async def a_message_that_waits_again_cannot_be_settled(world: World) -> None:
    """A lease that was given up by a settlement is void."""
    await world.put("m")
    retried = await world.take()
    await world.end(retried, Failed(OOPS, delay=LONG))
    await _refused(world, "of a scheduled message", retried, (Reply.SUPERSEDED,), "failed", "failed, to be retried")
    await world.put("n")
    returned = await world.take()
    await world.end(returned, Returned())
    await _refused(world, "of a ready message", returned, (Reply.SUPERSEDED,), "returned")


@case("fencing", "peek")
async def a_late_settlement_changes_nothing(world: World) -> None:
    """Once the lease has run out it was a crash, whatever its holder says."""
    await world.put()
    late = await world.crash()
    await _refused(world, "too late", late, LATE)
    await world.pass_time(COMEBACK)
    same("crashes and failures of the next lease", [(m.crashes, m.failures) for m in await world.lease()], [(1, 0)])


@case("fencing")
async def the_first_late_settlement_finds_an_expired_lease(world: World) -> None:
    """Who comes late is told so, by the broker's clock alone, also before anybody has looked."""
    for verdict in VERDICTS.values():
        async with world.fresh() as fresh:
            await fresh.put()
            late = await fresh.crash()
            holds("a refusal", (reply := await fresh.settle(late, verdict)) in LATE, reply)
            await fresh.is_(State.SCHEDULED)


@case("fencing", "peek")
async def a_superseded_lease_changes_nothing(world: World) -> None:
    """After somebody else has leased the message, the old lease is void and the new holder undisturbed."""
    await world.put()
    old = await world.crash()
    await world.pass_time(COMEBACK)
    new = await world.take(owner="new")
    await _refused(world, "by the former holder", old, (Reply.SUPERSEDED,))
    await world.end(new)
    await _refused(world, "by the former holder, once done", old, (Reply.ENDED,))


@case("fencing")
async def a_token_of_nobody_is_refused(world: World) -> None:
    """Tokens that were never given out settle nothing."""
    await world.put()
    delivery = await world.take()
    first, second = delivery.token
    for token in ((first, second + 1), (first, second - 1), (first + 1, second), (first - 1, second), (0, 0), (-1, -1)):
        forged = replace(delivery, token=token)
        for name, verdict in VERDICTS.items():
            reply = await world.settle(forged, verdict)
            holds(
                f"{name} with {token} instead of {delivery.token} to be refused", reply in (*LATE, Reply.UNKNOWN), reply
            )
    await world.end(delivery)


@case()
async def an_unknown_message_is_unknown(world: World) -> None:
    """What is not there, in this queue or any, cannot be settled."""
    for queue in (QUEUE, "nowhere"):
        got = await world.session.settle(
            [Settlement(Ref(queue, "nothing", (1, 1)), each) for each in VERDICTS.values()]
        )
        same(f"replies for {queue!r}", got, [Reply.UNKNOWN] * len(VERDICTS))


@case()
async def a_removed_message_is_unknown(world: World) -> None:
    """Nothing is settled once the message is gone, nor does it come back."""
    await world.put()
    delivery = await world.take()
    await world.end(delivery, Done(b"1", keep=0))
    for name, verdict in VERDICTS.items():
        reply = await world.settle(delivery, verdict)
        holds(
            f"{name} of a removed message to be refused", reply in (Reply.UNKNOWN, Reply.REPEATED, Reply.ENDED), reply
        )
    same("leased", await world.lease(), [])
