"""Fences: no job outlives its lease, even if no renewal ever succeeds again."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import attrs
import trio

from trepid.rules.attempts import Cause
from trepid.rules.life import Token
from trepid.runtime.job_run import JobRun


@attrs.define(eq=False)
class Fences:
    """One alarm for the leases of all jobs of a shift.

    It is no part of the jobs' own scopes: whoever asks for the deadline in a job wants to hear when the job must be
    done, not when its lease will be renewed next.

    Attributes:
      next: no job's fence is earlier; a moment on Trio's clock.
    """

    _held: Mapping[Token, JobRun]
    next: float = inf
    _alarm: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)

    def heed(self, run: JobRun) -> None:
        """Let the alarm ring for a job that has come, or that starts now.

        Both, since one whose fence passes before it starts is not looked at again, and its lease may be confirmed yet.
        """
        if run.fence < self.next:
            self.next = self._alarm.deadline = run.fence

    async def guard(self) -> None:
        """Stop each job whose lease is not confirmed in time; a task of the worker's helpers."""
        while True:
            with trio.CancelScope(deadline=self.next) as self._alarm:
                await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        """Stop them, while Trio lets deadlines pass and before any task runs.

        In a process that was suspended beyond its leases, the jobs' own alarms have rung as well; a task that stopped
        them would be one among many that wake now, and they might get ahead of it by a step.
        """
        now = trio.current_time()
        upcoming = inf
        for run in self._held.values():
            if run.fence > now:
                upcoming = min(upcoming, run.fence)
            elif run.scope is not None and not run.ended:
                run.stop(Cause.LOST, "the lease was not renewed")
        self.next = upcoming
        return trio.lowlevel.Abort.SUCCEEDED
