"""What went wrong, in one line and a hint, and the exit code that a script can act on."""

from __future__ import annotations

import difflib
import enum
import sys
from collections.abc import Iterable
from typing import Any, NoReturn, final

import rich_click as click
from click import exceptions

from trepid.cli.ink import ink_for, printable


class Exit(enum.IntEnum):
    """The exit codes.  128 + n is left with the signal n: Ctrl-C in the midst of something, or a third signal."""

    DRAINED = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOTHING = 4
    HANDED_BACK = 75
    INTERRUPTED = 130


@final
class Failure(click.ClickException):
    """A command cannot go on.

    Args:
      message: one line: what, and where.
      code: what the process ends with.
      hint: what to do next.
    """

    def __init__(self, message: str, code: Exit = Exit.FAILED, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


def leave(code: Exit) -> NoReturn:
    """End the command with an exit code."""
    raise exceptions.Exit(int(code))


def say_error(message: str, hint: str = "") -> None:
    """Write an error, and what to do about it, to stderr."""
    ink = ink_for(sys.stderr)
    print(f"{ink('error:', 'error')} {printable(message)}", file=sys.stderr)
    if hint:
        print(f"{ink(' hint:', 'hint')} {printable(hint)}", file=sys.stderr)


def meant(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean ...?`` where a known name is close to *name*; otherwise the known names, or nothing."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=2) or [one for one in names if one.lower() == name.lower()]
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not names:
        return ""
    return f"there {'is' if len(names) == 1 else 'are'}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"


def leaf_of(error: BaseException) -> BaseException:
    """Return the first exception inside groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def explained(error: BaseException) -> Failure:
    """Return an exception as a failure."""
    error = leaf_of(error)
    if isinstance(error, Failure):
        return error
    found = _of_the_world(error) or _of_the_job(error)
    if found is not None:
        return found
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    return Failure(text.splitlines()[0], Exit.FAILED, "the same command with --traceback tells where")


def _of_the_world(error: BaseException) -> Failure | None:
    from trepid import errors

    match error:
        case errors.BrokerURLError():
            return Failure(str(error), Exit.USAGE, "look at --broker, or TREPID_BROKER_URL")
        case errors.UnsupportedError():
            return Failure(str(error), Exit.USAGE)
        case errors.BrokerFileError() | errors.BrokerRefusedError():
            return Failure(str(error), Exit.UNREACHABLE, "look at --broker, or TREPID_BROKER_URL; nothing was changed")
        case errors.BrokerBusyError():
            return Failure(str(error), Exit.UNREACHABLE, "it may pass; try again, or look at who uses the broker")
        case errors.BrokerFullError():
            return Failure(str(error), Exit.UNREACHABLE, "make room, then try again")
        case errors.QueueFullError():
            text = f"queue {error.queue!r} has no room, and nothing was stored"
            return Failure(text, Exit.FAILED, "try again once its workers have made some")
        case errors.BrokerLostError():
            hint = "look whether the server runs, and at --broker, or TREPID_BROKER_URL"
            return Failure(str(error), Exit.UNREACHABLE, hint)
        case _:
            return None


def _of_the_job(error: BaseException) -> Failure | None:
    from trepid import errors

    match error:
        case errors.UnknownQueueError():
            return unknown_queue(error.queue, ())
        case errors.QueueBusyError():
            return Failure(f"queue {error.queue!r} has {error.leased} running", Exit.FAILED, "stop its workers first")
        case errors.UniqueConflictError():
            return Failure(str(error), Exit.FAILED, f"wait for {error.holder}, or cancel it")
        case errors.JobGoneError():
            return Failure(str(error), Exit.NOTHING, "its result was not to be kept, or its time is over")
        case errors.JobCancelledError() | errors.ResultError():
            return Failure(str(error), Exit.FAILED)
        case errors.JobFailedError():
            return Failure(str(error), Exit.FAILED, f"trepid dead show {error.id}")
        case errors.PayloadTooLargeError():
            return Failure(str(error), Exit.USAGE)
        case _:
            return None


def unknown_queue(queue: str, known: Iterable[str]) -> Failure:
    """Return the failure of a queue that is not there."""
    hint = meant(queue, known) or f"trepid queues declare {queue}"
    return Failure(f"queue {queue!r} is not declared", Exit.NOTHING, hint)


def usage(error: Any, hint: str = "") -> Failure:
    """Return the failure of a value that cannot be used."""
    return Failure(str(error), Exit.USAGE, hint)
