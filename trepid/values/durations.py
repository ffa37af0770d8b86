"""Spans of time, checked where they enter."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TypeAlias

Duration: TypeAlias = float | timedelta
"""Seconds, or a :class:`datetime.timedelta`."""

LONGEST = 400 * 86_400.0
"""No span may be longer than 400 days, in seconds: an absurd one is a bug at the call that made it."""


def seconds(value: Duration, name: str, *, positive: bool = False) -> float:
    """Return *value* as seconds, or say what is wrong with it.

    Args:
      value: seconds, or a timedelta.
      name: what the caller calls it, for the error.
      positive: refuse zero too.

    Raises:
      TypeError: if it is neither a number nor a timedelta.
      ValueError: if it is negative, not finite, zero where it must not be, or longer than 400 days.
    """
    if isinstance(value, timedelta):
        span = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        span = _float(value)
    else:
        raise TypeError(f"{name} must be seconds or a timedelta, not {value!r}")
    if not math.isfinite(span):
        raise ValueError(f"{name} must be finite, not {value!r}")
    if span < 0 or (positive and span == 0):
        raise ValueError(f"{name} must be {'more than zero' if positive else 'zero or more'}, not {value!r}")
    if span > LONGEST:
        raise ValueError(f"{name} must be at most 400 days, not {value!r}")
    return span


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an int beyond all floats: too long, but finite
        return 2 * LONGEST if value > 0 else -1.0
