"""Forgetting messages: tickets in the main engine, by what they are; deeds by id, or all of an epoch at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from trepid.brokers.assisted.deeds import Deed, Epoch, readable, ticket_id
from trepid.brokers.assisted.register import Change, Entry, Name, Register
from trepid.errors import UnsupportedError
from trepid.ports.broker import Session
from trepid.rules.life import CANCELLED, DEAD, DONE, LEASED, READY, SCHEDULED, State

_WAITING = frozenset({READY, SCHEDULED})


async def purge(
    register: Register, main: Session, queue: str, states: Sequence[State], ids: Sequence[str] | None, *, limit: int
) -> int:
    """Forget messages in some states, and return how many.

    Raises:
      UnsupportedError: if that is more than the main engine can do, or concerns all that is done or cancelled: deeds
        cannot be listed.
    """
    wanted = set(states) - {LEASED}
    there = wanted - {DONE, CANCELLED}
    if ids is None and there != wanted:
        hint = "name them by their ids, or leave it to time"
        raise UnsupportedError("forgetting all that is done or cancelled", main.capabilities.engine, hint)
    gone = 0
    if there:
        if ids is None:
            await _renew(register, queue, there)
        gone = await main.purge(queue, list(there), await tickets(register, queue, ids), limit=limit)
        if ids is None:
            await _renew(register, queue, there)
    return gone if ids is None else max(gone, await _forget(register, queue, ids, wanted))


async def _renew(register: Register, queue: str, states: Collection[State]) -> None:
    """What waited, or was dead, until now is void; called before and after, for what is published meanwhile."""

    def renewed(epoch: Epoch) -> Epoch:
        flushed = epoch.flushed + bool(_WAITING & set(states))
        return replace(epoch, flushed=flushed, buried=epoch.buried + (DEAD in states))

    await register.renew(queue, renewed)


async def tickets(register: Register, queue: str, ids: Sequence[str] | None) -> list[str] | None:
    """Return the ids by which the main engine knows some messages."""
    if ids is None:
        return None
    entries = await register.read((queue, id) for id in ids)
    stored = {id: entry.stored for (_, id), entry in entries.items()}
    return [id if (deed := stored[id]) is None else ticket_id(id, deed.token) for id in ids]


async def _forget(register: Register, queue: str, ids: Sequence[str], states: Collection[State]) -> int:
    """Let nobody read some messages any more; that they were published is remembered for a while."""

    def forgetting(entry: Entry) -> Deed | None:
        deed = entry.deed
        if deed is None or not readable(deed, entry.now) or deed.state is LEASED:
            return None
        state = SCHEDULED if deed.state is READY and entry.now < deed.due else deed.state
        if state not in states:
            return None
        return replace(deed, state=CANCELLED, forget=entry.now, ended=entry.now, result=None)

    entries = await register.read((queue, id) for id in ids)
    changes: dict[Name, tuple[Entry, Change]] = {name: (entry, forgetting) for name, entry in entries.items()}
    changed = await register.change(changes)
    steps = [step for name, (_, new) in changed.items() if new is not None for step in register.freeing(name, new)]
    if steps:
        await register.carry_out(steps)
    return sum(new is not None for _, new in changed.values())
