"""One job of a job nursery."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import attrs

from trepid.connection.births import Birth
from trepid.connection.handle import JobHandle, follow
from trepid.connection.nursery.claims import Claim
from trepid.ports.messages import Ending, Publication


@attrs.define(eq=False)
class Child(Birth):
    """A job from its start to its end.

    Attributes:
      queue, id: its message.
      publication: what is to be published; None once that is done, so that arguments are not kept.
      named: whether its id was chosen by the user, and so may be that of somebody else's message.
      handle: its handle, until the message is published.
      claim: that it has a unique key, if it has one.
      existing: whether its id or unique key belonged to a live message, which the nursery waits for, but never cancels.
      deadline: what it inherited, on Trio's clock.
      heard: told how it ended, if somebody wants to know: unless that ends the whole nursery.
      twins: other children for which this message stands.
    """

    queue: str
    id: str
    publication: Publication | None
    named: bool = False
    handle: JobHandle[Any] | None = None
    heard: Callable[[Ending], None] | None = None
    claim: Claim | None = attrs.field(init=False, default=None)
    existing: bool = attrs.field(init=False, default=False)
    deadline: float = attrs.field(init=False, default=inf)
    twins: list[Child] = attrs.field(init=False, factory=list)

    def published(self, id: str, *, existing: bool) -> None:
        """The broker has answered: this message is it."""
        self.existing = existing
        if existing:
            self.id = id
            if self.handle is not None:
                follow(self.handle, id)
        self.publication = self.handle = None
        self.over()

    @property
    def ours(self) -> bool:
        """Whether the message of this id, if there is one, is surely not somebody else's."""
        if self.publication is not None:
            return not self.named  # no answer has come
        return not self.existing

    @property
    def all(self) -> list[Child]:
        """Itself, and those for which it stands."""
        return [self, *self.twins]
