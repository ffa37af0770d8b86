"""What the end of a message means to whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from trepid.errors import JobCancelledError, JobFailedError, ResultError
from trepid.ports.messages import Ending
from trepid.rules.life import CANCELLED, DONE
from trepid.values.words import complaint

T = TypeVar("T")


def failure_of(id: str, ending: Ending, step: str = "") -> JobFailedError | None:
    """Return the error that a message ended with, or None if it is done; *step* says where in a chain it stands."""
    if ending.state is DONE:
        return None
    if ending.state is CANCELLED:
        return JobCancelledError(id, "cancelled", ending.reason or "", step=step)
    error = ending.error
    # Time ended these, and raised nothing: an error that is there is of an earlier attempt.
    if error is None or (ending.reason in {"expired", "poison"} and error.type != "PoisonError"):
        return JobFailedError(id, ending.reason or "dead", "", step=step)
    return JobFailedError(id, error.type, error.message, error.traceback, step)


def value_of(id: str, ending: Ending, read_result: Callable[[bytes], T], step: str = "") -> T:
    """Return what a job returned.

    Raises:
      JobFailedError, JobCancelledError: if it did not.
      ResultError: if that could not be stored, or does not fit the annotation.
    """
    failure = failure_of(id, ending, step)
    if failure is not None:
        raise failure
    if ending.result is None:
        raise ResultError(id, ending.unreadable or "nothing was kept of it")
    try:
        return read_result(ending.result)
    except Exception as exc:
        # A type's own code (__post_init__) runs here, and may raise anything.
        raise ResultError(id, f"it does not fit the actor's annotation: {complaint(exc)}") from exc
