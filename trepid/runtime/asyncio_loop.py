"""One asyncio loop of trio-asyncio, and somebody who survives its death."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import attrs
import outcome
import trio

from trepid.errors import IslandLostError
from trepid.runtime.telling import logger

# asyncio and trio-asyncio are imported by the functions that use them: a worker without asyncio actors pays for
# neither, and trio-asyncio replaces asyncio's loop getters in the whole process.
if TYPE_CHECKING:
    import asyncio

END_WITHIN: Final = 5.0
"""For how many seconds a loop that ends waits for the asyncio tasks and async generators left in it."""

_LAST_CALL: Final = 1.0
"""How long those that have swallowed a first cancellation get after a second one."""


@attrs.define(eq=False)
class GuardedLoop:
    """One asyncio loop, from its opening to its end: told to leave, or dead of something that it cannot survive.

    An error that nobody handles (of a callback, of a forgotten task) is logged, as asyncio does, although trio-asyncio
    would crash for it: otherwise one careless job could end its neighbours over and over.  What is no mere error, such
    as a SystemExit, ends this loop and the calls in it, and nothing else.
    """

    _interrupted: Callable[[KeyboardInterrupt], None]
    ready: trio.Event = attrs.field(init=False, factory=trio.Event)
    """Set once calls are possible, and also if that will never be."""
    ending: bool = attrs.field(init=False, default=False)
    _leaving: trio.Event = attrs.field(init=False, factory=trio.Event)
    _error: BaseException | None = attrs.field(init=False, default=None)
    _loop: Any = attrs.field(init=False, default=None)
    _waiting: dict[asyncio.Task[Any], Callable[[object], None]] = attrs.field(init=False, factory=dict)

    def leave(self) -> None:
        """End the loop soon."""
        self.ending = True
        self._leaving.set()

    async def run(self) -> None:
        """Keep the loop turning until it shall leave, or dies.  Raises nothing, whatever happens inside.

        Cancellation from outside is not seen: the jobs see it, end their coroutines, and then the island is closed.
        """
        import trio_asyncio

        try:
            # Bounded by the block of `open_island`, which tells every guard to leave, and by `_end_tasks`.
            with trio.CancelScope(shield=True):
                async with trio_asyncio.open_loop() as self._loop:
                    self._loop.set_exception_handler(self._unhandled)
                    self.ready.set()
                    try:
                        await self._leaving.wait()
                    finally:
                        self.ending = True
                        await self._end_tasks()
        except BaseException as exc:  # noqa: BLE001 - whatever a library did, the worker lives on
            self._crashed(exc)
        finally:
            self.ending = True
            self.ready.set()
            # Only now is it known what the loop died of.
            for task, ended in list(self._waiting.items()):
                task.remove_done_callback(ended)
                ended(task)

    async def call(self, fn: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> object:
        """See :meth:`AsyncioIsland.call`."""
        import trio_asyncio

        if self.ending:
            raise self._lost()
        context = contextvars.copy_context()
        # In the coroutine's own context only, for asyncio code that calls back into Trio.
        context.run(trio_asyncio.current_loop.set, self._loop)
        task = self._loop.create_task(_outcome_of(fn, args, kwargs), name=_name(fn), context=context)
        cancelled = await self._wait(task)
        if task.done() and not task.cancelled():
            result: outcome.Outcome[object] = task.result()
            # A value is a value, but an error may well be the coroutine's way of saying that it was cancelled.
            if self._error is not None and cancelled is None and isinstance(result, outcome.Error):
                raise self._lost() from result.error
            return result.unwrap()
        if cancelled is not None:
            cancelled()
        if self.ending:
            raise self._lost()
        raise RuntimeError("the coroutine ended with asyncio.CancelledError, but its job was not cancelled")

    # A Ctrl-C between the registering and the waiting would leave a callback that wakes this task later, elsewhere.
    @trio.lowlevel.enable_ki_protection
    async def _wait(self, task: asyncio.Task[Any]) -> Callable[[], Any] | None:
        """Wait until a task has ended or is given up; return what raises ``Cancelled``, if that was asked for."""
        waiter = trio.lowlevel.current_task()
        asked: Callable[[], Any] | None = None

        def ended(_: object) -> None:
            del self._waiting[task]
            trio.lowlevel.reschedule(waiter)

        def cancel(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal asked
            asked = raise_cancel
            # A task abandoned by a closed loop cannot hear it; `run` is about to let this call go.
            if not self._loop.is_closed():
                task.cancel()
            return trio.lowlevel.Abort.FAILED

        self._waiting[task] = ended
        task.add_done_callback(ended)
        await trio.lowlevel.wait_task_rescheduled(cancel)
        return asked

    # ------------------------------------------------------------------------------------------------ the end

    def _unhandled(self, loop: Any, context: dict[str, Any]) -> None:
        """The loop's exception handler: errors and complaints are logged as asyncio logs them; the rest is deadly."""
        import asyncio

        # Past trio-asyncio's own handler, which would crash the loop from inside, with every task in it unfinished.
        asyncio.BaseEventLoop.default_exception_handler(loop, context)
        error = context.get("exception")
        if error is not None and not isinstance(error, Exception) and not self.ending:
            self._die(error)

    def _crashed(self, crash: BaseException) -> None:
        """The loop broke from inside; find out of what."""
        errors = [error for error in _leaves(crash) if not isinstance(error, trio.Cancelled)]
        for error in errors:
            if isinstance(error, KeyboardInterrupt):
                self._interrupted(error)
        if errors and self._error is None:
            self._die(errors[0])

    def _die(self, error: BaseException) -> None:
        self._error = error
        self.leave()
        logger.error(
            "the worker's asyncio loop died of something that nobody handled; its jobs are released, "
            "and the next one opens a new loop",
            exc_info=error,
        )

    def _lost(self) -> IslandLostError:
        lost = IslandLostError(f"the asyncio loop died of {self._error!r}" if self._error else "the asyncio loop ended")
        lost.__cause__ = self._error
        return lost

    async def _end_tasks(self) -> None:
        """Cancel what is left in the loop, and wait for it: at most 6 seconds.

        trio-asyncio would do it when the loop is left, but wait for ever for what refuses to end.
        """
        import asyncio

        if self._loop.is_running():
            with trio.move_on_after(END_WITHIN, shield=True):
                await self._cancel_tasks()
                await _all_ended({self._loop.create_task(self._loop.shutdown_asyncgens())})
            with trio.move_on_after(_LAST_CALL, shield=True):
                await self._cancel_tasks(again=True)
        for task in asyncio.all_tasks(self._loop):
            logger.error("an asyncio task did not end with its loop and is abandoned: %r", task)
            # Documented for those who write tasks of their own; trio-asyncio waits for those that are registered.
            asyncio.tasks._unregister_task(task)

    async def _cancel_tasks(self, *, again: bool = False) -> None:
        """Cancel all tasks, and those that they start while they end; wait for them."""
        import asyncio

        told: set[asyncio.Task[Any]] = set()
        while tasks := asyncio.all_tasks(self._loop):
            for task in tasks - told:
                # A second cancellation would break into the cleaning up that follows the first.
                if again or not task.cancelling():
                    task.cancel()
            told |= tasks
            await _all_ended(tasks)


async def _outcome_of(
    fn: Callable[..., Coroutine[Any, Any, object]], args: list[Any], kwargs: dict[str, Any]
) -> outcome.Outcome[object]:
    """Call *fn* and capture its end: what leaves an asyncio task as a SystemExit, say, stops the whole loop."""
    import asyncio

    try:
        return outcome.Value(await fn(*args, **kwargs))
    except asyncio.CancelledError:
        raise
    except BaseException as exc:  # noqa: BLE001 - unwrapped in the job's own task
        return outcome.Error(exc)


async def _all_ended(tasks: set[asyncio.Task[Any]]) -> None:
    """Wait, in Trio, until some asyncio tasks have ended."""
    left = set(tasks)
    ended = trio.Event()

    def one_ended(task: asyncio.Task[Any]) -> None:
        left.discard(task)
        if not left:
            ended.set()

    for task in tasks:
        task.add_done_callback(one_ended)
    await ended.wait()


def _leaves(error: BaseException) -> list[BaseException]:
    """Return the exceptions in a group of groups, in order."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _name(fn: Callable[..., Any]) -> str:
    return f"job {getattr(fn, '__qualname__', fn)}"
