"""A household: tasks that serve a block of code, and end with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_household() -> AsyncGenerator[trio.Nursery, None]:
    """Open a nursery for tasks that serve the block: they are cancelled at its end.

    What the block raises comes out bare.  What a servant raises, which only a mistake can cause, cancels the block and
    comes out in a group, together with what the block raises then.
    """
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except GeneratorExit:
                raise
            except BaseException as exc:  # noqa: ASYNC103, BLE001 - raised below, outside of the nursery that would wrap it
                error = exc
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as mistakes:
        own = _without_cancelled(error)
        if own is None:
            raise
        raise mistakes.derive([*mistakes.exceptions, own]) from None
    if error is not None:
        raise error


def _without_cancelled(error: BaseException | None) -> BaseException | None:
    """Return what is left of an error; the cancellation that a servant's mistake has caused ends with it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return None if isinstance(error, trio.Cancelled) else error
