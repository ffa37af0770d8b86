"""The nursery that an attempt with a context has for its children."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


async def with_nursery(called: Callable[[trio.Nursery | None], Awaitable[object]]) -> object:
    """Call with a nursery whose children end first; the call's own exception comes out bare.

    A child's exception cancels the call and comes out in a group, as from any nursery.
    """
    own: Exception | None = None
    value: object = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                value = await called(nursery)
            except Exception as exc:  # noqa: BLE001 - raised again below, bare
                own = exc
                nursery.cancel_scope.cancel(reason="the job raised")
    except Exception as group:
        if own is None:
            raise
        raise own from group
    if own is not None:
        raise own
    return value
