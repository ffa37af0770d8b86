"""A connection: questions and their answers, subscriptions, and what becomes of them when it ends."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, final

import trio

from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.household import open_household
from trepid.wire.link import Link, ProtocolError
from trepid.wire.nats import protocol
from trepid.wire.nats.protocol import Complaint, Event, Info, Message, Parser, Ping, Pong
from trepid.wire.nats.questions import Answer, NoRespondersError, Question, Questions
from trepid.wire.reply import Reply

ANSWER_WITHIN: Final = 5.0
"""Seconds in which a question must be answered; the server leaves some without a word."""
_LEAVE_WITHIN: Final = 5.0
"""Seconds that a server which is going may still be asked to finish what is under way."""

__all__ = ["ANSWER_WITHIN", "Handler", "NatsConnection", "NoRespondersError", "Question"]

Handler: TypeAlias = Callable[[Message], object]


@final
class NatsConnection:
    """A connection that is logged in.  Made by ``trepid.wire.nats.dialling``.

    Attributes:
      info: what the server said of itself last.
      name: where it is, for errors.
      leaving: set once the server has said that it is about to go: nothing new is to be begun here.
      elsewhere: whether there is another server to go to; else this one is stayed with until it hangs up.
    """

    def __init__(self, name: str, info: dict[str, Any], rest: bytes) -> None:
        self.info = info
        self.name = name
        self.leaving = trio.Event()
        self.elsewhere = False
        self.complaint: str | None = None
        self._rest = rest
        self._parser = Parser()
        self._link: Link | None = None
        self._pongs: deque[Reply[None]] = deque()
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self._questions = Questions(name, self._inbox, self._write, self._rested)
        self._boxes: dict[int, Callable[[], object]] = {}
        self._subscriptions: dict[int, Handler] = {}
        self._sids = 1
        self._idle = trio.Event()

    # ------------------------------------------------------------------------------------ as a link's dialect

    def received(self, data: bytes) -> None:
        """Read some bytes."""
        for event in self._parser.feed(data):
            if isinstance(event, Message):
                self._deliver(event)
            else:
                self._heed(event)

    def ping(self) -> bytes:
        """Ask whether the server is there."""
        self._pongs.append(Reply())
        return protocol.PING

    def lost(self, error: BrokerLostError) -> None:
        """Tell everybody who waits."""
        if self.complaint is not None:
            error = BrokerLostError(f"{self.name}: {self.complaint}")
        self._questions.lost(error)
        while self._pongs:
            self._pongs.popleft().fail(BrokerLostError(*error.args))
        boxes, self._boxes = self._boxes, {}
        for ended in boxes.values():
            ended()
        self._idle.set()

    def _heed(self, event: Event) -> None:
        match event:
            case Ping():
                self._send(protocol.PONG)
            case Pong():
                if self._pongs:
                    self._pongs.popleft().set(None)
            case Info(about=about):
                self.info = {**self.info, **about}
                if about.get("ldm"):
                    self.leaving.set()
            case Complaint(text=text):
                self._complain(text)
            case _:
                pass

    def _complain(self, text: str) -> None:
        """The server refuses something: one subject, or all of us, and then it hangs up, or we hear no answers."""
        if not text.lower().startswith("permissions violation") or f'"{self._inbox}.*"' in text:
            self.complaint = self.complaint or f"the server says: {text}"
            return
        self._questions.forbidden(text)

    def _deliver(self, message: Message) -> None:
        if message.sid == 1:
            self._questions.answered(message)
            return
        handler = self._subscriptions.get(message.sid)
        if handler is not None:
            handler(message)

    # --------------------------------------------------------------------------------------------- talking

    @property
    def link(self) -> Link:
        """What it stands on."""
        assert self._link is not None
        return self._link

    @property
    def server(self) -> str:
        """Which life of which server it leads to: one that is started again gives itself another name."""
        return str(self.info.get("server_id", ""))

    @property
    def largest(self) -> int:
        """Bytes of headers and payload that a message may have."""
        return int(self.info.get("max_payload", 1 << 20))

    def _send(self, data: bytes) -> None:
        if self._link is not None and self._link.error is None:
            self._link.send(data)

    def _write(self, data: bytes) -> None:
        self.link.send(data)

    def _rested(self) -> None:
        self._idle.set()

    def say(self, subject: str, payload: bytes = b"", *, reply: str = "", raw: bytes = b"") -> None:
        """Publish without an answer.  Never waits.

        Raises:
          BrokerLostError: if the connection is lost.
        """
        self.link.send(protocol.published(subject, payload, reply=reply, raw=raw))

    async def ask(self, question: Question, *, within: float = ANSWER_WITHIN) -> Message:
        """Ask one question.

        Raises:
          NoRespondersError: if nobody listens.
          BrokerLostError: if the connection is lost, or no answer comes in time.
          BrokerRefusedError: if we may not ask this.

        Cancellation: the answer is dropped when it comes; the question may have been heard.
        """
        (answer,) = await self.ask_all([question], within=within)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask_all(self, questions: Sequence[Question], *, within: float = ANSWER_WITHIN) -> list[Answer]:
        """Ask many questions in one go, and return the answers in order; the server hears them in order, too.

        Raises:
          BrokerLostError: if the connection is lost, or an answer does not come in time.

        Cancellation: the answers are dropped when they come; the questions may have been heard.
        """
        await self.link.room()
        return await self._questions.ask(questions, within)

    # ------------------------------------------------------------------------------------------- listening

    def open_box(self, handler: Handler, lost: Callable[[], object]) -> tuple[int, str]:
        """Return a subscription and a subject for many answers to one question, until the box is closed.

        It has a subscription of its own: what a consumer hands out comes under the subject that it was published to.

        Args:
          handler: gets each message.
          lost: called if the connection ends first.
        """
        subject = f"{self._inbox}.box.{self._questions.token()}"
        sid = self.subscribe(subject, handler)
        self._boxes[sid] = lost
        return sid, subject

    def close_box(self, sid: int) -> None:
        """Forget a box; what comes later is dropped."""
        if self._boxes.pop(sid, None) is not None:
            self.unsubscribe(sid)
        if not self._boxes:
            self._idle.set()

    def subscribe(self, subject: str, handler: Handler) -> int:
        """Subscribe until the connection ends or :meth:`unsubscribe`."""
        self._sids += 1
        self._subscriptions[self._sids] = handler
        self._send(protocol.subscribed(subject, self._sids))
        return self._sids

    def unsubscribe(self, sid: int) -> None:
        """End a subscription."""
        if self._subscriptions.pop(sid, None) is not None:
            self._send(protocol.unsubscribed(sid))

    async def round_trip(self) -> None:
        """Return when the server has answered a ping: what it had sent before has been read by then.

        Raises:
          BrokerLostError: if the connection is lost meanwhile.
        """
        self.link.send(self.ping())
        await self._pongs[-1].wait()

    async def deafen_box(self, sid: int) -> None:
        """Let nothing more come into a box that is still open, and read what is under way.

        Raises:
          BrokerLostError: if the connection is lost meanwhile.

        Cancellation: the box stays, for what is under way.
        """
        self._send(protocol.unsubscribed(sid))
        await self.round_trip()

    async def deafen(self) -> None:
        """Let nothing more come into any box, and read what is under way."""
        for sid in self._boxes:
            self._send(protocol.unsubscribed(sid))
        await self.round_trip()

    async def wait_lost(self) -> BrokerLostError:
        """Wait until the connection is lost, and return why."""
        error = await self.link.wait_lost()
        return error if self.complaint is None else BrokerLostError(f"{self.name}: {self.complaint}")

    async def _leave(self) -> None:
        """Hang up when the server wants to go and nothing is under way any more."""
        await self.leaving.wait()
        if not self.elsewhere:
            return
        with trio.move_on_after(_LEAVE_WITHIN):
            while self._questions or self._boxes:
                self._idle = trio.Event()
                await self._idle.wait()
        self.link.lose("the server is shutting down")

    # --------------------------------------------------------------------------------------------- opening

    @asynccontextmanager
    async def introduced(self, link: Link, options: dict[str, Any]) -> AsyncGenerator[None]:
        """Log in on an open link, and serve it for the length of the block.

        Raises:
          BrokerRefusedError: if the server will not have us.
          BrokerLostError: if it went away, or did not answer in time.
        """
        self._link = link
        link.send(protocol.connecting(options), protocol.subscribed(f"{self._inbox}.*", 1), self.ping())
        greeting = self._pongs[-1]
        if self._rest:
            try:
                self.received(self._rest)
            except ProtocolError as exc:
                raise BrokerLostError(f"{self.name}: the server sent what makes no sense: {exc}") from None
        try:
            with trio.fail_after(ANSWER_WITHIN):
                await greeting.wait()
        except BrokerLostError as exc:
            if self.complaint is not None:
                raise BrokerRefusedError(self.name, self.complaint) from None
            raise BrokerLostError(*exc.args) from None
        except trio.TooSlowError:
            raise BrokerLostError(f"{self.name}: no answer to our login within {ANSWER_WITHIN:g} s") from None
        if self.complaint is not None:
            raise BrokerRefusedError(self.name, self.complaint)
        async with open_household() as household:
            household.start_soon(self._leave, name=f"leave {self.name}")
            yield
