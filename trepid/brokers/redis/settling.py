"""Settlements, as the script takes them, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec.structs import replace

from trepid.brokers.redis.engine import Engine
from trepid.brokers.redis.publishing import Parcel, by_queue, portions, publish
from trepid.brokers.redis.rows import unpack, write_failure
from trepid.brokers.redis.scripts import EXTEND, SETTLE, SETTLE_THEN
from trepid.ports.messages import Publication, Ref, Settlement
from trepid.rules.life import Reply
from trepid.rules.verdicts import UNKNOWN_ACTOR, Buried, Done, Failed, Returned, Verdict

REPLIES: Final = {
    "A": Reply.APPLIED,
    "R": Reply.REPEATED,
    "X": Reply.EXPIRED,
    "S": Reply.SUPERSEDED,
    "E": Reply.ENDED,
    "N": Reply.NOT_ASKED,
    "U": Reply.UNKNOWN,
}
"""What scripts answer who shows a token."""
_BY_BYTE: Final = {ord(letter): reply for letter, reply in REPLIES.items()}


async def settle(engine: Engine, batch: Sequence[Settlement], then: Sequence[Publication]) -> list[Reply]:
    """End leases with verdicts, and publish what follows from the first."""
    if not engine.keys.clustered:
        answers: list[Reply] = []
        for portion in portions(batch, _size):
            answers += await _settle(engine, portion, () if answers else then)
        return answers
    replies: dict[int, Reply] = {}
    home = batch[0].ref.queue
    together = all(item.queue == home for item in then)
    if not together and await _stands(engine, batch[0].ref):
        # Before the end of the lease they follow from, since who dies between the two comes back to it, and what is
        # there already is recognised; the other way round they would be lost.
        await publish(engine, [[_lasting(item) for item in then]])
    for queue, places in by_queue([settlement.ref.queue for settlement in batch]).items():
        follow_ups = then if together and queue == home else ()
        answers = []
        for portion in portions([batch[place] for place in places], _size):
            answers += await _settle(engine, portion, () if answers else follow_ups)
        replies.update(zip(places, answers, strict=True))
    return [replies[place] for place in range(len(batch))]


def _lasting(item: Publication) -> Publication:
    """Return a publication so that scripts remember it for a day after its message is forgotten.

    Who takes a step on whose worker has died between the two may come late.  It costs a name of its own, so all that
    is published in one step with what it follows from is remembered for minutes, as everything else is.
    """
    name, number = item.token
    return replace(item, token=(f"{name}+", number)) if item.remembered else item


async def _stands(engine: Engine, ref: Ref) -> bool:
    """Whether a lease holds: one that is extended by next to nothing is not changed."""
    parcel = Parcel(2)
    items = [(parcel.place(ref.queue), ref.id, *ref.token)]
    [[reply, _]] = unpack(await engine.run(EXTEND, parcel.queues, 0.001, items))
    return REPLIES[reply] is Reply.APPLIED


def _size(settlement: Settlement) -> int:
    verdict = settlement.verdict
    return len(verdict.result or b"") if type(verdict) is Done else 0


async def _settle(engine: Engine, batch: Sequence[Settlement], then: Sequence[Publication]) -> list[Reply]:
    parcel = Parcel(2)
    items: list[tuple[Any, ...]] = []
    for settlement in batch:
        ref, verdict = settlement.ref, settlement.verdict
        place = parcel.place(ref.queue)
        if type(verdict) is Done:
            result = verdict.result
            kept = parcel.keep(result) if result is not None and verdict.keep > 0 else None
            items.append((place, ref.id, *ref.token, "D", verdict.keep, kept, verdict.unreadable))
        else:
            items.append((place, ref.id, *ref.token, *_said(verdict)))
    if then:
        follow_ups = parcel.items(then)
        answer = await engine.run(SETTLE_THEN, parcel.queues, items, follow_ups, argv=parcel.payloads)
    else:
        answer = await engine.run(SETTLE, parcel.queues, items, argv=parcel.payloads)
    return [_BY_BYTE[letter] for letter in answer]


def _said(verdict: Verdict) -> tuple[Any, ...]:
    match verdict:
        case Failed(error=error, delay=delay):
            return ("F", delay, write_failure(error))
        case Returned(delay=delay, reason=reason, started=started, gate=gate):
            return ("R", delay, reason == UNKNOWN_ACTOR, started, gate)
        case Buried(error=error, reason=reason):
            return ("B", reason, write_failure(error))
        case Done():
            raise AssertionError("said by its caller")
        case _:
            raised = None if verdict.error is None else write_failure(verdict.error)
            return ("W", verdict.keep, raised, verdict.reason)
