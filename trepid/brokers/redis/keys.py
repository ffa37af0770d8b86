"""Under which keys everything is."""

from __future__ import annotations

from typing import final

import attrs


@final
@attrs.frozen
class Keys:
    """The names of one broker's keys and channels.

    Attributes:
      prefix: what they begin with.
      clustered: whether each queue is to be whole by itself, as the servers of a cluster share queues among them.
    """

    prefix: str
    clustered: bool = False

    def head(self, queue: str | None = None) -> str:
        """Return the key of the clock's mark and of the last place given: of all, or in a cluster of a queue."""
        if self.clustered and queue is not None:
            return f"{{{self.prefix}:{queue}}}:head"
        return f"{{{self.prefix}}}:head"

    @property
    def queues(self) -> str:
        """The list of queues."""
        return f"{{{self.prefix}}}:queues"

    @property
    def numbers(self) -> str:
        """The number that was last given to a queue of a cluster."""
        return f"{{{self.prefix}}}:numbers"

    @property
    def records(self) -> str:
        """What the keys of records begin with."""
        return f"{{{self.prefix}}}:record"

    def meta(self, queue: str) -> str:
        """Return the key of a queue's own facts; all its other keys have the same beginning, and the same slot."""
        return f"{{{self.prefix}:{queue}}}:meta"

    def limits(self, queue: str) -> str:
        """Return the key of what a queue's gates, and itself, let through."""
        return f"{{{self.prefix}:{queue}}}:limits"

    def marks(self, queue: str) -> str:
        """Return the key of the last instants that schedules have fired."""
        return f"{{{self.prefix}:{queue}}}:marks"

    def work(self, queue: str) -> str:
        """Return the channel that says that there may be work."""
        return f"{{{self.prefix}:{queue}}}:work"

    def ended(self, queue: str) -> str:
        """Return the channel that says which message has ended, of those somebody waits for."""
        return f"{{{self.prefix}:{queue}}}:ended"

    @property
    def changed(self) -> str:
        """The channel that says which record was changed."""
        return f"{{{self.prefix}}}:changed"

    @property
    def asked(self) -> str:
        """The channel that says that a running message was asked to stop."""
        return f"{{{self.prefix}}}:asked"
