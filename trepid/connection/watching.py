"""Watching a job: how it moves, what it tells, and how it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, final

import attrs
import outcome
import trio
from typing_extensions import TypeVar

from trepid.connection.following import LONG_POLL, Step
from trepid.connection.patience import Patience
from trepid.connection.updates import Emitted, Ended, Progressed, StateChanged, Update
from trepid.errors import JobGoneError, UnsupportedError
from trepid.ports.broker import Session
from trepid.ports.messages import Absent, Ending, MessageView
from trepid.ports.records import Read, Records
from trepid.rules.life import DONE, ENDED
from trepid.values import codec
from trepid.values.notes import Note, Piece, load, note_key, piece_key

T = TypeVar("T", default=Any, covariant=True)

_AT_ONCE: Final = 16
"""So many emitted values are read by one call."""


@final
@attrs.define(eq=False)
class Watch(AsyncIterator[Update[T]]):
    """An async iterator over what becomes of a job; see ``handle.watch``.

    Each step is a checkpoint; cancelling one loses nothing.  One task at a time may ask for the next.
    """

    _session: Session
    _patience: Patience
    _steps: Sequence[Step]
    _conclude: Callable[[Step, Ending], outcome.Outcome[T]]
    # Waits until there is a message, and says where; None once there is one.
    _born: Callable[[], Awaitable[Sequence[Step]]] | None = None
    _records: Records | None = attrs.field(init=False)
    _updates: deque[Update[T]] = attrs.field(init=False, factory=deque)
    _over: bool = attrs.field(init=False, default=False)
    # About the step that is watched now: which it is, and what is known of it.
    _place: int = attrs.field(init=False, default=0)
    _view: MessageView | None = attrs.field(init=False, default=None)
    _end: Ending | Absent | None = attrs.field(init=False, default=None)
    _kept: bytes | None = attrs.field(init=False, default=None)
    _told: Progressed | None = attrs.field(init=False, default=None)
    _number: int = attrs.field(init=False, default=0)
    # What has been seen and not been told yet, since that takes another wait, and waits may be cancelled or fail:
    # something; that it moved; and whether its note was read after its end.
    _untold: bool = attrs.field(init=False, default=False)
    _untold_move: bool = attrs.field(init=False, default=False)
    _complete: bool = attrs.field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        try:
            self._records = self._session.records
        except UnsupportedError:
            # Then jobs can tell nothing, but they still start and end.
            self._records = None

    def __aiter__(self) -> Watch[T]:
        return self

    async def __anext__(self) -> Update[T]:
        if self._updates:
            await trio.lowlevel.checkpoint()
        elif self._over:
            raise StopAsyncIteration
        while not self._updates:
            await self._look()
        return self._updates.popleft()  # noqa: ASYNC910 - one of the two above has waited

    @property
    def _step(self) -> Step:
        return self._steps[self._place]

    async def _look(self) -> None:
        """Wait for something new, unless there is more to tell, and make updates of it."""
        await trio.lowlevel.checkpoint()
        if self._born is not None:
            self._steps, self._born = await self._born(), None
        if not self._untold:
            await self._wait()
            if not self._untold:
                return
        ended = self._end is not None or (self._view is not None and self._view.state in ENDED)
        if ended and not await self._read_end():
            return
        all_told = await self._tell_note()
        if not all_told or (ended and self._updates):
            return
        if ended:
            self._conclude_step()
        else:
            if self._untold_move and self._view is not None:
                self._updates.append(StateChanged(self._step.id, self._view.state, self._view))
            self._untold = self._untold_move = False

    # ------------------------------------------------------------------------------------------------------ waiting

    async def _wait(self) -> None:
        """Wait until there is something to tell, or another step to watch."""
        if not self._session.capabilities.peek:
            # The message itself cannot be seen: only its end, and what the job tells.
            await self._either(self._finish, self._note)
            return
        if self._view is None:
            self._view = await self._call("moved", partial(self._moved, 0.0))
            self._untold = self._untold_move = True
        else:
            await self._either(self._move, self._note)
        if self._view is None:
            self._go_on()

    async def _either(self, *waits: Callable[[], Awaitable[None]]) -> None:
        """Wait until one of several waits is over."""
        await trio.lowlevel.checkpoint()
        errors: list[Exception] = []

        async def run(wait: Callable[[], Awaitable[None]]) -> None:  # noqa: ASYNC910 - to wait is all it does
            try:
                await wait()
            except Exception as exc:  # noqa: BLE001 - raised below, bare
                errors.append(exc)
            nursery.cancel_scope.cancel(reason="something is new")

        async with trio.open_nursery() as nursery:
            for wait in waits:
                nursery.start_soon(run, wait)
        if errors:
            raise errors[0]

    async def _call(self, what: str, operation: Callable[[], Awaitable[Any]]) -> Any:
        return await self._patience.repeat(what, operation)

    async def _moved(self, wait: float) -> MessageView | None:
        return await self._session.moved(self._step.queue, self._step.id, self._view, wait=wait)

    async def _move(self) -> None:
        before = self._view
        while True:
            view = await self._call("moved", partial(self._moved, LONG_POLL))
            if view != before:
                self._view = view
                self._untold = self._untold_move = True
                return

    async def _finish(self) -> None:
        look = partial(self._session.result, self._step.queue, self._step.id, wait=LONG_POLL)
        while True:
            found: Ending | Absent = await self._call("result", look)
            if isinstance(found, Ending):
                self._end, self._untold = found, True
                return
            if found is Absent.GONE:
                self._go_on()
                return

    async def _note(self) -> None:
        if self._records is None:
            await trio.sleep_forever()
        step = self._step
        key = note_key(step.queue, step.id)
        look = partial(self._records.changed, key, self._kept, wait=LONG_POLL)
        while True:
            kept: bytes | None = await self._call("notes", look)
            if self._step is not step:
                return  # the other wait has gone on, in the same moment
            if kept != self._kept:
                self._kept, self._untold = kept, True
                return

    # ---------------------------------------------------------------------------------------------------- updates

    async def _read_end(self) -> bool:
        """Read how the step ended, and what it told last; return false if it has come back to life."""
        await trio.lowlevel.checkpoint()
        step = self._step
        if self._end is None:
            # First, and before its values are told, which may take long: it is not kept for ever.
            found = await self._call("result", partial(self._session.result, step.queue, step.id))
            if found is Absent.PENDING:
                # Dead, and requeued since: it is looked at anew.
                self._view = None
                self._untold = self._untold_move = False
                return False
            self._end = found
        if not self._complete:
            if self._records is not None:
                # What it told last was there before its end.
                read = Read(note_key(step.queue, step.id))
                [self._kept] = await self._call("notes", partial(self._records.carry_out, [read]))
            self._complete = True
        return True

    async def _tell_note(self) -> bool:
        """Make updates of what the job has told; return false if that is not all, since there is much of it."""
        await trio.lowlevel.checkpoint()
        note = load(Note, self._kept)
        if note is None or not note.is_of(None if self._view is None else self._view.enqueued):
            return True
        assert self._records is not None
        self._number = max(self._number, note.first)
        step = self._step
        if self._number < note.emitted:
            numbers = range(self._number, min(note.emitted, self._number + _AT_ONCE))
            reads = [Read(piece_key(step.queue, step.id, number)) for number in numbers]
            found = await self._call("emitted values", partial(self._records.carry_out, reads))
            pieces = [piece for piece in (load(Piece, each) for each in found) if piece is not None]
            self._updates.extend(Emitted(step.id, each.attempt, codec.decode(each.value)) for each in pieces)
            self._number = numbers.stop
            if self._number < note.emitted:
                return False
        if note.done is not None:
            told = Progressed(step.id, note.attempt, note.done, note.total, note.message)
            if told != self._told:
                self._told = told
                self._updates.append(told)
        return True

    def _conclude_step(self) -> None:
        """The step has ended: so has the chain, or the next step is watched."""
        step, ending = self._step, self._end
        if not isinstance(ending, Ending):
            self._go_on()
        elif ending.state is DONE and step is not self._steps[-1]:
            if self._view is not None:
                self._updates.append(StateChanged(step.id, DONE, self._view))
            self._go_on()
        else:
            self._updates.append(Ended(step.id, ending.state, self._conclude(step, ending)))
            self._over = True

    def _go_on(self) -> None:
        """Go on to the next step; what was watched is done, or nothing is kept of it."""
        last = self._steps[-1]
        if self._step is last:
            self._over = True
            raise JobGoneError(last.id, last.queue)
        self._place += 1
        self._view = self._end = self._kept = self._told = None
        self._number = 0
        self._untold = self._untold_move = self._complete = False
