"""Which publishes belong to messages that are gone: remembered for a while, in very little space.

A publisher numbers its publishes, so a million of them are a run of numbers.  They are kept as bits, 4096 to a page; a
page is dropped once the last message on it has been gone for long enough.  That is two bits for an ordinary message,
where a set of ids would take a hundred bytes.
"""

from __future__ import annotations

from trepid.rules.publishing import REMEMBERED, PublishToken

_BITS = 12
_PAGE = 1 << _BITS


class Departed:
    """A set of publish tokens that forgets each one no earlier than ``REMEMBERED`` seconds after it was added."""

    __slots__ = ("_next_sweep", "_pages")

    def __init__(self) -> None:
        # From (publisher, page number) to the bits and the time of the last addition.
        self._pages: dict[tuple[str, int], tuple[bytearray, list[float]]] = {}
        self._next_sweep = float("-inf")

    def __len__(self) -> int:
        """Return how many pages are held; for tests of its size."""
        return len(self._pages)

    def add(self, token: PublishToken, now: float) -> None:
        """Remember *token* from *now* on."""
        publisher, number = token
        key = (publisher, number >> _BITS)
        page = self._pages.get(key)
        if page is None:
            self._sweep(now)
            page = self._pages[key] = (bytearray(_PAGE // 8), [now])
        offset = number & (_PAGE - 1)
        page[0][offset >> 3] |= 1 << (offset & 7)
        page[1][0] = now

    def holds(self, token: PublishToken) -> bool:
        """Return whether *token* was added, and is not forgotten yet."""
        publisher, number = token
        page = self._pages.get((publisher, number >> _BITS))
        if page is None:
            return False
        offset = number & (_PAGE - 1)
        return bool(page[0][offset >> 3] & (1 << (offset & 7)))

    def _sweep(self, now: float) -> None:
        if now < self._next_sweep:
            return
        for key in [key for key, page in self._pages.items() if page[1][0] + REMEMBERED <= now]:
            del self._pages[key]
        self._next_sweep = now + REMEMBERED / 10
