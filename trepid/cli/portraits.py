"""Single jobs on a broker: finding them by their ids, and telling all that is known of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attrs

from trepid.cli.epitaphs import arguments, plain_error, readable
from trepid.cli.failures import Exit, Failure
from trepid.cli.graves import where
from trepid.cli.ink import printable
from trepid.cli.tables import iso

if TYPE_CHECKING:
    from trepid.connection import Connection
    from trepid.ports.messages import MessageView
    from trepid.values.envelope import Envelope
    from trepid.values.notes import Note


@attrs.frozen
class Found:
    """A job that was asked for by its id; *view* is None where the engine does not show its messages."""

    id: str
    queue: str
    view: MessageView | None = None


async def find(connection: Connection, queues: tuple[str, ...], ids: tuple[str, ...]) -> tuple[list[Found], list[str]]:
    """Return the jobs with these ids, and the ids that nothing is kept of.

    Raises:
      Failure: exit code 4, if a queue is not declared, or two have the same id; 2, if the queue has to be named.
    """
    names = await where(connection, queues)
    listed = list(dict.fromkeys(ids))
    if not connection.capabilities.peek:
        if len(names) != 1:
            engine = connection.capabilities.engine
            raise Failure(f"{engine} does not say in which queue a job is", Exit.USAGE, f"say which: -q {names[0]}")
        return [Found(id, names[0]) for id in listed], []
    found: list[Found] = []
    missing: list[str] = []
    for id in listed:
        views = [view for view in [await connection.session.get(name, id) for name in names] if view is not None]
        if len(views) > 1:
            both = " and ".join(view.queue for view in views)
            raise Failure(f"{id} is in the queues {both}", Exit.NOTHING, f"say which: -q {views[0].queue}")
        if views:
            found.append(Found(id, views[0].queue, views[0]))
        else:
            missing.append(id)
    return found, missing


def plain(view: MessageView) -> dict[str, Any]:
    """Return a job as JSON can carry it."""
    return {
        "id": view.id,
        "queue": view.queue,
        "actor": view.actor,
        "state": str(view.state),
        "attempts": view.attempts,
        "crashes": view.crashes,
        "releases": view.releases,
        "requeues": view.requeues,
        "priority": view.priority,
        "unique": view.unique,
        "reason": view.reason,
        "cancel": view.cancel,
        "worker": view.owner,
        "enqueued": iso(view.enqueued),
        "due": iso(view.due),
        "ended": iso(view.ended),
        "error": None if view.error is None else plain_error(view.error),
    }


@attrs.frozen
class Portrait:
    """All that is known of a job.

    Attributes:
      view: its message.
      note: what it has told, if anything.
      state: what it has saved for its next attempt, as JSON.
      result: what it returned, as JSON.
      envelope: what travels, if it can be read.
    """

    view: MessageView
    note: Note | None
    state: bytes | None
    result: bytes | None
    envelope: Envelope | None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        import msgspec

        args, kwargs, unreadable = arguments(self.view)
        note, envelope = self.note, self.envelope
        chain = None if envelope is None else envelope.chain
        return plain(self.view) | {
            "args": args,
            "kwargs": kwargs,
            "unreadable": unreadable,
            "payload": readable(self.view.payload),
            "errors": [plain_error(error) | {"traceback": error.traceback} for error in self.view.errors],
            "progress": None if note is None or note.done is None else _progress(note),
            "emitted": 0 if note is None else note.emitted - note.first,
            "saved": None if self.state is None else msgspec.json.decode(self.state),
            "result": None if self.result is None else msgspec.json.decode(self.result),
            "chain": None if chain is None else {"id": chain.id, "step": chain.step, "of": chain.of},
            "then": [{"actor": link.job.actor, "queue": link.queue} for link in envelope.then] if envelope else [],
        }

    def story(self) -> Iterator[str]:
        """Tell it line by line, for people."""
        view, told = self.view, self.plain()
        yield f"{view.id}  {view.actor or '?'}  queue {view.queue}"
        yield f"{view.state}" + "".join(
            f", {printable(text)}"
            for text in (
                view.reason,
                None if view.cancel is None else f"asked to cancel: {view.cancel}",
                None if view.owner is None or view.ended is not None else f"worker {view.owner}",
            )
            if text
        )
        yield f"enqueued {told['enqueued']}, due {told['due']}" + (f", ended {told['ended']}" if view.ended else "")
        yield f"{view.attempts} attempts counted, {view.crashes} crashed, {view.releases} given back"
        if (chain := told["chain"]) is not None:
            yield f"step {chain['step']} of {chain['of']} of the chain {chain['id']}"
        yield from (f"then       {link['actor']}  queue {link['queue']}" for link in told["then"])
        if view.unique is not None:
            yield f"unique key {printable(view.unique)}"
        yield ""
        if told["unreadable"] is None:
            yield f"arguments  {_shown(told['args'])}  {_shown(told['kwargs'])}"
        else:
            yield f"its arguments cannot be read: {printable(told['unreadable'])}"
        if (progress := told["progress"]) is not None:
            yield f"progress   {amount(progress['done'], progress['total'])}  {printable(progress['message'])}".rstrip()
        if told["emitted"]:
            yield f"emitted    {told['emitted']:,} values"
        if self.state is not None:
            yield f"saved      {printable(readable(self.state))}"
        if self.result is not None:
            yield f"result     {printable(readable(self.result))}"
        for error in view.errors:
            yield f"error      {iso(error.at)} {printable(error.type)}: {printable(error.message)}".rstrip(": ")


async def portray(connection: Connection, view: MessageView) -> Portrait:
    """Look at all that is known of a job."""
    from trepid.errors import EnvelopeError, UnsupportedError
    from trepid.ports.messages import Ending
    from trepid.ports.records import Read
    from trepid.values import envelope
    from trepid.values.notes import Note, Saved, load, note_key, state_key

    try:
        sealed = envelope.unseal(view.payload)
    except EnvelopeError:
        sealed = None
    try:
        reads = [Read(note_key(view.queue, view.id)), Read(state_key(view.queue, view.id))]
        kept = await connection.session.records.carry_out(reads)
    except UnsupportedError:
        kept = [None, None]
    note, saved = load(Note, kept[0]), load(Saved, kept[1])
    ending = await connection.session.result(view.queue, view.id)
    return Portrait(
        view,
        note if note is not None and note.is_of(view.enqueued) else None,
        bytes(saved.state) if saved is not None and saved.is_of(view.enqueued) else None,
        ending.result if isinstance(ending, Ending) else None,
        sealed,
    )


def amount(done: float, total: float | None) -> str:
    """Return how much is done, as people read it."""
    return f"{done:g}" if total is None else f"{done:g} of {total:g}"


def _progress(note: Note) -> dict[str, Any]:
    return {"done": note.done, "total": note.total, "message": note.message, "attempt": note.attempt}


def _shown(value: Any) -> str:
    import msgspec

    return printable(msgspec.json.encode(value).decode())
