"""The depot: messages come in from taps, wait in the stock, are leased by the book, and leave again.

What need not wait for a caller happens in here, too: leases that run out, messages that come too early, too late or
from a session that has died, and stock that nobody asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Final, final

import trio
from msgspec.structs import replace

from trepid.brokers.leasebook import Lease, LeaseBook
from trepid.brokers.rabbitmq import passport
from trepid.brokers.rabbitmq.building import NOT_FOUND
from trepid.brokers.rabbitmq.clock import CLOCK
from trepid.brokers.rabbitmq.haulage import Haulage
from trepid.brokers.rabbitmq.lines import Lines
from trepid.brokers.rabbitmq.moving import Move
from trepid.brokers.rabbitmq.stock import Item
from trepid.brokers.rabbitmq.tap import Tap
from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.ports.messages import Delivery, Ref
from trepid.rules import lifecycle
from trepid.rules.life import DEAD, LEASED, READY, SCHEDULED, Life
from trepid.wire.amqp import ChannelClosedError, Delivered
from trepid.wire.amqp.frames import header_of
from trepid.wire.link import ProtocolError

_PATIENCE: Final = 1.5
"""Seconds for which stock waits here for a caller, before others get it."""
_LINGER: Final = 0.25
"""The same for an empty stock.  Not at once: whenever pushing ends, what is under way may come back as a crash."""
_EARLY: Final = 0.3
"""Seconds that a message waits here if it came too early; with more it goes round again."""
_AGAIN: Final = 0.5


@final
class Depot:
    """What one session holds.

    Attributes:
      book: the leases.
      taps: by queue.
      haulage: what is moved.
      stirred: set whenever somebody who waits may find something.
    """

    def __init__(self) -> None:
        self.book: LeaseBook[Item] = LeaseBook()
        self.taps: dict[str, Tap] = {}
        self.haulage = Haulage()
        self.stirred = trio.Event()
        self.freed = trio.Event()
        self._lines: Lines | None = None
        self._work = trio.Event()
        self._loaded = trio.Event()
        self._turn = 0

    def connect(self, lines: Lines) -> None:
        """Work over these lines from now on."""
        self._lines = lines
        self.stir()

    def disconnect(self) -> None:
        """The lines are gone: all that was held is void, and the server gives it to somebody else."""
        self._lines = None
        self.haulage.clear()
        for tap in list(self.taps.values()):
            self._void(tap)
        self.taps.clear()
        self.stir()
        self._wake_the_freed()

    async def tap(self, lines: Lines, queue: str) -> Tap | None:
        """Return the tap of a queue, or None if it was not declared."""
        tap = self.taps.get(queue)
        if tap is not None and not tap.channel.closed:
            return tap  # noqa: ASYNC910 - whoever asks waits for messages next
        if not await lines.existing((queue,)):
            return None
        channel = await lines.consumer.channel()
        if (other := self.taps.get(queue)) is not None and not other.channel.closed:
            channel.abandon()
            return other
        self.taps[queue] = tap = Tap(queue, channel, lines.names, self)
        return tap

    def stir(self) -> None:
        """Let everybody look again who waits."""
        self.stirred.set()
        self._work.set()

    def to_wait(self) -> trio.Event:
        """Return the event to wait for after a look that found nothing; no checkpoint may be in between."""
        if self.stirred.is_set():
            self.stirred = trio.Event()
        return self.stirred

    def arrived(self, tap: Tap, message: Delivered) -> None:
        """Take charge of a message.  Called by its tap."""
        now = CLOCK.now()
        try:
            text, headers = header_of(message.properties, passport.HEADER)
            papers = passport.read(text or b"")
        except (ProtocolError, ValueError):
            papers = passport.foreign(CLOCK.number(), now)
            self._soon(Move(Item(tap, message.tag, papers, message.body), papers, DEAD, 0.0, self._tried))
            return
        item = Item(tap, message.tag, papers, message.body)
        if message.redelivered or headers.get("x-delivery-count"):
            # Since RabbitMQ 4.3 a lost session no longer adds to the count, and only the mark is there.  Once or more
            # often is the same: what comes back is copied before it is leased again, so a session that dies over that
            # has not started it.
            life = lifecycle.elapse(replace(papers.life(LEASED), until=now), now)
            self._follow(item, life, now)
        elif papers.expires is not None and now >= papers.expires:
            self._follow(item, lifecycle.elapse(papers.life(), now), now)
        elif papers.due > now + _EARLY:
            self._soon(Move(item, papers, SCHEDULED, papers.due - now, self._tried))
        else:
            tap.stock.add(item, now)
            self.stir()

    def _follow(self, item: Item, life: Life, now: float, lease: Lease[Item] | None = None) -> None:
        """Send a message where its life says."""
        done = self._tried if lease is None else partial(self.closed, lease, life)
        delay = life.due - now if life.state is SCHEDULED else 0.0
        self._soon(Move(item, item.passport.after(life), life.state, delay, done))

    def _tried(self, move: Move, done: bool) -> None:  # noqa: FBT001 - what became of it
        if not done:
            self.haulage.refused = True
            self._soon(move)

    def closed(self, lease: Lease[Item], life: Life, _: Move, done: bool) -> None:  # noqa: FBT001 - as above
        """A lease has ended, or could not be ended because its copy was refused."""
        if done:
            self.book.close(lease, life)
        else:
            self.haulage.refused = True
            self.book.free(lease)
        self._wake_the_freed()
        self._work.set()

    def _soon(self, move: Move) -> None:
        self.haulage.waiting.append(move)
        self._work.set()

    def dried_up(self, tap: Tap, error: Exception) -> None:
        """A channel is lost, and all that was drawn over it.  Called by its tap."""
        if self._lines is not None and isinstance(error, ChannelClosedError) and error.code == NOT_FOUND:
            self._lines.known.discard(tap.queue)
        if self.taps.get(tap.queue) is tap:
            del self.taps[tap.queue]
        self._void(tap)
        self.stir()
        self._wake_the_freed()

    def _void(self, tap: Tap) -> None:
        tap.stock.clear()
        self.haulage.drop(tap)
        for lease in self.book.leases():
            if lease.message.tap is tap:
                self.book.lose(lease)

    def _wake_the_freed(self) -> None:
        self.freed.set()
        self.freed = trio.Event()

    def ready(self, taps: Sequence[Tap]) -> int:
        """Count the messages in stock that can be leased."""
        now = CLOCK.now()
        return sum(tap.stock.ready(now) for tap in taps)

    def in_turn(self, taps: Sequence[Tap]) -> list[Tap]:
        """Return the taps, each time another one first."""
        self._turn += 1
        start = self._turn % len(taps) if taps else 0
        return [*taps[start:], *taps[:start]]

    def take(self, taps: Sequence[Tap], limit: int, lease_for: float, owner: str, deadline: float) -> list[Delivery]:
        """Lease up to *limit* messages out of the stock; the queues take turns."""
        now = CLOCK.now()
        turns = list(taps)
        taken: list[Delivery] = []
        while turns and len(taken) < limit:
            share = -(-(limit - len(taken)) // len(turns))
            left: list[Tap] = []
            for tap in turns:
                for _ in range(min(share, limit - len(taken), tap.stock.ready(now))):
                    item = tap.stock.pop()
                    if item.passport.expires is not None and now >= item.passport.expires:
                        self._follow(item, lifecycle.elapse(item.passport.life(), now), now)
                    else:
                        taken.append(self._lease(item, owner, now, lease_for, deadline))
                if tap.stock.ready(now):
                    left.append(tap)
            turns = left
        return taken

    def _lease(self, item: Item, owner: str, now: float, lease_for: float, deadline: float) -> Delivery:
        papers = item.passport
        life = replace(papers.life(), deliveries=CLOCK.number() - 1)
        life = lifecycle.take(life, owner, now + lease_for)
        end = self.book.next_end()
        self.book.open(item.tap.queue, papers.id, life, item)
        if end is None or life.until < end:
            self._work.set()
        return item.delivery(life, now, deadline)

    async def run(self) -> None:
        """Carry out what time and the server have decided, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._haul, name="moves of a depot")
            while True:
                self._work = trio.Event()
                wait = self._look_round()
                if self.haulage.waiting and self._lines is not None:
                    self._loaded.set()
                with trio.move_on_after(wait):
                    await self._work.wait()

    async def _haul(self) -> None:
        """Move what is to be moved; beside the looking round, for a server without room may keep it for long."""
        while True:
            await self._loaded.wait()
            self._loaded = trio.Event()
            try:
                while self.haulage.waiting and self._lines is not None:
                    await self.haulage.carry(self._lines)
            except (BrokerLostError, BrokerRefusedError, ChannelClosedError):
                # Lost lines are noticed, and made again; what else does not work may work later.
                await trio.sleep(_AGAIN)
                self._work.set()

    def _look_round(self) -> float:
        """Note what is to be moved, and return the seconds until there may be more."""
        now = CLOCK.now()
        for lease in self.book.expired(now):
            self._follow(lease.message, lifecycle.elapse(lease.life, now), now, lease)
        moments = [self.book.next_end() or math.inf]
        room = self._lines is None or self._lines.publisher.blocked is None  # else it can still be leased here
        for tap in self.taps.values():
            if not tap.callers and (len(tap.stock) or not tap.quiet):
                idle = trio.current_time() - tap.asked
                if idle < (patience := _PATIENCE if len(tap.stock) else _LINGER):
                    moments.append(now + patience - idle)
                elif not tap.quiet:
                    tap.hush()  # and its end is noticed
                elif room:
                    self._back(tap.stock.clear())
            if (since := tap.stock.oldest()) is not None:
                if room and since + _PATIENCE <= now:
                    # Whoever asks has its slots full most of the time; others may be free.
                    self._back(tap.stale(now - _PATIENCE))
                moments.append(max((tap.stock.oldest() or now) + _PATIENCE, now + _AGAIN))
            if (due := tap.stock.next_due()) is not None:
                moments.append(due)
                if due <= now and tap.stock.ready(now):  # which files it, so that it is told of once
                    self.stir()
        return max(min(moments) - now, 0.001)

    def _back(self, items: Sequence[Item]) -> None:
        self.haulage.waiting += [Move(item, item.passport, READY, 0.0, self._tried) for item in items]

    async def give_back(self, lines: Lines) -> None:
        """Return the stock, uncounted, to where others find it; the session is about to close.

        What is under way is waited for: else its copies would be stored, and its originals come back as well.
        """
        for tap in self.taps.values():
            tap.hush()
        while not all(tap.quiet for tap in self.taps.values()):
            self._work = trio.Event()
            await self._work.wait()
        for tap in self.taps.values():
            self._back(tap.stock.clear())
        await self.haulage.finish(lines)

    async def expire(self, leases: Sequence[Lease[Item]]) -> None:
        """Let leases run out now, and wait until that is carried out."""
        now = CLOCK.now()
        for lease in leases:
            self.book.crash(lease, now)
        self._work.set()
        await self.ended([lease.ref for lease in leases])

    async def ended(self, refs: Sequence[Ref]) -> None:
        """Wait until none of these leases is open any more."""
        await trio.lowlevel.checkpoint()
        while any(self.book.find(ref) is not None for ref in refs):
            await self.freed.wait()
