"""Settling: the deed first, then the ticket; and back again if the main engine says that it was too late."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from msgspec.structs import replace

from trepid.brokers.assisted.deeds import Deed, dump, kept_for, settled
from trepid.brokers.assisted.register import Change, Entry, Name, Register, deed_key, in_waves
from trepid.ports.broker import Session
from trepid.ports.messages import Ref, Settlement
from trepid.ports.records import Step, Write
from trepid.rules.life import CANCELLED, DEAD, LEASED, Reply
from trepid.rules.verdicts import Done, Returned, Verdict, Withdrawn

_OK = (Reply.APPLIED, Reply.REPEATED)
_THROWN_AWAY = Done(None, 0.0)


@attrs.define(eq=False)
class _Case:
    """One settlement on its way."""

    settlement: Settlement
    ref: Ref
    reply: Reply | None = None
    # What the main engine is told; None if it is not asked.
    told: Verdict | None = None
    before: Entry | None = None
    after: Deed | None = None

    @property
    def name(self) -> Name:
        return (self.settlement.ref.queue, self.settlement.ref.id)


async def settle(
    register: Register,
    main: Session,
    batch: Sequence[Settlement],
    ticket: Callable[[Ref, Deed | None], Ref],
) -> list[Reply]:
    """End leases with verdicts, and return the replies.

    Args:
      register: the second engine.
      main: the first.
      batch: what to settle.
      ticket: says by which lease the main engine knows a message.
    """
    entries = await register.read((each.ref.queue, each.ref.id) for each in batch)
    cases = [_Case(each, ticket(each.ref, entries[each.ref.queue, each.ref.id].stored)) for each in batch]
    for number, wave in enumerate(in_waves(cases, lambda case: case.name)):
        await _write_deeds(register, wave, await register.read(wave) if number else entries)
    told = [case for case in cases if case.told is not None]
    tickets = [Settlement(case.ref, case.told) for case in told if case.told is not None]
    replies = await main.settle(tickets) if tickets else []
    await _hear(register, told, replies)
    return [case.reply or Reply.UNKNOWN for case in cases]


async def stands(register: Register, settlement: Settlement) -> bool:
    """Whether a settlement would be written now: its lease is the current one, as far as the deed knows."""
    name = (settlement.ref.queue, settlement.ref.id)
    case = _Case(settlement, settlement.ref)
    _settling(case)((await register.read([name]))[name])
    return case.reply is None


async def _hear(register: Register, told: Sequence[_Case], replies: Sequence[Reply]) -> None:
    """The main engine has answered: keys are freed; or what was too late is taken back."""
    late: list[_Case] = []
    steps: list[Step] = []
    for case, reply in zip(told, replies, strict=True):
        if case.after is None:
            unheard = reply is Reply.APPLIED and case.reply is not Reply.REPEATED
            case.reply = reply if case.reply is None or unheard else case.reply
        elif reply in _OK:
            # The deed decides who was first; a repetition may have overtaken us on the way to the main engine.
            case.reply = Reply.APPLIED
            steps += [] if case.after.live else register.freeing(case.name, case.after)
            if case.after.state is CANCELLED:
                # Its ticket is gone, so its deed need not wait for that.
                assert case.before is not None
                steps.append(register.gone(case.name, case.after, case.before.now))
        else:
            case.reply = reply
            late.append(case)
    if steps:
        await register.carry_out(steps)
    if late:
        await _take_back(register, late)


async def _write_deeds(register: Register, wave: dict[Name, _Case], entries: dict[Name, Entry]) -> None:
    """Write what the settlements make of their deeds, as far as those are still theirs to settle."""
    changes: dict[Name, tuple[Entry, Change]] = {name: (entries[name], _settling(case)) for name, case in wave.items()}
    for name, (entry, new) in (await register.change(changes)).items():
        case = wave[name]
        case.before, case.after = entry, None if case.reply is Reply.REPEATED else new


def _settling(case: _Case) -> Change:
    token, verdict = case.settlement.ref.token, case.settlement.verdict

    def settle_one(entry: Entry) -> Deed | None:
        deed = entry.stored
        case.reply = case.told = None
        if deed is None or deed.lease is None:
            # Published past the second engine, or forgotten there: the main engine knows best.
            case.told = _THROWN_AWAY if isinstance(verdict, Done) else verdict
            if isinstance(verdict, Withdrawn):
                case.reply, case.told = Reply.UNKNOWN, None
            return None
        if deed.settled == token and deed.verdict == type(verdict).__name__:
            # Said before, but perhaps never heard by the main engine.
            case.reply = Reply.REPEATED
            # The tickets of the dead are among the main engine's dead letters.
            case.told = verdict if deed.live or deed.state is DEAD else _THROWN_AWAY
            # Sealed first: another repetition must not take it back because this one was heard.
            return None if deed.live or deed.sealed else replace(deed, sealed=True)
        if deed.lease.token != token or deed.state is not LEASED:
            case.reply = Reply.SUPERSEDED if deed.live else Reply.ENDED
            if isinstance(verdict, Returned) and deed.lease.token != token:
                # The deed may not have heard of this lease: then somebody gives back what he never got.
                case.told = verdict
            return None
        if isinstance(verdict, Withdrawn) and deed.cancel is None and verdict.reason is None:
            case.reply = Reply.NOT_ASKED if entry.now < deed.lease.until else Reply.EXPIRED
            return None
        new, case.told = settled(deed, verdict, entry.epoch, entry.now)
        return new

    return settle_one


async def _take_back(register: Register, late: Sequence[_Case]) -> None:
    """The lease had run out before: what was written is taken back, unless somebody has acted upon it."""
    steps: list[Step] = []
    for case in late:
        before, after = case.before, case.after
        assert before is not None
        assert before.stored is not None
        assert after is not None
        steps.append(Write(deed_key(case.name), dump(before.stored), kept_for(before.stored, before.now), dump(after)))
    found = await register.carry_out(steps)
    for case, kept in zip(late, found, strict=True):
        assert case.after is not None
        if kept != dump(case.after) and not case.after.live:
            # Somebody has acted upon it: has thrown away its ticket, or heard that it was settled.
            case.reply = Reply.APPLIED
