"""What a running job tells about itself: progress, emitted values, and the state for its next attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any, Final

import attrs
import trio
from msgspec.structs import replace

from trepid.connection.patience import Patience
from trepid.errors import BrokerBusyError, BrokerFullError, BrokerLostError, LeaseLostError, UnsupportedError
from trepid.ports.broker import Session
from trepid.ports.messages import Delivery
from trepid.ports.records import Claim, Drop, Read, Records, Step, Write
from trepid.rules.life import Reply
from trepid.rules.lifecycle import DAY
from trepid.rules.terms import Terms
from trepid.values import codec
from trepid.values.notes import (
    Head,
    Note,
    Piece,
    Saved,
    checked_progress,
    dump,
    load,
    note_key,
    piece_key,
    state_key,
    written,
)

logger = logging.getLogger("trepid.worker")

INTERVAL: Final = 0.1
"""Seconds between two writes of a job's progress."""

_STATE_KEPT: Final = 30 * DAY
_READ_AT_LEAST: Final = 60.0
"""Seconds for which whoever watches a job can still read what it said, even if nothing is kept of it."""

_ENDLESS: Final = Patience()
"""The worker itself never gives its broker up; what ends the waiting is the job's scope, or the end of its lease."""

_WHAT: Final = "a note of a job"
_TROUBLE: Final = (BrokerLostError, BrokerBusyError, BrokerFullError)


@attrs.define(eq=False)
class _Slip:
    """One record that the attempts of a job write, one after the other.

    Attributes:
      known: what is there, as far as is known.
    """

    key: str
    ttl: float
    known: bytes | None = None

    def step(self, data: bytes) -> Step:
        """Return the step that writes *data* in the place of what is known to be there."""
        if self.known is None:
            return Claim(self.key, data, self.ttl)
        return Write(self.key, data, self.ttl, self.known)


@attrs.define(eq=False)
class Notes:
    """What one attempt of a job writes about itself.

    All writes are exchanges.  Who finds what he does not know, of another lease, asks the broker whether his own still
    stands, and otherwise leaves it alone: only the broker knows which of two leases is the later one.
    """

    _session: Session
    _delivery: Delivery
    _terms: Terms
    _remind: Callable[[Notes, float], None]
    state: Any = attrs.field(init=False, default=None)
    """What an earlier attempt has saved."""
    pending: bool = attrs.field(init=False, default=False)
    """Whether there is progress that has not been written."""
    _note: Note = attrs.field(init=False)
    _slip: _Slip = attrs.field(init=False)
    _saved: _Slip = attrs.field(init=False)
    _writing: trio.Lock = attrs.field(init=False, factory=trio.Lock)
    _saving: trio.Lock = attrs.field(init=False, factory=trio.Lock)
    _next: float = attrs.field(init=False, default=-inf)

    def __attrs_post_init__(self) -> None:
        of = self._delivery
        self._note = Note(of.enqueued, of.token, of.failures + 1)
        self._slip = _Slip(note_key(of.queue, of.id), self._terms.keep + self._terms.timeout + _READ_AT_LEAST)
        self._saved = _Slip(state_key(of.queue, of.id), _STATE_KEPT)

    # --------------------------------------------------------------------------------------------------- progress

    async def progress(self, done: float, total: float | None, message: str) -> None:
        """Tell how far the job is; see :meth:`Context.progress`."""
        amounts = checked_progress(done, total, message)
        self._records("progress of jobs")
        self._note = replace(self._note, done=amounts[0], total=amounts[1], message=amounts[2])
        self.pending = True
        if trio.current_time() < self._next or self._writing.locked():
            self._remind(self, self._next)
            await trio.lowlevel.checkpoint()
        else:
            await self.flush()

    async def flush(self) -> None:
        """Write what is pending.  What the broker cannot take now, or not in time, is tried again a little later.

        Raises:
          LeaseLostError: if a later lease has written something.
        """
        async with self._writing:
            if not self.pending:
                return
            self._next = trio.current_time() + INTERVAL
            self.pending = False
            try:
                await self._exchange(self._slip, lambda: dump(self._note), Patience(waits=False))
            except _TROUBLE:
                self.pending = True
                self._remind(self, self._next)
            except trio.Cancelled:
                self.pending = True
                self._remind(self, self._next)
                raise

    # ------------------------------------------------------------------------------------------------------ values

    async def emit(self, value: object) -> None:
        """Hand a value to whoever watches the job; see :meth:`Context.emit`."""
        of = self._delivery
        data = dump(Piece(self._note.attempt, written(value)))
        records = self._records("emitted values")
        async with self._writing:
            if self._slip.known is None:
                [found] = await _patiently(records, [Read(self._slip.key)])
                await self._adopt(self._slip, found)
            while True:
                number = self._note.emitted
                claim = Claim(piece_key(of.queue, of.id, number), data, self._slip.ttl)
                # A number that is taken, by somebody who did not live to tell, is told of as well.
                self._note = replace(self._note, emitted=number + 1)
                [before] = await _patiently(records, [claim])
                if before is None or before == data:
                    break
            waited, self.pending = self.pending, False
            try:
                await self._exchange(self._slip, lambda: dump(self._note), _ENDLESS)
            except BaseException:
                self.pending = waited  # progress that rode along is still to be told
                raise

    # ------------------------------------------------------------------------------------------------------- state

    async def save(self, value: object) -> None:
        """Keep a value for the next attempt; see :meth:`Context.checkpoint_state`."""
        data = dump(Saved(self._delivery.enqueued, self._delivery.token, written(value)))
        self._records("saved state")
        async with self._saving:
            await self._exchange(self._saved, lambda: data, _ENDLESS)

    async def load(self) -> None:
        """Read what an earlier attempt has saved."""
        try:
            records = self._session.records
        except UnsupportedError:
            await trio.lowlevel.checkpoint()
            return
        [found] = await _patiently(records, [Read(self._saved.key)])
        saved = load(Saved, found)
        self._saved.known = found
        if saved is not None and saved.is_of(self._delivery.enqueued):
            self.state = codec.decode(saved.state)

    @property
    def obsolete(self) -> Drop | None:
        """The step that removes the saved state, once the job has ended and nobody will ask for it."""
        known = self._saved.known
        return None if known is None else Drop(self._saved.key, known)

    # ---------------------------------------------------------------------------------------------------- records

    def _records(self, feature: str) -> Records:
        try:
            return self._session.records
        except UnsupportedError as exc:
            hint = "a second engine can keep it: open_connection(..., results=...)"
            raise UnsupportedError(feature, self._session.capabilities.engine, hint) from exc

    async def _exchange(self, slip: _Slip, make: Callable[[], bytes], patience: Patience) -> None:
        """Write a record, as long as no later lease has done so."""
        records = self._session.records
        while True:
            data = make()
            [found] = await patience.repeat(_WHAT, partial(records.carry_out, [slip.step(data)]))
            if found == slip.known:
                slip.known = data
                return
            await self._adopt(slip, found, patience)

    async def _adopt(self, slip: _Slip, found: bytes | None, patience: Patience = _ENDLESS) -> None:
        """Learn what is there: of an earlier lease, or our own by a call whose reply was lost."""
        head = load(Head, found)
        if head is not None and head.lease != self._delivery.token:
            # No lease is ever shortened, so this only asks.
            ask = partial(self._session.extend, [self._delivery.ref], 0.001)
            [extension] = await patience.repeat(_WHAT, ask)
            if extension.reply is not Reply.APPLIED:
                raise LeaseLostError(self._delivery.id, str(extension.reply))
        await trio.lowlevel.checkpoint()
        slip.known = found
        if slip is self._slip and (note := load(Note, found)) is not None:
            # Values of an earlier run are not ours; numbers go on all the same, since theirs are taken.
            first = note.first if note.is_of(self._delivery.enqueued) else note.emitted
            emitted = max(note.emitted, self._note.emitted)
            self._note = replace(self._note, first=first, emitted=emitted)


