"""The live handle of a worker run."""

from __future__ import annotations

from typing import final

import attrs

from trepid.runtime.report import Report, WorkerStatistics
from trepid.runtime.shift import Shift
from trepid.values.durations import Duration, seconds


@final
@attrs.frozen(eq=False)
class RunningWorker:
    """A worker that runs in some nursery; ``await nursery.start(worker.run, connection)`` hands it back."""

    _shift: Shift = attrs.field(repr=False)

    def stop(self, *, grace: Duration | None = None) -> None:
        """Take no new messages.  What runs may finish within *grace*; after that it is cancelled and given back.

        Never waits; see :meth:`wait_stopped`.  Calling it again can only make the time shorter.

        Args:
          grace: seconds; by default the worker's ``graceful_shutdown_time``.  0 cancels at once.
        """
        allowed = self._shift.worker.graceful_shutdown_time if grace is None else seconds(grace, "grace")
        self._shift.stop("stop was called", allowed)

    async def wait_stopped(self) -> Report:
        """Wait until the worker has settled everything and its run has ended, and return what it did.

        A checkpoint; cancelling it does not stop the worker.
        """
        await self._shift.stopped.wait()
        return self._shift.tally.report()

    def statistics(self) -> WorkerStatistics:
        """Return the run as it is at this moment."""
        return self._shift.statistics()
