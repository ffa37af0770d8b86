"""Where an actor's function runs: in Trio, in a thread, in a process, or in an asyncio loop."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

from trepid.values.parameters import Parameters


def _plain(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function whose flags tell what calling *fn* will do."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not inspect.isroutine(fn) and not inspect.isclass(fn):
        called: Callable[..., Any] = type(fn).__call__
        return called
    return fn


def place_of(
    fn: Callable[..., Any], name: str, run_in: str | None, parameters: Parameters, *, abandon_on_cancel: bool
) -> Literal["trio", "thread", "process", "asyncio"]:
    """Decide where *fn* runs, or say why it cannot."""
    plain = _plain(fn)
    if inspect.isasyncgenfunction(plain) or inspect.isgeneratorfunction(plain):
        raise TypeError(f"actor {name!r}: a generator cannot be an actor; return a list, or enqueue a job per item")
    if inspect.iscoroutinefunction(plain):
        if run_in not in (None, "asyncio"):
            raise TypeError(f"actor {name!r}: a coroutine function runs in Trio; run_in={run_in!r} is for sync ones")
        if abandon_on_cancel:
            raise TypeError(f"actor {name!r}: abandon_on_cancel is for functions that run in a thread")
        return "asyncio" if run_in == "asyncio" else "trio"
    if run_in == "process":
        if abandon_on_cancel:
            raise TypeError(f"actor {name!r}: a process is killed, never abandoned; drop abandon_on_cancel")
        if parameters.takes_context:
            raise TypeError(f"actor {name!r}: a Context cannot travel to another process; take plain arguments")
        if "<locals>" in getattr(plain, "__qualname__", "") or getattr(plain, "__name__", "") == "<lambda>":
            raise TypeError(f"actor {name!r}: a process needs a function that can be imported, not a local one")
        return "process"
    if run_in in (None, "thread"):
        return "thread"
    raise TypeError(f"actor {name!r}: a sync function runs in 'thread' or 'process', not in {run_in!r}")
