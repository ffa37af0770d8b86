"""What several tasks publish at once travels in one request."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias, final

import trio

from trepid.brokers.redis.engine import Engine
from trepid.brokers.redis.publishing import publish
from trepid.errors import BrokerLostError, TrepidError
from trepid.ports.messages import Publication
from trepid.rules.publishing import Published
from trepid.wire.redis.faults import RedisError
from trepid.wire.reply import Reply

_MOST: Final = 1000
"""Messages in one request, unless one batch alone has more."""
_BYTES: Final = 4 << 20

_Waiting: TypeAlias = tuple[Sequence[Publication], Reply[list[Published]]]


@final
class Joiner:
    """While one request is on its way, the next one gathers.

    Who finds none on its way sends its own at once, so one who publishes alone waits for nobody.  Each batch is still
    stored as a whole, or not at all, by itself.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[_Waiting] = deque()
        self._more = trio.Event()
        self._busy = self._ended = False
        self.joined = 0
        """How many batches have travelled with others."""

    async def publish(self, batch: Sequence[Publication]) -> list[Published]:
        """Publish a batch; see the port."""
        if (self._busy or self._waiting) and not self._ended:
            reply: Reply[list[Published]] = Reply()
            self._waiting.append((batch, reply))
            return await reply.wait()
        self._busy = True
        try:
            return (await publish(self._engine, [batch]))[0]
        finally:
            self._busy = False
            if self._waiting:
                self._more.set()

    async def run(self) -> None:
        """Carry what has gathered, until cancelled."""
        try:
            while True:
                await self._more.wait()
                self._more = trio.Event()
                while self._waiting and not self._busy:
                    await self._carry(self._group())
        finally:
            self._ended = True  # last words go by themselves
            for _, reply in self._waiting:
                reply.fail(BrokerLostError("the connection was closed"))

    def _group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        count = size = 0
        while self._waiting and count < _MOST and size < _BYTES:
            batch, reply = self._waiting[0]
            if group and count + len(batch) > _MOST:
                break
            self._waiting.popleft()
            if not reply.abandoned:
                group.append((batch, reply))
                count += len(batch)
                size += sum(len(item.payload) for item in batch)
        return group

    async def _carry(self, group: list[_Waiting]) -> None:
        if not group:
            await trio.lowlevel.checkpoint()
            return
        self._busy = True
        try:
            answers = await publish(self._engine, [batch for batch, _ in group])
        except RedisError as exc:
            # One of them cannot be understood; the others shall not suffer for it.
            if len(group) == 1:
                group[0][1].fail(exc)
            for each in group if len(group) > 1 else ():
                await self._carry([each])
        except TrepidError as exc:
            for _, reply in group:
                reply.fail(copy.copy(exc))
        else:
            self.joined += len(group)
            for (_, reply), answer in zip(group, answers, strict=True):
                reply.set(answer)
        finally:
            self._busy = False
            for _, reply in group:
                reply.fail(BrokerLostError("the connection was closed"))  # unless it was answered
