"""Dead letters on a broker: choosing them, telling about them, and moving them."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs

from trepid.cli.failures import Exit, Failure, unknown_queue
from trepid.cli.ink import printable
from trepid.cli.tables import iso, plural

if TYPE_CHECKING:
    from trepid.connection import Connection
    from trepid.ports.messages import MessageView
    from trepid.rules.verdicts import Failure as JobFailure

_BATCH: Final = 500

SKIPPED: Final = {
    "requeue": "another live message holds their unique key, or somebody was faster",
    "purge": "somebody was faster",
}


@attrs.frozen
class Choice:
    """Which dead letters are meant.  What is empty says nothing.

    Attributes:
      queues: where to look.
      ids: their ids.
      actor: their actor.
      error: a part of the type or the message of their last error.
    """

    queues: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    actor: str | None = None
    error: str | None = None

    @property
    def filters(self) -> bool:
        """Whether it leaves some out."""
        return bool(self.queues or self.ids or self.actor or self.error)

    def has(self, view: MessageView) -> bool:
        """Whether a dead letter is meant, as far as its text can tell."""
        if self.actor is not None and view.actor != self.actor:
            return False
        if self.error is None:
            return True
        told = "" if view.error is None else f"{view.error.type}: {view.error.message}"
        return self.error.lower() in told.lower()


async def where(connection: Connection, queues: tuple[str, ...]) -> list[str]:
    """Return the queues to look in: those named, or all.

    Raises:
      Failure: exit code 4, if one is not declared.
    """
    declared = await connection.queues()
    for queue in queues:
        if queue not in declared:
            raise unknown_queue(queue, declared)
    return list(queues) or declared


async def matching(connection: Connection, choice: Choice, limit: int | None = None) -> list[MessageView]:
    """Return the dead letters that are meant, at most *limit* of them."""
    from trepid.rules.life import State

    found: list[MessageView] = []
    for queue in await where(connection, choice.queues):
        if choice.ids:
            views = [await connection.session.get(queue, id) for id in dict.fromkeys(choice.ids)]
            found += [view for view in views if view is not None and view.state is State.DEAD]
            continue
        async for view in connection.messages(queue, State.DEAD):
            if choice.has(view):
                found.append(view)
            if limit is not None and len(found) >= limit:
                return found
    return found


async def one(connection: Connection, queues: tuple[str, ...], id: str) -> MessageView:
    """Return the dead letter with this id.

    Raises:
      Failure: exit code 4, if there is none, or several queues have one.
    """
    from trepid.rules.life import State

    names = await where(connection, queues)
    views = [view for view in [await connection.session.get(name, id) for name in names] if view is not None]
    dead = [view for view in views if view.state is State.DEAD]
    if len(dead) == 1:
        return dead[0]
    refuse_twins(dead)
    if views:
        raise Failure(f"{id} in queue {views[0].queue} is {views[0].state}, not dead", Exit.NOTHING)
    raise Failure(f"no dead letter is called {id}", Exit.NOTHING, "trepid dead list")


def refuse_twins(views: list[MessageView]) -> None:
    """An id is unique within its queue only: let the operator say which one is meant.

    Raises:
      Failure: exit code 4, if two of the dead letters have the same id.
    """
    queues: dict[str, list[str]] = {}
    for view in views:
        queues.setdefault(view.id, []).append(view.queue)
    for id, names in queues.items():
        if len(names) > 1:
            raise Failure(f"{id} is in the queues {' and '.join(names)}", Exit.NOTHING, f"say which: -q {names[0]}")


async def requeue(connection: Connection, views: list[MessageView]) -> int:
    """Bring dead letters back; return how many came."""
    return await _in_batches(views, connection.requeue)


async def purge(connection: Connection, views: list[MessageView]) -> int:
    """Forget dead letters; return how many there were."""

    async def forget(queue: str, ids: list[str]) -> int:
        return await connection.purge(queue, ids=ids)

    return await _in_batches(views, forget)


async def _in_batches(views: list[MessageView], action: Callable[[str, list[str]], Awaitable[int]]) -> int:
    import trio

    await trio.lowlevel.checkpoint()
    ids: dict[str, list[str]] = {}
    for view in views:
        ids.setdefault(view.queue, []).append(view.id)
    total = 0
    for queue, listed in ids.items():
        for start in range(0, len(listed), _BATCH):
            total += await action(queue, listed[start : start + _BATCH])
    return total


# --------------------------------------------------------------------------------------------------------- telling


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
