"""Leases are renewed for as long as anything is held, and requests to cancel are passed on."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from trepid.ports.messages import Extension
from trepid.rules.attempts import Cause
from trepid.rules.life import Reply
from trepid.runtime.job_run import JobRun
from trepid.runtime.parting import parted
from trepid.runtime.settling import TROUBLE
from trepid.runtime.shift import Shift

_LONG_POLL = 3600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25
"""Seconds between looks at requests about messages that have not arrived here."""


async def renew(shift: Shift) -> None:
    """Extend all leases every third of a lease; after a failed beat, sooner.

    A beat that does not come back in time is given up.  The fences follow the leases by themselves, so a job stops
    before the broker gives its message away, even if no beat ever succeeds again.
    """
    lease = shift.worker.lease
    beat = pause = lease / 3
    while True:
        if not shift.held:
            await shift.wait_held()
            pause = beat
        await trio.sleep(pause)
        # A job that settles itself in a transaction holds its message by that; to extend it would be to wait for both.
        runs = [run for run in shift.held.values() if not run.settled_inside]
        if not runs:
            continue
        answered: list[bool] = []
        async with trio.open_nursery() as nursery:
            for part in parted(shift.session.capabilities, runs, lambda run: run.ref.queue):
                nursery.start_soon(_extend, shift, part, beat, answered)
        pause = beat if all(answered) else min(1.0, beat / 3)


async def _extend(shift: Shift, runs: Sequence[JobRun], patience: float, answered: list[bool]) -> None:
    """Extend some leases, and note whether the broker has answered in time."""
    await trio.lowlevel.checkpoint()
    try:
        with trio.fail_after(patience):
            extensions = await shift.session.extend([run.ref for run in runs], shift.worker.lease)
    except (*TROUBLE, trio.TooSlowError) as exc:
        shift.troubled("renew leases", exc)
        answered.append(False)
    else:
        _follow(runs, extensions, shift.margin)
        answered.append(True)


def _follow(runs: Sequence[JobRun], extensions: Sequence[Extension], margin: float) -> None:
    for run, extension in zip(runs, extensions, strict=True):
        if extension.reply is Reply.APPLIED:
            run.extended(extension.deadline, extension.deadline - margin)
            if extension.cancel is not None:
                run.stop(Cause.CANCEL, extension.cancel)
        elif not run.ended and not run.settled_inside:
            # One that has settled itself meanwhile is told that it has ended; what it does after that is its own.
            run.stop(Cause.LOST, "the lease was lost")


async def heed(shift: Shift) -> None:
    """Stop running jobs that somebody asked to cancel, as soon as the broker tells."""
    pause = _FIRST_PAUSE
    while True:
        # What has been told need not be told again; only what is held can be asked for.
        known = frozenset(run.ref for run in shift.held.values() if run.asked)
        try:
            asked = await shift.session.asked(shift.owner, known, wait=_LONG_POLL)
        except TROUBLE:
            # The renewals say the same, and tell of the trouble.
            await trio.sleep(1.0)
            continue
        strangers = True
        for ref, reason in asked:
            run = shift.held.get(ref.token)
            if run is not None:
                strangers = False
                run.stop(Cause.CANCEL, reason)
        if asked and strangers:
            # Granted to us by a lease call that has not returned yet, or never will.
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            pause = _FIRST_PAUSE
