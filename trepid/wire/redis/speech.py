"""RESP3 without a socket: replies are matched to questions in order, and news are told apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast, final

import hiredis

from trepid.errors import BrokerLostError
from trepid.wire.link import ProtocolError
from trepid.wire.reply import Reply

Word: TypeAlias = str | bytes | int | float

_NOTHING: Final = object()


def packed(*words: Word) -> bytes:
    """Return a command as it is written."""
    # The stubs of hiredis speak of tuples of one word.
    return cast("bytes", hiredis.pack_command(words))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


_PING: Final = packed("PING")


@final
class Speech:
    """One side of a conversation in RESP3; the dialect of a link.

    What is written has to be announced in the same order, with :meth:`expect` or :meth:`expect_push`.

    Args:
      news: called with each message of a channel, as the channel and what was said.
    """

    def __init__(self, news: Callable[[bytes, bytes], None]) -> None:
        self._news = news
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        # A reply, or None where the answer of a subscription is due: a push, unless it is refused.
        self._due: deque[Reply[Any] | None] = deque()
        self._error: BrokerLostError | None = None

    def expect(self) -> Reply[Any]:
        """Announce a question, and return what will be its reply: a value, or a :class:`hiredis.ReplyError`."""
        reply: Reply[Any] = Reply()
        if self._error is not None:
            reply.fail(BrokerLostError(*self._error.args))
        else:
            self._due.append(reply)
        return reply

    def expect_push(self) -> None:
        """Announce a subscription to one channel."""
        self._due.append(None)

    @property
    def outstanding(self) -> int:
        """How many answers are due."""
        return len(self._due)

    # ------------------------------------------------------------------------------------------ what a link calls

    def received(self, data: bytes) -> None:
        """Read some bytes; see :class:`trepid.wire.link.Dialect`."""
        gets, due = self._reader.gets, self._due
        try:
            self._reader.feed(data)
            while (value := gets()) is not _NOTHING:
                if type(value) is hiredis.PushNotification:
                    self._pushed(value)
                    continue
                if not due:
                    raise ProtocolError("an answer that nobody asked for")
                reply = due.popleft()
                if reply is not None:
                    reply.set(value)
                elif type(value) is not hiredis.ReplyError:
                    raise ProtocolError("an answer to a subscription that is none")
        except hiredis.ProtocolError as exc:
            raise ProtocolError(str(exc)) from None

    def _pushed(self, push: list[Any]) -> None:
        match push:
            case [b"message", bytes(channel), bytes(said)]:
                self._news(channel, said)
            case [b"subscribe", *_]:
                if not self._due or self._due.popleft() is not None:
                    raise ProtocolError("a subscription that nobody asked for")
            case _:
                pass

    def ping(self) -> bytes:
        """Return a question that any server answers."""
        self.expect()
        return _PING

    def lost(self, error: BrokerLostError) -> None:
        """Fail all who wait."""
        self._error = error
        while self._due:
            reply = self._due.popleft()
            if reply is not None:
                reply.fail(BrokerLostError(*error.args))
