"""When to try again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeAlias

import attrs

from trepid.values.durations import Duration, seconds

RetryPolicy: TypeAlias = Callable[[int], Duration]
"""Any callable from the retry number (from 1) to a span of time: seconds or a timedelta."""


@attrs.frozen
class ExponentialBackoff:
    """Waits that double: ``max(min_backoff, min(multiplier * 2 ** min(n, max_exponent), max_backoff))`` seconds.

    Args:
      min_backoff: no wait is shorter, in seconds.
      max_backoff: no wait is longer, in seconds.
      multiplier: seconds that the doubling starts from.
      max_exponent: the doubling stops here.
      jitter: a fraction from 0 to 1; a wait *w* becomes a random one between ``w * (1 - jitter)`` and *w*.
    """

    min_backoff: float = 10.0
    max_backoff: float = 86_400.0
    multiplier: float = 5.0
    max_exponent: int = 15
    jitter: float = 0.0

    def __attrs_post_init__(self) -> None:
        for name in ("min_backoff", "max_backoff", "multiplier"):
            object.__setattr__(self, name, seconds(getattr(self, name), name))
        if self.min_backoff > self.max_backoff:
            raise ValueError(f"min_backoff {self.min_backoff} is more than max_backoff {self.max_backoff}")
        whole = isinstance(self.max_exponent, int) and not isinstance(self.max_exponent, bool)
        if not whole or not 0 <= self.max_exponent <= 1000:
            raise ValueError(f"max_exponent must be a whole number from 0 to 1000, not {self.max_exponent!r}")
        if not isinstance(self.jitter, (int, float)):
            raise TypeError(f"jitter must be a number from 0 to 1, not {self.jitter!r}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be from 0 to 1, not {self.jitter!r}")

    def __call__(self, retry_number: int) -> float:
        """Return the seconds to wait before the *retry_number*-th retry, counted from 1."""
        if retry_number < 1:
            raise ValueError(f"retry numbers count from 1, not {retry_number!r}")
        doubled = self.multiplier * 2.0 ** min(retry_number, self.max_exponent)
        wait = max(self.min_backoff, min(doubled, self.max_backoff))
        return wait * (1 - self.jitter * random.random()) if self.jitter else wait  # noqa: S311 - not for secrets
