"""The broker that is two engines."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import final

import attrs

from trepid.brokers.assisted.session import AssistedSession
from trepid.errors import UnsupportedError
from trepid.ports.broker import Broker, Session


@final
@attrs.frozen(eq=False)
class AssistedBroker(Broker):
    """An engine without results, and a second one that keeps for it what it lacks.

    All programs on the main engine must open it with the same second one, and no other main engine may share that.

    Args:
      main: where the messages are.
      second: what keeps results, unique keys and requests to cancel.
    """

    main: Broker
    second: Broker

    def __str__(self) -> str:
        return f"{self.main} with {self.second}"

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Session]:
        """Open both engines.

        Raises:
          UnsupportedError: if the main one needs no help, or the second one cannot give it.
        """
        async with self.main.open() as main, self.second.open() as second:
            can = main.capabilities
            if can.results != "none" and can.unique and can.cancel_waiting and can.cancel_running:
                raise UnsupportedError("a second engine for results", can.engine, "it keeps its results itself")
            if not second.capabilities.records:
                raise UnsupportedError(
                    "keeping results for another engine", second.capabilities.engine, "see the capability `records`"
                )
            yield AssistedSession(main, second)
