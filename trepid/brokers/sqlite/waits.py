"""The calls that wait: they look, and look again when there is news, or when time alone may have changed something."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol, TypeVar, final

import trio
from typing_extensions import TypeVarTuple

from trepid.brokers.sql.news import ASKED, ENDED_SOMETHING, RECORDED, WORK
from trepid.brokers.sql.waiting import Waiting
from trepid.brokers.sqlite import endings, leasing, looking, records
from trepid.brokers.sqlite.looking import Reading
from trepid.brokers.sqlite.passing import Wish
from trepid.brokers.sqlite.transaction import Transaction
from trepid.ports.messages import Absent, Delivery, Ending, Ref
from trepid.ports.records import Read

Tx_co = TypeVar("Tx_co", covariant=True)
R = TypeVar("R")
Args = TypeVarTuple("Args")

_LONGEST_SLEEP: Final = 1.0
"""Seconds after which a moment is looked at again: the broker's clock may run ahead of Trio's."""

_PAUSE_PER_NAME: Final = 0.00002
_LONGEST_PAUSE: Final = 0.05


class Run(Protocol[Tx_co]):
    """Runs a function in a transaction of one of the session's threads."""

    async def __call__(self, function: Callable[[Tx_co, *Args], R], *args: *Args) -> R:
        """Return what it returns."""
        ...


@final
class Waits:
    """The waiting calls of one session.

    Args:
      write, read: run a function in the thread that writes, or in the one that reads.
      waiting: where the session's tasks wait for news.
    """

    def __init__(self, write: Run[Transaction], read: Run[Reading], waiting: Waiting) -> None:
        self._write = write
        self._read = read
        self._waiting = waiting

    async def lease(self, wish: Wish, wait: float) -> list[Delivery]:
        """Lease messages, waiting for a first one."""
        give_up = trio.current_time() + wait
        while True:
            seen = self._waiting.count(WORK)
            wish.renew()
            claim = await self._claim(wish)
            # Where there are very many gates, others have their turn between two looks.
            while claim.unfinished:
                claim = await self._claim(wish)
            # From here to the return there is no checkpoint: what was leased is handed over.
            if claim.deliveries or trio.current_time() >= give_up:
                return claim.deliveries
            await self._waiting.more(WORK, seen, min(give_up, _alarm(claim.wait)))

    async def _claim(self, wish: Wish) -> leasing.Claim:
        # Counted from before it is asked for, so that it never ends later here than there.
        deadline = trio.current_time() + wish.lease_for
        return await self._write(leasing.lease, wish, deadline)

    async def result(self, queue: str, id: str, wait: float) -> Ending | Absent:
        """Return how a message ended, waiting for its end."""
        give_up = trio.current_time() + wait
        while True:
            seen = self._waiting.count(ENDED_SOMETHING)
            found = await self._read(endings.result, queue, id)
            if found.ending is not Absent.PENDING or trio.current_time() >= give_up:
                return found.ending
            await self._waiting.more(ENDED_SOMETHING, seen, min(give_up, _alarm(found.wait)))

    async def endings(self, queue: str, ids: Sequence[str], wait: float) -> dict[str, Ending | Absent]:
        """Return how some messages ended, waiting for a first end."""
        give_up = trio.current_time() + wait
        while True:
            seen = self._waiting.count(ENDED_SOMETHING)
            found = await self._read(endings.results, queue, ids)
            if found.endings or trio.current_time() >= give_up:
                return found.endings
            # A look at a thousand names takes milliseconds: in a busy broker, it is not taken at every commit.
            await trio.sleep(min(_PAUSE_PER_NAME * len(ids), _LONGEST_PAUSE, give_up - trio.current_time()))
            await self._waiting.more(ENDED_SOMETHING, seen, min(give_up, _alarm(found.wait)))

    async def asked(self, owner: str, known: Collection[Ref], wait: float) -> list[tuple[Ref, str]]:
        """Return requests to cancel, waiting for a first one."""
        give_up = trio.current_time() + wait
        while True:
            seen = self._waiting.count(ASKED)
            asked = [found for found in await self._read(looking.asked, owner) if found[0] not in known]
            if asked or trio.current_time() >= give_up:
                return asked
            await self._waiting.more(ASKED, seen, give_up)

    async def record(self, key: str, known: bytes | None, wait: float) -> bytes | None:
        """Return the value under a key of the records, waiting until it is another than *known*."""
        give_up = trio.current_time() + wait
        while True:
            seen = self._waiting.count(RECORDED)
            [value] = await self._read(records.look_up, [Read(key)])
            if value != known or trio.current_time() >= give_up:
                return value
            # It may also expire, of which nobody tells.
            await self._waiting.more(RECORDED, seen, min(give_up, _alarm(_LONGEST_SLEEP)))


def _alarm(wait: float | None) -> float:
    """Return the moment on Trio's clock to look again, where time may change something after *wait* seconds."""
    if wait is None:
        return float("inf")
    return trio.current_time() + min(max(wait, 0.001), _LONGEST_SLEEP)
