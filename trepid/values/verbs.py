"""What a job may raise to say how its attempt shall end."""

from __future__ import annotations

from trepid.values.durations import Duration, seconds


class Verb(Exception):  # noqa: N818 - a verb is an instruction, not an error
    """The root of the verbs.  Raised out of an actor, a verb decides what happens to the message."""


class Retry(Verb):
    """Fail this attempt and try again.  It counts as a failure and obeys the job's ``retries``.

    Args:
      delay: seconds (or a timedelta) until the next attempt; by default the actor's retry policy decides.
      reason: kept as the message of the failure.
    """

    def __init__(self, delay: Duration | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.delay = None if delay is None else seconds(delay, "delay")
        self.reason = reason

    # An exception is pickled with its text for an argument, and that is no delay; processes raise verbs, too.
    def __reduce__(self) -> tuple[type[Retry], tuple[float | None, str]]:
        return type(self), (self.delay, self.reason)


class Snooze(Verb):
    """Put the message back and look again later.  It does not count as an attempt.

    Args:
      delay: seconds (or a timedelta) until it is due again.
    """

    def __init__(self, delay: Duration) -> None:
        self.delay = seconds(delay, "delay")
        super().__init__(f"{self.delay:g} s")

    def __reduce__(self) -> tuple[type[Snooze], tuple[float]]:
        return type(self), (self.delay,)


class Bury(Verb):
    """Give up at once: the message goes to the dead letters whatever its ``retries`` say.

    Args:
      reason: kept as the message of the failure.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
