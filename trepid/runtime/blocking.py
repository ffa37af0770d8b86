"""Running a worker from ordinary, blocking code."""

from __future__ import annotations

import signal
import sys

import trio

from trepid.connection import open_connection
from trepid.ports.broker import Broker
from trepid.runtime.report import Report
from trepid.runtime.worker import Worker

if sys.platform == "win32":
    TERMINATION = (signal.SIGINT, signal.SIGBREAK)
else:
    TERMINATION = (signal.SIGINT, signal.SIGTERM)
"""The signals that stop a worker which owns its process; Windows has SIGBREAK where others have SIGTERM."""


def run(worker: Worker, url_or_broker: str | Broker) -> Report:
    """Run a worker until it is stopped: the whole of a program's ``main``.

    SIGINT and SIGTERM (SIGBREAK on Windows) stop it unless the worker's ``handle_signals`` says otherwise: the first
    one softly, the second at once.

    Args:
      worker: what to run.
      url_or_broker: as for :func:`open_connection`.

    Returns:
      What it did.

    Raises:
      TypeError: if *worker* is none, such as an actor or a router.
      BrokerURLError, UnsupportedError: if the URL cannot be used.
      BrokerFileError, BrokerRefusedError, BrokerLostError: if the broker cannot be opened.
    """
    if not isinstance(worker, Worker):
        raise TypeError(f"run() takes a worker, not {worker!r}; write trepid.Worker(...)")
    if worker.handle_signals is None:
        worker = worker.options(handle_signals=TERMINATION)

    async def main() -> Report:
        async with open_connection(url_or_broker) as connection:
            return await worker.run(connection)

    # A Ctrl-C in the middle of Trio's own bookkeeping, if SIGINT is not among the signals, would break it.
    return trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)
