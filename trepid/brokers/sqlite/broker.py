"""The broker: a value that says where the messages are."""

from __future__ import annotations

import math
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import final

import attrs
import trio

from trepid.brokers.sqlite.session import SQLiteSession
from trepid.errors import UnsupportedError
from trepid.ports.broker import Broker


@final
@attrs.frozen
class SQLiteBroker(Broker):
    """Messages in one SQLite file, which any number of processes on one machine may share.

    What is accepted survives the loss of power: the file is written with ``synchronous=FULL``.  The file is made when
    it is first opened, readable by its owner only; its directory must be there.  Beside it are SQLite's own
    ``-wal`` and ``-shm``, and a directory ``-bells`` by which sessions wake one another.  Not for network file systems.

    Args:
      path: of the file.
      clock: returns seconds since the epoch; for tests.  What it says never goes back: if it does, time stands still.
    """

    path: str = attrs.field(converter=os.fspath)
    clock: Callable[[], float] = attrs.field(default=time.time, kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.path, str):
            raise TypeError(f"path must be a string or a path, not {self.path!r}")
        if not self.path or "\0" in self.path:
            raise ValueError(f"{self.path!r} is no path of a file")

    def __str__(self) -> str:
        return f"sqlite:{self.path}"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[SQLiteSession]:
        """Open the file, with one thread that writes and one that reads.

        The session belongs to this process and this event loop.  Leaving the block, also by cancellation, ends both
        threads, which takes a few seconds at the worst.

        Raises:
          BrokerFileError: if the file is not ours, is damaged, is newer, or cannot be opened; it is left as it is.
          BrokerBusyError: if another process keeps it locked.
          UnsupportedError: under a Trio clock that jumps by itself.
        """
        if getattr(trio.lowlevel.current_clock(), "autojump_threshold", math.inf) != math.inf:
            raise UnsupportedError(
                "a clock that jumps by itself", "SQLite", "its threads take real time; test with the memory broker"
            )
        # The real path, so that all who come by some link hang their bells in one place.
        session = SQLiteSession(os.path.realpath(self.path), self.clock)
        try:
            await session.start()
            yield session
        finally:
            await session.close()
