"""How many jobs may start in a span of time, how many may run at once, and what they are counted by."""

from __future__ import annotations

import hashlib

import attrs

from trepid.values import codec
from trepid.values.durations import Duration, seconds
from trepid.values.names import checked_name
from trepid.values.words import checked_text

MOST = 1_000_000
"""No limit may be higher: an engine keeps a line for each start in the span."""

_LONGEST_KEY = 128
_LONGEST_GATE = 256


def _per(value: Duration) -> float:
    return seconds(value, "per", positive=True)


@attrs.frozen
class Rate:
    """At most *count* starts in any *per* seconds, by the broker's clock and across all workers.

    Args:
      count: how many starts, 1 to 1,000,000.
      per: the span in which they may happen, in seconds.
      key: count for each value of an argument of this name separately, or, as ``"header:NAME"``, of a header.  Only for
        actors; it is the same as the actor's ``key``.

    Raises:
      TypeError, ValueError: if a field breaks its rule.
    """

    count: int
    per: float = attrs.field(default=1.0, converter=_per)
    key: str | None = None

    def __attrs_post_init__(self) -> None:
        checked_limit(self.count, "count")
        if self.key is not None:
            checked_key(self.key)


def as_rate(value: Rate | None) -> Rate | None:
    """Return the rate that *value* is.

    Raises:
      TypeError: if it is none; the message shows what to write.
    """
    if value is not None and not isinstance(value, Rate):
        raise TypeError(f"rate must be a trepid.Rate, such as Rate(100, per=60), not {value!r}")
    return value


def checked_limit(value: int | None, name: str) -> int | None:
    """Return a limit, or say what is wrong with it."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if not 1 <= value <= MOST:
        raise ValueError(f"{name} must be 1 to {MOST:,}, not {value:,}")
    return value


def checked_key(value: str) -> str:
    """Return the name of what limits are counted by: an argument, or ``header:NAME``."""
    if not isinstance(value, str):
        raise TypeError(f"key must name an argument or a header, not {value!r}")
    name = value.removeprefix("header:")
    if not name or (name == value and not name.isidentifier()):
        raise ValueError(f"key must be the name of an argument, or 'header:' and the name of a header, not {value!r}")
    return value


def checked_gate(value: str) -> str:
    """Return the name of a gate: an actor's, or that and what it is counted by, after a colon."""
    checked_name(checked_text(value, "gate").partition(":")[0], "gate")
    if len(value) > _LONGEST_GATE:
        raise ValueError(f"gate must have at most {_LONGEST_GATE} characters, not {len(value)}")
    return value


def gate(actor: str, value: object) -> str:
    """Return the gate of an actor for one value of what it is counted by."""
    text = value if isinstance(value, str) else codec.encode(value).decode()
    if len(text) > _LONGEST_KEY:
        # Long texts count too, by their digest; who looks at limits sees where it begins.
        text = f"{text[:40]}~{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    return f"{actor}:{text}"
