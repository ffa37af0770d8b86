"""The job is wrong: one job ended badly; look at its arguments."""

from __future__ import annotations

from signal import Signals

import attrs

from trepid.errors.root import TrepidError


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
      step: which step of a chain it was, such as ``step 1 of 3, resize``; empty for a job by itself.
    """

    id: str
    type: str
    message: str
    traceback: str = ""
    step: str = ""

    def __str__(self) -> str:
        return f"{self._who} failed: {self.type}" + (f": {self.message}" if self.message else "")

    @property
    def _who(self) -> str:
        return f"job {self.id}" + (f" ({self.step})" if self.step else "")


class JobCancelledError(JobFailedError):
    """A job was cancelled, before or while it ran."""

    def __str__(self) -> str:
        return f"{self._who} was cancelled" + (f": {self.message}" if self.message else "")


@attrs.define(eq=False)
class JobGoneError(TrepidError, LookupError):
    """Nothing is known of the job (any more): its result has expired, was not to be kept, or it never was here."""

    id: str
    queue: str

    def __str__(self) -> str:
        return f"nothing is kept of job {self.id!r} in queue {self.queue!r}"


@attrs.define(eq=False)
class JobNurseryTimeoutError(TrepidError, TimeoutError):
    """A job nursery was left although jobs of it may still wait or run: nobody has confirmed their end in time.

    They were asked to stop, if the broker could be reached.  Workers stop them by themselves when they notice that
    their nursery is gone.

    Attributes:
      ids: which jobs.
    """

    ids: tuple[str, ...]

    def __str__(self) -> str:
        some, more = ", ".join(self.ids[:10]), len(self.ids) - 10
        return f"the end of {len(self.ids)} job(s) was not confirmed: {some}" + (
            f" and {more} more" if more > 0 else ""
        )


@attrs.define(eq=False)
class ResultError(TrepidError):
    """A job is done, but its result could not be stored, or does not fit the actor's annotation."""

    id: str
    reason: str

    def __str__(self) -> str:
        return f"job {self.id} is done, but its result cannot be read: {self.reason}"
