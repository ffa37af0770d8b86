"""What is to happen to the next attempts of an actor, instead of its function."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias, final

import attrs
import trio

from trepid.testing.inlining import with_function
from trepid.testing.mortality import Life
from trepid.values.actor import Actor

Error: TypeAlias = Exception | Callable[[], Exception]
"""An exception, or a function (such as its class) that makes one."""


class InjectedError(Exception):
    """The error of :meth:`Desk.fail_next`, where the test names no other."""

    def __init__(self, message: str = "injected by a test") -> None:
        super().__init__(message)


@attrs.define(eq=False)
class _Planned:
    error: Error | None
    times: float


@final
class Mishaps:
    """What is planned, actor by actor, in the order of planning."""

    def __init__(self) -> None:
        self._planned: dict[str, deque[_Planned]] = {}

    def plan(self, actor: str, error: Error | None, times: float) -> None:
        """Plan failures, or deaths where *error* is None.

        Raises:
          ValueError: if *times* is less than 1.
        """
        if not times >= 1:
            raise ValueError(f"times must be 1 or more, not {times!r}")
        self._planned.setdefault(actor, deque()).append(_Planned(error, times))

    def rigged(self, actor: Actor[..., Any], life: Life) -> Actor[..., Any]:
        """Return an async actor that meets the mishaps planned for it, in the worker that lives this life."""

        async def call(*args: Any, **kwargs: Any) -> object:
            if life.dead:
                # Trio runs a new task up to its first checkpoint, whoever has been killed.
                await _wait_for_the_end(actor)
            planned = self._take(actor.name)
            if planned is None:
                return await actor.fn(*args, **kwargs)
            if planned.error is not None:
                raise planned.error if isinstance(planned.error, Exception) else planned.error()
            life.kill()
            await _wait_for_the_end(actor)
            raise AssertionError("nobody lives for ever")

        return with_function(actor, call, actor.run_in)

    def _take(self, actor: str) -> _Planned | None:
        planned = self._planned.get(actor)
        if not planned:
            return None
        first = planned[0]
        first.times -= 1
        if first.times < 1:
            planned.popleft()
        return first


async def _wait_for_the_end(actor: Actor[..., Any]) -> None:
    if actor.run_in == "asyncio":
        import asyncio

        await asyncio.Event().wait()
    await trio.sleep_forever()
