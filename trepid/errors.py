"""Every exception that Trepid raises, sorted by who must act.

*The program is wrong*: fix the code.  *The world is wrong*: a broker or its file is not as it should be; wait, or
repair it.  *The job is wrong*: one job ended badly; look at its arguments.
"""

from __future__ import annotations

from signal import Signals

import attrs
import trio


class TrepidError(Exception):
    """The root of all errors raised by Trepid."""


# ------------------------------------------------------------------------------------------ the program is wrong


@attrs.define(eq=False)
class UnknownActorError(TrepidError, KeyError):
    """No actor of this name is in the router.

    Attributes:
      name: the name that was looked up.
      known: the names that would have been found.
    """

    name: str
    known: frozenset[str] = frozenset()

    def __str__(self) -> str:
        known = ", ".join(sorted(self.known)) or "none"
        return f"no actor is called {self.name!r} (known: {known})"


@attrs.define(eq=False)
class DuplicateActorError(TrepidError, ValueError):
    """Two actors of one name were given to one router.

    Use ``left | right`` where the right one shall win.
    """

    name: str

    def __str__(self) -> str:
        return f"two actors are called {self.name!r}; rename one, or write `left | right` to let the right one win"


@attrs.define(eq=False)
class UnknownQueueError(TrepidError, KeyError):
    """The queue was never declared on this broker; nothing was stored."""

    queue: str

    def __str__(self) -> str:
        # KeyError would show the repr of its argument, which hides the advice.
        return f"queue {self.queue!r} is not declared; call `await connection.declare({self.queue!r})` first"


@attrs.define(eq=False)
class UnsupportedError(TrepidError, NotImplementedError):
    """The engine cannot do what was asked, and does not pretend to.

    Attributes:
      feature: what was asked for.
      engine: who cannot do it.
      hint: what to do instead.
    """

    feature: str
    engine: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.engine} does not support {self.feature}" + (f"; {self.hint}" if self.hint else "")


@attrs.define(eq=False)
class PayloadTooLargeError(TrepidError, ValueError):
    """A job's arguments, or its result, are larger than a message may be."""

    size: int
    limit: int

    def __str__(self) -> str:
        return f"{self.size:,} bytes are more than the {self.limit:,} that fit; store the data elsewhere, send its key"


@attrs.define(eq=False)
class UniqueConflictError(TrepidError):
    """A live message already holds the unique key, and the job said ``on_conflict="raise"``."""

    key: str
    queue: str
    holder: str

    def __str__(self) -> str:
        return f"unique key {self.key!r} in queue {self.queue!r} is held by message {self.holder!r}"


@attrs.define(eq=False)
class QueueBusyError(TrepidError):
    """The queue cannot be deleted while messages of it are leased."""

    queue: str
    leased: int

    def __str__(self) -> str:
        return f"queue {self.queue!r} has {self.leased} leased message(s); stop its workers, then delete it"


@attrs.define(eq=False)
class BrokerURLError(TrepidError, ValueError):
    """A broker URL cannot be used.  The message never shows a password."""

    url: str
    reason: str

    def __str__(self) -> str:
        return f"broker URL {self.url!r}: {self.reason}"


# -------------------------------------------------------------------------------------------- the world is wrong


class BrokerLostError(TrepidError, trio.BrokenResourceError):
    """The broker went away; what was in flight may or may not have arrived, and may safely be repeated."""


@attrs.define(eq=False)
class LeaseLostError(TrepidError):
    """A job settles itself in a transaction, and no longer has its lease: the transaction must be rolled back.

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


# ---------------------------------------------------------------------------------------------- the job is wrong


@attrs.define(eq=False)
class EnvelopeError(TrepidError, ValueError):
    """The bytes of a message are no envelope that this version can read."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@attrs.define(eq=False)
class ArgumentsError(TrepidError, TypeError):
    """The arguments in a message do not fit the actor's signature."""

    actor: str
    reason: str

    def __str__(self) -> str:
        return f"arguments do not fit actor {self.actor!r}: {self.reason}"


@attrs.define(eq=False)
class ProcessDiedError(TrepidError):
    """The process that ran a job died under it.

    Attributes:
      exit_code: its exit code, negative for the signal that killed it; None if that is not known.
    """

    exit_code: int | None = None

    def __str__(self) -> str:
        code = self.exit_code
        if code is None:
            return "the job's process died"
        if code >= 0:
            return f"the job's process ended with exit code {code}"
        # A number without a name (a real-time signal, say) stays a number.
        names = {signal.value: signal.name for signal in Signals}
        return f"the job's process was killed by {names.get(-code, f'signal {-code}')}"


@attrs.define(eq=False)
class ProcessCallError(TrepidError):
    """A job's function, its result or its exception could not travel between the worker and its process."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@attrs.define(eq=False)
class JobFailedError(TrepidError):
    """A job failed for good.

    Attributes:
      id: the message.
      type: the qualified name of the exception that the job raised, or the reason where it raised none.
      message: its text.
      traceback: its traceback as text, without local variables; may be empty.
    """

    id: str
    type: str
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"job {self.id} failed: {self.type}" + (f": {self.message}" if self.message else "")


class JobCancelledError(JobFailedError):
    """A job was cancelled, before or while it ran."""

    def __str__(self) -> str:
        return f"job {self.id} was cancelled" + (f": {self.message}" if self.message else "")


@attrs.define(eq=False)
class JobGoneError(TrepidError, LookupError):
    """Nothing is known of the job (any more): its result has expired, was not to be kept, or it never was here."""

    id: str
    queue: str

    def __str__(self) -> str:
        return f"nothing is kept of job {self.id!r} in queue {self.queue!r}"


@attrs.define(eq=False)
class ResultError(TrepidError):
    """A job is done, but its result could not be stored, or does not fit the actor's annotation."""

    id: str
    reason: str

    def __str__(self) -> str:
        return f"job {self.id} is done, but its result cannot be read: {self.reason}"
