"""Confirmations: which messages are under way, and who waits to hear of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import attrs

from trepid.wire.amqp.frames import Delivered
from trepid.wire.link import ProtocolError


@attrs.define(eq=False)
class ChannelClosedError(Exception):
    """The server has closed a channel: what was asked for is not there, or not allowed.

    Attributes:
      code: of the protocol: 403 refused, 404 not found, 405 locked, 406 precondition failed.
      text: what the server said.
    """

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


def anew(error: Exception) -> Exception:
    """Return the error anew: one is raised in many tasks."""
    if isinstance(error, ChannelClosedError):
        return ChannelClosedError(error.code, error.text)
    return type(error)(*error.args)


@final
class Batch:
    """Messages whose confirmations somebody waits for together.

    Args:
      done: called once with each outcome there is, when the last one is there: the indexes of messages that no queue
        took, and of those that the server refused; or with the error, if the channel was lost first.
    """

    __slots__ = ("_done", "_left", "_sealed", "refused", "returned")

    def __init__(self, done: Callable[[Batch, Exception | None], None]) -> None:
        self._done: Callable[[Batch, Exception | None], None] | None = done
        self._left = 0
        self._sealed = False
        self.returned: set[int] = set()
        self.refused: set[int] = set()

    def expect(self) -> None:
        """One more message is under way."""
        self._left += 1

    def seal(self) -> None:
        """No more messages follow."""
        self._sealed = True
        self._finish()

    def confirm(self) -> None:
        """One message has its confirmation."""
        self._left -= 1
        if not self._left:
            self._finish()

    def fail(self, error: Exception) -> None:
        """The channel is lost; nobody knows what became of the rest."""
        done, self._done = self._done, None
        if done is not None:
            done(self, error)

    def _finish(self) -> None:
        if self._sealed and not self._left and self._done is not None:
            done, self._done = self._done, None
            done(self, None)


@attrs.define(eq=False)
class Pending:
    """A message that is not confirmed: who waits, which of theirs it is, and what comes back with it."""

    batch: Batch
    index: int
    properties: bytes


@final
class Confirmations:
    """The messages of one channel that are under way."""

    def __init__(self) -> None:
        self._pending: dict[int, Pending] = {}
        self._published = 0

    @property
    def oldest(self) -> int | None:
        """The number of the first message that is not confirmed, or None if all are."""
        return next(iter(self._pending), None)

    def expect(self, batch: Batch, index: int, properties: bytes) -> None:
        """One more message was sent."""
        self._published += 1
        self._pending[self._published] = Pending(batch, index, properties)
        batch.expect()

    def confirm(self, tag: int, multiple: bool, *, refused: bool) -> None:  # noqa: FBT001 - as it is read
        """The server has stored a message, or all up to it, or refused to.

        Raises:
          ProtocolError: if it was not under way.
        """
        pending = self._pending
        tags = [tag]
        if multiple:
            tags = []
            for each in pending:  # in the order of publishing
                if each > tag and tag:
                    break
                tags.append(each)
        for each in tags:
            item = pending.pop(each, None)
            if item is None:
                raise ProtocolError(f"a confirmation of message {each}, which is not under way")
            if refused:
                item.batch.refused.add(item.index)
            item.batch.confirm()

    def came_back(self, message: Delivered) -> None:
        """No queue took a message: it comes back before its confirmation, with the properties that it was sent with."""
        for item in self._pending.values():
            if item.properties == message.properties and item.index not in item.batch.returned:
                item.batch.returned.add(item.index)
                return

    def abandoned(self) -> list[Batch]:
        """Return the batches of which something is under way, and forget them: nobody will confirm it."""
        pending, self._pending = self._pending, {}
        return list(dict.fromkeys(item.batch for item in pending.values()))
