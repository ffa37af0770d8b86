"""Scripts, sent to the server that has the keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

from trepid.brokers.redis.keys import Keys
from trepid.brokers.redis.rows import pack
from trepid.brokers.redis.scripts import Script
from trepid.wire.redis.faults import RedisError
from trepid.wire.redis.servers import Servers


@final
class Engine:
    """Runs scripts.

    Attributes:
      keys: under which keys everything is.
      servers: who is asked.
    """

    def __init__(self, servers: Servers, keys: Keys, clock: Callable[[], float] | None) -> None:
        self.servers = servers
        self.keys = keys
        self._clock = clock

    async def run(
        self, script: Script, queues: Sequence[str], *said: Any, argv: Sequence[bytes | str] = (), through: float = 0.0
    ) -> Any:
        """Run a script on some queues, which in a cluster have to be one.

        Args:
          script: which.
          queues: whose messages it is about.
          said: what it is told, packed.
          argv: what it is told as bytes.
          through: for how many seconds its answer is waited for after a cancellation.

        Raises:
          BrokerLostError, BrokerFullError, BrokerBusyError, BrokerRefusedError: as the server says.

        Cancellation: it may or may not be carried out.
        """
        keys = self.keys
        head = keys.head(queues[0] if queues else None)
        return await self.run_on(script, [head, *map(keys.meta, queues)], *said, argv=argv, through=through)

    async def run_on(
        self, script: Script, names: Sequence[str], *said: Any, argv: Sequence[bytes | str] = (), through: float = 0.0
    ) -> Any:
        """Run a script on some keys; see :meth:`run`."""
        now = None if self._clock is None else self._clock()
        told = pack((now, self.keys.clustered or None, *said))
        where = names[-1]
        if self.keys.clustered:
            names = [*names, f"{where}:whole"]
        call = self.servers.call
        try:
            return await call(where, "EVALSHA", script.digest, len(names), *names, told, *argv, through=through)
        except RedisError as exc:
            if exc.code != "NOSCRIPT":
                raise
        # The server does not know it (any more); this makes it known.
        return await call(where, "EVAL", script.source, len(names), *names, told, *argv, through=through)
