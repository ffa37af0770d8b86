"""Calls about several queues, which may be on different servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from trepid.ports.capabilities import Capabilities

T = TypeVar("T")


def parted(able: Capabilities, items: Sequence[T], queue: Callable[[T], str]) -> list[list[T]]:
    """Share items among calls: one for all, or, where queues are stored apart, one for each queue.

    A server that is away keeps whatever is asked together with it waiting; what is on others is not to be lost by that.
    """
    if able.atomic_batches:
        return [list(items)]
    parts: dict[str, list[T]] = {}
    for item in items:
        parts.setdefault(queue(item), []).append(item)
    return list(parts.values())
