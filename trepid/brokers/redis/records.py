"""Small values by key; see the port of records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import trio
from typing_extensions import override

from trepid.brokers.redis.engine import Engine
from trepid.brokers.redis.scripts import RECORD
from trepid.ports.records import Claim, Drop, Read, Records, Step, Write


@final
class RedisRecords(Records):
    """The records of an open session.

    Args:
      engine: who runs scripts.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

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
        before: list[bytes | None] = await self._engine.run_on(RECORD, [keys.head(), keys.records], told, argv=argv)
        return before
