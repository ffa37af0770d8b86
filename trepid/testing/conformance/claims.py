"""Claims: what an engine says it lacks, it must refuse, and never approximate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from trepid.errors import UnsupportedError
from trepid.ports.messages import Firing
from trepid.rules.gates import Limit
from trepid.rules.life import State
from trepid.testing.conformance.report import ConformanceError, holds
from trepid.testing.conformance.world import LONG, QUEUE, World, case, lacks
from trepid.values.unique import Unique

_ASKING: Mapping[str, Callable[[World], Awaitable[object]]] = {
    "delay": lambda world: world.session.publish([world.publication(delay=LONG)]),
    "unique": lambda world: world.session.publish([world.publication(unique=Unique("k"))]),
    "results": lambda world: world.session.result(QUEUE, "m"),
    "cancel_waiting": lambda world: world.session.cancel(QUEUE, ["m"], "stop"),
    "peek": lambda world: world.session.peek(QUEUE, State.READY),
    "requeue": lambda world: world.session.requeue(QUEUE),
    "pause": lambda world: world.session.pause(QUEUE),
    "limits": lambda world: world.session.limit([Limit(QUEUE, concurrency=1)]),
    "firing:deduplicated": lambda world: world.session.fire([Firing(QUEUE, "mark", 1.0)]),
    "holds": lambda world: world.session.publish([world.publication(unique=Unique("k", for_=LONG))]),
}


@case()
async def what_is_lacking_is_refused(world: World) -> None:
    """Asking for what the engine lacks raises an error that says so."""
    await world.put("there")
    for capability, ask in _ASKING.items():
        if not lacks(world.session.capabilities, capability):
            continue
        try:
            got = await ask(world)
        except UnsupportedError:
            continue
        raise ConformanceError(f"UnsupportedError, as {capability} is declared to be lacking", f"got {got!r}")


@case()
async def claims_are_complete(world: World) -> None:
    """Capabilities name the engine, and how its durability is known."""
    capabilities = world.session.capabilities
    holds("a name", capabilities.engine, capabilities)
    holds("a proof of durability", capabilities.durability_proof, capabilities)
    holds("a resolution of delays", capabilities.delay_resolution >= 0, capabilities)
    holds("where the messages are, in words", str(world.broker), world.broker)
    await world.session.now()


@case()
async def a_lease_of_nothing_is_refused(world: World) -> None:
    """A limit of zero is a mistake of whoever asks, and must not be taken for one without end."""
    await world.put()
    for limit in (0, -1):
        try:
            got = await world.lease(limit)
        except ValueError:
            continue
        raise ConformanceError(f"ValueError for a limit of {limit}", f"got {got!r}")
    await world.take()
