"""Which publishes belong to messages that are gone: remembered for a while, in very little space.

A publisher numbers its publishes, so a million of them are a run of numbers.  They are kept as bits, 4096 to a row, and
a row is dropped once the last message on it has been gone for long enough.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Final

from trepid.brokers.sqlite import statements
from trepid.rules.publishing import REMEMBERED, PublishToken

_BITS: Final = 12
_MASK: Final = (1 << _BITS) - 1
_SWEPT_AT_LEAST: Final = 16

_Run = Callable[..., sqlite3.Cursor]


def add(run: _Run, tokens: Iterable[PublishToken], now: float) -> None:
    """Remember publishes from *now* on, and forget a little more than that, so that the past never piles up."""
    pages = _pages(tokens)
    if pages:
        run(statements.SWEEP_DEPARTED, (now, _SWEPT_AT_LEAST + 2 * len(pages)))
    for (publisher, page), bits in pages.items():
        found = run(statements.DEPARTED, (publisher, page)).fetchone()
        if found is not None:
            bits |= int.from_bytes(found[0], "little")  # noqa: PLW2901 - what was there stays
        stored = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
        run(statements.SET_DEPARTED, (publisher, page, stored, now + REMEMBERED))


def held(run: _Run, tokens: Iterable[PublishToken]) -> set[PublishToken]:
    """Return those of some publishes that are remembered."""
    among: set[PublishToken] = set()
    tokens = list(tokens)
    for (publisher, page), bits in _pages(tokens).items():
        found = run(statements.DEPARTED, (publisher, page)).fetchone()
        common = bits & int.from_bytes(found[0], "little") if found is not None else 0
        if common:
            among |= {
                token
                for token in tokens
                if token[0] == publisher and token[1] >> _BITS == page and common >> (token[1] & _MASK) & 1
            }
    return among


def _pages(tokens: Iterable[PublishToken]) -> dict[tuple[str, int], int]:
    pages: dict[tuple[str, int], int] = {}
    for publisher, number in tokens:
        key = (publisher, number >> _BITS)
        pages[key] = pages.get(key, 0) | 1 << (number & _MASK)
    return pages
