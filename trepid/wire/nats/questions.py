"""Questions: who waits for which answer.  All answers come to one inbox, and are told apart by a token."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias, final

import trio

from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.nats.protocol import Message, published
from trepid.wire.reply import Reply

_PIPELINE: Final = 512
"""Questions that are under way at most for one caller."""
_NO_RESPONDERS: Final = 503


class NoRespondersError(Exception):
    """Nobody listens to a subject that was asked."""


class Question(NamedTuple):
    """Something to be answered by one message."""

    subject: str
    payload: bytes = b""
    raw: bytes = b""

    @property
    def size(self) -> int:
        """Bytes that count towards the largest message that the server takes."""
        return len(self.raw) + len(self.payload)


Answer: TypeAlias = Message | NoRespondersError | BrokerRefusedError


@final
class Questions:
    """The questions that are under way on one connection.

    Args:
      name: of the server, for errors.
      inbox: the subject in front of the tokens.
      send: writes soon; raises BrokerLostError if the connection is lost.
      idle: called whenever nothing is under way any more.
    """

    def __init__(self, name: str, inbox: str, send: Callable[[bytes], object], idle: Callable[[], object]) -> None:
        self._name = name
        self._inbox = inbox
        self._send = send
        self._idle = idle
        self._tokens = 0
        self._waiting: dict[str, tuple[Reply[Message], str]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def token(self) -> str:
        """Return a word that was never used in this inbox."""
        self._tokens += 1
        return format(self._tokens, "x")

    async def ask(self, questions: Sequence[Question], within: float) -> list[Answer]:
        """Ask many questions in one go, and return the answers in order.

        Raises:
          BrokerLostError: if the connection is lost, or an answer does not come within so many seconds.

        Cancellation: the answers are dropped when they come; the questions may have been heard.
        """
        answers: list[Answer] = []
        under_way: deque[tuple[str, Reply[Message]]] = deque()
        try:
            for question in questions:
                if len(under_way) >= _PIPELINE:
                    answers.append(await self._answered(under_way, within))
                under_way.append(self._begin(question))
            while under_way:
                answers.append(await self._answered(under_way, within))
        finally:
            for token, _ in under_way:
                self._waiting.pop(token, None)
        return answers

    def _begin(self, question: Question) -> tuple[str, Reply[Message]]:
        token = self.token()
        reply: Reply[Message] = Reply()
        self._send(published(question.subject, question.payload, reply=f"{self._inbox}.{token}", raw=question.raw))
        self._waiting[token] = (reply, question.subject)
        return token, reply

    async def _answered(self, under_way: deque[tuple[str, Reply[Message]]], within: float) -> Answer:
        """Return the oldest answer once it is there."""
        reply = under_way[0][1]
        try:
            with trio.fail_after(within):
                answer: Answer = await reply.wait()
        except (NoRespondersError, BrokerRefusedError) as exc:
            answer = exc
        except trio.TooSlowError:
            raise BrokerLostError(f"{self._name}: no answer within {within:g} s") from None
        under_way.popleft()
        return answer

    def answered(self, message: Message) -> None:
        """An answer has come; if nobody waits for it, it is late, and dropped."""
        reply, subject = self._waiting.pop(message.subject.rpartition(".")[2], (None, ""))
        if reply is None:
            return
        if message.status == _NO_RESPONDERS and not message.payload:
            reply.fail(NoRespondersError(subject))
        else:
            reply.set(message)
        if not self._waiting:
            self._idle()

    def forbidden(self, text: str) -> None:
        """The server has named a subject that we may not use."""
        for token, (reply, subject) in list(self._waiting.items()):
            if f'"{subject}"' in text:
                del self._waiting[token]
                reply.fail(BrokerRefusedError(self._name, text))

    def lost(self, error: BrokerLostError) -> None:
        """Tell everybody who waits."""
        waiting, self._waiting = self._waiting, {}
        for reply, _ in waiting.values():
            reply.fail(BrokerLostError(*error.args))
