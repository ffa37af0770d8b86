"""A household: tasks that serve a block of code, and end with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_household() -> AsyncGenerator[trio.Nursery, None]:
    """Open a nursery for tasks that serve the block: they are cancelled at its end.

    What the block raises comes out bare.  What a servant raises, which only a mistake can cause, cancels the block and
    comes out in a group.
    """
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except GeneratorExit:
            raise
        except BaseException as exc:  # noqa: ASYNC103, BLE001 - raised below, outside of the nursery, which would wrap it
            error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
