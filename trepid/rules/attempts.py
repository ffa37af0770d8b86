"""The verdict on an attempt: what its end means for the message."""

from __future__ import annotations

import enum
import traceback
from collections.abc import Iterator

from trepid.rules.terms import Terms
from trepid.rules.verdicts import Buried, Done, Failed, Failure, Returned, Verdict, Withdrawn
from trepid.values import codec
from trepid.values.retry import ExponentialBackoff
from trepid.values.verbs import Bury, Retry, Snooze, Verb
from trepid.values.words import storable, words

_LONGEST_TRACEBACK = 16_384
_MOST_FRAMES = 30


class Cause(enum.Enum):
    """Why the runtime stopped a job.  Recorded before its scope is cancelled, never guessed afterwards."""

    TIMEOUT = "timeout"
    CANCEL = "cancelled"
    DEADLINE = "deadline"
    ORPHANED = "its job nursery is gone"
    SHUTDOWN = "shutdown"
    LOST = "lease lost"


def succeeded(value: object, keep: float) -> Done:
    """Decide about a job that returned.  A result that cannot be written leaves it done."""
    if keep <= 0:
        return Done(None, 0.0)
    if value is None:
        return Done(b"null", keep)
    try:
        result = codec.encode(value)
    except Exception as exc:  # noqa: BLE001 - said below
        # Encoding may run the value's own code.  Whatever that raises, the work has been done.
        return Done(None, keep, f"{type(value).__qualname__} cannot be stored: {words(exc)}")
    if len(result) > codec.LARGEST:
        return Done(None, keep, f"it has {len(result):,} bytes, more than the {codec.LARGEST:,} that fit")
    return Done(result, keep)


def stopped(cause: Cause, terms: Terms, error: BaseException | None = None) -> Verdict | None:
    """Decide about a job that the runtime stopped, and which may have raised *error* while it was being stopped.

    Returns None for a lost lease: then the message is no longer ours to settle.
    """
    match cause:
        case Cause.LOST:
            return None
        case Cause.SHUTDOWN:
            return Returned(reason="shutdown")
        case Cause.CANCEL:
            return Withdrawn(terms.keep, None if error is None else failure(error))
        case Cause.DEADLINE | Cause.ORPHANED:
            return Withdrawn(terms.keep, None if error is None else failure(error), cause.value)
        case Cause.TIMEOUT:
            text = f"still running after {terms.timeout:g} s"
            late = Failure("TimeoutError", text) if error is None else failure(error)
            return failed(late, terms)


def raised(error: BaseException, terms: Terms) -> Verdict:
    """Decide about a job that raised."""
    verb = strongest_verb(error)
    match verb:
        case Snooze(delay=delay):
            return Returned(delay, "snooze")
        case Bury(reason=reason):
            return Buried(Failure("Bury", words(reason), attempt=terms.failures + 1))
        case Retry(delay=delay, reason=reason):
            return failed(Failure("Retry", words(reason)), terms, delay)
        case _:
            return failed(failure(error), terms)


def failed(error: Failure, terms: Terms, delay: float | None = None) -> Failed:
    """Decide about a failure: tried again while retries are left, after *delay* or what the policy says."""
    if terms.failures >= terms.retries:
        return Failed(error)
    if delay is None:
        number = terms.failures + 1
        try:
            delay = terms.actor.wait_before_retry(number)
        except Exception as exc:  # noqa: BLE001 - a foreign function may raise anything
            # A broken policy must not cost the job its retries; the failure says what happened to it.
            note = f"{error.message} (the retry policy failed: {type(exc).__name__}: {words(exc)})"
            error, delay = Failure(error.type, note, error.traceback), ExponentialBackoff()(number)
    return Failed(error, delay)


def strongest_verb(error: BaseException) -> Verb | None:
    """Return the verb that *error* is, or the strongest in a group of nothing but verbs."""
    if isinstance(error, Verb):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    verbs = list(_leaves(error))
    if not all(isinstance(verb, Verb) for verb in verbs):
        return None
    for kind in (Bury, Retry, Snooze):
        for verb in verbs:
            if isinstance(verb, kind):
                return verb
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def failure(error: BaseException) -> Failure:
    """Return an exception as text: its type, its message, and its frames without local variables."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    frames = traceback.TracebackException.from_exception(error, limit=-_MOST_FRAMES, compact=True)
    text = "".join(frames.format())
    return Failure(storable(name, 200), words(error), storable(text, _LONGEST_TRACEBACK))
