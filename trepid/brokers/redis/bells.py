"""Bells: who waits in this process is woken by what is said in a channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import final

import trio


@final
class Bells:
    """All who wait in one session, by channel; and what the connections tell it."""

    def __init__(self) -> None:
        self._listening: dict[tuple[str, str | None], set[Ear]] = {}
        self.heard_of = 0
        """How many messages have come."""

    def heard(self, channel: str, said: str) -> None:
        """Wake who waits for this."""
        self.heard_of += 1
        # What is said to all is said with a star, or with nothing.
        for key in ((channel, None), (channel, said)):
            for ear in self._listening.get(key, ()):
                ear.ring()
        if said == "*":
            for (where, _), ears in list(self._listening.items()):
                if where == channel:
                    for ear in ears:
                        ear.ring()

    def missed(self) -> None:
        """Wake all: something may have been said that was not heard."""
        for ears in self._listening.values():
            for ear in ears:
                ear.ring()

    def ear(self, *channels: str, about: Sequence[str | None] = (None,)) -> Ear:
        """Return what waits for news from some channels, about some things only if they are named."""
        return Ear(self._listening, [(channel, thing) for channel in channels for thing in about])


@final
class Ear:
    """One who waits; a context manager."""

    def __init__(
        self, listening: dict[tuple[str, str | None], set[Ear]], keys: Iterable[tuple[str, str | None]]
    ) -> None:
        self._listening = listening
        self._keys = tuple(keys)
        self._event = trio.Event()

    def __enter__(self) -> Ear:
        for key in self._keys:
            self._listening.setdefault(key, set()).add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in self._keys:
            ears = self._listening[key]
            ears.discard(self)
            if not ears:
                del self._listening[key]

    def ring(self) -> None:
        """Wake the one who waits."""
        self._event.set()

    def forget(self) -> None:
        """Forget what has been heard; to be called before looking again."""
        if self._event.is_set():
            self._event = trio.Event()

    async def wait(self, until: float) -> None:
        """Wait for news, or until a moment on Trio's clock; a checkpoint in any case."""
        with trio.CancelScope(deadline=until):
            await self._event.wait()
        await trio.lowlevel.checkpoint_if_cancelled()
