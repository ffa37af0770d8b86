"""Signals, step by step: the third one ends the process, even if its event loop is stuck."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import trio

LAST_STEP = 3


@contextmanager
def counted(numbers: Sequence[int], heard: Callable[[int, signal.Signals], None]) -> Generator[None]:
    """Count the signals with these *numbers* while the block runs, inside of Trio.

    Args:
      numbers: which signals.
      heard: is called in Trio's thread with the step, 1 or 2, and the signal.  The third signal, whichever it is, ends
        the process at once with the exit code 128 + its number: no job is told, and leases expire.
    """
    token = trio.lowlevel.current_trio_token()
    steps = 0

    def handle(number: int, _frame: FrameType | None) -> None:
        # Runs between any two bytecodes of the main thread, so also while a job blocks the loop.
        nonlocal steps
        steps += 1
        if steps >= LAST_STEP:
            with suppress(OSError):
                os.write(sys.stderr.fileno(), b"third signal: ended at once; leases of running jobs will expire\n")
            os._exit(128 + number)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(heard, steps, signal.Signals(number))

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: it was set by other code than Python's, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
