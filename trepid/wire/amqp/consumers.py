"""Consumers: who takes the messages of a channel, and who waits for a consumer to begin or to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, final

from pamqp import commands

from trepid.wire.amqp.frames import Delivered
from trepid.wire.link import ProtocolError
from trepid.wire.reply import Reply

Take: TypeAlias = Callable[[Delivered], None]


@final
class Consumers:
    """The consumers of one channel.

    What the server says about them comes from their queues, and not from the channel: it may overtake other answers,
    or be overtaken.  So it is not waited for in their row.
    """

    def __init__(self) -> None:
        self._takers: dict[str, Take] = {}
        self._asked: dict[str, Reply[Any]] = {}
        self._noticed: dict[str, Callable[[], None]] = {}

    def begin(self, tag: str, take: Take, opened: Callable[[], None] | None) -> Reply[Any]:
        """A consumer was asked for; return the answer, which may be waited for."""
        self._takers[tag] = take
        return self._ask(tag, opened)

    def end(self, tag: str, closed: Callable[[], None] | None) -> Reply[Any]:
        """Its end was asked for; until that is confirmed, messages may still come."""
        return self._ask(tag, closed)

    def _ask(self, tag: str, then: Callable[[], None] | None) -> Reply[Any]:
        if then is not None:
            self._noticed[tag] = then
        reply: Reply[Any] = Reply()
        self._asked[tag] = reply
        return reply

    def taker(self, tag: str, otherwise: Take) -> Take:
        """Return who takes the messages of a consumer."""
        return self._takers.get(tag, otherwise)

    def drop(self, tag: str) -> None:
        """The server has ended a consumer by itself."""
        self._takers.pop(tag, None)

    def answered(self, method: commands.Basic.ConsumeOk | commands.Basic.CancelOk) -> None:
        """A consumer has begun, or ended.

        Raises:
          ProtocolError: if nobody asked for that.
        """
        tag = str(method.consumer_tag)
        if isinstance(method, commands.Basic.CancelOk):
            self._takers.pop(tag, None)
        reply = self._asked.pop(tag, None)
        if reply is None:
            raise ProtocolError("an answer about a consumer that nobody asked about")
        reply.set(method)
        if (then := self._noticed.pop(tag, None)) is not None:
            then()

    def abandoned(self) -> list[Reply[Any]]:
        """Return the answers that will not come any more, and forget everything: the channel is lost."""
        asked, self._asked = self._asked, {}
        self._takers.clear()
        return list(asked.values())
