"""Dead letters on a broker: choosing them, and moving them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

import attrs

from trepid.cli.failures import Exit, Failure, unknown_queue

if TYPE_CHECKING:
    from trepid.connection import Connection
    from trepid.ports.messages import MessageView

_BATCH: Final = 500

SKIPPED: Final = {
    "requeue": "another live message holds their unique key, or somebody was faster",
    "purge": "somebody was faster",
}


@attrs.frozen
class Choice:
    """Which dead letters are meant.  What is empty says nothing.

    Attributes:
      queues: where to look.
      ids: their ids.
      actor: their actor.
      error: a part of the type or the message of their last error.
    """

    queues: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    actor: str | None = None
    error: str | None = None

    @property
    def filters(self) -> bool:
        """Whether it leaves some out."""
        return bool(self.queues or self.ids or self.actor or self.error)

    def has(self, view: MessageView) -> bool:
        """Whether a dead letter is meant, as far as its text can tell."""
        if self.actor is not None and view.actor != self.actor:
            return False
        if self.error is None:
            return True
        told = "" if view.error is None else f"{view.error.type}: {view.error.message}"
        return self.error.lower() in told.lower()


async def where(connection: Connection, queues: tuple[str, ...]) -> list[str]:
    """Return the queues to look in: those named, or all.

    Raises:
      Failure: exit code 4, if one is not declared.
    """
    declared = await connection.queues()
    for queue in queues:
        if queue not in declared:
            raise unknown_queue(queue, declared)
    return list(queues) or declared


async def matching(connection: Connection, choice: Choice, limit: int | None = None) -> list[MessageView]:
    """Return the dead letters that are meant, at most *limit* of them."""
    from trepid.rules.life import State

    found: list[MessageView] = []
    for queue in await where(connection, choice.queues):
        if choice.ids:
            found += [view for view in await _named(connection, queue, choice.ids) if view.state is State.DEAD]
            continue
        async for view in connection.messages(queue, State.DEAD):
            if choice.has(view):
                found.append(view)
            if limit is not None and len(found) >= limit:
                return found
    return found


async def _named(connection: Connection, queue: str, ids: tuple[str, ...]) -> list[MessageView]:
    """Return the messages with these ids, or only those that are dead: NATS lists these, and shows no others."""
    from trepid.errors import UnsupportedError
    from trepid.rules.life import State

    try:
        views = [await connection.session.get(queue, id) for id in dict.fromkeys(ids)]
    except UnsupportedError:
        return [view async for view in connection.messages(queue, State.DEAD) if view.id in ids]
    return [view for view in views if view is not None]  # noqa: ASYNC910 - there is at least one id


@attrs.frozen
class Chosen:
    """The dead letters that are meant.

    Attributes:
      numbers: how many there are, by queue; those of which there are none are left out.
      views: which they are, or None for all of these queues, on an engine that shows no messages.
    """

    numbers: Mapping[str, int]
    views: list[MessageView] | None

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(self.numbers.values())


async def choose(connection: Connection, choice: Choice) -> Chosen:
    """Find the dead letters that are meant; where the engine shows none, they can still be counted.

    Raises:
      UnsupportedError: if the engine shows none, and they are not simply all of some queues.
    """
    from trepid.errors import UnsupportedError

    try:
        views = await matching(connection, choice)
    except UnsupportedError:
        if choice.ids or choice.actor or choice.error:
            raise
    else:
        return Chosen(Counter(view.queue for view in views), views)
    counted = {queue: (await connection.stats(queue)).dead for queue in await where(connection, choice.queues)}
    return Chosen({queue: number for queue, number in counted.items() if number}, None)


async def one(connection: Connection, queues: tuple[str, ...], id: str) -> MessageView:
    """Return the dead letter with this id.

    Raises:
      Failure: exit code 4, if there is none, or several queues have one.
    """
    from trepid.rules.life import State

    views = [view for name in await where(connection, queues) for view in await _named(connection, name, (id,))]
    dead = [view for view in views if view.state is State.DEAD]
    if len(dead) == 1:
        return dead[0]
    refuse_twins(dead)
    if views:
        raise Failure(f"{id} in queue {views[0].queue} is {views[0].state}, not dead", Exit.NOTHING)
    raise Failure(f"no dead letter is called {id}", Exit.NOTHING, "trepid dead list")


def refuse_twins(views: list[MessageView]) -> None:
    """An id is unique within its queue only: let the operator say which one is meant.

    Raises:
      Failure: exit code 4, if two of the dead letters have the same id.
    """
    queues: dict[str, list[str]] = {}
    for view in views:
        queues.setdefault(view.id, []).append(view.queue)
    for id, names in queues.items():
        if len(names) > 1:
            raise Failure(f"{id} is in the queues {' and '.join(names)}", Exit.NOTHING, f"say which: -q {names[0]}")


async def requeue(connection: Connection, chosen: Chosen) -> int:
    """Bring dead letters back; return how many came."""
    return await _in_batches(chosen, connection.requeue)


async def purge(connection: Connection, chosen: Chosen) -> int:
    """Forget dead letters; return how many there were."""

    async def forget(queue: str, ids: list[str] | None) -> int:
        return await connection.purge(queue, ids=ids)

    return await _in_batches(chosen, forget)


async def _in_batches(chosen: Chosen, action: Callable[[str, list[str] | None], Awaitable[int]]) -> int:
    import trio

    await trio.lowlevel.checkpoint()
    if chosen.views is None:
        return sum([await action(queue, None) for queue in chosen.numbers])
    ids: dict[str, list[str]] = {}
    for view in chosen.views:
        ids.setdefault(view.queue, []).append(view.id)
    total = 0
    for queue, listed in ids.items():
        for start in range(0, len(listed), _BATCH):
            total += await action(queue, listed[start : start + _BATCH])
    return total
