"""The world is wrong: a broker or its file is not as it should be; wait, or repair it."""

from __future__ import annotations

import attrs
import trio

from trepid.errors.root import TrepidError


class BrokerLostError(TrepidError, trio.BrokenResourceError):
    """The broker went away; what was in flight may or may not have arrived.

    Repeating it is safe, except for a publish to an engine that does not recognise it again (the capability
    ``deduplication``): that may be stored twice.
    """


@attrs.define(eq=False)
class LeaseLostError(TrepidError):
    """A job settles itself, or tells something, and no longer has its lease: a transaction must be rolled back.

    Attributes:
      id: the message.
      reason: the broker's answer, such as ``expired`` or ``superseded``.
    """

    id: str
    reason: str

    def __str__(self) -> str:
        return f"job {self.id} has no lease any more ({self.reason}); whoever has it now does the work: roll back"


class IslandLostError(TrepidError):
    """The asyncio loop that a job ran in has died of something else; the job is given back."""


class BrokerFullError(TrepidError, OSError):
    """The broker has no space left; nothing of the refused operation was stored."""


class BrokerBusyError(TrepidError, TimeoutError):
    """The broker did not let us in within its time limit; nothing of the operation was stored."""


@attrs.define(eq=False)
class BrokerFileError(TrepidError):
    """A broker's file is damaged, is not ours, or cannot be opened; it was left as it is."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@attrs.define(eq=False)
class BrokerRefusedError(TrepidError):
    """The broker is there and will not have us: a wrong password, database or host name, too old a server, a replica.

    Trying again by itself would not help.  Credentials are never part of it.

    Attributes:
      broker: where, without credentials.
      reason: what is wrong, and what to do.
    """

    broker: str
    reason: str

    def __str__(self) -> str:
        return f"{self.broker}: {self.reason}"
