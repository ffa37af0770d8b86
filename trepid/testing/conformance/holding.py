"""Holding: a unique key that stays taken for a while, whatever becomes of its message."""

from __future__ import annotations

from trepid.rules.life import READY, State
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Done, Failed
from trepid.testing.conformance.report import same
from trepid.testing.conformance.world import DAY, OOPS, QUEUE, World, case
from trepid.values.unique import Unique

ACCEPTED, EXISTING = Publishing.ACCEPTED, Publishing.EXISTING

_AWHILE = 600.0
_KEPT = Unique("k", for_=_AWHILE)


@case("unique", "holds", hours=True)
async def a_key_is_held_after_the_end(world: World) -> None:
    """Whether the message is kept, gone or dead, its key stays taken for as long as it said, and no longer."""
    for id, verdict in (("kept", Done(None, 2 * DAY)), ("gone", Done(None, 0.0)), ("dead", Failed(OOPS))):
        await world.put(id, unique=_KEPT)
        await world.end(await world.take(), verdict)
        again = await world.publish("again", unique=_KEPT)
        same("while it is held", (again.outcome, again.id), (EXISTING, id))
        await world.pass_time(_AWHILE / 2)
        same("later", (await world.publish("again", unique=Unique("k"))).outcome, EXISTING)
        await world.pass_time(_AWHILE / 2 + 1)
        await world.put(f"after {id}".replace(" ", "-"), unique=Unique("k"))
        await world.end(await world.take(), Done(None, 0))


@case("unique", "holds", hours=True)
async def a_live_message_holds_its_key_for_longer(world: World) -> None:
    """The time is the least: a message that still waits keeps its key."""
    await world.put("m", unique=_KEPT)
    await world.pass_time(2 * _AWHILE)
    same("while it waits", (await world.publish("n", unique=_KEPT)).outcome, EXISTING)
    await world.end(await world.take(), Done(None, 0))
    await world.put("n", unique=_KEPT)


@case("unique", "holds")
async def a_held_key_conflicts(world: World) -> None:
    """Who wants an error gets one; who would replace does not, as there is nothing to replace."""
    await world.put("m", unique=_KEPT)
    await world.end(await world.take(), Done(None, DAY))
    same("raise", (await world.publish("x", unique=Unique("k", "raise"))).outcome, Publishing.CONFLICT)
    same("replace", (await world.publish("x", unique=Unique("k", "replace"))).outcome, EXISTING)
    await world.is_(State.DONE, "m")


@case("unique", "holds", "cancel_waiting")
async def a_cancelled_message_holds_nothing(world: World) -> None:
    """A message that was withdrawn has done nothing: the next one may, also if nothing is left of the first."""
    await world.put("m", unique=_KEPT)
    await world.session.cancel(QUEUE, ["m"], "no")
    await world.put("brief", unique=_KEPT, result_ttl=0.0)
    await world.session.cancel(QUEUE, ["brief"], "no")
    await world.put("n", unique=_KEPT)


@case("unique", "holds")
async def who_takes_over_an_id_takes_over_no_key(world: World) -> None:
    """A key is kept for a message that is gone; another one with its id has nothing to do with it."""
    await world.put("m", unique=_KEPT)
    await world.end(await world.take(), Done(None, 0))
    await world.put("m")
    replaced = await world.publish("x", unique=Unique("k", "replace"))
    same("replace", (replaced.outcome, replaced.id), (EXISTING, "m"))
    await world.is_(READY, "m")


@case("unique", "holds", hours=True)
async def a_replacement_holds_from_its_own_publish(world: World) -> None:
    """What replaces a waiting message begins the time, and its delay, anew."""
    later = Unique("k", "replace", for_=_AWHILE)
    await world.put("first", unique=later, delay=_AWHILE)
    await world.pass_time(_AWHILE / 2)
    await world.put("second", unique=later, delay=_AWHILE)
    await world.is_(State.CANCELLED, "first")
    await world.pass_time(_AWHILE * 0.75)
    same("what is due", await world.lease(), [])
    await world.pass_time(_AWHILE / 2)
    await world.is_(READY, "second")
    await world.end(await world.take(), Done(None, 0))
    await world.put("third", unique=later)
