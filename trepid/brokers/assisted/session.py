"""The session: two engines behind one port."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import final

import attrs
import trio
from msgspec.structs import replace
from typing_extensions import override

from trepid.brokers import marks
from trepid.brokers.assisted import cancelling, extending, leasing, removing, settling, waiting
from trepid.brokers.assisted.claims import claims
from trepid.brokers.assisted.deeds import Deed, read_ticket, readable, ticket_id
from trepid.brokers.assisted.held import Held
from trepid.brokers.assisted.lent import LentRecords
from trepid.brokers.assisted.looking import view
from trepid.brokers.assisted.publishing import Drafts
from trepid.brokers.assisted.register import Register
from trepid.errors import BrokerBusyError, BrokerLostError
from trepid.ports.broker import Session
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import (
    Absent,
    Cursor,
    Delivery,
    Ending,
    Extension,
    Firing,
    MessageView,
    Page,
    Publication,
    QueueStats,
    Ref,
    Settlement,
)
from trepid.ports.records import Records
from trepid.rules.life import READY, SCHEDULED, CancelReply, Reply, State
from trepid.rules.publishing import Published
from trepid.rules.verdicts import Returned

_UNSTARTED = Returned(reason="unstarted", started=False)
_GIVE_BACK_WITHIN = 1.0
_WAITING = {READY, SCHEDULED}


@final
class AssistedSession(Session):
    """An open broker whose messages are in one engine, and what is known of them in another.

    Args:
      main: where the messages are.
      second: where their deeds are.
    """

    def __init__(self, main: Session, second: Session) -> None:
        self._main = main
        self._second = second
        self._records = LentRecords(second.records)
        self._register = Register(second.records, main, self._records)
        self._held = Held()
        self._capabilities = claims(main.capabilities, second.capabilities)

    @property
    @override
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    @override
    def connected(self) -> bool:
        return self._main.connected and self._second.connected

    @property
    @override
    def records(self) -> Records:
        return self._records

    @override
    async def now(self) -> float:
        return await self._main.now()

    # ---------------------------------------------------------------------------------------------------- queues

    @override
    async def declare(self, queues: Sequence[str]) -> None:
        await self._main.declare(queues)

    @override
    async def queues(self) -> list[str]:
        return await self._main.queues()

    @override
    async def delete(self, queue: str) -> None:
        await self._main.delete(queue)
        await self._register.renew(queue, lambda epoch: replace(epoch, deleted=epoch.deleted + 1))
        await marks.forget_marks(self._records, queue)
        self._held.tell()

    @override
    async def pause(self, queue: str) -> None:
        await self._main.pause(queue)

    @override
    async def resume(self, queue: str) -> None:
        await self._main.resume(queue)

    @override
    async def stats(self, queue: str) -> QueueStats:
        return await self._main.stats(queue)

    # ------------------------------------------------------------------------------------------- a message's life

    @override
    async def publish(self, batch: Sequence[Publication]) -> list[Published]:
        if any(item.unique is not None and item.unique.for_ is not None for item in batch):
            raise self._unsupported("unique keys that outlive their message")
        drafts = Drafts(self._register, self._main, batch)
        if await drafts.claim():
            try:
                replies = await self._main.publish(drafts.tickets)
            except (BrokerLostError, BrokerBusyError):
                raise  # it may have arrived: the claims stand for a minute, and a repetition finds them
            except Exception:
                # Refused: nothing was stored.  If this fails, the claims run out by themselves.
                with trio.move_on_after(_GIVE_BACK_WITHIN, shield=True), suppress(Exception):
                    await drafts.undo()
                raise
            await drafts.confirm(replies)
            self._held.tell()
        return drafts.answers

    @override
    async def lease(
        self, queues: Sequence[str], limit: int, lease_for: float, *, owner: str, wait: float = 0.0
    ) -> list[Delivery]:
        give_up = trio.current_time() + wait
        taken: list[Delivery] = []
        while True:
            left = 0.0 if taken else max(0.0, give_up - trio.current_time())
            tickets: list[Delivery] = []
            try:
                tickets = await self._main.lease(queues, limit - len(taken), lease_for, owner=owner, wait=left)
                admitted = await leasing.admit(self._register, self._main, tickets, owner, lease_for)
            except BaseException:
                await self._give_back([*map(self._ticket, taken), *(ticket.ref for ticket in tickets)])
                raise
            by_token = {ticket.token: ticket.ref for ticket in tickets}
            for delivery in admitted:
                self._held.add(delivery, by_token[delivery.token], owner)
            taken += admitted
            # Where tickets were thrown away, others may have stood behind them.
            if len(taken) == limit or len(admitted) == len(tickets) or not tickets:
                if taken:
                    self._held.tell()
                return taken

    async def _give_back(self, refs: Sequence[Ref]) -> None:
        """Nobody will run these; if it fails, they expire, or the worker asks for what it holds."""
        if refs:
            with trio.move_on_after(_GIVE_BACK_WITHIN, shield=True), suppress(Exception):
                await self._main.settle([Settlement(ref, _UNSTARTED) for ref in refs])

    def _ticket(self, lease: Ref | Delivery, deed: Deed | None = None) -> Ref:
        """Return a lease as the main engine knows it."""
        ref = lease.ref if isinstance(lease, Delivery) else lease
        known = self._held.ticket(ref)
        if known is None and deed is not None:
            known = replace(ref, id=ticket_id(ref.id, deed.token))
        return ref if known is None else known

    @override
    async def extend(self, refs: Sequence[Ref], lease_for: float) -> list[Extension]:
        extensions = await extending.extend(self._register, self._main, refs, lease_for, self._ticket)
        for ref, extension in zip(refs, extensions, strict=True):
            if extension.reply is Reply.APPLIED:
                self._held.extended(ref, extension.deadline)
            else:
                self._held.drop(ref)
        return extensions

    @override
    async def settle(self, batch: Sequence[Settlement], *, then: Sequence[Publication] = ()) -> list[Reply]:
        if not batch:
            await trio.lowlevel.checkpoint()
            return []
        if then and await settling.stands(self._register, batch[0]):
            # First: once its deed says that it is done nobody runs the message again, to publish what follows it.
            await self.publish(then)
        replies = await settling.settle(self._register, self._main, batch, self._ticket)
        for settlement, reply in zip(batch, replies, strict=True):
            if reply is not Reply.NOT_ASKED:
                self._held.drop(settlement.ref)
        self._held.tell()
        return replies

    @override
    async def cancel(self, queue: str, ids: Sequence[str], reason: str) -> list[CancelReply]:
        if queue not in await self._main.queues():
            return [CancelReply.UNKNOWN for _ in ids]
        replies = await cancelling.cancel(self._register, queue, ids, reason)
        self._held.tell()
        return replies

    @override
    async def requeue(self, queue: str, ids: Sequence[str] | None = None, *, limit: int = 1000) -> int:
        return await self._main.requeue(queue, await removing.tickets(self._register, queue, ids), limit=limit)

    @override
    async def purge(
        self, queue: str, states: Sequence[State], ids: Sequence[str] | None = None, *, limit: int = 1000
    ) -> int:
        gone = await removing.purge(self._register, self._main, queue, states, ids, limit=limit)
        self._held.tell()
        return gone

    @override
    async def fire(self, firings: Sequence[Firing]) -> list[Published]:
        return await marks.fire(self, self._records, firings)

    @override
    async def marks(self, queue: str) -> dict[str, float]:
        return await marks.marks(self._records, queue)

    # --------------------------------------------------------------------------------------------------- looking

    @override
    async def get(self, queue: str, id: str) -> MessageView | None:
        entry = (await self._register.look([(queue, id)]))[queue, id]
        deed = entry.deed
        return view(deed, queue, id, entry.now) if deed is not None and readable(deed, entry.now) else None

    @override
    async def peek(self, queue: str, state: State, *, limit: int = 100, after: Cursor | None = None) -> Page:
        page = await self._main.peek(queue, state, limit=limit, after=after)
        seen = tuple(attrs.evolve(each, id=read_ticket(each.id)[0]) for each in page.messages)
        return Page(seen, page.cursor)

    @override
    async def result(self, queue: str, id: str, *, wait: float = 0.0) -> Ending | Absent:
        return await waiting.result(self._register, self._held, queue, id, wait)

    @override
    async def endings(self, queue: str, ids: Sequence[str], *, wait: float = 0.0) -> dict[str, Ending | Absent]:
        return await waiting.endings(self._register, self._held, queue, ids, wait)

    # ---------------------------------------------------------------------------------------------------- owners

    @override
    async def held(self, owner: str) -> list[Ref]:
        return [replace(ref, id=read_ticket(ref.id)[0]) for ref in await self._main.held(owner)]

    @override
    async def asked(self, owner: str, known: Collection[Ref], *, wait: float = 0.0) -> list[tuple[Ref, str]]:
        return await waiting.asked(self._register, self._held, owner, known, wait)

    @override
    async def expire_owner(self, owner: str) -> int:
        return await self._main.expire_owner(owner)

    @override
    async def reap(self, *, limit: int = 1000) -> int:
        return await self._main.reap(limit=limit)
