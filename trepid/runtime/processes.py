"""Functions in processes, through trio-parallel (the extra ``process``).

Pickles travel between this process and its children only: what a child runs and what it is given come from the router
and from arguments that have been read as JSON, never from a broker's bytes.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final

import attrs
import trio

from trepid.errors import ProcessCallError, ProcessDiedError, UnsupportedError
from trepid.runtime.places import Place
from trepid.runtime.telling import logger

IDLE: Final = 60.0
"""After how many idle seconds a process ends."""

END_WITHIN: Final = 5.0
"""How many seconds idle processes get to end when the worker run ends; then they are killed."""


@attrs.frozen(eq=False)
class Processes:
    """The worker processes of one run, started when they are first needed."""

    limiter: trio.CapacityLimiter
    _context: Any
    _broken: type[Exception]

    async def call(self, fn: Callable[[], Any], place: Place) -> object:
        """Call *fn* in a process, and return what it returns.  The place is given back when that has ended.

        What *fn* raises comes out as it is; its cause is the child's traceback as text.

        Raises:
          ProcessDiedError: if the process died under it.
          ProcessCallError: if *fn* or its outcome cannot travel between processes, or *fn* raised a BaseException
            such as SystemExit, which is the child's own affair.

        Cancellation: the process is killed, and the next call gets a new one.  Cancelled before it has begun, the place
        still belongs to the caller.
        """
        borrower = object()  # middleware may call twice at once
        await place.acquire_on_behalf_of(borrower)
        try:
            told = await self._tell(fn)
        finally:
            place.release_on_behalf_of(borrower)
        if isinstance(told, _Raised):
            raise told.error from _ChildTraceback(told.traceback)
        return told.value

    async def _tell(self, fn: Callable[[], Any]) -> _Returned | _Raised:
        try:
            return await self._send(fn)
        except ProcessDiedError as exc:
            # Children ignore Ctrl-C once they have started.  One that dies of it all the same had run nothing; only a
            # function that restores and then sends the signal would do it again.
            if exc.exit_code != -signal.SIGINT:
                raise
        return await self._send(fn)

    async def _send(self, fn: Callable[[], Any]) -> _Returned | _Raised:
        try:
            # The place bounds the number of processes, so trio-parallel need not.
            told: _Returned | _Raised = await self._context.run_sync(
                _attempt, fn, kill_on_cancel=True, limiter=nullcontext()
            )
        except self._broken as exc:
            # The last argument is the multiprocessing.Process, if anything is known of it.
            raise ProcessDiedError(getattr(exc.args[-1], "exitcode", None)) from exc
        except Exception as exc:
            # Whatever the function itself raises has been caught in the child.
            raise ProcessCallError(
                f"{_name(fn)} cannot be called in a process, or its result cannot be sent back: "
                f"{type(exc).__name__}: {exc} (functions must be importable, arguments and results picklable)"
            ) from exc
        return told


@asynccontextmanager
async def open_processes(limit: int, *, idle: float = IDLE) -> AsyncGenerator[Processes, None]:
    """Open a private set of at most *limit* processes.

    Args:
      limit: how many of them may run at once.
      idle: seconds after which a process without work ends.

    Raises:
      UnsupportedError: if trio-parallel is not installed.

    Cancellation: calls that are cancelled have killed their processes; leaving the block ends the idle ones, and kills
    those that do not end within 5 seconds.
    """
    try:
        import trio_parallel
    except ImportError as exc:
        raise UnsupportedError(
            "actors with run_in='process'", "this installation", 'pip install "trepid[process]"'
        ) from exc
    opened = trio_parallel.open_worker_context(idle_timeout=idle, grace_period=END_WITHIN, init=_hear_signals)
    context = await opened.__aenter__()
    _start_deaf(context)
    try:
        yield Processes(trio.CapacityLimiter(limit), context, trio_parallel.BrokenWorkerError)
    finally:
        # By hand, so that an idle process that ended badly does not replace what the block itself has raised.
        try:
            await opened.__aexit__(None, None, None)
        except trio_parallel.BrokenWorkerError as exc:
            logger.warning("not all idle processes ended well: %s", exc)


def _start_deaf(context: Any) -> None:
    """Let the processes of *context* start with SIGINT blocked.

    A terminal sends Ctrl-C to children, too.  trio-parallel lets them ignore it, but only after they have imported the
    main module, which may take seconds; until then each of them would die with a traceback.
    """
    # trio-parallel has no public way to this: if it is changed, Ctrl-C is noisy again, and that is all.
    make = getattr(context, "_worker_class", None)
    if make is None or not hasattr(signal, "pthread_sigmask"):
        return

    def make_deaf(*args: Any) -> Any:
        made = make(*args)
        made.proc._Popen = _popen_deaf
        return made

    vars(context)["_worker_class"] = make_deaf


def _popen_deaf(process: Any) -> Any:
    """Start a process from a thread that blocks SIGINT: the child inherits that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return type(process)._Popen(process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ------------------------------------------------------------------------------------------------- in the child


def _hear_signals() -> None:
    """Unblock SIGINT, which is being ignored by now: for programs that a job starts, and that want to hear it."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@attrs.frozen
class _Returned:
    value: object


@attrs.frozen
class _Raised:
    error: BaseException
    traceback: str


class _ChildTraceback(Exception):  # noqa: N818 - the cause of an error, not one itself
    """Where in the child an exception was raised: as text, since frames cannot travel."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def _attempt(fn: Callable[[], Any]) -> _Returned | _Raised:
    """Call *fn* and tell its end.  Runs in the child."""
    try:
        return _Returned(fn())
    except BaseException as exc:  # noqa: BLE001 - told to the parent; no Trio here
        # Without the frame of this function, which tells nobody anything.
        error = exc.with_traceback(exc.__traceback__ and exc.__traceback__.tb_next)
        text = "".join(traceback.format_exception(error))
        # The text has it all; what was caught on the way may hold anything, and need not travel.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        told = error if isinstance(error, Exception) and _can_travel(error) else _in_words(error)
        return _Raised(told, text)


def _can_travel(error: Exception) -> bool:
    """Tell whether an exception survives the way to the parent."""
    if _survives(error):
        return True
    # It may have an `__init__` that pickle does not know how to call; tblib (trio-parallel needs it, too) does without.
    from tblib.pickling_support import install  # type: ignore[import-untyped]

    install(error)
    return _survives(error)


def _survives(error: Exception) -> bool:
    from multiprocessing import reduction

    pickler: Any = reduction.ForkingPickler
    try:
        arrived = pickler.loads(pickler.dumps(error))
    except Exception:  # noqa: BLE001 - pickling runs the exception's own code
        return False
    return type(arrived) is type(error) and str(arrived) == str(error)


def _in_words(error: BaseException) -> ProcessCallError:
    """Describe an exception that cannot leave the child, or must not."""
    kind = type(error)
    why = "it cannot be sent back from the process" if isinstance(error, Exception) else "it ends only the call"
    return ProcessCallError(f"{kind.__module__}.{kind.__qualname__}: {error} ({why})")


def _name(fn: Any) -> str:
    inner = getattr(fn, "func", fn)
    return f"{getattr(inner, '__module__', '?')}.{getattr(inner, '__qualname__', inner)}"
