"""The functions that a simulation's workers run."""

from __future__ import annotations

from typing import NoReturn

import trio

from trepid.testing.simulation.judge import Judge
from trepid.testing.simulation.plan import Step
from trepid.values.actor import Actor
from trepid.values.context import Context
from trepid.values.router import Router
from trepid.values.verbs import Bury, Retry, Snooze

_AFTERWARDS = 2.0
"""For how many seconds a shielded errand goes on after it was cancelled."""


class ErrandError(Exception):
    """An errand that fails."""


def actors(judge: Judge) -> Router:
    """Return the actors, which tell *judge* of every start and end."""

    async def plain(id: str, lease: str) -> str:
        return await _errand(judge, id, lease)

    async def tended(ctx: Context, id: str, lease: str) -> str:
        ctx.nursery.start_soon(trio.sleep, 0.3)
        return await _errand(judge, id, lease)

    return Router(Actor(plain, retry_policy=float), Actor(tended, retry_policy=float))


async def _errand(judge: Judge, id: str, lease: str) -> str:  # noqa: ASYNC910 - it is made to behave badly
    if judge.stillborn(id, lease):
        await trio.sleep_forever()
    judge.started(id, lease)
    errand = judge.cases[id].errand
    starts = sum(grant.start is not None for grant in judge.cases[id].grants.values())
    step = errand.steps[starts - 1] if starts <= len(errand.steps) else Step(0.5, "return")
    how = "cancelled"
    try:
        try:
            await trio.sleep(step.seconds)
        except trio.Cancelled:  # noqa: ASYNC103 - stubborn errands are what nobody should write, and somebody will
            if errand.manner == "shielded":
                with trio.CancelScope(shield=True):
                    await trio.sleep(_AFTERWARDS)
            if errand.manner != "stubborn":
                raise
        how = step.ending
        if how == "return":
            return f"{id} by {lease}"  # noqa: ASYNC910 - as above
        _raise(step)
    finally:
        judge.ended(id, lease, how)


def _raise(step: Step) -> NoReturn:
    match step.ending:
        case "retry":
            raise Retry(delay=step.delay)
        case "snooze":
            raise Snooze(step.delay)
        case "bury":
            raise Bury("as planned")
        case _:
            raise ErrandError("as planned")
