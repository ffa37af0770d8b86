"""What a call that waits has found so far."""

from __future__ import annotations

from typing import Generic, TypeVar

import attrs

R = TypeVar("R")


@attrs.frozen
class Look(Generic[R]):
    """What one look at a store has found.

    Attributes:
      found: the answer.
      enough: whether it is worth returning; else it is waited for a better one.
      wait: seconds after which time alone may change it, or None; only known where there is not enough.
    """

    found: R
    enough: bool
    wait: float | None = None
