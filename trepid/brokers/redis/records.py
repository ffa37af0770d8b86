"""Small values by key; see the port of records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

import trio
from typing_extensions import override

from trepid.brokers.redis.bells import Bells
from trepid.brokers.redis.engine import Engine
from trepid.brokers.redis.scripts import RECORD
from trepid.ports.records import Claim, Drop, Read, Records, Step, Write

_POLL: Final = 1.0
"""Seconds between looks while somebody waits."""


@final
class RedisRecords(Records):
    """The records of an open session.

    Args:
      engine: who runs scripts.
      bells: those of the session.
    """

    def __init__(self, engine: Engine, bells: Bells) -> None:
        self._engine = engine
        self._bells = bells

    @override
    async def carry_out(self, steps: Sequence[Step]) -> list[bytes | None]:
        if not steps:
            await trio.lowlevel.checkpoint()
            return []
        argv: list[bytes | str] = []

        def keep(value: bytes | str | None) -> int | None:
            if value is None:
                return None
            argv.append(value)
            return len(argv) + 1

        told: list[tuple[Any, ...]] = []
        for step in steps:
            match step:
                case Read(key):
                    told.append(("R", keep(key)))
                case Claim(key, value, ttl):
                    told.append(("C", keep(key), keep(value), None, ttl))
                case Write(key, value, ttl, instead_of):
                    told.append(("W", keep(key), keep(value), keep(instead_of), ttl))
                case Drop(key, only):
                    told.append(("D", keep(key), None, keep(only)))
        keys = self._engine.keys
        names = [keys.head(), keys.records]
        before: list[bytes | None] = await self._engine.run_on(RECORD, names, told, keys.changed, argv=argv)
        return before

    @override
    async def changed(self, key: str, known: bytes | None, *, wait: float) -> bytes | None:
        give_up = trio.current_time() + wait
        channel = self._engine.keys.changed
        with self._bells.ear(channel, about=[key]) as ear:
            while True:
                ear.forget()
                if wait > 0:
                    await self._engine.servers.listen(channel)
                [value] = await self.carry_out([Read(key)])
                if value != known or trio.current_time() >= give_up:
                    return value
                # Nobody rings when a value expires.
                await ear.wait(min(give_up, trio.current_time() + _POLL))
