"""The server's clock, as far as a session knows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import final

from trepid.brokers.nats.jetstream import answered, last_of, look, storing
from trepid.brokers.nats.names import Names
from trepid.wire.nats.connection import NatsConnection


@final
class Clock:
    """Seconds since the epoch: this machine's clock, corrected by what the server's said when it was last asked.

    Args:
      told: says the time instead, in a test.
    """

    def __init__(self, told: Callable[[], float] | None = None) -> None:
        self._told = told
        self._ahead = 0.0
        self._latest = 0.0
        self.known = False
        """Whether the server has ever been asked."""

    def now(self) -> float:
        """Return the server's time.  It never goes back."""
        now = time.monotonic() + self._ahead if self._told is None else self._told()
        self._latest = max(self._latest, now)
        return self._latest

    async def ask(self, connection: NatsConnection, names: Names) -> None:
        """Learn the server's time from a message that it stamps.

        Raises:
          JetStreamError: if that was refused.
          NoRespondersError, BrokerLostError: if there was no answer.
        """
        before = time.monotonic()
        # Refused, it would be an older one that is found.
        answered(await connection.ask(storing(names.tick, b"", {})))
        after = time.monotonic()
        found = await look(connection, last_of(names.clock, names.tick))
        if found is not None:
            self._ahead = found.stamp / 1e9 - (before + after) / 2
            self.known = True
