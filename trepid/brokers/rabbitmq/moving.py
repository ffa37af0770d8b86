"""Moving a message: a copy is stored where it belongs now, and only then the original is acknowledged.

The server can do neither in one step, nor change what it has; so a crash in between leaves a message twice, and never
not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, final

import attrs

from trepid.brokers.rabbitmq.clock import CLOCK
from trepid.brokers.rabbitmq.lines import Lines
from trepid.brokers.rabbitmq.passport import Passport
from trepid.brokers.rabbitmq.stock import Item
from trepid.brokers.rabbitmq.tap import Tap
from trepid.brokers.rabbitmq.topology import level_of, steps
from trepid.ports.messages import Publication
from trepid.rules.life import DEAD, READY, SCHEDULED, State
from trepid.wire.amqp import Batch, Target


@final
@attrs.frozen(eq=False)
class Move:
    """Where a message goes.

    Attributes:
      item: what the server has handed out; it is acknowledged once the copy is stored.
      passport: what the copy says of its life, or None if there is none: the message has ended.
      state: where the copy goes: ready, scheduled or dead.
      delay: how long it is scheduled, in seconds.
      done: called with it once it is through; false if the copy was refused, and the original stays.
    """

    item: Item
    passport: Passport | None
    state: State = READY
    delay: float = 0.0
    done: Callable[[Move, bool], None] | None = None

    @property
    def delays(self) -> Iterable[float]:
        """The delays for which the ladder must stand."""
        return (self.delay,) if self.passport is not None and self.state is SCHEDULED else ()


class Fresh(NamedTuple):
    """A message to be published.

    Attributes:
      publication: what it is.
      delay: how long it is scheduled, in seconds.  It is counted before the ladder is looked at: a moment later a
        message that is due at a certain time would take other steps, and those may not stand.
    """

    publication: Publication
    delay: float

    @classmethod
    def of(cls, publication: Publication, now: float) -> Fresh:
        """Return what is published now."""
        due = publication.due
        return cls(publication, max(0.0, due - now) if due is not None else publication.delay or 0.0)


def target(lines: Lines, queue: str, passport: Passport, state: State, delay: float) -> Target:
    """Return where a message is published."""
    if state is DEAD:
        return lines.names.grave(queue)
    level = level_of(passport.priority)
    way = steps(delay) if state is SCHEDULED else ()
    return lines.names.ladder(queue, level, way) if way else lines.names.home(queue, level)


def publish(lines: Lines, batch: Batch, items: Sequence[Fresh], now: float, first: int) -> None:
    """Publish new messages; the steps that they take must be there.  Never waits.

    Raises:
      BrokerLostError: if the connection is lost.
    """
    for index, (item, delay) in enumerate(items, first):
        passport = Passport.of(item, CLOCK.number(), now)
        to = target(lines, item.queue, passport, SCHEDULED if delay > 0 else READY, delay)
        lines.out.publish(to, lines.sealed(passport), item.payload, batch, index)


def carry(
    lines: Lines,
    moves: Sequence[Move],
    done: Callable[[int, Exception | None], None],
    also: Sequence[Fresh] = (),
    now: float = 0.0,
) -> None:
    """Store all copies, then acknowledge all originals.  Never waits; *done* is called once all is through.

    Args:
      lines: over which; the steps that copies take must be there.
      moves: what to move.
      done: told how many moves were refused; or the error, if the connection was lost first: then nobody knows.
      also: new messages to store with the copies; if one is refused, so is the first move.
      now: when they are published.

    Raises:
      BrokerLostError: if the connection is lost already.
    """

    def stored(batch: Batch, error: Exception | None) -> None:
        # No queue took these: it was deleted, or somebody has removed the way to it.  That is looked at next time.
        if batch.returned & climbing:
            lines.builder.doubt()
        lines.known.difference_update(queues[index] for index in batch.returned - climbing)
        refused = {index if index < len(moves) else 0 for index in batch.refused | batch.returned}
        if error is None:
            _acknowledge(moves, refused)
        done(len(refused), error)
        if error is None:
            for index, move in enumerate(moves):
                if move.done is not None:
                    move.done(move, index not in refused)

    batch = Batch(stored)
    queues = [*(move.item.tap.queue for move in moves), *(each.publication.queue for each in also)]
    climbing = {index for index, each in enumerate(also, len(moves)) if steps(each.delay)}
    for index, move in enumerate(moves):
        if move.passport is not None:
            to = target(lines, move.item.tap.queue, move.passport, move.state, move.delay)
            if to[0] == lines.names.enter:
                climbing.add(index)
            lines.out.publish(to, lines.sealed(move.passport), move.item.payload, batch, index)
    publish(lines, batch, also, now, len(moves))
    batch.seal()


def _acknowledge(moves: Sequence[Move], refused: set[int]) -> None:
    tags: dict[Tap, list[int]] = {}
    for index, move in enumerate(moves):
        if index not in refused:
            tags.setdefault(move.item.tap, []).append(move.item.tag)
    for tap, those in tags.items():
        tap.ack(those)
