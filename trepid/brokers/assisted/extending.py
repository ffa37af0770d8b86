"""Extending: the tickets' leases in the main engine, and until when they run in the deeds, which know of requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio
from msgspec.structs import replace

from trepid.brokers.assisted.deeds import Deed, readable
from trepid.brokers.assisted.register import Change, Entry, Name, Register
from trepid.ports.broker import Session
from trepid.ports.messages import Extension, Ref
from trepid.rules.life import LEASED, Reply


async def extend(
    register: Register,
    main: Session,
    refs: Sequence[Ref],
    lease_for: float,
    ticket: Callable[[Ref, Deed | None], Ref],
) -> list[Extension]:
    """Let leases run on, and say which of them somebody asked to stop.

    The main engine goes first: a deed may only say that a lease lasts longer than it does, never shorter.
    """
    # Counted from before anything is asked for: whoever holds a lease must never believe in it for longer.
    deadline = trio.current_time() + lease_for
    entries = await register.read((ref.queue, ref.id) for ref in refs)
    extensions = await main.extend([ticket(ref, entries[ref.queue, ref.id].stored) for ref in refs], lease_for)
    until = await main.now() + lease_for
    changes: dict[Name, tuple[Entry, Change]] = {
        (ref.queue, ref.id): (entries[ref.queue, ref.id], _extending(ref, until))
        for ref, extension in zip(refs, extensions, strict=True)
        if extension.reply is Reply.APPLIED
    }
    changed = await register.change(changes)
    answers: list[Extension] = []
    for ref, extension in zip(refs, extensions, strict=True):
        answer = replace(extension, deadline=min(extension.deadline, deadline))
        if extension.reply is Reply.APPLIED:
            entry, new = changed[ref.queue, ref.id]
            deed = new if new is not None else entry.stored
            if deed is not None and deed.lease is not None:
                if deed.state is LEASED and deed.lease.token == ref.token:
                    answer = replace(answer, cancel=deed.cancel)
                else:
                    # The main engine would let us go on, but somebody else has the deed.
                    answer = Extension(Reply.SUPERSEDED if deed.live else Reply.ENDED)
        elif extension.reply is Reply.UNKNOWN:
            known = entries[ref.queue, ref.id]
            if known.deed is not None and not known.deed.live and readable(known.deed, known.now):
                # The main engine forgets at once what was done.
                answer = Extension(Reply.ENDED)
        answers.append(answer)
    return answers


def _extending(ref: Ref, until: float) -> Change:
    def extending(entry: Entry) -> Deed | None:
        deed = entry.stored
        if deed is None or deed.lease is None or deed.state is not LEASED or deed.lease.token != ref.token:
            return None
        if deed.lease.until >= until:
            return None
        return replace(deed, lease=replace(deed.lease, until=until))

    return extending
