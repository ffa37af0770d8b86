"""Deeds: what the second engine knows of a message.  Pure: values in, values out.

The main engine carries *tickets*, the second one keeps the *deed*: one record per id, and it decides.  A ticket names
its publish; one that does not match its deed, or whose deed has ended, is thrown away by whoever leases it, and never
runs.  So it does no harm if an outage leaves a ticket too many.  Every change of a deed is an exchange of the exact
bytes that were read, so of two who change it at the same time one is told, and looks again.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from trepid.ports.messages import Delivery, Publication
from trepid.rules.life import CANCELLED, DEAD, DONE, ENDED, LEASED, READY, State, Token
from trepid.rules.lifecycle import DAY
from trepid.rules.publishing import LONG_REMEMBERED, REMEMBERED, PublishToken
from trepid.rules.verdicts import Buried, Done, Failed, Failure, Returned, Verdict, Withdrawn
from trepid.values.envelope import actor_of, scope_of

CLAIM_FOR: Final = 60.0
"""Seconds after which an id or a key is free again whose publisher died between claiming it and confirming it.

The deed is kept for longer: the ticket may be there, and whoever leases it must know what it claimed.
"""

TICKET_FOR: Final = 400 * DAY
"""For how long a deed outlasts a ticket that may still be about."""

NOT_STORED: Final = "not stored"
"""The reason of a deed whose publish was refused when its ticket may have been there: there never was a message."""

SURPLUS_WAITS: Final = 1.0
"""Seconds for which a ticket is sent away whose message runs already, by another ticket."""


class Epoch(msgspec.Struct, frozen=True, array_like=True):
    """How often a queue was deleted, flushed of what waited, and purged of its dead: older deeds are void."""

    deleted: int = 0
    flushed: int = 0
    buried: int = 0


class Lease(msgspec.Struct, frozen=True, array_like=True):
    """Who runs a message: the main engine's lease of the ticket, as far as the second one has heard of it."""

    token: Token
    owner: str
    until: float
    failures: int
    crashes: int


