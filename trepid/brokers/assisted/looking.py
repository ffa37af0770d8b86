"""What a deed shows of its message."""

from __future__ import annotations

from trepid.brokers.assisted.deeds import Deed, readable
from trepid.ports.messages import Absent, Ending, MessageView
from trepid.rules.life import DONE, LEASED, READY, SCHEDULED


def ending(deed: Deed | None, now: float) -> Ending | Absent:
    """Return how a message ended."""
    if deed is None or not readable(deed, now):
        return Absent.GONE
    if deed.live:
        return Absent.PENDING
    return Ending(deed.state, deed.result, deed.unreadable, deed.error, deed.reason)


def view(deed: Deed, queue: str, id: str, now: float) -> MessageView:
    """Return what is known of a message; counters are those of its last lease."""
    lease = deed.lease
    return MessageView(
        queue=queue,
        id=id,
        state=SCHEDULED if deed.state is READY and now < deed.due else deed.state,
        actor=deed.actor,
        priority=deed.priority,
        attempts=deed.failures + (deed.state is DONE),
        crashes=0 if lease is None else lease.crashes,
        releases=deed.releases,
        requeues=0,
        enqueued=deed.enqueued,
        due=deed.due,
        ended=deed.ended,
        reason=deed.reason,
        cancel=deed.cancel,
        owner=lease.owner if lease is not None and deed.state is LEASED else None,
        errors=() if deed.error is None else (deed.error,),
        unique=deed.unique,
    )
