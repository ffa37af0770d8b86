"""Publishes as bits, as they are remembered once their messages are gone."""

from __future__ import annotations

from collections.abc import Iterable

from trepid.rules.publishing import PublishToken


def pages_of(tokens: Iterable[PublishToken]) -> dict[tuple[str, int], int]:
    """Return publishes by publisher and page, 64 to a page."""
    pages: dict[tuple[str, int], int] = {}
    for publisher, number in tokens:
        key = (publisher, number >> 6)
        pages[key] = pages.get(key, 0) | 1 << (number & 63)
    return {key: bits - (1 << 64) if bits >> 63 else bits for key, bits in pages.items()}
