"""A lease book: the leases of one session, for engines whose server knows no leases.

Such a server (RabbitMQ, JetStream) hands a message to a connection and takes it back when the connection is gone; how
long somebody may work on it, and whether a settlement comes in time, only the session can say.  The book is where it
looks that up: pure, without I/O and clock, every decision by the rules.

A settlement takes a while, for a copy may have to be stored first; so it has two steps, :meth:`LeaseBook.judge` and
:meth:`LeaseBook.close`.  In between the lease is *busy*: it was in time, and does not run out any more.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection
from typing import Final, Generic, NamedTuple, TypeVar, final

from msgspec.structs import replace

from trepid.ports.messages import Ref
from trepid.rules import lifecycle
from trepid.rules.life import LEASED, READY, Life, Reply
from trepid.rules.verdicts import Verdict

M = TypeVar("M")

_REMEMBERED: Final = 10_000
"""How many closed leases are remembered, so that a settlement repeated is recognised; their lives only, and never their
messages."""
_FEW: Final = 64


@final
class Lease(Generic[M]):
    """One lease, and what the engine needs to end it.

    Attributes:
      queue, id: which message.
      life: the message's life; leased, with the owner, the end and the token of this lease.
      message: whatever the engine keeps with it.
      busy: whether it is being settled, so that time cannot end it.
    """

    __slots__ = ("busy", "id", "life", "message", "queue")

    def __init__(self, queue: str, id: str, life: Life, message: M) -> None:
        self.queue = queue
        self.id = id
        self.life = life
        self.message = message
        self.busy = False

    @property
    def ref(self) -> Ref:
        """What the holder proves itself with."""
        return Ref(self.queue, self.id, self.life.token)


class Judgement(NamedTuple, Generic[M]):
    """What a settlement would do.

    Attributes:
      reply: APPLIED, or why not; then nothing else is there.
      lease: the lease that it ends.
      life: the message's life after it.
    """

    reply: Reply
    lease: Lease[M] | None = None
    life: Life | None = None


@final
class LeaseBook(Generic[M]):
    """The leases of one session.  Times are seconds by the clock that due times are told by."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._open: dict[Ref, Lease[M]] = {}
        self._closed: dict[Ref, Life] = {}
        self._latest: dict[tuple[str, str], Ref] = {}
        self._remembered = remembered
        self._ends: list[tuple[float, int, Ref]] = []
        self._entries = itertools.count()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, queue: str, id: str, life: Life, message: M) -> Lease[M]:
        """Enter a lease that was just granted: *life* is leased, under a token that was never used."""
        assert life.state is LEASED
        lease = Lease(queue, id, life, message)
        ref = self._latest[queue, id] = lease.ref
        self._open[ref] = lease
        self._note_end(lease)
        return lease

    def find(self, ref: Ref) -> Lease[M] | None:
        """Return the lease, if it is still open, in time or not."""
        return self._open.get(ref)

    def leases(self) -> list[Lease[M]]:
        """Return all open leases, in the order in which they were granted."""
        return list(self._open.values())

    def held(self, owner: str, now: float) -> list[Lease[M]]:
        """Return the leases of an owner that have not run out."""
        return [
            lease
            for lease in self._open.values()
            if lease.life.owner == owner and (lease.busy or now < lease.life.until)
        ]

    def leased(self, queue: str, now: float) -> int:
        """Count the leases of a queue that have not run out."""
        return sum(
            1 for lease in self._open.values() if lease.queue == queue and (lease.busy or now < lease.life.until)
        )

    # ---------------------------------------------------------------------------------------- what holders ask for

    def extend(self, ref: Ref, until: float, now: float) -> Reply:
        """Let a lease run at least until *until*; it is never shortened, and never revived."""
        lease = self._open.get(ref)
        if lease is not None:
            life, reply = lifecycle.extend(lease.life, ref.token, until, now)
            if reply is Reply.APPLIED:
                lease.life = life
            elif lease.busy:
                return Reply.SUPERSEDED  # it is as good as settled
            return reply
        life_after = self._known(ref)
        if life_after is None or (life_after.forget is not None and now >= life_after.forget):
            return Reply.UNKNOWN
        return lifecycle.extend(life_after, ref.token, until, now)[1]

    def judge(self, ref: Ref, verdict: Verdict, now: float) -> Judgement[M]:
        """Decide about a settlement.  If it is to be applied, the lease is busy until it is closed or :meth:`free`.

        Whoever finds a lease busy waits for the end of that, and asks again.
        """
        lease = self._open.get(ref)
        if lease is None:
            life_after = self._known(ref)
            if life_after is None:
                return Judgement(Reply.UNKNOWN)
            return Judgement(lifecycle.settle(life_after, ref.token, verdict, now)[1])
        assert not lease.busy
        life, reply = lifecycle.settle(lease.life, ref.token, verdict, now)
        if reply is not Reply.APPLIED:
            return Judgement(reply)
        lease.busy = True
        return Judgement(reply, lease, life)

    def free(self, lease: Lease[M]) -> None:
        """Take back a judgement that could not be carried out: the lease is as it was, and time may end it again."""
        if lease.busy:
            lease.busy = False
            self._note_end(lease)

    # ------------------------------------------------------------------------------------------------- how they end

    def close(self, lease: Lease[M], life: Life) -> None:
        """A lease has ended, and *life* is the message's life now."""
        ref = lease.ref
        if self._open.pop(ref, None) is not None:
            self._closed[ref] = life
            while len(self._closed) > self._remembered:
                self._forget(next(iter(self._closed)))

    def lose(self, lease: Lease[M]) -> None:
        """The server has taken the message back: the lease is void, and its holder superseded."""
        self.close(lease, replace(lease.life, state=READY, owner=None))

    def expired(self, now: float) -> list[Lease[M]]:
        """Return the leases that have run out, each once, and mark them busy: their crash is to be carried out."""
        found: list[Lease[M]] = []
        while self._ends and self._ends[0][0] <= now:
            lease = self._open.get(heapq.heappop(self._ends)[-1])
            if lease is None or lease.busy:
                continue
            if lease.life.until > now:
                self._note_end(lease)
                continue
            lease.busy = True
            found.append(lease)
        return found

    def crash(self, lease: Lease[M], now: float) -> None:
        """Let a lease run out now: its owner is known to be dead."""
        if not lease.busy and lease.life.until > now:
            lease.life = replace(lease.life, until=now)
            self._note_end(lease)

    def next_end(self) -> float | None:
        """Return the first moment at which :meth:`expired` may find something, or None."""
        while self._ends and ((lease := self._open.get(self._ends[0][-1])) is None or lease.busy):
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def _note_end(self, lease: Lease[M]) -> None:
        if len(self._ends) > 2 * len(self._open) + _FEW:
            # Behind a lease that goes on, the ends of those that are over would pile up.
            self._ends = [(each.life.until, next(self._entries), ref) for ref, each in self._open.items()]
            heapq.heapify(self._ends)
        heapq.heappush(self._ends, (lease.life.until, next(self._entries), lease.ref))

    def forget(self, queue: str, ids: Collection[str] | None = None) -> None:
        """Forget closed leases of messages that were removed or begin anew: their holders are unknown now."""
        for ref in [ref for ref in self._closed if ref.queue == queue and (ids is None or ref.id in ids)]:
            self._forget(ref)

    def _forget(self, ref: Ref) -> None:
        del self._closed[ref]
        if self._latest.get((ref.queue, ref.id)) == ref:
            del self._latest[ref.queue, ref.id]

    def _known(self, ref: Ref) -> Life | None:
        """Return what is known of a message whose lease is not open: after this lease, or else of its latest."""
        if ref not in self._closed and (latest := self._latest.get((ref.queue, ref.id))) is not None:
            ref = latest
        lease = self._open.get(ref)
        return self._closed.get(ref) if lease is None else lease.life
