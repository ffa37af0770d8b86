"""The program is wrong: fix the code."""

from __future__ import annotations

import attrs

from trepid.errors.root import TrepidError


@attrs.define(eq=False)
class UnknownActorError(TrepidError, KeyError):
    """No actor of this name is in the router.

    Attributes:
      name: the name that was looked up.
      known: the names that would have been found.
    """

    name: str
    known: frozenset[str] = frozenset()

    def __str__(self) -> str:
        known = ", ".join(sorted(self.known)) or "none"
        return f"no actor is called {self.name!r} (known: {known})"


@attrs.define(eq=False)
class DuplicateActorError(TrepidError, ValueError):
    """Two actors of one name were given to one router.

    Use ``left | right`` where the right one shall win.
    """

    name: str

    def __str__(self) -> str:
        return f"two actors are called {self.name!r}; rename one, or write `left | right` to let the right one win"


@attrs.define(eq=False)
class DuplicateScheduleError(TrepidError, ValueError):
    """Two schedules of one name were given to one router.

    Use ``left | right`` where the right one shall win.
    """

    name: str

    def __str__(self) -> str:
        return f"two schedules are called {self.name!r}; rename one, or write `left | right` to let the right one win"


@attrs.define(eq=False)
class UnknownScheduleError(TrepidError, KeyError):
    """No schedule of this name is stored on the broker, or stands in the router that was given."""

    name: str

    def __str__(self) -> str:
        return f"no schedule is called {self.name!r}; a router's schedules are known only to who has that router"


@attrs.define(eq=False)
class UnknownQueueError(TrepidError, KeyError):
    """The queue was never declared on this broker; nothing was stored."""

    queue: str

    def __str__(self) -> str:
        # KeyError would show the repr of its argument, which hides the advice.
        return f"queue {self.queue!r} is not declared; call `await connection.declare({self.queue!r})` first"


@attrs.define(eq=False)
class UnsupportedError(TrepidError, NotImplementedError):
    """The engine cannot do what was asked, and does not pretend to.

    Attributes:
      feature: what was asked for.
      engine: who cannot do it.
      hint: what to do instead.
    """

    feature: str
    engine: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.engine} does not support {self.feature}" + (f"; {self.hint}" if self.hint else "")


@attrs.define(eq=False)
class PayloadTooLargeError(TrepidError, ValueError):
    """A job's arguments, or its result, are larger than a message may be."""

    size: int
    limit: int

    def __str__(self) -> str:
        return f"{self.size:,} bytes are more than the {self.limit:,} that fit; store the data elsewhere, send its key"


@attrs.define(eq=False)
class UniqueConflictError(TrepidError):
    """A live message already holds the unique key, and the job said ``on_conflict="raise"``."""

    key: str
    queue: str
    holder: str

    def __str__(self) -> str:
        return f"unique key {self.key!r} in queue {self.queue!r} is held by message {self.holder!r}"


@attrs.define(eq=False)
class QueueFullError(TrepidError):
    """The queue has as many messages as its ``max_size`` says; nothing was stored."""

    queue: str

    def __str__(self) -> str:
        return f"queue {self.queue!r} has no room; enqueue fewer at once, with wait=True, or give it a larger max_size"


@attrs.define(eq=False)
class QueueBusyError(TrepidError):
    """The queue cannot be deleted while messages of it are leased."""

    queue: str
    leased: int

    def __str__(self) -> str:
        return f"queue {self.queue!r} has {self.leased} leased message(s); stop its workers, then delete it"


@attrs.define(eq=False)
class BrokerURLError(TrepidError, ValueError):
    """A broker URL cannot be used.  The message never shows a password."""

    url: str
    reason: str

    def __str__(self) -> str:
        return f"broker URL {self.url!r}: {self.reason}"
