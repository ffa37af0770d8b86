"""A tap: what one session draws from one queue, over one channel.

Two ways to draw.  *Fetching* asks how much there is and takes exactly so much, most urgent first; two round trips, and
nothing is held back from others.  *Listening* lets the server push, up to a window; that is what makes a busy worker
quick and an idle one wake at once.  What was pushed and not leased waits in the stock.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol, final

import attrs
import trio
from pamqp import commands

from trepid.brokers.rabbitmq.stock import Item, Stock
from trepid.brokers.rabbitmq.topology import LEVELS, Names, level_of
from trepid.wire.amqp import Channel, Delivered
from trepid.wire.reply import Reply

_WIDEST: Final = 65_535
_WARY: Final = 10.0
"""Seconds for which a level is fetched rather than pushed, after it was pushed in vain."""
_WORTH: Final = 160
"""Messages of a level that were fetched since; then whoever asks is quick enough to be pushed them again."""
FLOW: Final = 0.05
"""Seconds after a message was pushed in which more are to be expected."""


class Basin(Protocol):
    """Where a tap drains to."""

    def arrived(self, tap: Tap, message: Delivered) -> None:
        """Take charge of a message."""
        ...

    def dried_up(self, tap: Tap, error: Exception) -> None:
        """The channel is lost, and everything that was drawn over it."""
        ...

    def stir(self) -> None:
        """Let everybody look again who waits."""
        ...


@attrs.define(eq=False)
class _Consumer:
    tag: str
    level: str
    window: int
    held: int = 0
    opened: bool = False
    unwanted: bool = False


@final
class Tap:
    """What one session draws from one queue.

    Attributes:
      queue: its name.
      channel: over which it is drawn.
      stock: messages that were drawn and not leased.
      drawn: tags of messages that are not acknowledged, in the order in which they came, and who brought them.
      waiting: how many messages are wanted by callers that wait.
      callers: how many callers wait.
      asked: the moment, on Trio's clock, at which somebody last asked for messages.
    """

    def __init__(self, queue: str, channel: Channel, names: Names, basin: Basin) -> None:
        self.queue = queue
        self.channel = channel
        self.stock = Stock()
        self.drawn: OrderedDict[int, _Consumer | None] = OrderedDict()
        self.waiting = 0
        self.callers = 0
        self.asked = trio.current_time()
        self._names = names
        self._basin = basin
        self._consumers: dict[str, list[_Consumer]] = {level: [] for level in LEVELS}
        self._numbers = 0
        self._ending = 0
        self._held: Counter[str] = Counter()
        self._by_tag: dict[str, _Consumer] = {}
        self._pushed_at = -FLOW
        self._wary_until: dict[str, float] = dict.fromkeys(LEVELS, 0.0)
        self._fetched: Counter[str] = Counter()
        channel.lost = partial(basin.dried_up, self)
        channel.cancelled = self._cancelled
        channel.late = self._pushed

    @property
    def listening(self) -> bool:
        """Whether the server pushes messages of some level."""
        return any(self._consumers.values())

    @property
    def flowing(self) -> bool:
        """Whether the server pushes, and did so just now."""
        return self.listening and trio.current_time() < self._pushed_at + FLOW

    @property
    def unheard(self) -> Sequence[str]:
        """The levels of which the server pushes nothing, most urgent first."""
        return [level for level in LEVELS if not self._consumers[level]]

    @property
    def quiet(self) -> bool:
        """Whether the server pushes nothing, and nothing that it has pushed is still to come."""
        return not self._ending and not self.listening

    # ------------------------------------------------------------------------------------------------- drawing

    async def fetch(self, most: int, levels: Sequence[str]) -> int:
        """Draw up to *most* messages that are ready at some levels, in their order; return how many came.

        Raises:
          ChannelClosedError, BrokerLostError: if the channel is lost first.

        Cancellation: what was asked for comes into the stock all the same.
        """
        asked = [
            self.channel.ask(commands.Queue.Declare(queue=self._names.ready(self.queue, level), passive=True))
            for level in levels
        ]
        counts = [int((await reply.wait()).message_count) for reply in asked]
        gets: list[Reply[bool]] = []
        for level, count in zip(levels, counts, strict=True):
            name = self._names.ready(self.queue, level)
            some = min(count, most - len(gets))
            gets += [self.channel.get(name, self._got) for _ in range(some)]
            self._fetched[level] += some
        return sum([await reply.wait() for reply in gets])

    def listen(self, wanted: int, *, warily: bool = False) -> None:
        """Let the server push: so many as are wanted, beside those that are in work.  Never waits.

        Args:
          wanted: how many.
          warily: leave out the levels that were pushed in vain a while ago.
        """
        for level in LEVELS:
            if warily and self._wary(level):
                continue
            window = min(max(self._held[level] - self.stock.count(level), 0) + wanted, _WIDEST)
            there = sum(consumer.window for consumer in self._consumers[level])
            if there >= window:
                continue
            # A window holds from its beginning to its end, and RabbitMQ 3.10 mislays for seconds what is under way to
            # a consumer that ends.  So there will be one more, at least as wide as all before it: they stay few.
            self._numbers += 1
            consumer = _Consumer(f"{level}-{self._numbers}", level, min(max(window - there, there), _WIDEST))
            self._consumers[level].append(consumer)
            self._by_tag[consumer.tag] = consumer
            self.channel.consume(
                self._names.ready(self.queue, level),
                consumer.tag,
                self._pushed,
                prefetch=consumer.window,
                opened=partial(self._opened, consumer),
            )

    def hush(self) -> None:
        """Let the server push nothing more.  Never waits; what is under way still comes."""
        for consumers in self._consumers.values():
            for consumer in consumers:
                if consumer.opened:
                    self._cancel(consumer)
                elif not consumer.unwanted:
                    consumer.unwanted = True
                    self._ending += 1
            consumers.clear()

    def _opened(self, consumer: _Consumer) -> None:
        consumer.opened = True
        if consumer.unwanted:
            self._ending -= 1
            self._cancel(consumer)

    def _cancel(self, consumer: _Consumer) -> None:
        if not self.channel.closed:
            self._ending += 1
            self.channel.cancel(consumer.tag, partial(self._closed, consumer))

    def _closed(self, consumer: _Consumer) -> None:
        self._ending -= 1
        self._by_tag.pop(consumer.tag, None)
        self._basin.stir()

    def _cancelled(self, tag: str) -> None:
        # The queue is gone, or its leader has changed; whoever waits will ask again.
        for consumers in self._consumers.values():
            consumers[:] = [consumer for consumer in consumers if consumer.tag != tag]
        self._basin.stir()

    def _pushed(self, message: Delivered) -> None:
        self._pushed_at = trio.current_time()
        self.drawn[message.tag] = consumer = self._by_tag.get(message.consumer)
        if consumer is not None:
            consumer.held += 1
            self._held[consumer.level] += 1
        self._basin.arrived(self, message)

    def _got(self, message: Delivered) -> None:
        self.drawn[message.tag] = None
        self._basin.arrived(self, message)

    def _done(self, consumer: _Consumer | None) -> None:
        if consumer is not None:
            consumer.held -= 1
            self._held[consumer.level] -= 1

    def _wary(self, level: str) -> bool:
        return trio.current_time() < self._wary_until[level] and self._fetched[level] < _WORTH

    def stale(self, since: float) -> list[Item]:
        """Take out of stock what was pushed and lies there since then or longer.

        First the server has to stop pushing where it would push more of the same; until it has, nothing is taken out.
        """
        for level in {level_of(item.passport.priority) for item in self.stock.waiting(since)}:
            consumers = self._consumers[level]
            # To one whose window is full nothing is under way.  What is under way to a consumer that ends comes back
            # as if a session had died, so the others stay: they get what comes anew, in turn with other sessions'.
            if consumers and all(each.opened and each.held >= each.window for each in consumers):
                self._wary_until[level] = trio.current_time() + _WARY
                self._fetched[level] = 0
                for each in consumers:
                    self._cancel(each)
                consumers.clear()
        return [] if self._ending else self.stock.stale(since)

    # ----------------------------------------------------------------------------------------- acknowledging

    def ack(self, tags: Iterable[int]) -> None:
        """Acknowledge messages, in as few words as possible; none, if the channel is lost or closing.  Never waits."""
        if self.channel.closed:
            return
        done = set(tags) & self.drawn.keys()
        last = 0
        while self.drawn and (tag := next(iter(self.drawn))) in done:
            last = tag
            done.discard(tag)
            self._done(self.drawn.pop(tag))
        if last:
            self.channel.ack(last, multiple=True)
        for tag in sorted(done):
            self._done(self.drawn.pop(tag))
            self.channel.ack(tag)


@contextmanager
def waiting(taps: Sequence[Tap], limit: int) -> Generator[None]:
    """Note that somebody waits at some taps."""
    for tap in taps:
        tap.callers += 1
        tap.waiting += limit
    try:
        yield
    finally:
        for tap in taps:
            tap.callers -= 1
            tap.waiting -= limit
            tap.asked = trio.current_time()
