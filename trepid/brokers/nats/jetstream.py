"""JetStream, as the engine speaks it: stores, looks, deletes, each proved by an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeAlias, final

import msgspec
import trio

from trepid.errors import BrokerFullError, BrokerLostError, BrokerRefusedError
from trepid.wire.nats.connection import NatsConnection, NoRespondersError, Question
from trepid.wire.nats.protocol import Message, headed
from trepid.wire.supervision import Supervisor

NO_STREAM: Final = 10059
NO_CONSUMER: Final = 10014
NO_MESSAGE: Final = 10037
NOT_DELETED: Final = frozenset({NO_MESSAGE, 10043, 10057, NO_STREAM})
"""A message that is to be deleted is not there; a server that was killed says it in one way, and others in another."""
NAME_IN_USE: Final = 10058
WRONG_LAST: Final = 10071
_FULL: Final = frozenset({10023, 10047, 10077})
"""Too little memory or disk, or the stream's own limit."""
_UNWELL_PAUSE: Final = 0.05
_UNWELL_FOR: Final = 1.0
"""Seconds in which JetStream may come to itself again after a start; until then it does not answer."""


class JetStreamError(BrokerLostError):
    """JetStream refused something, for a reason that has a number.

    Where nobody knows the number the operation may be repeated: a server that starts, or a cluster without a leader,
    has many reasons to refuse for a while.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"JetStream refused: {text} ({number})")
        self.number = number
        self.text = text


class Stored(NamedTuple):
    """A message was stored.

    Attributes:
      seq: its place in the stream.
      duplicate: whether that was done before, and nothing now.
    """

    seq: int
    duplicate: bool


class Letterbox(NamedTuple):
    """A message as it was found in a stream."""

    seq: int
    subject: str
    message: Message
    at: str

    @property
    def stamp(self) -> int:
        """When it was stored, in nanoseconds since the epoch."""
        return nanoseconds(self.at)


_TIME: Final = re.compile(r"([0-9T:-]{19})(?:\.([0-9]{1,9}))?Z")


def nanoseconds(stamp: str) -> int:
    """Return a time that the server has written, in nanoseconds since the epoch."""
    found = _TIME.fullmatch(stamp)
    if found is None:
        raise ValueError(f"no time: {stamp!r}")
    whole = int(datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp())
    return whole * 1_000_000_000 + int((found[2] or "").ljust(9, "0"))


Outcome: TypeAlias = Stored | JetStreamError | NoRespondersError


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""
    code: int = 0


class _Ack(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


class _Found(msgspec.Struct):
    subject: str = ""
    seq: int = 0
    # Bytes are in base64.
    hdrs: bytes = b""
    data: bytes = b""
    time: str = ""


class _Got(msgspec.Struct):
    message: _Found = msgspec.field(default_factory=_Found)
    error: _Error | None = None


_decode_got = msgspec.json.Decoder(_Got).decode
_decode_ack = msgspec.json.Decoder(_Ack).decode
_decode: Final = msgspec.json.decode
_encode: Final = msgspec.json.encode


def storing(
    subject: str, payload: bytes, headers: Mapping[str, str], *, id: str | None = None, last: int | None = None
) -> Question:
    """Return the question that stores a message.

    Args:
      subject: where.
      payload: what.
      headers: its headers.
      id: by which the server recognises a repetition.
      last: only if this is the place of the last message of the subject; 0 is none.
    """
    extra = dict(headers)
    if id is not None:
        extra["Nats-Msg-Id"] = id
    if last is not None:
        extra["Nats-Expected-Last-Subject-Sequence"] = str(last)
    return Question(subject, payload, headed(extra) if extra else b"")


def deleting(stream: str, seq: int) -> Question:
    """Return the question that deletes one message, if it is there."""
    return Question(f"$JS.API.STREAM.MSG.DELETE.{stream}", b'{"seq":%d,"no_erase":true}' % seq)


# Not by direct gets: those may be answered by a replica that is behind, and not at all for a stream that is not there.


def at_place(stream: str, seq: int) -> Question:
    """Return the question for the message at a place."""
    return Question(f"$JS.API.STREAM.MSG.GET.{stream}", b'{"seq":%d}' % seq)


def last_of(stream: str, subject: str) -> Question:
    """Return the question for the last message of a subject."""
    return Question(f"$JS.API.STREAM.MSG.GET.{stream}", _encode({"last_by_subj": subject}))


def next_of(stream: str, subjects: str, seq: int) -> Question:
    """Return the question for the first message of some subjects from a place on."""
    return Question(f"$JS.API.STREAM.MSG.GET.{stream}", _encode({"seq": max(seq, 1), "next_by_subj": subjects}))


@final
class JetStream:
    """JetStream behind whatever connection there is at present."""

    def __init__(self, supervisor: Supervisor[NatsConnection]) -> None:
        self._supervisor = supervisor

    @property
    def current(self) -> NatsConnection | None:
        """The connection, or None while there is none."""
        return self._supervisor.current

    async def changed(self) -> None:
        """Wait until the connection is made or lost."""
        await self._supervisor.changed()

    async def connection(self) -> NatsConnection:
        """Return the connection; see :meth:`Supervisor.connection`."""
        connection = await self._supervisor.connection()
        while connection.link.error is not None:
            # Lost just now: in a moment the supervisor knows, and looks for another.
            await trio.lowlevel.checkpoint()
            connection = await self._supervisor.connection()
        return connection

    async def api(self, operation: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Carry out one operation.

        Raises:
          JetStreamError: if it was refused.
          BrokerLostError, BrokerRefusedError: as :meth:`NatsConnection.ask`.
        """
        return await api(await self.connection(), operation, body)

    async def store_all(self, questions: Sequence[Question]) -> list[Outcome]:
        """Store messages, as :func:`storing` made them, and return what became of each.

        A subject that no stream listens to is answered with NoRespondersError, also while JetStream starts.

        Raises:
          BrokerFullError: if there is no room.
          BrokerLostError: if some may have been stored, and some not.
        """
        connection = await self.connection()
        return [_stored(answer) for answer in await connection.ask_all(questions)]

    async def store(self, question: Question) -> Stored:
        """Store one message.

        Raises:
          JetStreamError: if it was refused.
          NoRespondersError: if no stream listens.
        """
        (outcome,) = await self.store_all([question])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def delete_all(self, questions: Sequence[Question]) -> list[bool]:
        """Delete messages, as :func:`deleting` made them, and return for each whether it was there."""
        connection = await self.connection()
        found: list[bool] = []
        for answer in await connection.ask_all(questions):
            try:
                answered(_message(answer))
            except JetStreamError as exc:
                if exc.number not in NOT_DELETED:
                    raise
                found.append(False)
            except NoRespondersError:
                raise BrokerLostError(f"{connection.name}: JetStream does not answer") from None
            else:
                found.append(True)
        return found

    async def look_all(self, questions: Sequence[Question]) -> list[Letterbox | None]:
        """Look for messages, as :func:`last_of` and :func:`next_of` made them; a stream that is not there has none."""
        connection = await self.connection()
        return [_found(connection, answer) for answer in await connection.ask_all(questions)]


