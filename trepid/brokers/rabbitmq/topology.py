"""What queues and exchanges are called, and the way a delayed message takes.  Pure.

A queue of Trepid is three quorum queues, one for each level of priority, and a fourth for its dead letters.  Delayed
messages climb down a ladder that all queues share: quorum queues in which everything waits for the same time, a power
of two, so that nobody is held up by who came before.  The binary digits of a delay say which of them it takes, and its
routing key names them in order::

    enter ──"+5.+3.=.mail:high"──► wait 5 ──► after 5 ──► wait 3 ──► after 3 ──► due ──"#.=.mail:high"──► mail:high
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import attrs

from trepid.wire.amqp import Target

LEVELS: Final = ("high", "medium", "low")
"""The priorities that the queues tell apart, most urgent first."""

RUNG: Final = 0.125
"""Seconds that the lowest step of the ladder takes; each one above it takes twice as long."""

RUNGS: Final = 25
"""How many steps there are: together 48 days.  What waits longer goes round again."""

_NEVER: Final = 1_000_000
"""How often the server may take a message back before it drops it; the budgets are ours, and far smaller."""

_STRAY_TTL: Final = 86_400_000
_DECOY_EXPIRES: Final = 60_000


def level_of(priority: int) -> str:
    """Return the level of a priority: HIGH is 9, MEDIUM 5 and LOW 0; numbers between them go to the nearer one."""
    if priority >= 7:
        return "high"
    return "medium" if priority >= 3 else "low"


def steps(seconds: float) -> tuple[int, ...]:
    """Return the steps of the ladder that take at least so many seconds, longest first, and less than a rung more.

    What takes longer than the whole ladder gets all of it.
    """
    most = (1 << RUNGS) - 1
    ticks = math.ceil(round(min(max(seconds / RUNG, 0.0), most), 6))
    return tuple(step for step in reversed(range(RUNGS)) if ticks >> step & 1)


@final
@attrs.frozen
class Names:
    """The names of everything under a prefix.  Queues of Trepid have no colon in their names."""

    prefix: str

    def ready(self, queue: str, level: str) -> str:
        """Return where messages of a level wait that are due."""
        return f"{self.prefix}:{queue}:{level}"

    def dead(self, queue: str) -> str:
        """Return where dead letters are kept."""
        return f"{self.prefix}:{queue}:dead"

    def all(self, queue: str) -> tuple[str, ...]:
        """Return every queue of the server that a queue of Trepid is made of."""
        return (*(self.ready(queue, level) for level in LEVELS), self.dead(queue))

    def seal(self, queue: str) -> str:
        """Return the exchange that shows that a queue of Trepid is complete; nothing is published to it."""
        return f"{self.prefix}:{queue}:seal"

    def wait(self, step: int) -> str:
        """Return the queue of a step of the ladder."""
        return f"{self.prefix}::wait:{step}"

    def after(self, step: int) -> str:
        """Return the exchange that a step leads to."""
        return f"{self.prefix}::after:{step}"

    @property
    def door(self) -> str:
        """The exchange through which everything goes that is due, or dead.

        Whoever deletes a queue first takes it off this exchange.  To the default exchange a queue is bound until it is
        gone, and RabbitMQ 3.10 closes the connection of whoever publishes to a quorum queue that is being deleted.
        """
        return f"{self.prefix}::door"

    @property
    def enter(self) -> str:
        """The exchange at which the ladder begins."""
        return f"{self.prefix}::enter"

    @property
    def due(self) -> str:
        """The exchange at which the ladder ends."""
        return f"{self.prefix}::due"

    @property
    def stray(self) -> str:
        """The exchange, and the queue, of what nobody is bound for any more."""
        return f"{self.prefix}::stray"

    @property
    def registry(self) -> str:
        """The stream in which declared queues are written down."""
        return f"{self.prefix}::registry"

    def decoy(self, mark: str) -> str:
        """Return the name of a queue that is made for the sake of those before it, and removed at once."""
        return f"{self.prefix}::decoy:{mark}"

    @property
    def mending(self) -> str:
        """The queue that is there, exclusively, while a session removes what was never completed."""
        return f"{self.prefix}::mending"

    def home(self, queue: str, level: str) -> Target:
        """Return where to publish what is due."""
        return (self.door, self.ready(queue, level))

    def grave(self, queue: str) -> Target:
        """Return where to publish what is dead."""
        return (self.door, self.dead(queue))

    def ladder(self, queue: str, level: str, way: Sequence[int]) -> Target:
        """Return where to publish what shall take some steps first."""
        return (self.enter, ".".join((*(f"+{step}" for step in way), "=", f"{queue}:{level}")))

    def bound_for(self, queue: str, level: str) -> str:
        """Return the pattern, at the end of the ladder, of messages for a level of a queue."""
        return f"#.=.{queue}:{level}"

    def ways_in(self, queue: str) -> Sequence[tuple[str, str, str]]:
        """Return what lets messages into a queue of Trepid: a queue of the server, an exchange, and a routing key."""
        direct = [(name, self.door, name) for name in self.all(queue)]
        late = [(self.ready(queue, level), self.due, self.bound_for(queue, level)) for level in LEVELS]
        return (*direct, *late)


def ordinary() -> Mapping[str, Any]:
    """Return the arguments of a queue in which messages wait for a worker, or for good."""
    return {"x-queue-type": "quorum", "x-delivery-limit": _NEVER}


def stepping(names: Names, step: int) -> Mapping[str, Any]:
    """Return the arguments of a step of the ladder: nothing is lost on the way to the next."""
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": round(1000 * RUNG * 2**step),
        "x-dead-letter-exchange": names.after(step),
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def straying() -> Mapping[str, Any]:
    """Return the arguments of the queue of what has lost its way: it is forgotten after a day."""
    return {"x-queue-type": "quorum", "x-message-ttl": _STRAY_TTL}


def decoying() -> Mapping[str, Any]:
    """Return the arguments of a decoy: should nobody live to remove it, the server does."""
    return {"x-queue-type": "quorum", "x-expires": _DECOY_EXPIRES}


def recording() -> Mapping[str, Any]:
    """Return the arguments of the registry: a stream, in which the last megabytes are kept."""
    return {"x-queue-type": "stream", "x-max-length-bytes": 64_000_000, "x-stream-max-segment-size-bytes": 4_000_000}
