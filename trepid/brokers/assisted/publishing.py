"""Publishing: the id and the unique key are claimed, the ticket is published, the claims are confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from msgspec.structs import replace

from trepid.brokers.assisted.cancelling import withdraw
from trepid.brokers.assisted.deeds import (
    NOT_STORED,
    TICKET_FOR,
    Deed,
    cancelled,
    claimed,
    dump,
    kept_for,
    load,
    remembered,
    spent,
)
from trepid.brokers.assisted.draft import Draft, past_key
from trepid.brokers.assisted.register import Entry, Name, Register, deed_key, epoch_key, exchange
from trepid.ports.broker import Session
from trepid.ports.messages import Publication
from trepid.ports.records import Claim, Drop, Read, Step, Write
from trepid.rules.life import READY
from trepid.rules.publishing import Published, Publishing, replaced_by

_REFUSED = (Publishing.CONFLICT, Publishing.NO_QUEUE, Publishing.NOT_STORED)


@final
class Drafts:
    """A batch of publications: :meth:`claim`, then publish the :attr:`tickets`, then :meth:`confirm` or :meth:`undo`.

    A crash after the claims leaves them for a minute; then id and key are free again.  A crash, or a lost reply, after
    the tickets were published leaves messages that run, unless somebody else has taken their id or key by then.
    """

    def __init__(self, register: Register, main: Session, batch: Sequence[Publication]) -> None:
        self._register = register
        self._main = main
        self._batch = batch
        self._drafts: list[Draft] = []

    @property
    def tickets(self) -> list[Publication]:
        """What the main engine is to store."""
        return [draft.ticket for draft in self._drafts if draft.goes]

    @property
    def answers(self) -> list[Published]:
        """The reply for each publication."""
        return [draft.answer or Published(Publishing.NOT_STORED, draft.item.id) for draft in self._drafts]

    async def claim(self) -> bool:
        """Claim ids and keys; return whether anything is left to be published."""
        now = await self._main.now()
        steps: list[Step] = []
        queues = list(dict.fromkeys(item.queue for item in self._batch))
        steps += [Read(epoch_key(queue)) for queue in queues]
        for item in self._batch:
            deed = self._register.marked(claimed(item, self._register.known_epoch(item.queue), now))
            draft = Draft(item, deed)
            self._drafts.append(draft)
            steps += [Read(past_key(item.queue, item.token)), draft.claim, *draft.key_claim]
        found = iter(await self._register.carry_out(steps))
        for queue in queues:
            self._register.saw_epoch(queue, next(found))
        vacant: set[Name] = set()
        for draft in self._drafts:
            past, kept = next(found), next(found)
            draft.key_kept = None if draft.key is None else next(found)
            if draft.name in vacant:
                # Who had claimed it in this batch has given it back.
                (kept,) = await self._register.carry_out([draft.claim])
            await self._decide(draft, past, kept, now)
            (vacant.discard if draft.goes else vacant.add)(draft.name)
        if await self._refused():
            return False
        if any(draft.victim not in (None, draft.name) for draft in self._drafts) and await self._lack_queue():
            return False
        for draft in self._drafts:
            if draft.victim is not None:
                await self._withdraw(draft)
        return not await self._refused() and any(draft.goes for draft in self._drafts)

    async def _refused(self) -> bool:
        """Whether an item conflicts; nothing of the batch is stored then."""
        if not any(draft.answer is not None and draft.answer.outcome is Publishing.CONFLICT for draft in self._drafts):
            return False
        await self.undo()
        return True

    async def _lack_queue(self) -> bool:
        """Whether a queue is not there: nobody is withdrawn for what will be refused."""
        declared = await self._main.queues()
        if all(draft.item.queue in declared for draft in self._drafts if draft.goes):
            return False
        await self.undo()
        for draft in self._drafts:
            if draft.item.queue not in declared:
                draft.is_(Publishing.NO_QUEUE)
        return True

    async def _decide(self, draft: Draft, past: bytes | None, kept: bytes | None, now: float) -> None:
        """Find out what a publication is: new, a repetition, or in somebody's way."""
        entry = self._register.entry(draft.name, kept, now)
        known = None
        if kept != dump(draft.deed):
            entry = (await self._register.without_orphans({draft.name: entry}))[draft.name]
            known, kept = entry.stored, entry.kept
        draft.claimed = known is None
        same = known is not None and known.token == draft.item.token and known.reason != NOT_STORED
        if past is not None or same:
            await self._repeat(draft, entry, known if past is None else None)
            return
        if known is not None:
            if entry.deed is not None and entry.deed.live:
                draft.is_(Publishing.EXISTING)
                await self._undo(draft)
                return
            if not await self._succeed(draft, known, kept, now):
                return
        draft.goes = True
        draft.is_(Publishing.ACCEPTED)
        if draft.key is not None and draft.key_kept is not None and draft.key_kept != dump(draft.holder):
            await self._contend(draft, draft.key_kept)

    async def _succeed(self, draft: Draft, known: Deed, kept: bytes | None, now: float) -> bool:
        """Take the place of a message that has ended, or whose queue was emptied: this is a new run.

        The old publish is remembered for a while.  Returns whether it was so; otherwise all is decided.
        """
        # Whoever leases a ticket that is left of it finds this deed, and so it must be kept for that long.
        draft.former, draft.deed = known, replace(draft.deed, surplus=not spent(known))
        steps = [exchange(deed_key(draft.name), draft.deed, TICKET_FOR, kept)]
        if (known.sure or not known.live) and known.token != draft.item.token:
            steps.append(Claim(past_key(draft.item.queue, known.token), b"", remembered(known)))
        steps += draft.key_claim  # once more: until now it was free for all, as its holder had no deed
        found = await self._register.carry_out(steps)
        before = found[0]
        if draft.key is not None and found[-1] != dump(draft.holder):
            draft.key_kept = found[-1]
        if before is None:
            # It is gone meanwhile.
            draft.former = None
            (before,) = await self._register.carry_out([draft.claim])
        elif before == kept:
            draft.claimed = True
            if known.unique not in (None, draft.deed.unique):
                await self._register.carry_out(self._register.freeing(draft.name, known))
            return True
        await self._decide(draft, None, before, now)
        return False

    async def _repeat(self, draft: Draft, entry: Entry, known: Deed | None) -> None:
        """The same publish again; its ticket goes once more if the first one may never have arrived."""
        draft.is_(Publishing.DUPLICATE)
        if past_is_twin := any(other.goes and other.name == draft.name for other in self._drafts if other is not draft):
            known = None
        if known is None:
            if draft.claimed and not past_is_twin:
                await self._undo(draft)
            return
        if known.sure or not known.live:
            return
        draft.deed = known
        if self._main.capabilities.deduplication != "always" and not known.surplus:

            def doubt(entry: Entry) -> Deed | None:
                deed = entry.stored
                doubted = deed is not None and not deed.sure and deed.token == draft.item.token
                return replace(deed, surplus=True) if deed is not None and doubted else None

            done = await self._register.change({draft.name: (entry, doubt)})
            changed = done[draft.name][1]
            if changed is None:
                return  # it has just become sure
            draft.deed = changed
        draft.goes = draft.again = True
        if draft.key is not None and draft.key_kept is not None and draft.key_kept != dump(draft.holder):
            # It was cut off before it had its key, or has lost it since.
            await self._contend(draft, draft.key_kept)

    async def _contend(self, draft: Draft, kept: bytes) -> bool:
        """The unique key is taken: by somebody who lives, or by what is left of somebody.

        Returns whether it can be taken over from ``draft.victim``.
        """
        draft.victim = None
        assert draft.item.unique is not None
        name = (draft.item.queue, draft.item.unique.key)
        found = await self._register.live_holder(name, kept)
        if found is None:
            draft.victim = draft.name
            return True
        holder, entry = found
        waits = entry.deed is not None and entry.deed.state is READY
        if draft.item.unique.on_conflict == "replace" and waits:
            draft.victim = (draft.item.queue, holder.id)
            return True
        conflict = draft.item.unique.on_conflict == "raise"
        draft.is_(Publishing.CONFLICT if conflict else Publishing.EXISTING, holder.id)
        await self._undo(draft)
        return False

    async def _withdraw(self, draft: Draft) -> None:
        """Take over the unique key: from what has ended, or from a message that waits and is withdrawn for it."""
        victim, key, kept = draft.victim, draft.key, draft.key_kept
        assert victim is not None
        assert key is not None
        assert kept is not None
        if victim != draft.name and not await withdraw(self._register, victim, kept, replaced_by(draft.item.id)):
            # It has started, or ended, since it was looked at.
            if await self._contend(draft, kept):
                await self._withdraw(draft)
            return
        (before,) = await self._register.carry_out([exchange(key, draft.holder, TICKET_FOR, kept)])
        if before in (kept, dump(draft.holder)):
            return
        if before is None:
            (before,) = await self._register.carry_out([Claim(key, dump(draft.holder), TICKET_FOR)])
            if before is None:
                return
        draft.key_kept = before
        if await self._contend(draft, before):
            await self._withdraw(draft)

    async def confirm(self, replies: Sequence[Published]) -> None:
        """The main engine has answered: the claims become deeds, or are given back."""
        gone = [draft for draft in self._drafts if draft.goes]
        refused = next((reply for reply in replies if reply.outcome in _REFUSED), None)
        if refused is not None:
            for draft, reply in zip(gone, replies, strict=True):
                outcome = reply.outcome if reply.outcome in _REFUSED else Publishing.NOT_STORED
                draft.is_(outcome)
            await self.undo()
            return
        now = await self._main.now()
        steps: list[Step] = []
        for draft in gone:
            sure = replace(draft.deed, sure=True, epoch=self._register.known_epoch(draft.item.queue))
            ttl = kept_for(sure, now)
            steps.append(Write(deed_key(draft.name), dump(sure), ttl, dump(draft.deed)))
            if draft.key is not None:
                steps.append(Write(draft.key, dump(draft.holder), TICKET_FOR, dump(draft.holder)))
        found = iter(await self._register.carry_out(steps))
        for draft in gone:
            before, key_kept = next(found), None if draft.key is None else next(found)
            deed = load(before)
            if deed is None or deed.token != draft.item.token:
                await self._late(draft)
            elif before == dump(draft.deed) and key_kept is not None and key_kept != dump(draft.holder):
                await self._outrun(draft, key_kept)

    async def _outrun(self, draft: Draft, kept: bytes) -> None:
        """Somebody took the unique key while the ticket was on its way: it is thrown away, unless it has started."""
        draft.deed = replace(draft.deed, sure=True, epoch=self._register.known_epoch(draft.item.queue))
        draft.again, draft.claimed, draft.key_kept = True, False, kept
        if await self._contend(draft, kept):
            await self._withdraw(draft)

    async def _late(self, draft: Draft) -> None:
        """The claim ran out while the ticket was on its way: it is claimed again, unless the id is taken by now."""
        sure = replace(draft.deed, sure=True, epoch=self._register.known_epoch(draft.item.queue))
        steps: list[Step] = [Claim(deed_key(draft.name), dump(sure), TICKET_FOR), *draft.key_claim]
        before = load((await self._register.carry_out(steps))[0])
        if before is not None and before.token != draft.item.token:
            draft.is_(Publishing.EXISTING)  # our ticket fits no deed any more, and is thrown away

    async def undo(self) -> None:
        """Give back all claims of this batch."""
        for draft in self._drafts:
            await self._undo(draft)
            if draft.answer is not None and draft.answer.outcome is Publishing.ACCEPTED:
                draft.is_(Publishing.NOT_STORED)
            draft.goes = False

    async def _undo(self, draft: Draft) -> None:
        steps: list[Step] = []
        if draft.again:
            # Its ticket may be there from an earlier attempt; it must find a deed by which it is thrown away.
            now = await self._main.now()
            ended = self._register.marked(cancelled(draft.deed, now, NOT_STORED))
            ended = replace(ended, sure=True, forget=now)
            steps.append(Write(deed_key(draft.name), dump(ended), kept_for(ended, now), dump(draft.deed)))
            draft.again = False
        if draft.claimed:
            steps.append(draft.given_back)
            draft.claimed = False
        draft.goes = False
        if draft.key is not None and (draft.key_kept is None or draft.victim is not None):
            steps.append(Drop(draft.key, dump(draft.holder)))
        if steps:
            await self._register.carry_out(steps)
