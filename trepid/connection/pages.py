"""Views of a queue's messages, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import final

import attrs
import trio

from trepid.connection.patience import Patience
from trepid.ports.broker import Session
from trepid.ports.messages import MessageView
from trepid.rules.life import State


@final
@attrs.define(eq=False)
class Messages(AsyncIterator[MessageView]):
    """An async iterator of views, read page by page.  Each step is a checkpoint; cancelling one loses nothing."""

    _session: Session
    _queue: str
    _state: State
    _patience: Patience
    _views: list[MessageView] = attrs.field(init=False, factory=list)
    _after: int | None = attrs.field(init=False, default=None)
    _ended: bool = attrs.field(init=False, default=False)

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> MessageView:
        if self._views:
            await trio.lowlevel.checkpoint()
        while not self._views:
            if self._ended:
                raise StopAsyncIteration
            look = partial(self._session.peek, self._queue, self._state, after=self._after)
            page = await self._patience.repeat("messages", look)
            self._views, self._after = list(reversed(page.messages)), page.cursor
            self._ended = page.cursor is None
        return self._views.pop()  # noqa: ASYNC910 - one of the two above has waited