class Deed(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message.  Times are seconds by the main engine's clock.

    Attributes:
      token: which publish it is.
      state: ready (or scheduled, which *due* says), leased, or how it ended.
      sure: whether its ticket is surely in the main engine; else its publisher may have died before.
      surplus: whether there may be a ticket too many, of this publish or of an earlier one.
      epoch: that of its queue when it was leased, or began to wait.
      lease: the current, or last, lease.
      settled, verdict: the lease and the kind of the last settlement.
      forget: until when it can be read, once ended; None for dead letters.
      scope: the job nursery that it belongs to, if it does.
      sealed: somebody has acted upon its end, so that cannot be taken back any more.
      gone: the main engine has said that its ticket is gone.
      mark: of who wrote it last; no two writes have the same, so everybody knows their own.
      The others are as in MessageView, Publication and Ending.
    """

    token: PublishToken
    state: State = READY
    sure: bool = False
    surplus: bool = False
    epoch: Epoch = Epoch()
    unique: str | None = None
    actor: str | None = None
    priority: int = 5
    enqueued: float = 0.0
    due: float = 0.0
    expires: float | None = None
    result_ttl: float | None = None
    max_crashes: int | None = None
    lease: Lease | None = None
    cancel: str | None = None
    failures: int = 0
    releases: int = 0
    error: Failure | None = None
    settled: Token | None = None
    verdict: str | None = None
    reason: str | None = None
    ended: float | None = None
    forget: float | None = None
    sealed: bool = False
    mark: int = 0
    result: bytes | None = None
    unreadable: str | None = None
    remembered: bool = False
    scope: str | None = None
    gone: bool = False

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.state not in ENDED


class Holder(msgspec.Struct, frozen=True, array_like=True):
    """The message that holds a unique key."""

    id: str
    token: PublishToken


_ENCODER: Final = msgspec.msgpack.Encoder()
_DEEDS: Final = msgspec.msgpack.Decoder(Deed)
_EPOCHS: Final = msgspec.msgpack.Decoder(Epoch)
_HOLDERS: Final = msgspec.msgpack.Decoder(Holder)


def dump(value: Deed | Epoch | Holder) -> bytes:
    """Return a value as it is kept; equal values are equal bytes."""
    return _ENCODER.encode(value)


def load(kept: bytes | None) -> Deed | None:
    """Return the deed that is kept, if any."""
    return None if kept is None else _DEEDS.decode(kept)


def load_epoch(kept: bytes | None) -> Epoch:
    """Return the epoch of a queue."""
    return Epoch() if kept is None else _EPOCHS.decode(kept)


def load_holder(kept: bytes) -> Holder:
    """Return who holds a key."""
    return _HOLDERS.decode(kept)


# ---------------------------------------------------------------------------------------------------------- tickets


def ticket_id(id: str, token: PublishToken) -> str:
    """Return the id under which the main engine knows a message: no id holds a tilde, so both can be read from it."""
    return f"{id}~{token[0]}~{token[1]:x}" if token[0] else id


def read_ticket(ticket: str) -> tuple[str, PublishToken | None]:
    """Return the id and the publish of a ticket; None for what was published past the second engine."""
    id, tilde, rest = ticket.partition("~")
    publisher, _, number = rest.rpartition("~")
    return (id, (publisher, int(number, 16))) if tilde else (ticket, None)


# ------------------------------------------------------------------------------------------------------------ lives


def claimed(item: Publication, epoch: Epoch, now: float) -> Deed:
    """Return the deed of a message that is about to be published."""
    due = max(now, item.due) if item.due is not None else now + (item.delay or 0.0)
    return Deed(
        item.token,
        epoch=epoch,
        unique=None if item.unique is None else item.unique.key,
        actor=actor_of(item.payload),
        priority=item.priority,
        enqueued=now,
        due=due,
        expires=None if item.ttl is None else due + item.ttl,
        result_ttl=item.result_ttl,
        max_crashes=item.max_crashes,
        remembered=item.remembered,
        scope=scope_of(item.payload),
    )


def adopted(token: PublishToken, delivery: Delivery) -> Deed:
    """Return a deed for a ticket that has none: its claim ran out, or the second engine has lost it."""
    return Deed(
        token,
        sure=True,
        actor=actor_of(delivery.payload),
        priority=delivery.priority,
        enqueued=delivery.enqueued,
        due=delivery.due,
        result_ttl=delivery.result_ttl,
        max_crashes=delivery.max_crashes,
        scope=scope_of(delivery.payload),
    )


def elapse(deed: Deed, epoch: Epoch, now: float) -> Deed | None:
    """Return a deed after what time has decided by now, or None if it is void."""
    if deed.epoch.deleted != epoch.deleted:
        return None
    lease = deed.lease
    if deed.state is LEASED and lease is not None and now >= lease.until:
        crashes = lease.crashes + 1
        if deed.cancel is not None:
            deed = cancelled(deed, lease.until, deed.cancel)
        elif deed.max_crashes is not None and crashes >= deed.max_crashes:
            deed = replace(deed, state=DEAD, ended=lease.until, reason="poison")
        else:
            deed = replace(deed, state=READY)
    elif deed.state is READY and deed.expires is not None and now >= max(deed.due, deed.expires):
        deed = replace(deed, state=DEAD, ended=deed.expires, reason="expired")
    if deed.state is READY and deed.epoch.flushed != epoch.flushed:
        return None
    if deed.state is READY and not deed.sure and now >= deed.enqueued + CLAIM_FOR:
        return None
    if deed.state is DEAD and deed.epoch.buried != epoch.buried:
        return None
    return deed


def readable(deed: Deed | None, now: float) -> bool:
    """Whether anything can be said about it."""
    return deed is not None and (deed.live or deed.forget is None or now < deed.forget)


def leased(deed: Deed, delivery: Delivery, owner: str, until: float, epoch: Epoch) -> Deed:
    """Return a deed whose ticket was leased: so it belongs to its queue as that is now, whatever its publisher knew."""
    lease = Lease(delivery.token, owner, until, delivery.failures, delivery.crashes)
    deed = replace(deed, state=LEASED, sure=True, epoch=epoch, lease=lease)
    return replace(deed, expires=None, ended=None, forget=None, reason=None, cancel=None)


def cancelled(deed: Deed, now: float, reason: str, keep: float | None = None) -> Deed:
    """Return a deed that was cancelled."""
    if keep is None:
        keep = DAY if deed.result_ttl is None else deed.result_ttl
    return replace(deed, state=CANCELLED, ended=now, reason=reason, cancel=reason, forget=now + keep, expires=None)


def settled(deed: Deed, verdict: Verdict, epoch: Epoch, now: float) -> tuple[Deed, Verdict]:
    """Return a leased deed after a verdict, and what the main engine is to do with the ticket.

    A request to cancel is known here only; so what it turns into an end is, for the main engine, just done.
    """
    lease = deed.lease
    assert lease is not None, "only leased deeds are settled"
    deed = replace(deed, settled=lease.token, verdict=type(verdict).__name__, failures=lease.failures)
    error = getattr(verdict, "error", None)
    if error is not None:
        deed = replace(deed, error=replace(error, at=now, attempt=lease.failures + 1))
    thrown_away = Done(None, 0.0)
    match verdict:
        case Done(result, keep, unreadable):
            forget = now + keep
            kept = (result, unreadable) if keep > 0 else (None, None)
            deed = replace(deed, state=DONE, ended=now, forget=forget, result=kept[0], unreadable=kept[1])
            return deed, thrown_away
        case Withdrawn(keep, reason=reason):
            why = reason if deed.cancel is None else deed.cancel
            return cancelled(deed, now, why or "", keep), thrown_away
        case Buried(reason=reason):
            failures = lease.failures + 1
            deed = replace(deed, state=DEAD, ended=now, reason=reason, failures=failures, epoch=epoch)
            return deed, verdict
        case Failed() | Returned() if deed.cancel is not None:
            return cancelled(deed, now, deed.cancel), thrown_away
        case Failed(delay=None):
            failures = lease.failures + 1
            deed = replace(deed, state=DEAD, ended=now, reason="failed", failures=failures, epoch=epoch)
            return deed, verdict
        case Failed(delay=delay):
            due = now + (delay or 0.0)
            return replace(deed, state=READY, due=due, failures=lease.failures + 1, epoch=epoch), verdict
        case Returned(delay=delay):
            due = deed.due if delay is None else now + delay
            return replace(deed, state=READY, due=due, releases=deed.releases + 1, epoch=epoch), verdict


def remembered(deed: Deed) -> float:
    """Return for how many seconds a publish is recognised after its message is forgotten."""
    return LONG_REMEMBERED if deed.remembered else REMEMBERED


def spent(deed: Deed) -> bool:
    """Whether a message has ended, and its ticket has surely gone."""
    return not deed.live and not deed.surplus and (deed.state is DONE or deed.gone)


def kept_for(deed: Deed, now: float) -> float:
    """Return for how many seconds a deed is to be kept.

    Until its ticket has surely gone, in any case; after that for as long as its publish may be repeated.
    """
    if spent(deed) and deed.forget is not None:
        return max(0.0, deed.forget - now) + remembered(deed)
    return TICKET_FOR + max(0.0, deed.due - now)
