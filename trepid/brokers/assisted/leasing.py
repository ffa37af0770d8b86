"""Leasing: tickets are leased from the main engine, and compared with their deeds before anybody runs them."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from msgspec.structs import replace

from trepid.brokers.assisted.deeds import (
    SURPLUS_WAITS,
    TICKET_FOR,
    Deed,
    Holder,
    adopted,
    cancelled,
    dump,
    leased,
    read_ticket,
)
from trepid.brokers.assisted.register import Change, Entry, Name, Register, exchange, holder_key, in_waves
from trepid.ports.broker import Session
from trepid.ports.messages import Delivery, Settlement
from trepid.ports.records import Claim
from trepid.rules.life import CANCELLED, DEAD, LEASED, READY, Reply
from trepid.rules.publishing import PublishToken
from trepid.rules.verdicts import Buried, Done, Failure, Returned, Verdict

_THROWN_AWAY = Done(None, 0.0)
_SURPLUS = Returned(SURPLUS_WAITS, "surplus", started=False)
_NO_KEY = Buried(Failure("UniqueConflictError", "another live message holds its unique key"), "unique key taken")


@attrs.frozen(eq=False)
class _Ticket:
    """A leased ticket, and the message and the publish that it names; None for what has no deed."""

    lease: Delivery
    name: Name
    token: PublishToken | None


async def admit(
    register: Register, main: Session, leases: Sequence[Delivery], owner: str, lease_for: float
) -> list[Delivery]:
    """Return the deliveries that may run, and settle the other tickets.

    A ticket is thrown away if its message was cancelled, or done by a worker that died before it could say so to the
    main engine, or if another publish has its id.  A dead message whose ticket comes was requeued.
    """
    tickets: list[_Ticket] = []
    for lease in leases:
        id, token = read_ticket(lease.id)
        tickets.append(_Ticket(lease, (lease.queue, id), token))
    ends: dict[_Ticket, Verdict] = {}
    withdrawn: dict[_Ticket, tuple[Deed, float]] = {}
    # Two tickets of one id at once: the second is looked at when the first is decided.
    for wave in in_waves((each for each in tickets if each.token is not None), lambda ticket: ticket.name):
        entries = await register.read(wave)
        changes: dict[Name, tuple[Entry, Change]] = {}
        for name, ticket in wave.items():
            if await _lacks_key(register, entries[name], ticket):
                # What was never confirmed need not be kept; dead letters are.
                ends[ticket] = _NO_KEY if _dead(entries[name]) else _THROWN_AWAY
            else:
                changes[name] = (entries[name], _taking(ticket, owner, lease_for))
        for name, (entry, new) in (await register.change(changes)).items():
            end = await _end_of(register, wave[name], entry, new)
            if end is not None:
                ends[wave[name]] = end
            deed = entry.stored if new is None else new
            if deed is not None and deed.state is CANCELLED and deed.token == wave[name].token:
                withdrawn[wave[name]] = (deed, entry.now)
    if ends:
        replies = await main.settle([Settlement(ticket.lease.ref, verdict) for ticket, verdict in ends.items()])
        gone = [ticket for ticket, reply in zip(ends, replies, strict=True) if reply is Reply.APPLIED]
        steps = [register.gone(ticket.name, *withdrawn[ticket]) for ticket in gone if ticket in withdrawn]
        if steps:
            await register.carry_out(steps)
    return [replace(each.lease, id=each.name[1]) for each in tickets if each not in ends]


def _dead(entry: Entry) -> bool:
    """Whether a message is a dead letter: its deed says so, or time has made it one."""
    return any(deed is not None and deed.state is DEAD for deed in (entry.stored, entry.deed))


async def _lacks_key(register: Register, entry: Entry, ticket: _Ticket) -> bool:
    """Whether a message cannot have its unique key, which somebody else holds by now.

    That of a dead message that was requeued, or of one whose publisher died, or was silent, before it confirmed it.
    """
    deed = entry.stored
    if deed is None or deed.token != ticket.token or deed.unique is None:
        return False
    if not _dead(entry) and not (deed.state is READY and not deed.sure):
        return False
    holder = Holder(ticket.name[1], deed.token)
    key = (ticket.name[0], deed.unique)
    (kept,) = await register.carry_out([Claim(holder_key(key), dump(holder), TICKET_FOR)])
    while kept is not None and kept != dump(holder):
        if await register.live_holder(key, kept) is not None:
            return True
        before = kept
        (kept,) = await register.carry_out([exchange(holder_key(key), holder, TICKET_FOR, before)])
        if kept == before:
            return False
    return False


def _taking(ticket: _Ticket, owner: str, lease_for: float) -> Change:
    lease, token = ticket.lease, ticket.token
    assert token is not None
    until = lease.leased + lease_for

    def take(entry: Entry) -> Deed | None:
        deed = entry.stored
        if deed is None:
            return leased(adopted(token, lease), lease, owner, until, entry.epoch)
        if deed.token != token:
            return None
        if not deed.live and deed.state is not DEAD:
            return None if deed.sealed else replace(deed, sealed=True)
        if deed.state is LEASED:
            if deed.surplus and deed.lease is not None and entry.now < deed.lease.until:
                return None
            if deed.cancel is not None:
                # Its worker fell silent, or gave it back without saying so here; nobody else shall begin.
                return replace(cancelled(deed, entry.now, deed.cancel), sealed=True)
        return leased(deed, lease, owner, until, entry.epoch)

    return take


async def _end_of(register: Register, ticket: _Ticket, entry: Entry, new: Deed | None) -> Verdict | None:
    """Return what is to become of a ticket that does not run, or None if it runs."""
    if new is not None and new.state is LEASED:
        return None
    if new is None and entry.stored is not None and entry.stored.token == ticket.token and entry.stored.live:
        return _SURPLUS
    if new is not None and new.unique is not None:
        await register.carry_out(register.freeing(ticket.name, new))
    return _THROWN_AWAY
