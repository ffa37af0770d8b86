"""What is stored, and what is refused: publishing as one step of plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from trepid.brokers.memory.shelf import ORDINAL, Row, Shelf
from trepid.brokers.memory.store import Store
from trepid.ports.messages import Firing, Publication
from trepid.rules import lifecycle
from trepid.rules.life import DONE, READY, State
from trepid.rules.publishing import Plan, Published, Publishing, fired, measured, plan, refusals, replaced_by


class Acceptance(Store):
    """The half of a ledger through which messages come in."""

    def publish(self, batch: Sequence[Publication], now: float, *, bounded: bool = True) -> list[Published]:
        """Store messages, all or none; *bounded*, only if their queues have room."""
        plans = self._plans(batch, now)
        if bounded:
            plans = measured([item.queue for item in batch], plans, self._has_room)
        if (refused := refusals(plans)) is not None:
            return refused
        for publication, planned in zip(batch, plans, strict=True):
            if planned.outcome is Publishing.ACCEPTED:
                self._insert(publication, planned, now)
        return [Published(p.outcome, p.id) for p in plans]

    def _plans(self, batch: Sequence[Publication], now: float) -> list[Plan]:
        plans: list[Plan] = []
        # What earlier items of this batch will have stored, once it is stored.
        names: dict[tuple[str, str], tuple[tuple[str, int], State]] = {}
        holders: dict[tuple[str, str], tuple[str, State]] = {}
        for item in batch:
            shelf = self.shelves.get(item.queue)
            if shelf is None:
                plans.append(Plan(Publishing.NO_QUEUE, item.id))
                continue
            namesake = names.get((item.queue, item.id)) if names else None
            if namesake is None and (row := shelf.rows.get(item.id)) is not None:
                namesake = (row.token, row.life.state)
            if self.departed.holds(item.token):  # also if a later publish has taken over the id
                namesake = (item.token, DONE)
            if item.unique is None:
                planned = plan(item.id, item.token, namesake=namesake)
            else:
                key = item.unique.key
                holder = holders.get((item.queue, key))
                if holder is None:
                    holder = self._holder(shelf, key, now)
                planned = plan(
                    item.id, item.token, namesake=namesake, holder=holder, on_conflict=item.unique.on_conflict
                )
                if planned.insert:
                    holders[item.queue, key] = (item.id, READY)
            plans.append(planned)
            if planned.insert and len(batch) > 1:
                names[item.queue, item.id] = (item.token, READY)
        return plans

    def _holder(self, shelf: Shelf, key: str, now: float) -> tuple[str, State] | None:
        """Return who holds a unique key: a live message, or one for which it was reserved for longer."""
        if (row := shelf.uniques.get(key)) is not None:
            return row.id, row.life.state
        if (hold := shelf.holds.get(key)) is None:
            return None
        id, until = hold
        if until <= now:
            del shelf.holds[key]
            return None
        # Its message has ended, and may be gone; who has its id by now has nothing to do with the key.
        return id, DONE

    def _has_room(self, queue: str, more: int) -> bool:
        """Whether a queue takes so many messages more."""
        shelf = self.shelves[queue]
        return (limit := shelf.limit) is None or limit.max_size is None or shelf.live + more <= limit.max_size

    def _insert(self, item: Publication, planned: Plan, now: float) -> None:
        shelf = self.shelves[item.queue]
        key = None if item.unique is None else item.unique.key
        if planned.withdraw and key is not None:
            holder = shelf.uniques[key]
            self.moved(holder, lifecycle.cancel(holder.life, replaced_by(item.id), now)[0], now)
        old = shelf.rows.get(item.id)
        if old is not None:
            self.remove(old, now)
        due = item.due if item.due is not None else now + (item.delay or 0.0)
        life = lifecycle.born(
            next(self.seq), now, due, ttl=item.ttl, max_crashes=item.max_crashes, result_ttl=item.result_ttl
        )
        row = Row(shelf, item.id, item.token, item.payload, item.priority, now, key, life, item.gate)
        shelf.rows[item.id] = row
        if key is not None:
            shelf.uniques[key] = row
            self._hold(shelf, item, now)
        if life.expires is not None:
            self.ttl.add(life.expires, row)
        shelf.counts[ORDINAL[life.state]] += 1
        if life.state is READY:
            shelf.lane(row).append(row)
            self.stirred = True
        else:
            self.due.add(life.due, row)
            self.stirred = True  # a sleeping worker must learn of an earlier moment to wake up

    def _hold(self, shelf: Shelf, item: Publication, now: float) -> None:
        """Reserve the unique key of a new message for as long as it says, and drop reservations that are over."""
        assert item.unique is not None
        shelf.holds.pop(item.unique.key, None)
        if item.unique.for_ is None:
            return
        shelf.holds[item.unique.key] = (item.id, now + item.unique.for_)
        if len(shelf.holds) >= shelf.holds_swept:
            shelf.holds = {key: hold for key, hold in shelf.holds.items() if hold[1] > now}
            shelf.holds_swept = 2 * len(shelf.holds) + 64

    # -------------------------------------------------------------------------------------------------- schedules

    def fire(self, firing: Firing, now: float) -> Published:
        """Publish the message of one instant, unless it was fired before."""
        shelf = self.shelves.get(firing.queue)
        id = "" if firing.publication is None else firing.publication.id
        if shelf is None:
            return Published(Publishing.NO_QUEUE, id)
        if firing.instant is None:
            shelf.marks.pop(firing.mark, None)
            return Published(Publishing.ACCEPTED, id)
        if shelf.marks.get(firing.mark, -inf) >= firing.instant:
            return Published(Publishing.DUPLICATE, id)
        published = Published(Publishing.ACCEPTED, id)
        if firing.publication is not None:
            [published] = self.publish([firing.publication], now)
        if fired(published.outcome, insist=firing.insist):
            shelf.marks[firing.mark] = firing.instant
        return published
