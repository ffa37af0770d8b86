"""What a worker run can say about itself."""

from __future__ import annotations

import attrs


@attrs.frozen
class Report:
    """What a worker run did.

    Attributes:
      succeeded: runs that ended in done.
      retried: failures that will be tried again.
      dead: runs after which the message went to the dead letters.
      cancelled: messages that were cancelled while they ran.
      released: messages given back uncounted: snoozes, shutdown, no room, unknown actors.
      lost: runs whose lease had ended before they could be settled; somebody else has the message.
    """

    succeeded: int = 0
    retried: int = 0
    dead: int = 0
    cancelled: int = 0
    released: int = 0
    lost: int = 0

    @property
    def processed(self) -> int:
        """Runs that ended in a verdict: succeeded, retried, dead or cancelled."""
        return self.succeeded + self.retried + self.dead + self.cancelled


@attrs.frozen
class WorkerStatistics:
    """A worker run at this moment.

    Attributes:
      owner: the name under which it holds its leases.
      running: jobs that are running, by id, with their actors and the seconds they have run.
      unsettled: jobs that have ended, and whose settlement is on its way.
      free: slots without a job.
      stopping: whether it takes no new messages.
      ready: whether its last attempt to receive succeeded.
      report: what it has done so far.
    """

    owner: str
    running: tuple[tuple[str, str, float], ...]
    unsettled: int
    free: int
    stopping: bool
    ready: bool
    report: Report
