"""What is told of a dead letter: in a table, in full, and as JSON."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trepid.cli.ink import printable
from trepid.cli.tables import iso, plural

if TYPE_CHECKING:
    from trepid.ports.messages import MessageView
    from trepid.rules.verdicts import Failure as JobFailure


def plain(view: MessageView, *, whole: bool = False) -> dict[str, Any]:
    """Return a dead letter as JSON can carry it; *whole* adds its arguments and every error."""
    told = {
        "id": view.id,
        "queue": view.queue,
        "actor": view.actor,
        "attempts": view.attempts,
        "crashes": view.crashes,
        "requeues": view.requeues,
        "priority": view.priority,
        "unique": view.unique,
        "reason": view.reason,
        "enqueued": iso(view.enqueued),
        "died": iso(view.ended),
        "error": None if view.error is None else plain_error(view.error),
    }
    if not whole:
        return told
    args, kwargs, unreadable = arguments(view)
    return told | {
        "args": args,
        "kwargs": kwargs,
        "unreadable": unreadable,
        "payload": readable(view.payload),
        "errors": [plain_error(error) | {"traceback": error.traceback} for error in view.errors],
        "requeue_command": requeue_command(view),
    }


def last_words(view: MessageView) -> str:
    """Return what brought a message here: its last error, or what time did to it."""
    # Time ended these, and raised nothing: an error that is there is of an earlier attempt.
    if view.reason == "poison":
        return f"{plural(view.crashes, 'worker')} died over it"
    if view.reason == "expired":
        return "it was not started within its ttl"
    return "" if view.error is None else f"{view.error.type}: {view.error.message}".rstrip(": ")


def plain_error(error: JobFailure) -> dict[str, Any]:
    """Return an error, without its traceback, as JSON can carry it."""
    return {"type": error.type, "message": error.message, "at": iso(error.at), "attempt": error.attempt}


def arguments(view: MessageView) -> tuple[list[Any] | None, dict[str, Any] | None, str | None]:
    """Return the arguments of a message, by position and by name, or why they cannot be read."""
    from trepid.errors import EnvelopeError
    from trepid.values.envelope import arguments_of

    try:
        args, kwargs = arguments_of(view.payload)
    except EnvelopeError as exc:
        return None, None, str(exc)
    return args, kwargs, None


def readable(payload: bytes) -> str:
    """Return the bytes of a message as text."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(payload).decode()}"


def requeue_command(view: MessageView) -> str:
    """Return the command that brings a dead letter back."""
    return f"trepid dead requeue {shlex.quote(view.id)} -q {view.queue}"


def story(view: MessageView) -> Iterator[str]:
    """Tell all about a dead letter, line by line, for people."""
    import msgspec

    args, kwargs, unreadable = arguments(view)
    yield f"{view.id}  {view.actor or '?'}  queue {view.queue}"
    why = f"{view.reason} ({last_words(view)})" if view.reason in {"poison", "expired"} else view.reason
    yield f"dead since {iso(view.ended)}: {printable(why or 'no reason is known')}"
    yield f"enqueued {iso(view.enqueued)}, {view.attempts} failed, {view.crashes} crashed, {view.requeues} requeued"
    if view.unique is not None:
        yield f"unique key {printable(view.unique)}"
    yield ""
    if unreadable is None:
        yield f"arguments  {_shown(msgspec.json.encode(args))}  {_shown(msgspec.json.encode(kwargs))}"
    else:
        yield f"its arguments cannot be read: {printable(unreadable)}"
    yield f"payload    {_shown(view.payload)}"
    for number, error in enumerate(view.errors, 1):
        yield ""
        which = f"attempt {error.attempt}" if error.attempt else f"error {number}"
        yield f"{which}, {iso(error.at)}: {printable(error.type)}: {printable(error.message)}".rstrip(": ")
        if error.traceback:
            yield from (f"  {line}" for line in printable(error.traceback, lines=True).splitlines())
    yield ""
    yield f"bring it back:  {requeue_command(view)}"


def _shown(data: bytes) -> str:
    return printable(readable(data))
