"""A connection to one Redis server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, final

import hiredis
import trio

from trepid.errors import BrokerBusyError, BrokerLostError, BrokerRefusedError
from trepid.wire.endpoint import Endpoint
from trepid.wire.link import Link, open_link
from trepid.wire.redis.address import Login, RedisAddress
from trepid.wire.redis.faults import UNFIT, RedisError, typed
from trepid.wire.redis.speech import Speech, Word, packed
from trepid.wire.reply import Reply
from trepid.wire.supervision import Supervisor

SHAKEN_WITHIN: Final = 5.0
"""Seconds in which a server must have answered our greeting."""
OLDEST: Final = (7, 0)
"""The oldest version that may be spoken to."""
_FULL: Final = 1 << 20


@final
class RedisConnection:
    """An open connection: any number of tasks may call at once.  Made by :func:`open_connection`.

    Attributes:
      name: of the server, without credentials.
      about: what the server says of itself (``INFO``), by name.
      channels: those it was asked to listen to.
    """

    def __init__(self, link: Link, speech: Speech) -> None:
        self.name = link.name
        self.about: dict[str, str] = {}
        self.channels: set[str] = set()
        self._link = link
        self._speech = speech

    @property
    def lost(self) -> bool:
        """Whether it is lost."""
        return self._link.error is not None

    def ask(self, *words: Word) -> Reply[Any]:
        """Send a command and return its reply, to be waited for; what comes of it is a value or a ReplyError.

        Raises:
          BrokerLostError: if the connection is lost.
        """
        self._link.send(packed(*words))
        return self._speech.expect()

    async def call(self, *words: Word, through: float = 0.0, asking: bool = False) -> Any:
        """Send a command and return what the server answers.

        Args:
          words: the command.
          through: for how many seconds the answer is still waited for after a cancellation; then it is returned.
          asking: whether another server of the cluster has sent us here, with ``ASK``.

        Raises:
          BrokerLostError: if the connection is lost first, or the server is not the one to talk to any more.
          BrokerFullError, BrokerBusyError, BrokerRefusedError, RedisError: what the server complains of.

        Cancellation: the command may or may not be carried out; its reply is dropped.  With *through*, a command is not
        sent for who is cancelled on entry.
        """
        if self._link.unsent > _FULL:
            await self._link.room()
        if through:
            await trio.lowlevel.checkpoint_if_cancelled()
        if asking:
            self.ask("ASKING")  # which holds for the very next command
        reply = self.ask(*words)
        value = await (_answered(reply, through) if through else reply.wait())
        if type(value) is hiredis.ReplyError:
            raise self.complaint(value)
        return value

    def complaint(self, error: hiredis.ReplyError) -> Exception:
        """Return what to raise for an error of the server; one that is unfit is given up."""
        said = str(error)
        if said.partition(" ")[0] in UNFIT:
            self._link.lose(said)
        return typed(self.name, said)

    def listen(self, channel: str) -> None:
        """Be told what is said in a channel from now on.  Idempotent; never waits, and refusals are passed over.

        Raises:
          BrokerLostError: if the connection is lost.
        """
        if channel not in self.channels:
            self._link.send(packed("SUBSCRIBE", channel))
            self._speech.expect_push()
            self.channels.add(channel)

    def lose(self, reason: str) -> None:
        """Give the connection up."""
        self._link.lose(reason)

    async def wait_lost(self) -> BrokerLostError:
        """Wait until the connection is lost, and return why."""
        return await self._link.wait_lost()


async def kept(supervisor: Supervisor[RedisConnection]) -> RedisConnection:
    """Return the connection that a supervisor keeps, which is not one that has just been lost.

    Raises:
      BrokerLostError: if there is none for a second.
    """
    connection = supervisor.current
    while connection is not None and connection.lost:
        await supervisor.changed()
        connection = supervisor.current
    return connection or await supervisor.connection()


@asynccontextmanager
async def open_connection(
    address: RedisAddress, endpoint: Endpoint, news: Callable[[bytes, bytes], None]
) -> AsyncGenerator[RedisConnection, None]:
    """Connect to a primary, greet it, choose the database, and read what it says of itself.

    Raises:
      BrokerLostError: if nobody answers, or it is still loading its data, or a script keeps it busy.
      BrokerRefusedError: if it will not have us, or is nothing to keep jobs in: a replica, too old, another program.
    """
    async with open_greeted(endpoint, address.login, news) as connection:
        with _bounded(endpoint):
            try:
                if address.database:
                    await _chosen(connection, address.database)
                connection.about = read_info(await connection.call("INFO", "everything"))
            except BrokerBusyError as exc:
                # To be tried again, like a server that loads its data: who keeps a connection knows no other complaint.
                raise BrokerLostError(str(exc)) from None
            except RedisError as exc:
                raise BrokerRefusedError(connection.name, f"{exc.code} {exc.text}") from None
        _check(connection, clustered=address.kind == "cluster")
        yield connection


@asynccontextmanager
async def open_greeted(
    endpoint: Endpoint, login: Login, news: Callable[[bytes, bytes], None]
) -> AsyncGenerator[RedisConnection, None]:
    """Connect and greet, whoever it is: a server or a sentinel.

    Raises:
      BrokerLostError, BrokerRefusedError: as :func:`open_connection`.
    """
    speech = Speech(news)
    async with open_link(endpoint, speech) as link:
        connection = RedisConnection(link, speech)
        with _bounded(endpoint):
            try:
                await connection.call("HELLO", 3, *login.words, "SETNAME", "trepid")
            except RedisError as exc:
                raise BrokerRefusedError(connection.name, _unwelcome(exc)) from None
        yield connection


async def _answered(reply: Reply[Any], through: float) -> Any:
    """Wait for an answer that somebody must get, since it hands over what cannot be handed over twice."""
    try:
        return await reply.wait()
    except trio.Cancelled:  # level-triggered: the next checkpoint raises it again
        with trio.move_on_after(through, shield=True):
            return await reply.wait()
        raise


@contextmanager
def _bounded(endpoint: Endpoint) -> Generator[None, None, None]:
    """Turn a greeting that takes too long into a lost broker."""
    try:
        with trio.fail_after(SHAKEN_WITHIN):
            yield
    except trio.TooSlowError:
        raise BrokerLostError(f"{endpoint.name}: no answer to our greeting within {SHAKEN_WITHIN:g} s") from None


async def _chosen(connection: RedisConnection, database: int) -> None:
    try:
        await connection.call("SELECT", database)
    except RedisError as exc:
        raise BrokerRefusedError(connection.name, f"database {database}: {exc.text}") from None


def _unwelcome(error: RedisError) -> str:
    if "unknown command" in error.text.lower() or error.code == "NOPROTO":
        return "it does not speak RESP3; Trepid needs Redis 7.0 or newer, or Valkey"
    return f"{error.code} {error.text}"


def read_info(text: bytes) -> dict[str, str]:
    """Read what ``INFO`` says."""
    lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon and not name.startswith("#")}


def version_of(about: dict[str, str]) -> tuple[int, ...]:
    """Return the version that a server says it has."""
    parts = about.get("redis_version", "0").split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def _check(connection: RedisConnection, *, clustered: bool) -> None:
    about = connection.about
    if about.get("redis_mode") == "sentinel":
        raise BrokerRefusedError(connection.name, "it is a sentinel; write redis+sentinel://host:port/service")
    if about.get("redis_mode") == "cluster" and not clustered:
        raise BrokerRefusedError(connection.name, "it is part of a cluster; write redis+cluster://host:port,host:port")
    if version_of(about) < OLDEST:
        raise BrokerRefusedError(
            connection.name,
            f"it is Redis {about.get('redis_version', '?')}; the oldest that Trepid speaks to is 7.0",
        )
    if about.get("loading") == "1":
        connection.lose("it is loading its data")
        raise BrokerLostError(f"{connection.name}: it is loading its data")
    if about.get("role", "master") != "master":
        raise BrokerRefusedError(
            connection.name,
            f"it is a replica of {about.get('master_host', '?')}:{about.get('master_port', '?')}, which takes no jobs; "
            "name the primary, or let sentinels find it (redis+sentinel://)",
        )
