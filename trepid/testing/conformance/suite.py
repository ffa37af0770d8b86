"""The suite: all cases, and :func:`check_broker`, which puts a broker to them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Final

import trio

from trepid.testing.conformance import (
    cancellation,
    cancelling,
    claims,
    expiry,
    firing,
    gates,
    holding,
    leasing,
    looking,
    measures,
    opening,
    order,
    publishing,
    races,
    records,
    refusing,
    removing,
    settling,
    spans,
    uniqueness,
    waiting,
    walking,
)
from trepid.testing.conformance.report import Conformance, ConformanceError, LackingError
from trepid.testing.conformance.world import BendTime, Case, MakeBroker, open_world

_MODULES = (
    publishing,
    leasing,
    waiting,
    settling,
    refusing,
    expiry,
    spans,
    order,
    uniqueness,
    holding,
    gates,
    measures,
    firing,
    cancelling,
    looking,
    removing,
    opening,
    records,
    claims,
    races,
    walking,
    cancellation,
)

CASES: Final = tuple(thing for module in _MODULES for thing in vars(module).values() if isinstance(thing, Case))
"""Every case there is, in the order in which they run."""

_PATIENCE = 60.0


async def check_broker(
    make_broker: MakeBroker,
    *,
    cases: Collection[str] | None = None,
    bend_time: BendTime | None = None,
    tick: float = 0.2,
) -> Conformance:
    """Put a broker to the promises of the port.

    Args:
      make_broker: returns a fresh, empty broker, each time it is called.
      cases: names of the cases to run, by default all.
      bend_time: an async function that moves the broker's clock on by some seconds.  By default time is waited for,
        and the cases in which hours pass are reported as unsupported; under a Trio clock that jumps by itself, and
        with a broker that follows it, waiting costs nothing and all of them run.
      tick: the shortest span, in seconds, in which the broker surely gets a handful of operations done.

    Returns:
      Which cases passed, and which the broker declares not to support.

    Raises:
      ExceptionGroup: of a :class:`ConformanceError` for each promise that is broken.
      ValueError: if *cases* names one that does not exist.
    """
    known = {each.name for each in CASES}
    if unknown := set(cases or ()) - known:
        raise ValueError(f"no such cases: {', '.join(sorted(unknown))}")
    engine, passed, unsupported = "?", list[str](), dict[str, str]()
    broken: list[Exception] = []
    for each in CASES:
        if cases is not None and each.name not in cases:
            continue
        try:
            engine = await _run(each, make_broker, bend_time, tick)
        except Exception as exc:  # noqa: BLE001 - whatever a broker raises goes into the report
            leaves = list(_leaves(exc))
            if all(isinstance(leaf, LackingError) for leaf in leaves):
                unsupported[each.name] = str(leaves[0])
            else:
                broken += [_named(leaf, each) for leaf in leaves]
        else:
            passed.append(each.name)
    await trio.lowlevel.checkpoint()
    if broken:
        raise ExceptionGroup(f"{make_broker()} does not conform", broken)
    return Conformance(engine, tuple(passed), unsupported)


async def _run(each: Case, make: MakeBroker, bend: BendTime | None, tick: float) -> str:
    """Run one case in a world of its own and return the engine's name."""
    with trio.CancelScope(deadline=trio.current_time() + _PATIENCE) as patience:
        async with open_world(make, bend or trio.sleep, tick, patience) as world:
            capabilities = world.session.capabilities
            bendable = bend is not None or (capabilities.virtual_time and _jumps_by_itself())
            if (lacking := each.lacking(capabilities, bendable=bendable)) is not None:
                raise LackingError(lacking)
            await each.run(world)
        return capabilities.engine
    raise ConformanceError("the case to come to its end", f"it hung for {_PATIENCE:g} s")


def _jumps_by_itself() -> bool:
    # Known by what it has: importing trio.testing would import pytest, wherever that is installed.
    return getattr(trio.lowlevel.current_clock(), "autojump_threshold", math.inf) < math.inf


def _leaves(exc: Exception) -> Iterator[Exception]:
    if isinstance(exc, ExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def _named(exc: Exception, each: Case) -> ConformanceError:
    if isinstance(exc, ConformanceError):
        exc.case = each.name
        return exc
    error = ConformanceError("the case to come to its end", f"it raised {exc!r}", each.name)
    error.__cause__ = exc
    return error
