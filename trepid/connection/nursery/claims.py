"""Claims to unique keys: which children of a nursery may have replaced which."""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

import attrs

from trepid.rules.publishing import replaced_by

_Place: TypeAlias = tuple[str, str]


@attrs.define(eq=False)
class Claim:
    """That a child was started with a unique key.

    Attributes:
      place: its queue and the key.
      id: the child's, as it was to be published.
      over: whether the child has ended.
    """

    place: _Place
    id: str
    over: bool = attrs.field(init=False, default=False)


@attrs.define
class Claims:
    """The claims of live children, in the order of their start, and of those that ended before an older one.

    A child that has replaced another one may be known to have ended before that one is.  Nobody replaces what was
    started after him, so a claim is kept only until all older ones of its key are over.
    """

    _lines: dict[_Place, deque[Claim]] = attrs.field(init=False, factory=dict)

    def enter(self, queue: str, key: str, id: str) -> Claim:
        """A child with a unique key is started."""
        claim = Claim((queue, key), id)
        self._lines.setdefault(claim.place, deque()).append(claim)
        return claim

    def gave_way(self, claim: Claim, reason: str) -> bool:
        """Whether *reason* says that another child of the nursery has taken this key."""
        return any(reason == replaced_by(each.id) for each in self._lines[claim.place])

    def leave(self, claim: Claim) -> None:
        """The child has ended."""
        claim.over = True
        line = self._lines[claim.place]
        while line and line[0].over:
            line.popleft()
        if not line:
            del self._lines[claim.place]
