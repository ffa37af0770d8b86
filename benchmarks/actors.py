"""The actors that are measured."""

from __future__ import annotations

import trio

import trepid


async def noop() -> None:
    """Do nothing, but let others run, as the floor does."""
    await trio.lowlevel.checkpoint()


NOOP = trepid.Actor(noop, result_ttl=0)
KEPT = trepid.Actor(noop, name="kept")
