"""What happened, in order, and what went wrong about it."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from typing import final

import trio


@final
class Chronicle:
    """The events of one simulation, each a line of text with its time.

    Attributes:
      lines: the events.
      violations: promises that were broken.
      counts: how often things happened that a good set of seeds should all see.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()

    def note(self, subject: str, what: str) -> None:
        """Write down that something happened to *subject*, a message or a post."""
        self.lines.append(f"{trio.current_time():12.6f} {subject} {what}")

    def count(self, what: str) -> None:
        """Count something noteworthy."""
        self.counts[what] += 1

    def violated(self, promise: str) -> None:
        """A promise was broken."""
        self.violations.append(promise)
        self.note("!", promise)

    def digest(self) -> str:
        """Return a hash of everything that happened: the same seed must give the same one."""
        return sha256("\n".join(self.lines).encode()).hexdigest()
