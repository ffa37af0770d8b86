"""A message's life: the one table of states and events, and the functions that obey it.

Two rules stand above the table.

1. *Time goes first.*  Every step begins with what the clock has already decided (:func:`elapse`): a message that is
   due is ready, a lease that has run out is a crash, a ttl that has passed is a death.  So "late" is one fact for
   everybody, and no separate sweep decides anything.
2. *A refusal changes nothing.*  Settling and extending need the token of the current lease, in time.  Everything
   else gets a reply that says why, and the message stays as it was.

The memory broker is this core behind a Trio front; other engines repeat it and are compared with it, trace by trace.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from trepid.rules.life import (
    CANCELLED,
    DEAD,
    DONE,
    ENDED,
    LEASED,
    READY,
    SCHEDULED,
    CancelReply,
    Life,
    Reply,
    State,
    Token,
)
from trepid.rules.verdicts import UNKNOWN_ACTOR, Buried, Done, Failed, Failure, Returned, Verdict, Withdrawn

DAY = 86_400.0
_SLOWEST_COMEBACK = 60.0


class Event(enum.StrEnum):
    """What may happen to a message; the columns of the table."""

    DUE = "due"
    TTL_PASSED = "ttl passed"
    TAKEN = "taken"
    EXTENDED = "extended"
    DONE = "done"
    FAILED = "failed"
    RETURNED = "returned"
    BURIED = "buried"
    WITHDRAWN = "withdrawn"
    LEASE_EXPIRED = "lease expired"
    CANCEL = "cancel"
    REQUEUE = "requeue"


TRANSITIONS: Final[Mapping[tuple[State, Event], tuple[State, ...]]] = {
    (SCHEDULED, Event.DUE): (READY,),
    (SCHEDULED, Event.CANCEL): (CANCELLED,),
    (READY, Event.TTL_PASSED): (DEAD,),
    (READY, Event.TAKEN): (LEASED,),
    (READY, Event.CANCEL): (CANCELLED,),
    (LEASED, Event.EXTENDED): (LEASED,),
    (LEASED, Event.DONE): (DONE,),  # also while a cancel is asked for: the work is done, its result is real
    (LEASED, Event.FAILED): (SCHEDULED, DEAD, CANCELLED),  # retries left; none left; a cancel was asked for
    (LEASED, Event.RETURNED): (READY, SCHEDULED, CANCELLED),
    (LEASED, Event.BURIED): (DEAD,),
    (LEASED, Event.WITHDRAWN): (CANCELLED,),
    (LEASED, Event.LEASE_EXPIRED): (SCHEDULED, DEAD, CANCELLED),  # a crash; one too many; a cancel was asked for
    (LEASED, Event.CANCEL): (LEASED,),  # recorded; the worker learns it with its next beat
    (DEAD, Event.REQUEUE): (READY,),
}
"""Every move there is.  What is not in the table is refused."""


def born(
    seq: int,
    now: float,
    due: float,
    *,
    ttl: float | None = None,
    max_crashes: int | None = None,
    result_ttl: float | None = None,
) -> Life:
    """Return the life of a message published *now* and due at *due*, or now if that has passed."""
    due = max(due, now)
    return Life(
        seq,
        due,
        SCHEDULED if due > now else READY,
        None if ttl is None else due + ttl,
        max_crashes=max_crashes,
        result_ttl=result_ttl,
    )


def comeback(crashes: int) -> float:
    """Return the seconds a message stays away after its *crashes*-th crash: 1, 2, 4 ... 60."""
    # Bounded before it is raised: a message without a budget may crash more often than a float has exponents.
    return min(2.0 ** min(crashes - 1, 10), _SLOWEST_COMEBACK)


def elapse(life: Life, now: float) -> Life:
    """Return *life* after all that time alone has decided by *now*."""
    if life.state is LEASED and now >= life.until:
        life = _crashed(life)
    if life.state is SCHEDULED and now >= life.due:
        life = replace(life, state=READY)
    if life.state is READY and life.expires is not None and now >= life.expires:
        life = replace(life, state=DEAD, ended=life.expires, reason="expired", forget=None)
    return life


def next_change(life: Life) -> float | None:
    """Return when time alone will next decide something about *life*, or None if it never will."""
    if life.state is LEASED:
        return life.until
    if life.state is SCHEDULED:
        return life.due
    if life.state is READY:
        return life.expires
    return life.forget


def _crashed(life: Life) -> Life:
    """The lease ran out: whoever held it is gone, or too late."""
    life = replace(life, crashes=life.crashes + 1, owner=None, expires=None, stray_since=None)
    if life.cancel is not None:
        return _cancelled(life, life.until, life.cancel, None)
    if life.max_crashes is not None and life.recent_crashes >= life.max_crashes:
        return replace(life, state=DEAD, ended=life.until, reason="poison", forget=None)
    return replace(life, state=SCHEDULED, due=life.until + comeback(life.recent_crashes))


def _cancelled(life: Life, now: float, reason: str, keep: float | None) -> Life:
    if keep is None:
        keep = DAY if life.result_ttl is None else life.result_ttl
    return replace(
        life, state=CANCELLED, owner=None, ended=now, reason=reason, forget=now + keep, expires=None, cancel=reason
    )


def take(life: Life, owner: str, until: float) -> Life:
    """Return *life* leased to *owner*.  It must be ready; who calls has let time pass first."""
    return replace(life, state=LEASED, deliveries=life.deliveries + 1, owner=owner, until=until)


def standing(life: Life, token: Token, now: float) -> Reply:
    """Return APPLIED if *token* is that of the current lease, in time; else why it is not."""
    if life.seq != token[0]:
        return Reply.UNKNOWN if token[0] > life.seq else Reply.SUPERSEDED
    if life.state is LEASED and life.deliveries == token[1]:
        return Reply.APPLIED if now < life.until else Reply.EXPIRED
    if life.state in ENDED:
        return Reply.ENDED
    return Reply.SUPERSEDED


def extend(life: Life, token: Token, until: float, now: float) -> tuple[Life, Reply]:
    """Let the lease run at least until *until*; it is never shortened."""
    reply = standing(life, token, now)
    if reply is Reply.APPLIED:
        return (replace(life, until=until) if until > life.until else life), reply
    return elapse(life, now), reply


def settle(life: Life, token: Token, verdict: Verdict, now: float) -> tuple[Life, Reply]:
    """End the lease with a verdict."""
    reply = standing(life, token, now)
    if reply is not Reply.APPLIED:
        if life.settled == token[1] and life.seq == token[0] and life.verdict == type(verdict).__name__:
            reply = Reply.REPEATED
        return elapse(life, now), reply
    if type(verdict) is Done:
        return replace(
            life,
            state=DONE,
            owner=None,
            verdict="Done",
            settled=token[1],
            ended=now,
            forget=now + verdict.keep,
            expires=None,
        ), reply
    return _settled_otherwise(life, verdict, now)


def _settled_otherwise(life: Life, verdict: Verdict, now: float) -> tuple[Life, Reply]:
    if isinstance(verdict, Withdrawn) and life.cancel is None and verdict.reason is None:
        return life, Reply.NOT_ASKED
    ended = replace(life, owner=None, verdict=type(verdict).__name__, settled=life.deliveries)
    match verdict:
        case Failed():
            ended = _failed(ended, verdict, now)
        case Returned():
            ended = _returned(ended, verdict, now)
        case Buried(reason=reason):
            ended = replace(
                ended, state=DEAD, failures=life.failures + 1, ended=now, reason=reason, forget=None, expires=None
            )
        case Withdrawn(keep=keep):
            why = verdict.reason if life.cancel is None else life.cancel
            ended = _cancelled(replace(ended, withdrawals=life.withdrawals + 1), now, why or "", keep)
        case Done():
            raise AssertionError("done by its caller")
    return elapse(ended, now), Reply.APPLIED


def _failed(life: Life, verdict: Failed, now: float) -> Life:
    life = replace(life, failures=life.failures + 1, expires=None, stray_since=None)
    if life.cancel is not None:
        return _cancelled(life, now, life.cancel, None)
    if verdict.delay is None:
        return replace(life, state=DEAD, ended=now, reason="failed", forget=None)
    return replace(life, state=SCHEDULED, due=now + verdict.delay)


def _returned(life: Life, verdict: Returned, now: float) -> Life:
    since = now if life.stray_since is None else life.stray_since
    life = replace(
        life,
        returns=life.returns + 1,
        stray_since=since if verdict.reason == UNKNOWN_ACTOR else None,
        expires=None if verdict.started else life.expires,
    )
    if life.cancel is not None:
        return _cancelled(life, now, life.cancel, None)
    if verdict.delay is None:
        return replace(life, state=READY)
    return replace(life, state=SCHEDULED, due=now + verdict.delay)


def failure_of(verdict: Verdict, life: Life, now: float) -> Failure | None:
    """Return the failure that *verdict* adds to a message's history, if any, stamped with the time and the attempt.

    *life* is the message's life after the verdict was applied.
    """
    match verdict:
        case Failed(error=error) | Buried(error=error):
            return replace(error, at=now, attempt=life.failures - life.spent_failures)
        case Withdrawn(error=Failure() as error):
            return replace(error, at=now, attempt=life.attempts + 1)
        case _:
            return None


def cancel(life: Life, reason: str, now: float) -> tuple[Life, CancelReply]:
    """Withdraw a waiting message; ask for a leased one to be stopped."""
    life = elapse(life, now)
    if life.state in ENDED:
        return life, CancelReply.FINISHED
    if life.state is LEASED:
        return (life if life.cancel is not None else replace(life, cancel=reason)), CancelReply.REQUESTED
    return _cancelled(life, now, reason, None), CancelReply.WITHDRAWN


def requeue(life: Life, seq: int, now: float) -> Life:
    """Bring a dead message back, at the end of the order, with both budgets afresh and its history kept.

    *seq* is its new place.  Deliveries go on counting, so no token is ever used twice.
    """
    return replace(
        life,
        seq=seq,
        due=now,
        state=READY,
        expires=None,
        cancel=None,
        spent_failures=life.failures,
        spent_crashes=life.crashes,
        requeues=life.requeues + 1,
        stray_since=None,
        ended=None,
        reason=None,
        forget=None,
    )


def conserved(life: Life) -> bool:
    """Whether every lease ever granted is accounted for: the law that tests check on every message."""
    done = int(life.state is DONE)
    leased = int(life.state is LEASED)
    ends = life.failures + life.crashes + life.returns + life.withdrawals
    return life.deliveries == ends + done + leased
