"""Waiting for many jobs: a bar for each on a terminal, and lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from trepid.cli.ink import ink_for, printable
from trepid.cli.portraits import Found, amount
from trepid.cli.tables import plural

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from trepid.connection import Connection, Ended, Progressed
    from trepid.ports.messages import Ending
    from trepid.rules.life import State

BARS: Final = 20
"""More jobs than these are only counted: to watch one costs some calls a second."""

_LONG_POLL: Final = 3600.0
_STYLES: Final = {"done": "good", "dead": "bad", "cancelled": "warn", "gone": "warn"}


@attrs.frozen
class Outcome:
    """How a job has ended: its state, or ``gone``; what it returned; or why it did not."""

    job: Found
    state: str
    result: Any = None
    error: str = ""

    @property
    def line(self) -> str:
        """One line about it."""
        ink = ink_for(sys.stdout)
        said = f"  {printable(self.error)}" if self.error else ""
        return f"{ink(self.job.id, 'bold')}  {ink(self.state, _STYLES[self.state])}{said}"

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        return {
            "id": self.job.id,
            "queue": self.job.queue,
            "state": self.state,
            "result": self.result,
            "error": self.error or None,
        }


class Board(Protocol):
    """Where it is shown how far things are."""

    def progressed(self, job: Found, update: Progressed) -> None:
        """A job has told how far it is."""

    def ended(self, outcome: Outcome) -> None:
        """A job has ended."""


class Lines:
    """Lines, for who is no terminal: ends on stdout unless JSON will follow there, progress on stderr."""

    def __init__(self, *, ends: bool) -> None:
        self._ends = ends
        self._told: dict[str, int] = {}

    def progressed(self, job: Found, update: Progressed) -> None:
        """Tell each tenth of the way once; without a total, tell everything."""
        tenth = -1 if update.fraction is None else int(update.fraction * 10)
        if tenth < 0 or self._told.get(job.id) != tenth:
            self._told[job.id] = tenth
            line = f"{job.id}  {amount(update.done, update.total)}  {printable(update.message)}".rstrip()
            print(line, file=sys.stderr, flush=True)

    def ended(self, outcome: Outcome) -> None:
        """Tell it."""
        if self._ends:
            print(outcome.line, flush=True)


class Bars:
    """Bars of rich, on stderr: one for each job if they are few, and one for all of them."""

    def __init__(self, progress: Progress, jobs: Sequence[Found]) -> None:
        self._progress = progress
        self._all = progress.add_task(plural(len(jobs), "job"), total=len(jobs), said="")
        few = jobs if len(jobs) <= BARS else []
        self._bars: dict[Found, TaskID] = {job: progress.add_task(job.id, total=None, said="") for job in few}

    def progressed(self, job: Found, update: Progressed) -> None:
        """Draw it."""
        if job in self._bars:
            self._progress.update(
                self._bars[job], completed=update.done, total=update.total, said=printable(update.message)
            )

    def ended(self, outcome: Outcome) -> None:
        """Draw it."""
        self._progress.advance(self._all)
        if outcome.job in self._bars:
            bar = self._bars[outcome.job]
            if outcome.state == "done":
                self._progress.update(bar, completed=1, total=1)
            self._progress.update(bar, said=outcome.state)


@contextmanager
def board(jobs: Sequence[Found], *, as_json: bool) -> Generator[Board]:
    """Show how far jobs are while the block runs."""
    if not sys.stderr.isatty():
        yield Lines(ends=not as_json)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    # Ids and messages are anybody's: they are no markup.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    said = TextColumn("{task.fields[said]}", markup=False)
    with Progress(*columns, said, console=Console(stderr=True)) as progress:
        yield Bars(progress, jobs)


async def wait_for(
    connection: Connection, jobs: Sequence[Found], note: Callable[[Outcome], None], shown: Board
) -> None:
    """Wait for jobs to end, and note how they have, in the order in which they do."""
    import trio

    await trio.lowlevel.checkpoint()
    async with trio.open_nursery() as nursery:
        if len(jobs) <= BARS:
            for job in jobs:
                nursery.start_soon(_watch, connection, job, shown, note)
        else:
            for queue in dict.fromkeys(job.queue for job in jobs):
                of_queue = {job.id: job for job in jobs if job.queue == queue}
                nursery.start_soon(_await_all, connection, queue, of_queue, note)


async def _watch(connection: Connection, job: Found, shown: Board, note: Callable[[Outcome], None]) -> None:
    import trio

    from trepid.connection import Ended, Progressed
    from trepid.errors import JobGoneError

    await trio.lowlevel.checkpoint()

    try:
        async for update in connection.handle(job.id, queue=job.queue).watch():
            if isinstance(update, Progressed):
                shown.progressed(job, update)
            elif isinstance(update, Ended):
                note(_of_update(job, update))
    except JobGoneError:
        note(Outcome(job, "gone"))


async def _await_all(
    connection: Connection, queue: str, jobs: dict[str, Found], note: Callable[[Outcome], None]
) -> None:
    import trio

    from trepid.ports.messages import Ending

    await trio.lowlevel.checkpoint()
    left = dict(jobs)
    while left:
        for id, ending in (await connection.session.endings(queue, list(left), wait=_LONG_POLL)).items():
            job = left.pop(id)
            note(_of_ending(job, ending) if isinstance(ending, Ending) else Outcome(job, "gone"))


def _of_update(job: Found, update: Ended[Any]) -> Outcome:
    return _outcome(job, update.state, lambda: update.result)


def _of_ending(job: Found, ending: Ending) -> Outcome:
    from trepid.connection.ends import value_of
    from trepid.values import codec

    return _outcome(job, ending.state, lambda: value_of(job.id, ending, codec.decode))


def _outcome(job: Found, state: State, result: Callable[[], Any]) -> Outcome:
    from trepid.errors import TrepidError

    try:
        return Outcome(job, str(state), result())
    except TrepidError as exc:
        return Outcome(job, str(state), error=str(exc).splitlines()[0])
