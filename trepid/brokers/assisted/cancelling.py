"""Cancelling: a waiting message ends in its deed, and a running one is asked in it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from trepid.brokers.assisted.deeds import Deed, cancelled, load_holder, readable
from trepid.brokers.assisted.register import Change, Entry, Name, Register
from trepid.ports.records import Step
from trepid.rules.life import LEASED, READY, CancelReply


async def cancel(register: Register, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
    """Withdraw waiting messages, whose tickets are thrown away once they come; ask for leased ones to be stopped."""
    entries = await register.read((queue, id) for id in ids)

    def cancelling(entry: Entry) -> Deed | None:
        deed = entry.deed
        if deed is None or not deed.live:
            return None
        if deed.state is LEASED:
            return replace(deed, cancel=reason) if deed.cancel is None else None
        return cancelled(deed, entry.now, reason)

    changes: dict[Name, tuple[Entry, Change]] = {name: (entry, cancelling) for name, entry in entries.items()}
    replies: dict[Name, CancelReply] = {}
    steps: list[Step] = []
    for name, (entry, new) in (await register.change(changes)).items():
        replies[name] = _reply(entry, new)
        if new is not None and new.state is LEASED and new.lease is not None:
            steps.append(register.ring(new.lease.owner))
        if new is not None and not new.live:
            steps += register.freeing(name, new)
    if steps:
        await register.carry_out(steps)
    first: set[str] = set()
    answers: list[CancelReply] = []
    for id in ids:
        reply = replies[queue, id]
        # Named twice, the second finds it cancelled.
        again = id in first and reply is CancelReply.WITHDRAWN
        answers.append(CancelReply.FINISHED if again else reply)
        first.add(id)
    return answers


async def withdraw(register: Register, name: Name, holder: bytes, reason: str) -> bool:
    """End the message that holds a unique key, if it still waits, and return whether it did."""
    entry = (await register.read([name]))[name]
    token = load_holder(holder).token

    def withdrawing(entry: Entry) -> Deed | None:
        deed = entry.deed
        if deed is None or deed.token != token or deed.state is not READY:
            return None
        return cancelled(deed, entry.now, reason)

    return (await register.change({name: (entry, withdrawing)}))[name][1] is not None


def _reply(entry: Entry, new: Deed | None) -> CancelReply:
    deed = new if new is not None else entry.deed
    if deed is None or (new is None and not readable(deed, entry.now)):
        return CancelReply.UNKNOWN
    if deed.state is LEASED:
        return CancelReply.REQUESTED
    return CancelReply.FINISHED if new is None else CancelReply.WITHDRAWN