async def _patiently(records: Records, steps: Sequence[Step]) -> list[bytes | None]:
    return await _ENDLESS.repeat(_WHAT, partial(records.carry_out, steps))


@attrs.define(eq=False)
class Scribe:
    """Writes the progress that came too soon after the one before, when its time has come."""

    _patience: float
    """For how many seconds the broker may think about it; then it is tried again, and others meanwhile."""
    _times: dict[Notes, float] = attrs.field(init=False, factory=dict)
    _more: trio.Event = attrs.field(init=False, factory=trio.Event)

    def remind(self, notes: Notes, at: float) -> None:
        """Write these notes at a moment on Trio's clock."""
        self._times.setdefault(notes, at)
        self._more.set()

    async def run(self) -> None:
        """Write for ever; a task of the worker's helpers."""
        while True:
            if not self._times:
                self._more = trio.Event()
                await self._more.wait()
            await trio.sleep_until(min(self._times.values()))
            now = trio.current_time()
            due = [notes for notes, at in self._times.items() if at <= now]
            for notes in due:
                del self._times[notes]
            with trio.move_on_after(self._patience):
                await write_all(due)


async def write_all(all_notes: Sequence[Notes]) -> None:
    """Write what is pending of several jobs, all at once.  What cannot be written is left out."""
    async with trio.open_nursery() as nursery:
        for notes in all_notes:
            nursery.start_soon(_write, notes)
        await trio.lowlevel.checkpoint()


async def _write(notes: Notes) -> None:
    await trio.lowlevel.checkpoint()
    try:
        await notes.flush()
    except LeaseLostError:
        pass  # its job will hear of that when it is told to stop
    except Exception:
        # Progress is a courtesy: whatever is wrong with it must not end a worker.
        logger.exception("progress of a job could not be written")


async def forget(session: Session, ended: Sequence[Notes], patience: float) -> None:
    """Remove the saved states of jobs that have ended.  What cannot be removed expires by itself."""
    await trio.lowlevel.checkpoint()
    steps = [step for notes in ended if (step := notes.obsolete) is not None]
    if not steps:
        return
    try:
        with trio.move_on_after(patience):
            await session.records.carry_out(steps)
    except _TROUBLE as exc:
        logger.debug("saved states were left to expire: %s", exc)