async def api(connection: NatsConnection, operation: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Carry out one operation on a connection; see :meth:`JetStream.api`."""
    question = Question(f"$JS.API.{operation}", b"" if body is None else _encode(body))
    give_up = trio.current_time() + _UNWELL_FOR
    while True:
        try:
            return answered(await connection.ask(question))
        except NoRespondersError:
            # The server is there, and JetStream is not (yet).
            if trio.current_time() >= give_up:
                raise BrokerLostError(f"{connection.name}: JetStream does not answer") from None
        await trio.sleep(_UNWELL_PAUSE)


async def look(connection: NatsConnection, question: Question) -> Letterbox | None:
    """Look for one message over a connection; see :meth:`JetStream.look_all`."""
    (answer,) = await connection.ask_all([question])
    return _found(connection, answer)


def _message(answer: Message | Exception) -> Message:
    if isinstance(answer, Exception):
        raise answer
    return answer


def answered(message: Message) -> dict[str, Any]:
    """Return what an answer says, or raise JetStreamError if that is a refusal."""
    answer: dict[str, Any] = _decode(message.payload)
    error = answer.get("error")
    if error is not None:
        raise JetStreamError(error.get("err_code", error.get("code", 0)), error.get("description", ""))
    return answer


def _stored(answer: Message | NoRespondersError | BrokerRefusedError) -> Outcome:
    if isinstance(answer, NoRespondersError):
        return answer
    ack = _decode_ack(_message(answer).payload)
    if ack.error is None:
        return Stored(ack.seq, ack.duplicate)
    error = JetStreamError(ack.error.err_code, ack.error.description)
    if error.number in _FULL:
        raise BrokerFullError(f"NATS JetStream has no room: {error.text}")
    return error


def _found(connection: NatsConnection, answer: Message | Exception) -> Letterbox | None:
    if isinstance(answer, NoRespondersError):
        raise BrokerLostError(f"{connection.name}: JetStream does not answer")
    got = _decode_got(_message(answer).payload)
    if got.error is not None:
        if got.error.err_code in (NO_MESSAGE, NO_STREAM):
            return None
        raise JetStreamError(got.error.err_code, got.error.description)
    found = got.message
    return Letterbox(found.seq, found.subject, Message(found.subject, 0, "", found.hdrs, found.data), found.time)
