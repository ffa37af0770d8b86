"""Waiting for what becomes of deeds: some changes are told, and the others must be looked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import trio

from trepid.brokers.assisted.held import Held
from trepid.brokers.assisted.looking import ending
from trepid.brokers.assisted.register import Register, bell_key, deed_key
from trepid.ports.messages import Absent, Ending, Ref
from trepid.ports.records import Read
from trepid.rules.life import LEASED

_AT_ONCE: Final = 100
"""So many deeds are looked at in one call; each may have a result of 1 MiB."""


async def result(register: Register, held: Held, queue: str, id: str, wait: float) -> Ending | Absent:
    """Return how a message ended, waiting for its end."""
    give_up, looks = trio.current_time() + wait, 0
    while True:
        entry = (await register.look([(queue, id)]))[queue, id]
        found = ending(entry.deed, entry.now)
        if found is not Absent.PENDING or trio.current_time() >= give_up:
            return found
        await _news(register, held, looks, give_up, (deed_key((queue, id)), entry.kept))
        looks += 1


async def endings(
    register: Register, held: Held, queue: str, ids: Sequence[str], wait: float
) -> dict[str, Ending | Absent]:
    """Return how those messages ended that have, waiting for a first one; they are looked at many at a time."""
    await trio.lowlevel.checkpoint()
    give_up, looks = trio.current_time() + wait, 0
    while True:
        found: dict[str, Ending | Absent] = {}
        for start in range(0, len(ids), _AT_ONCE):
            entries = await register.look((queue, id) for id in ids[start : start + _AT_ONCE])
            ends = {id: ending(entry.deed, entry.now) for (_, id), entry in entries.items()}
            found |= {id: end for id, end in ends.items() if end is not Absent.PENDING}
        if found or trio.current_time() >= give_up:
            return found
        await held.news(looks, give_up)
        looks += 1


async def asked(
    register: Register, held: Held, owner: str, known: Collection[Ref], wait: float
) -> list[tuple[Ref, str]]:
    """Return the leases of a worker that somebody asked to stop, waiting for a first one."""
    give_up, looks = trio.current_time() + wait, 0
    bell = bell_key(owner)
    while True:
        [rung] = await register.carry_out([Read(bell)])
        refs = list(held.of(owner))
        found = await register.read((ref.queue, ref.id) for ref in refs) if refs else {}
        deeds = [(ref, found[ref.queue, ref.id].stored) for ref in refs]
        asked = [
            (ref, deed.cancel)
            for ref, deed in deeds
            if deed is not None and deed.cancel is not None and deed.lease is not None
            if deed.state is LEASED and deed.lease.token == ref.token and ref not in known
        ]
        if asked or trio.current_time() >= give_up:
            await trio.lowlevel.checkpoint()
            return asked
        # Who asks rings; where the second engine cannot tell, there is a look every quarter of a second.  Nothing is
        # looked for where nothing is held.
        await _news(register, held, looks + 4 if refs else None, give_up, (bell, rung))
        looks += 1


async def _news(
    register: Register, held: Held, looks: int | None, until: float, seen: tuple[str, bytes | None]
) -> None:
    """Wait for news of this session, for a change of one record that was seen, or for the time to look again."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(register.wait_for, *seen, nursery.cancel_scope)
        await held.news(looks, until)
        nursery.cancel_scope.cancel(reason="there are news")
