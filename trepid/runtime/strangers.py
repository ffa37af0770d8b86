"""Leases that nobody knows of: granted to this worker by a call whose answer never came."""

from __future__ import annotations

from math import inf

import trio

from trepid.errors import UnsupportedError
from trepid.ports.messages import Settlement
from trepid.rules.verdicts import Returned
from trepid.runtime.settling import TROUBLE, pause_after
from trepid.runtime.shift import Shift

_UNSTARTED = Returned(reason="unstarted", started=False)


async def return_strangers(shift: Shift) -> bool:
    """Give back, uncounted, what this worker was granted without learning of it; return whether that is certain now.

    To be called while no lease call is under way: then whatever the worker holds without knowing is a stranger.  A
    broker that thinks about it for too long is taken for one in trouble.
    """
    session = shift.session
    await trio.lowlevel.checkpoint()
    try:
        with trio.fail_after(shift.worker.lease / 3):
            # What is settled while the question travels is no stranger; giving it back once more would be refused.
            known = shift.known()
            strangers = [ref for ref in await session.held(shift.owner) if ref.token not in known]
            if strangers:
                await session.settle([Settlement(ref, _UNSTARTED) for ref in strangers])
    except UnsupportedError:
        pass  # Then their leases just expire.
    except (*TROUBLE, trio.TooSlowError) as exc:
        shift.troubled("look for lost leases", exc)
        return False
    shift.unsure_until = -inf
    return True


async def return_last_strangers(shift: Shift) -> None:
    """At the end of a shift: give back what may have been granted, trying until it is done, or has expired."""
    await trio.lowlevel.checkpoint()
    troubles = 0
    while shift.unsure and not await return_strangers(shift):
        await trio.sleep(pause_after(troubles))
        troubles += 1
