"""Settling: what a verdict makes of a message, and how the server is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

from trepid.brokers.leasebook import Judgement, Lease
from trepid.brokers.nats import names as places
from trepid.brokers.nats.keeping import Keeper
from trepid.brokers.nats.moving import Move
from trepid.brokers.nats.office import Held, Office
from trepid.brokers.nats.publishing import Publisher
from trepid.brokers.nats.results import TRACE, Result, Results
from trepid.ports.messages import Publication, Settlement
from trepid.rules import lifecycle
from trepid.rules.life import CANCELLED, DEAD, DONE, ENDED, Life, Reply
from trepid.rules.verdicts import Done, Verdict


class _Plan(NamedTuple):
    """A settlement that is to be applied."""

    lease: Lease[Held]
    life: Life
    verdict: Verdict
    move: Move


@final
class Settler:
    """Ends leases with verdicts."""

    def __init__(self, office: Office, keeper: Keeper, results: Results, publisher: Publisher) -> None:
        self._office = office
        self._keeper = keeper
        self._results = results
        self._publisher = publisher

    async def settle(self, batch: Sequence[Settlement], then: Sequence[Publication], engine: str) -> list[Reply]:
        """Settle; see :meth:`Session.settle`.

        Raises:
          BrokerLostError: if some may have been applied, and some not; repeating them is safe.
        """
        book = self._office.book
        replies: list[Reply | None] = [None] * len(batch)
        left = list(range(len(batch)))
        while left:
            plans: list[tuple[int, _Plan]] = []
            busy: list[int] = []
            now = self._office.clock.now()
            for number in left:
                ref, verdict = batch[number].ref, batch[number].verdict
                lease = book.find(ref)
                if lease is not None and lease.busy:
                    busy.append(number)
                    continue
                judgement = book.judge(ref, verdict, now)
                plan = self._planned(judgement, verdict, now)
                if plan is None:
                    replies[number] = judgement.reply
                else:
                    plans.append((number, plan))
            if plans:
                follow = then if plans[0][0] == 0 else ()
                for (number, _), reply in zip(
                    plans, await self._carry_out([plan for _, plan in plans], follow, engine), strict=True
                ):
                    replies[number] = reply
            elif busy:
                await self._keeper.freed()
            left = busy
        return [reply for reply in replies if reply is not None]

    def _planned(self, judgement: Judgement[Held], verdict: Verdict, now: float) -> _Plan | None:
        if judgement.lease is None or judgement.life is None:
            return None
        lease, life = judgement.lease, judgement.life
        parcel, name = lease.message.parcel, type(verdict).__name__
        id = f"{self._office.name}:{parcel.stamp}:{name}"
        if life.state in (DONE, CANCELLED):
            return _Plan(lease, life, verdict, Move(parcel, None))
        error = lifecycle.failure_of(verdict, life, now)
        letter = parcel.letter.after(life, f"{self._office.name} {name}", now, error)
        place = places.DEAD if life.state is DEAD else parcel.place
        return _Plan(lease, life, verdict, Move(parcel, letter, place, id))

    async def _carry_out(self, plans: Sequence[_Plan], then: Sequence[Publication], engine: str) -> list[Reply]:
        """Apply settlements: what they leave behind first, and then the ends of the messages."""
        try:
            if then:
                await self._publisher.publish(then, engine)
            stale = await self._store_results(plans)
            going = [plan for plan in plans if id(plan) not in stale]
            moved = dict(
                zip(
                    map(id, going),
                    await self._office.mover.carry_out([plan.move for plan in going]),
                    strict=True,
                )
            )
        except BaseException:
            for plan in plans:
                plan.lease.message.tried = True
                self._office.book.free(plan.lease)
            self._keeper.release()
            raise
        replies = [self._closed(plan, there=moved.get(id(plan), False)) for plan in plans]
        self._keeper.release()
        return replies

    async def _store_results(self, plans: Sequence[_Plan]) -> set[int]:
        """Store the results of what is done; return the plans whose message has a later result already."""
        done = [plan for plan in plans if isinstance(plan.verdict, Done)]
        results: list[tuple[_Plan, Result]] = []
        gone: list[tuple[str, str, int]] = []
        for plan in done:
            lease, verdict = plan.lease, plan.verdict
            assert isinstance(verdict, Done)
            parcel = lease.message.parcel
            letter = parcel.letter
            token = letter.token if letter.remembered else None
            if verdict.keep > 0:
                error = letter.errors[-1] if letter.errors else None
                results.append((plan, Result(lease.queue, lease.id, parcel.stamp, verdict, error, token)))
            elif token is not None:
                results.append((plan, Result(lease.queue, lease.id, parcel.stamp, TRACE, None, token)))
            else:
                gone.append((lease.queue, lease.id, parcel.stamp))
        if gone:
            await self._results.drop(gone)
        if not results:
            return set()
        stored = await self._results.store([result for _, result in results])
        return {id(plan) for (plan, _), fine in zip(results, stored, strict=True) if not fine}

    def _closed(self, plan: _Plan, *, there: bool) -> Reply:
        """Enter in the book what has become of a lease."""
        office, lease = self._office, plan.lease
        # A message that is not there any more was deleted by this very settlement, if that had been begun before.
        if not there and not (lease.message.tried and plan.life.state in ENDED):
            office.book.lose(lease)
            return Reply.SUPERSEDED
        office.book.close(lease, plan.life)
        connection = office.jetstream.current
        if plan.life.state in ENDED and connection is not None and connection.link.error is None:
            connection.say(office.names.over(lease.queue, lease.id))
        return Reply.APPLIED
