"""A reply that has not arrived: what a caller waits for, and a reader sets."""

from __future__ import annotations

from typing import Generic, TypeVar, final

import outcome
import trio

T = TypeVar("T")


@final
class Reply(Generic[T]):
    """One value that somebody waits for, at most once; who waits may be cancelled, and the value is dropped then."""

    __slots__ = ("_outcome", "_task", "abandoned")

    def __init__(self) -> None:
        self._outcome: outcome.Outcome[T] | None = None
        self._task: trio.lowlevel.Task | None = None
        self.abandoned = False
        """Whether who waited was cancelled: nobody will ever ask for the value."""

    @property
    def arrived(self) -> bool:
        """Whether it is there, or has failed."""
        return self._outcome is not None

    def set(self, value: T) -> None:
        """Wake who waits with the value.  What was set before stays."""
        self._arrive(outcome.Value(value))

    def fail(self, error: Exception) -> None:
        """Wake who waits with an error, which is raised there.  What was set before stays."""
        self._arrive(outcome.Error(error))

    def _arrive(self, result: outcome.Outcome[T]) -> None:
        if self._outcome is None:
            self._outcome = result
            task, self._task = self._task, None
            if task is not None:
                trio.lowlevel.reschedule(task)

    # Ctrl-C is kept out of the steps between being noted and being asleep: who left in between would be woken later.
    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> T:
        """Return the value once it is there.  Cancelled, it is dropped when it arrives."""
        if self._outcome is None:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abandon)
        else:
            await trio.lowlevel.checkpoint()
        assert self._outcome is not None
        return self._outcome.unwrap()

    def _abandon(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        self.abandoned = True
        return trio.lowlevel.Abort.SUCCEEDED
