"""What sessions of databases have in common: a thread that writes, and one that reads."""

from __future__ import annotations

import os
from abc import ABC
from collections.abc import Awaitable, Callable, Collection
from typing import Generic, TypeVar

from typing_extensions import TypeVarTuple, override

from trepid.brokers.look import Look
from trepid.brokers.sql.news import ASKED
from trepid.brokers.sql.tally import Statistics
from trepid.brokers.sql.thread import OwnerThread
from trepid.brokers.sql.waiting import Waiting
from trepid.errors import UnsupportedError
from trepid.ports.broker import Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import Ref

Tx = TypeVar("Tx")
Rd = TypeVar("Rd")
R = TypeVar("R")
Args = TypeVarTuple("Args")


class SQLSession(Session, ABC, Generic[Tx, Rd]):
    """An open database, in which operations are functions of a transaction.

    Args:
      engine: what to call it.
      writer: the thread in which whatever may change something is run.
      reader: the one in which the rest is.
    """

    _waiting: Waiting
    _capabilities: Capabilities

    def __init__(self, engine: str, writer: OwnerThread[Tx], reader: OwnerThread[Rd]) -> None:
        self._engine = engine
        self._process = os.getpid()
        self._writer = writer
        self._reader = reader

    @property
    @override
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def _write(self, function: Callable[[Tx, *Args], R], *args: *Args) -> R:
        self._stay_home()
        return await self._writer.run(function, *args)

    async def _read(self, function: Callable[[Rd, *Args], R], *args: *Args) -> R:
        self._stay_home()
        return await self._reader.run(function, *args)

    def _stay_home(self) -> None:
        if os.getpid() != self._process:
            raise UnsupportedError("being used across fork()", self._engine, "open the broker in the new process")

    async def _asked(
        self, asked: Callable[[], Awaitable[list[tuple[Ref, str]]]], known: Collection[Ref], wait: float
    ) -> list[tuple[Ref, str]]:
        """Return the requests to cancel but for the known ones, waiting for a first; *asked* reads them all."""

        async def look() -> Look[list[tuple[Ref, str]]]:
            unknown = [found for found in await asked() if found[0] not in known]
            return Look(unknown, bool(unknown))

        return await self._waiting.repeat(look, ASKED, wait)

    def _counted(self, *, busy: int, rung: int) -> Statistics:
        """Return what the session has done so far, given how often others were in the way, and how often it rang."""
        tally = self._writer.tally
        return Statistics(
            tally.transactions,
            tally.requests,
            tally.largest_group,
            tally.isolated,
            busy,
            rung,
            self._reader.tally.requests,
        )
