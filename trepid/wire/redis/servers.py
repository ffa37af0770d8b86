"""What an engine asks of Redis, whether it is one server, one that sentinels find, or a cluster; and the first two."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, final

from trepid.wire.redis.address import RedisAddress
from trepid.wire.redis.connection import RedisConnection, kept, open_connection
from trepid.wire.redis.sentinel import find_primary
from trepid.wire.redis.speech import Word
from trepid.wire.supervision import Supervisor, open_supervised


class News(Protocol):
    """Who is told what comes without being asked for."""

    def heard(self, channel: str, said: str) -> None:
        """Something was said in a channel."""
        ...

    def missed(self) -> None:
        """A connection was lost: something may have been said meanwhile."""
        ...


class Servers(Protocol):
    """One Redis, or several that are one."""

    @property
    def clustered(self) -> bool:
        """Whether keys with different tags are on different servers."""
        ...

    @property
    def connected(self) -> bool:
        """Whether there is a connection at present."""
        ...

    @property
    def about(self) -> dict[str, str]:
        """What a server says of itself."""
        ...

    async def call(self, key: str, *words: Word, through: float = 0.0) -> Any:
        """Send a command about a key to the server that has it; see :meth:`RedisConnection.call`."""
        ...

    async def listen(self, channel: str) -> None:
        """Be told what is said in a channel from now on, until the connection is lost."""
        ...


@final
class Single:
    """One server, for as long as somebody wants it: a lost connection is made again."""

    def __init__(self, supervisor: Supervisor[RedisConnection]) -> None:
        self._supervisor = supervisor
        self._about: dict[str, str] = {}

    @property
    def clustered(self) -> bool:
        """No."""
        return False

    @property
    def connected(self) -> bool:
        """Whether there is a connection at present."""
        current = self._supervisor.current
        return current is not None and not current.lost

    @property
    def about(self) -> dict[str, str]:
        """What the server said of itself at the last connection."""
        current = self._supervisor.current
        if current is not None:
            self._about = current.about
        return self._about

    async def call(self, key: str, *words: Word, through: float = 0.0) -> Any:  # noqa: ARG002 - one server has all keys
        """Send a command; see :meth:`RedisConnection.call`."""
        connection = await kept(self._supervisor)
        return await connection.call(*words, through=through)

    async def listen(self, channel: str) -> None:  # noqa: ASYNC910 - on the way to a question that is a checkpoint
        """Be told what is said in a channel from now on."""
        connection = await kept(self._supervisor)
        connection.listen(channel)


@asynccontextmanager
async def open_single(address: RedisAddress, news: News) -> AsyncGenerator[Single, None]:
    """Connect to one server, found by sentinels if the address says so.

    Raises:
      BrokerLostError, BrokerRefusedError: if the first attempt fails.
    """

    @asynccontextmanager
    async def dial() -> AsyncGenerator[RedisConnection, None]:
        endpoint = await find_primary(address) if address.kind == "sentinel" else address.endpoint()
        try:
            async with open_connection(address, endpoint, told(news)) as connection:
                yield connection
        finally:
            news.missed()

    async with open_supervised(dial) as supervisor:
        yield Single(supervisor)


def told(news: News) -> Callable[[bytes, bytes], None]:
    """Return what a connection calls with messages."""

    def tell(channel: bytes, said: bytes) -> None:
        news.heard(channel.decode("utf-8", "replace"), said.decode("utf-8", "replace"))

    return tell
