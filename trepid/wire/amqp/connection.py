"""A connection: the handshake, the channels on it, heartbeats, and an end in good order."""

from __future__ import annotations

import platform
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, final

import attrs
import trio
from pamqp import base, commands

from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.amqp import frames
from trepid.wire.amqp.channel import Channel
from trepid.wire.endpoint import Endpoint
from trepid.wire.household import open_household
from trepid.wire.link import Link, ProtocolError, open_link
from trepid.wire.reply import Reply

_HANDSHAKE_WITHIN: Final = 5.0
_FAREWELL_WITHIN: Final = 2.0
"""Seconds for the last words; a connection that breaks off leaves its messages stuck in quorum queues for a while."""
_REFUSALS: Final = frozenset({402, 403, 530, 540})
_MOST_CHANNELS: Final = 2047


@final
@attrs.frozen
class Login:
    """Who we are, and where we want to go.

    Attributes:
      user, password: of the server; never shown.
      vhost: the virtual host.
      heartbeat: seconds after which either side takes the other for dead; the server may make it shorter.
      name: how the server lists the connection.
    """

    user: str = attrs.field(default="guest", repr=False)
    password: str = attrs.field(default="guest", repr=False)
    vhost: str = "/"
    heartbeat: float = 8.0
    name: str = "trepid"


