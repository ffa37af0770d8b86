"""Handles that are older than their messages."""

from __future__ import annotations

import attrs
import trio

from trepid.ports.messages import Ending
from trepid.rules.life import CANCELLED


@attrs.define(eq=False)
class Birth:
    """What becomes of a message between the call that made its handle and the broker's answer.

    Attributes:
      taken: whether it is, or may be, on its way to the broker.
      disowned: whether its own handle was asked to cancel it.
      why: the reason that was given then.
      never: how it ended, if it never was on a broker.
    """

    taken: bool = attrs.field(init=False, default=False)
    disowned: bool = attrs.field(init=False, default=False)
    why: str = attrs.field(init=False, default="")
    never: Ending | None = attrs.field(init=False, default=None)
    _over: bool = attrs.field(init=False, default=False)
    _waiting: trio.Event | None = attrs.field(init=False, default=None)

    async def wait(self) -> Ending | None:
        """Wait until the broker has the message; return how it ended if that will never be, and otherwise None."""
        if self._over:
            await trio.lowlevel.checkpoint()
        else:
            if self._waiting is None:
                self._waiting = trio.Event()
            await self._waiting.wait()
        return self.never

    def over(self) -> None:
        """The broker has it, or never will."""
        self._over = True
        if self._waiting is not None:
            self._waiting.set()

    def give_up(self, reason: str) -> None:
        """It will not be published."""
        self.never = Ending(CANCELLED, reason=reason)
        self.over()

    def disown(self, reason: str) -> bool:
        """Its own handle cancels it.  Returns whether that is all, as it was not on its way yet."""
        if not self.disowned:
            self.disowned, self.why = True, reason
        if self.taken or self._over:
            return False
        self.give_up(reason)
        return True
