"""Unique keys: at most one live message per key and queue."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

from trepid.values.durations import Duration, seconds
from trepid.values.words import checked_text

OnConflict: TypeAlias = Literal["existing", "raise", "replace"]

_POLICIES = ("existing", "raise", "replace")
_LONGEST_KEY = 256


def _span(value: Duration | None) -> float | None:
    return None if value is None else seconds(value, "for_", positive=True)


@attrs.frozen
class Unique:
    """A key that at most one live message of a queue may hold; separate from the message's id.

    Args:
      key: any valid Unicode of 1 to 256 characters.
      on_conflict: what happens while another live message holds the key.  ``"existing"``: nothing is published and
        the handle points at the holder.  ``"raise"``: :class:`~trepid.UniqueConflictError`.  ``"replace"``: a holder
        that still waits is withdrawn; a running one is left alone, as with ``"existing"``.
      for_: seconds, from the publish on, for which the key stays taken even if the message ends sooner; a message that
        is cancelled frees it.  So ``Unique(key, for_=60)`` accepts one job a minute; and ``Unique(key, "replace")``,
        with a delay, runs the last one of a burst.
    """

    key: str
    on_conflict: OnConflict = "existing"
    for_: float | None = attrs.field(default=None, kw_only=True, converter=_span)

    def __attrs_post_init__(self) -> None:
        checked_text(self.key, "unique key")
        if not 1 <= len(self.key) <= _LONGEST_KEY:
            raise ValueError(f"unique key must have 1 to {_LONGEST_KEY} characters, not {len(self.key)}")
        if self.on_conflict not in _POLICIES:
            raise ValueError(f"on_conflict must be one of {', '.join(_POLICIES)}, not {self.on_conflict!r}")
