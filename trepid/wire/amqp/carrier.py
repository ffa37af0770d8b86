"""What carries a channel."""

from __future__ import annotations

from typing import Protocol

from trepid.errors import BrokerLostError


class Carrier(Protocol):
    """What a channel asks of its connection."""

    frame_max: int

    def write(self, *data: bytes) -> None:
        """Write soon.  Raises BrokerLostError if the connection is lost."""
        ...

    def gone(self) -> BrokerLostError:
        """Return why the connection was lost."""
        ...

    def left(self, number: int) -> None:
        """Forget a channel, once both sides have closed it."""
        ...
