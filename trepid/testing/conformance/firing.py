"""Firing: each instant of a schedule becomes a message once, whoever comes, and whenever."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import trio

from trepid.ports.messages import Firing
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Done
from trepid.testing.conformance.report import same
from trepid.testing.conformance.world import DAY, QUEUE, World, case
from trepid.values.unique import Unique

ACCEPTED, DUPLICATE, EXISTING = Publishing.ACCEPTED, Publishing.DUPLICATE, Publishing.EXISTING

_T = 1_764_979_200.0


def _firing(world: World, instant: float, mark: str = "nightly", *, insist: bool = False, **fields: Any) -> Firing:
    id = f"{mark}-{int(instant)}"
    publication = world.publication(id, token=(f"schedule {mark}", int(instant)), **fields)
    return Firing(publication.queue, mark, instant, publication, insist)


async def _fire(world: World, *firings: Firing) -> list[Publishing]:
    return [published.outcome for published in await world.session.fire(firings)]


@case("firing:deduplicated")
async def an_instant_is_fired_once(world: World) -> None:
    """The first firing of an instant is accepted, all others are duplicates, also when its message is gone."""
    same("the first", await _fire(world, _firing(world, _T)), [ACCEPTED])
    same("the mark", await world.session.marks(QUEUE), {"nightly": _T})
    same("another", await _fire(world, _firing(world, _T)), [DUPLICATE])
    delivery = await world.take()
    same("the message", delivery.id, f"nightly-{int(_T)}")
    await world.end(delivery, Done(None, 0))
    other = await world.other_session()
    (late,) = await other.fire([_firing(world, _T)])
    same("when it is gone", (late.outcome, late.id), (DUPLICATE, f"nightly-{int(_T)}"))
    same("what waits", await world.lease(), [])


@case("firing:deduplicated", hours=True)
async def an_instant_is_fired_once_for_ever(world: World) -> None:
    """Also long after its message is gone, when a repeated publish is no longer recognised."""
    await _fire(world, _firing(world, _T))
    await world.end(await world.take(), Done(None, 0))
    await world.pass_time(7 * DAY)
    # An occasion for the engine to forget which publishes are gone: after that the mark alone can know.
    await world.put("other")
    await world.end(await world.take(), Done(None, 0))
    await world.session.reap()
    same("a week later", await _fire(world, _firing(world, _T)), [DUPLICATE])
    same("what waits", await world.lease(), [])


@case("firing:deduplicated")
async def instants_go_forward(world: World) -> None:
    """A later instant is fired, an earlier one is not; each mark is for itself."""
    firings = [_firing(world, _T + 60), _firing(world, _T), _firing(world, _T + 120), _firing(world, _T, "hourly")]
    same("outcomes", await _fire(world, *firings), [ACCEPTED, DUPLICATE, ACCEPTED, ACCEPTED])
    same("marks", await world.session.marks(QUEUE), {"nightly": _T + 120, "hourly": _T})
    same("marks of a queue that is not there", await world.session.marks("nowhere"), {})


@case("firing:deduplicated")
async def a_mark_moves_without_a_message(world: World) -> None:
    """An instant can be passed over, and a mark forgotten."""
    same("passed over", await _fire(world, Firing(QUEUE, "nightly", _T)), [ACCEPTED])
    same("not later", await _fire(world, Firing(QUEUE, "nightly", _T - 1)), [DUPLICATE])
    same("the mark", await world.session.marks(QUEUE), {"nightly": _T})
    same("what waits", await world.lease(), [])
    forgotten = await _fire(world, Firing(QUEUE, "nightly", None), Firing(QUEUE, "unheard of", None))
    same("forgotten", forgotten, [ACCEPTED, ACCEPTED])
    same("no mark", await world.session.marks(QUEUE), {})


@case("firing:deduplicated", "unique")
async def an_instant_that_met_another_message_may_insist(world: World) -> None:
    """Where a unique key was taken, the instant counts as fired, unless it insists on a message of its own."""
    await world.put("first", unique=Unique("k"))
    unique: dict[str, Any] = {"unique": Unique("k")}
    same("which insists", await _fire(world, _firing(world, _T, insist=True, **unique)), [EXISTING])
    same("no mark", await world.session.marks(QUEUE), {})
    (published,) = await world.session.fire([_firing(world, _T, **unique)])
    same("which does not", (published.outcome, published.id), (EXISTING, "first"))
    same("the mark", await world.session.marks(QUEUE), {"nightly": _T})


@case("firing:deduplicated")
async def what_cannot_be_stored_is_not_fired(world: World) -> None:
    """A queue that is not there leaves no mark, and does not hold up the firings behind it."""
    lost = _firing(world, _T, queue="nowhere")
    same("outcomes", await _fire(world, lost, _firing(world, _T)), [Publishing.NO_QUEUE, ACCEPTED])
    await world.session.declare(["nowhere"])
    same("once it is there", await _fire(world, lost), [ACCEPTED])


@case("firing:deduplicated")
async def many_fire_and_one_succeeds(world: World) -> None:
    """However many workers fire an instant at the same time, there is one message."""
    sessions = [world.session, await world.other_session(), await world.other_session()]
    outcomes: Counter[Publishing] = Counter()

    async def fire(number: int) -> None:
        replies = await sessions[number % 3].fire([_firing(world, _T + n) for n in range(5)])
        outcomes.update(reply.outcome for reply in replies)

    async with trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(partial(fire, number))
    if world.session.capabilities.firing == "atomic":
        same("outcomes", dict(outcomes), {ACCEPTED: 5, DUPLICATE: 40})
    same("messages", len(await world.lease()), 5)


@case("firing:deduplicated")
async def marks_end_with_their_queue(world: World) -> None:
    """A queue that is deleted and declared again has no marks."""
    await _fire(world, Firing(QUEUE, "nightly", _T))
    await world.session.delete(QUEUE)
    same("no marks", await world.session.marks(QUEUE), {})
    await world.session.declare([QUEUE])
    same("still none", await world.session.marks(QUEUE), {})


@case("firing:deduplicated")
async def marks_last(world: World) -> None:
    """What was fired stays fired when the broker is closed and opened."""
    if world.session.capabilities.durability == "none":
        return
    await _fire(world, _firing(world, _T))
    await world.reopen()
    same("the mark", await world.session.marks(QUEUE), {"nightly": _T})
    same("fired again", await _fire(world, _firing(world, _T)), [DUPLICATE])
    same("messages", len(await world.lease()), 1)
