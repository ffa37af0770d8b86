"""Trio cancellation: an operation that is cancelled, at whatever moment, was not applied or can be repeated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, final

import attrs
import trio

from trepid.ports.broker import Session
from trepid.ports.messages import Settlement
from trepid.rules.life import State
from trepid.rules.verdicts import Done, Failed
from trepid.testing.conformance.report import holds, same
from trepid.testing.conformance.world import DAY, LONG, OOPS, QUEUE, Case, World, lacks
from trepid.values.unique import Unique

Operation: TypeAlias = Callable[[], Awaitable[object]]
Prepare: TypeAlias = Callable[[World], Awaitable[Operation]]
Snapshot: TypeAlias = dict[str, Any]

_MOST_MOMENTS = 60


@final
class _Canceller(trio.abc.Instrument):
    """Cancels a scope at one exact moment of a task: as it falls asleep, or as it is woken, for the n-th time."""

    def __init__(self, moment: int, scope: trio.CancelScope) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self.left = moment

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._pass(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._pass(task)

    def _pass(self, task: trio.lowlevel.Task) -> None:
        if task is self._task and self.left > 0:
            self.left -= 1
            if self.left == 0:
                self._scope.cancel()


async def cancelled_at(moment: int, operation: Operation) -> tuple[bool, bool]:
    """Run an operation and cancel it at a moment, 0 being before it begins.

    Returns whether it ended in ``Cancelled``, and whether the moment came before its end.
    """
    scope = trio.CancelScope()
    canceller = _Canceller(moment, scope)
    reached = moment == 0
    if reached:
        scope.cancel()
    with scope:
        trio.lowlevel.add_instrument(canceller)
        try:
            await operation()
        finally:
            reached = canceller.left == 0
            trio.lowlevel.remove_instrument(canceller)
    return scope.cancelled_caught, reached


async def snapshot(session: Session) -> Snapshot:
    """Everything the broker shows that time alone does not change: so nothing of times, and waiting is one state."""
    found: Snapshot = {}
    peeking = not lacks(session.capabilities, "peek")
    for queue in await session.queues():
        stats = await session.stats(queue)
        found[queue] = (
            stats.ready + stats.scheduled,
            stats.leased,
            stats.done,
            stats.dead,
            stats.cancelled,
            stats.paused,
        )
        for state in State if peeking else ():
            for view in (await session.peek(queue, state)).messages:
                facts = attrs.asdict(view, recurse=False) | {"errors": [error.message for error in view.errors]}
                facts["state"] = "waiting" if state in (State.READY, State.SCHEDULED) else state
                found[f"{queue}/{view.id}"] = {key: facts[key] for key in facts if key not in _TIMES}
    return found


_TIMES = ("enqueued", "due", "ended")


def swept(*needs: str) -> Callable[[Prepare], Case]:
    """Declare a case out of a function that prepares a world and returns the operation to cancel in it."""

    def declared(prepare: Prepare) -> Case:
        name: str = getattr(prepare, "__name__", "?")

        async def run(world: World) -> None:
            await _sweep(world, prepare)

        promise = f"{prepare.__doc__} Cancelled at any moment it is unchanged or applied, and can be repeated."
        return Case(f"cancelled_{name}", promise, run, ("exact_stats", *needs))

    return declared


async def _sweep(world: World, prepare: Prepare) -> None:
    """Cancel the operation at every moment it has."""
    from trio.testing import assert_checkpoints  # not before it is needed: it imports pytest, where that is installed

    operation = await prepare(world)
    before = await snapshot(world.session)
    with assert_checkpoints():
        await operation()
    after = await snapshot(world.session)
    for moment in range(_MOST_MOMENTS):
        async with world.fresh() as fresh:
            operation = await prepare(fresh)
            cancelled, reached = await cancelled_at(moment, operation)
            found = await snapshot(fresh.session)
            if cancelled:
                holds(f"cancelled at {moment}: unchanged or applied", found in (before, after), _changes(before, found))
                await operation()
                same(f"cancelled at {moment}, then repeated", await snapshot(fresh.session), after)
            else:
                holds("an operation that is cancelled on entry to notice", moment > 0, "it returned")
                same(f"finished although cancelled at {moment}: applied", found, after)
            await _serves_others(fresh)
        if not reached:
            return


def _changes(before: Snapshot, found: Snapshot) -> Snapshot:
    """What differs, for the complaint."""
    return {key: (before.get(key), found.get(key)) for key in before | found if before.get(key) != found.get(key)}


async def _serves_others(world: World) -> None:
    """The session must give the next callers their own replies."""
    await world.session.declare(["probe"])
    await world.put("probe", queue="probe", payload=b"probe")
    delivery = await world.take(queue="probe", owner="probe")
    same("what the next caller gets", (delivery.id, delivery.payload), ("probe", b"probe"))
    await world.end(delivery)


@swept()
async def publishing(world: World) -> Operation:
    """A batch is published whole or not at all."""
    await world.put("other")
    batch = [world.publication("a"), world.publication("b", priority=9)]
    return lambda: world.session.publish(batch)


@swept("unique")
async def replacing(world: World) -> Operation:
    """A holder is withdrawn and its key taken, in one step."""
    await world.put("old", unique=Unique("k"))
    batch = [world.publication("new", unique=Unique("k", "replace"))]
    return lambda: world.session.publish(batch)


@swept()
async def leasing(world: World) -> Operation:
    """No lease is taken by who hears of Cancelled."""
    await world.put("a")
    return lambda: world.lease(1)


@swept("delay")
async def waiting_for_a_message(world: World) -> Operation:
    """A message that comes just then is not lost."""
    await world.put("a", delay=world.tick / 2)
    return lambda: world.lease(1, wait=LONG)


@swept()
async def extending(world: World) -> Operation:
    """Leases are extended."""
    await world.put("a", "b")
    refs = [each.ref for each in await world.lease()]
    return lambda: world.session.extend(refs, LONG)


@swept()
async def settling(world: World) -> Operation:
    """Leases are ended with a verdict and a failure."""
    await world.put("a", "b")
    a, b = await world.lease()
    batch = [Settlement(a.ref, Done(b"1", DAY)), Settlement(b.ref, Failed(OOPS, delay=LONG))]
    return lambda: world.session.settle(batch, then=[])


@swept()
async def settling_with_a_follow_up(world: World) -> Operation:
    """The follow-up is there if and only if the settlement is."""
    await world.put("a")
    batch, then = [Settlement((await world.take()).ref, Done(b"1", 0))], [world.publication("b", delay=LONG)]
    return lambda: world.session.settle(batch, then=then)


@swept("cancel_waiting", "cancel_running")
async def cancelling(world: World) -> Operation:
    """Requests and withdrawals are recorded."""
    await world.put("running")
    await world.take()
    await world.put("waiting")
    return lambda: world.session.cancel(QUEUE, ["running", "waiting", "nothing"], "stop")


@swept("requeue")
async def requeuing(world: World) -> Operation:
    """The dead come back once."""
    for id in ("a", "b"):
        await world.bring(State.DEAD, id)
    return lambda: world.session.requeue(QUEUE)


@swept()
async def purging(world: World) -> Operation:
    """Messages are forgotten."""
    await world.put("a", "b", "c")
    return lambda: world.session.purge(QUEUE, [State.READY], limit=100)


@swept("pause")
async def pausing(world: World) -> Operation:
    """A queue is paused."""
    await world.put()
    return lambda: world.session.pause(QUEUE)


@swept("pause")
async def resuming(world: World) -> Operation:
    """A queue is resumed."""
    await world.session.pause(QUEUE)
    return lambda: world.session.resume(QUEUE)


@swept()
async def declaring(world: World) -> Operation:
    """Queues are declared."""
    await world.put()
    return lambda: world.session.declare(["x", "y"])


@swept()
async def deleting(world: World) -> Operation:
    """A queue is deleted."""
    await world.session.declare(["x"])
    await world.put("a", queue="x")
    return lambda: world.session.delete("x")


@swept()
async def expiring_an_owner(world: World) -> Operation:
    """Each lease crashes once."""
    await world.put("a", "b", max_crashes=1)
    await world.lease(owner="dead")
    return lambda: world.session.expire_owner("dead")


@swept()
async def reaping(world: World) -> Operation:
    """Time is observed."""
    await world.put("a", ttl=world.tick / 2)
    await world.pass_time(world.tick)
    return world.session.reap


@swept("results")
async def reading_a_result(world: World) -> Operation:
    """Waiting for a result changes nothing."""
    # Long enough that it surely lives when it is looked at before.
    await world.put("a", ttl=2 * world.tick)
    return lambda: world.session.result(QUEUE, "a", wait=LONG)


@swept("peek")
async def looking(world: World) -> Operation:
    """Looking changes nothing."""
    await world.bring(State.LEASED)
    session = world.session

    async def look() -> None:
        await session.now()
        await session.queues()
        await session.stats(QUEUE)
        await session.get(QUEUE, "m")
        await session.peek(QUEUE, State.LEASED)
        await session.held("owner")
        await session.asked("owner", [])

    return look
