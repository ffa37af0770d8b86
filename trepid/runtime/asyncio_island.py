"""Coroutine functions of asyncio libraries, in one guarded loop of trio-asyncio (the extra ``asyncio``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs


@attrs.define(eq=False)
class AsyncioIsland:
    """One asyncio loop that the asyncio actors of a worker run share."""

    async def call(self, fn: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> object:
        """Call *fn* in the loop, and wait for it."""
        raise NotImplementedError


@asynccontextmanager
async def open_island() -> AsyncIterator[AsyncioIsland]:
    """Open the loop."""
    yield AsyncioIsland()
