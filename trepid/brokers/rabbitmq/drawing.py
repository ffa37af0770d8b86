"""Drawing from the taps of one caller: fetching what is there, or letting the server push."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from trepid.brokers.rabbitmq.depot import Depot
from trepid.brokers.rabbitmq.tap import Tap
from trepid.brokers.rabbitmq.topology import LEVELS

_GULP: Final = 16
"""Messages that are fetched singly before a caller who would wait anyway; more are pushed."""


async def draw(depot: Depot, taps: Sequence[Tap], limit: int, *, over: bool) -> None:
    """Bring into stock what can be leased now.

    Args:
      depot: whose stock it is.
      taps: from which; each gives its share.
      limit: how many messages the caller takes.
      over: whether the caller goes away afterwards; else it would wait for what is pushed.

    Raises:
      ChannelClosedError, BrokerLostError: if a channel, or the connection, is lost first.

    Cancellation: what was asked for comes into stock all the same.
    """
    for tap in taps:
        tap.asked = trio.current_time()
    if over:
        await _fetch(depot, taps, limit)
    else:
        await _fetch_or_listen(depot, taps, limit)
    await trio.lowlevel.checkpoint()


async def _fetch(depot: Depot, taps: Sequence[Tap], limit: int) -> None:
    turns = list(taps)
    # Not everything that comes can be leased: some has expired, or is a crash of somebody else.
    while turns and (missing := limit - depot.ready(taps)) > 0:
        share = -(-missing // len(turns))
        left: list[Tap] = []
        for tap in turns:
            most = min(share, limit - depot.ready(taps))
            if most > 0 and await tap.fetch(most, LEVELS) == most:
                left.append(tap)  # it may have more
        turns = left


async def _fetch_or_listen(depot: Depot, taps: Sequence[Tap], limit: int) -> None:
    missing = limit - depot.ready(taps)
    if missing <= 0 or not taps:
        return
    share = min(-(-missing // len(taps)), _GULP)
    for tap in taps:
        most = min(share, limit - depot.ready(taps))
        # Levels that were pushed in vain are fetched, but not while others flow.
        came = await tap.fetch(most, tap.unheard) if most > 0 and not tap.flowing else 0
        if tap.listening or came == _GULP:
            tap.listen(limit, warily=True)
