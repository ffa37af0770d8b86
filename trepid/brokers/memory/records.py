"""Small values by key, in this process and on Trio's clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import TypeAlias, final

import trio
from typing_extensions import override

from trepid.ports.records import Claim, Drop, Read, Records, Step, Write

_Kept: TypeAlias = tuple[bytes, float | None]


@final
class MemoryRecords(Records):
    """The records of one memory broker.

    Args:
      now: the broker's time.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._kept: dict[str, _Kept] = {}
        # When keys expire, earliest first; entries whose value was written anew are skipped.
        self._expiries: list[tuple[float, str]] = []
        # Who waits for a key to change.
        self._bells: dict[str, trio.Event] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @override
    async def carry_out(self, steps: Sequence[Step]) -> list[bytes | None]:
        await trio.lowlevel.checkpoint()
        # No checkpoint from here on: all steps are one.
        now = self._now()
        self._sweep(now)
        return [self._carry_out(step, now) for step in steps]

    @override
    async def changed(self, key: str, known: bytes | None, *, wait: float) -> bytes | None:
        await trio.lowlevel.checkpoint()
        give_up = trio.current_time() + wait
        while True:
            now = self._now()
            self._sweep(now)
            value, until = self._kept.get(key, (None, None))
            if value != known or trio.current_time() >= give_up:
                return value
            # Time alone takes it away, and nobody else need be awake to see that.
            wake = give_up if until is None else min(give_up, trio.current_time() + until - now)
            bell = self._bells.setdefault(key, trio.Event())
            try:
                with trio.CancelScope(deadline=wake):
                    await bell.wait()
            finally:
                if not bell.statistics().tasks_waiting and self._bells.get(key) is bell:
                    del self._bells[key]

    def _carry_out(self, step: Step, now: float) -> bytes | None:
        kept = self._kept.get(step.key)
        before = None if kept is None else kept[0]
        match step:
            case Read():
                pass
            case Claim(key, value, ttl):
                if before is None:
                    self._keep(key, value, ttl, now)
            case Write(key, value, ttl, instead_of):
                if instead_of is None or instead_of == before:
                    self._keep(key, value, ttl, now)
            case Drop(key, only):
                if before is not None and (only is None or only == before):
                    del self._kept[key]
                    self._tell(key)
        return before

    def _tell(self, key: str) -> None:
        """Wake whoever waits for a key to change."""
        if (bell := self._bells.pop(key, None)) is not None:
            bell.set()

    def _keep(self, key: str, value: bytes, ttl: float | None, now: float) -> None:
        until = None if ttl is None else now + ttl
        self._kept[key] = (value, until)
        self._tell(key)
        if until is not None:
            heappush(self._expiries, (until, key))
            if len(self._expiries) > 2 * len(self._kept) + 64:
                self._expiries = [(until, key) for key, (_, until) in self._kept.items() if until is not None]
                heapify(self._expiries)

    def _sweep(self, now: float) -> None:
        while self._expiries and self._expiries[0][0] <= now:
            until, key = heappop(self._expiries)
            kept = self._kept.get(key)
            if kept is not None and kept[1] == until:
                del self._kept[key]
                self._tell(key)