@final
class Amqp:
    """An open connection.  Made by :func:`open_amqp`.

    Attributes:
      server: what the server says about itself, such as its version.
      blocked: why the server takes no messages at present, or None.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.server: Mapping[str, Any] = {}
        self.blocked: str | None = None
        self.frame_max = frames.FRAME_MAX
        self.heartbeat = 0.0
        self.link: Link
        self._slicer = frames.Slicer()
        self._channels: dict[int, Channel] = {}
        self._numbers = 0
        self._free: list[int] = []
        self._most_channels = _MOST_CHANNELS
        self._awaited: Reply[base.Frame] = Reply()
        self._closed = Reply[None]()
        self._unblocked = trio.Event()
        self._refusal: commands.Connection.Close | None = None

    # ------------------------------------------------------------------------------------- what a link asks for

    def received(self, data: bytes) -> None:
        """Read some bytes.  Called by the link.

        Raises:
          ProtocolError: if they make no sense.
        """
        for kind, number, payload in self._slicer.feed(data):
            if number:
                channel = self._channels.get(number)
                # A channel that was closed may have had frames under way.
                if channel is not None:
                    channel.received(kind, payload)
            elif kind == frames.METHOD:
                self._method(frames.method_of(payload))
            elif kind != frames.BEAT:
                raise ProtocolError("a message outside of any channel")
            if self.link.error is not None:
                return

    def ping(self) -> bytes:
        """Return a heartbeat; the server sends its own, whatever it gets."""
        return frames.HEARTBEAT

    def lost(self, error: BrokerLostError) -> None:
        """Tell everybody who waits that the connection is lost.  Called by the link."""
        self._awaited.fail(error)
        self._closed.set(None)
        self._unblocked.set()
        for channel in list(self._channels.values()):
            channel.fail(error)

    # -------------------------------------------------------------------------------- what a channel asks for

    def write(self, *data: bytes) -> None:
        """Write soon.  Never waits.

        Raises:
          BrokerLostError: if the connection is lost.
        """
        self.link.send(*data)

    def gone(self) -> BrokerLostError:
        """Return why the connection was lost."""
        return self.link.gone()

    def left(self, number: int) -> None:
        """Forget a channel that both sides have closed; its number may be used again."""
        if self._channels.pop(number, None) is not None:
            self._free.append(number)

    # --------------------------------------------------------------------------------------------- for its user

    async def channel(self, *, confirming: bool = False) -> Channel:
        """Open a channel.

        Args:
          confirming: whether what is published on it is confirmed.

        Raises:
          BrokerLostError: if the connection is lost, or has no more channels.

        Cancellation: the channel is closed as soon as it is open.
        """
        if self.link.error is not None:
            raise self.gone()
        if self._free:
            number = self._free.pop()
        elif self._numbers < self._most_channels:
            self._numbers += 1
            number = self._numbers
        else:
            raise BrokerLostError(f"{self.name}: no more than {self._most_channels} channels on one connection")
        self._channels[number] = channel = Channel(self, number)
        opened = channel.ask(commands.Channel.Open())
        if confirming:
            opened = channel.ask(commands.Confirm.Select())
        try:
            await opened.wait()
        except BaseException:
            channel.abandon()  # else the number would be lost: nobody has the channel
            raise
        return channel

    async def room(self) -> None:
        """Wait until messages may be published; a checkpoint in any case.

        Raises:
          BrokerLostError: if the connection is lost meanwhile.
        """
        while self.blocked is not None and self.link.error is None:
            await self._unblocked.wait()
        await self.link.room()

    async def wait_lost(self) -> BrokerLostError:
        """Wait until the connection is lost, and return why."""
        return await self.link.wait_lost()

    # ----------------------------------------------------------------------------------------------- channel 0

    def _method(self, method: base.Frame) -> None:
        match method:
            case commands.Connection.Close():
                self._refusal = method
                self.link.send(frames.marshal(commands.Connection.CloseOk(), 0))
                self.link.lose(f"the server closed the connection: {_said(method)}")
            case commands.Connection.CloseOk():
                self._closed.set(None)
            case commands.Connection.Blocked():
                if self.blocked is None:
                    self._unblocked = trio.Event()
                self.blocked = str(method.reason)
            case commands.Connection.Unblocked():
                self.blocked = None
                self._unblocked.set()
            case _:
                self._awaited.set(method)

    async def greet(self, login: Login) -> None:
        """Shake hands, log in and enter the virtual host.

        Raises:
          BrokerRefusedError: if the server does not want us, or speaks otherwise.
          BrokerLostError: if the connection is lost meanwhile.
        """
        try:
            start = await self._ask(commands.Connection.Start, frames.PROTOCOL_HEADER)
            self.server = dict(start.server_properties or {})
            if "PLAIN" not in str(start.mechanisms).split():
                raise BrokerRefusedError(self.name, f"it offers {start.mechanisms} to log in, and not PLAIN")
            properties: dict[str, Any] = {
                "product": "Trepid",
                "platform": f"Python {platform.python_version()}",
                "connection_name": login.name,
                "capabilities": {
                    "publisher_confirms": True,
                    "consumer_cancel_notify": True,
                    "basic.nack": True,
                    "connection.blocked": True,
                    "authentication_failure_close": True,
                },
            }
            credentials = f"\0{login.user}\0{login.password}"
            ok = commands.Connection.StartOk(properties, "PLAIN", credentials, "en_US")
            tune = await self._ask(commands.Connection.Tune, frames.marshal(ok, 0))
            self._tune(tune, login)
            agreed = commands.Connection.TuneOk(self._most_channels, self.frame_max, int(self.heartbeat))
            enter = commands.Connection.Open(virtual_host=login.vhost)
            await self._ask(commands.Connection.OpenOk, frames.marshal(agreed, 0) + frames.marshal(enter, 0))
        except BrokerLostError as lost:
            raise self._refused(lost) from None

    def _tune(self, tune: Any, login: Login) -> None:
        self._most_channels = min(int(tune.channel_max) or _MOST_CHANNELS, _MOST_CHANNELS)
        self.frame_max = min(int(tune.frame_max) or frames.FRAME_MAX, frames.FRAME_MAX)
        # A server without an opinion says 0.
        self.heartbeat = min(float(tune.heartbeat) or login.heartbeat, login.heartbeat)

    async def _ask(self, kind: type[base.Frame], data: bytes) -> Any:
        self._awaited = Reply()
        self.link.send(data)
        answer = await self._awaited.wait()
        if not isinstance(answer, kind):
            raise BrokerRefusedError(self.name, f"it answered with {answer.name} instead of {kind.name}")
        return answer

    def _refused(self, lost: BrokerLostError) -> Exception:
        close = self._refusal
        if close is not None and int(close.reply_code or 0) in _REFUSALS:
            return BrokerRefusedError(self.name, _said(close))
        if "another version of AMQP" in str(lost):
            return BrokerRefusedError(self.name, str(lost))
        return lost

    async def beat(self) -> None:
        """Send heartbeats until cancelled: a server that talks all the time wants to hear something, too."""
        while True:
            await trio.sleep(self.heartbeat / 2)
            if self.link.error is None:
                self.link.send(frames.HEARTBEAT)

    async def farewell(self) -> None:
        """Close the connection in good order; takes two seconds at the most, whoever cancels."""
        with trio.move_on_after(_FAREWELL_WITHIN, shield=True):
            if self.link.error is None:
                self.link.send(frames.marshal(commands.Connection.Close(200, "bye", 0, 0), 0))
                await self._closed.wait()


def _said(close: commands.Connection.Close) -> str:
    # Who we are is nobody's business who reads a log.
    text = re.sub(r" (?:for|by) user '[^']*'", "", str(close.reply_text))
    return f"{close.reply_code} {text}"


@asynccontextmanager
async def open_amqp(
    endpoint: Endpoint, login: Login, *, stream: trio.abc.Stream | None = None
) -> AsyncGenerator[Amqp, None]:
    """Connect and log in, for the length of the block; its end says farewell, which takes two seconds at the most.

    Args:
      endpoint: where the server listens.
      login: who we are.
      stream: an open stream to use; by default the endpoint is connected to.

    Raises:
      BrokerLostError: if nobody answers there.
      BrokerRefusedError: if the server does not want us, or is none.
    """
    amqp = Amqp(endpoint.name)
    # Silence is measured against heartbeats, which a server sends twice in each span agreed.
    quiet = max(login.heartbeat * 0.6, 0.5)
    async with open_link(endpoint, amqp, stream=stream, quiet=quiet) as amqp.link, open_household() as household:
        try:
            with trio.fail_after(_HANDSHAKE_WITHIN):
                await amqp.greet(login)
        except trio.TooSlowError:
            raise BrokerLostError(f"{endpoint.name}: no handshake within {_HANDSHAKE_WITHIN:g} s") from None
        household.start_soon(amqp.beat, name=f"heartbeats of {endpoint.name}")
        try:
            yield amqp
        finally:
            await amqp.farewell()
