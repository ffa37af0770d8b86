"""Dialling: one server after the other is tried, and asked for TLS before it is told anything."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, final

import attrs
import trio

from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.endpoint import CONNECT_WITHIN, Endpoint
from trepid.wire.link import ProtocolError, open_link
from trepid.wire.nats.address import Address, announced
from trepid.wire.nats.connection import NatsConnection
from trepid.wire.nats.protocol import Info, Parser

_LONGEST_GREETING: Final = 1 << 17


@final
class Dialler:
    """Knows the servers, and which one is next; those that a server names are tried after those of the URL."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._hosts = list(address.hosts)
        self._next = 0
        self._context: ssl.SSLContext | None = None

    @property
    def hosts(self) -> list[tuple[str, int]]:
        """The servers of the URL, and those that the last one that took us has named."""
        return list(self._hosts)

    @asynccontextmanager
    async def dial(self) -> AsyncGenerator[NatsConnection]:
        """Connect to the next server that will have us, and keep the connection for the length of the block.

        Raises:
          BrokerRefusedError: if one refused us, and none took us.
          BrokerLostError: if none is there.
        """
        endpoint, stream, connection, options = await self._found()
        try:
            opened = open_link(endpoint, connection, stream=stream)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        async with opened as link, connection.introduced(link, options):
            self._learn(connection.info)
            connection.elsewhere = len(self._hosts) > 1
            yield connection

    async def _found(self) -> tuple[Endpoint, trio.abc.Stream, NatsConnection, dict[str, Any]]:
        refusal: BrokerRefusedError | None = None
        losses: list[str] = []
        for _ in range(len(self._hosts)):
            host, port = self._hosts[self._next % len(self._hosts)]
            self._next += 1
            try:
                return await self._greeted(host, port)
            except BrokerRefusedError as exc:
                refusal = exc
            except BrokerLostError as exc:
                losses.append(str(exc))
        if refusal is not None:
            raise refusal
        raise BrokerLostError("; ".join(losses))

    async def _greeted(self, host: str, port: int) -> tuple[Endpoint, trio.abc.Stream, NatsConnection, dict[str, Any]]:
        """Connect, read what the server says of itself, and encrypt if either side wants it."""
        address = self._address
        name = f"{'tls' if address.secure else 'nats'}://{host}:{port}"
        endpoint = Endpoint(name, host, port, tls=self._tls(name) if address.tls_first else None)
        stream = await endpoint.connect()
        try:
            info, rest = await _greeting(stream, name)
            wanted = address.secure or info.get("tls_required", False)
            if wanted and not address.tls_first:
                _expect_tls(info, rest, name)
                endpoint = attrs.evolve(endpoint, tls=self._tls(name))
                with trio.fail_after(CONNECT_WITHIN):
                    stream = await endpoint.encrypted(stream)
            options: dict[str, Any] = {
                "verbose": False,
                "pedantic": False,
                "headers": True,
                "no_responders": True,
                "lang": "python-trio",
                "version": "trepid",
                "protocol": 1,
                "tls_required": wanted,
                **address.login.options(info.get("nonce"), name),
            }
        except trio.TooSlowError:
            await trio.aclose_forcefully(stream)
            raise BrokerLostError(f"{name}: no handshake of TLS within {CONNECT_WITHIN:g} s") from None
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return endpoint, stream, NatsConnection(name, info, rest), options

    def _tls(self, name: str) -> ssl.SSLContext:
        if self._context is None:
            try:
                self._context = self._address.context()
            except OSError as exc:
                raise BrokerRefusedError(name, f"its certificates cannot be read: {exc.strerror or exc}") from None
        return self._context

    def _learn(self, info: dict[str, Any]) -> None:
        """Remember the servers that this one names, and forget those that it does not: they may be gone for good."""
        self._hosts = list(dict.fromkeys((*self._address.hosts, *announced(info.get("connect_urls")))))


def _expect_tls(info: dict[str, Any], rest: bytes, name: str) -> None:
    if not (info.get("tls_required") or info.get("tls_available")):
        raise BrokerRefusedError(name, "it does not speak TLS; write nats:// if that is meant")
    if rest:
        raise BrokerRefusedError(name, "it goes on in plain text where TLS should begin")


async def _greeting(stream: trio.abc.Stream, name: str) -> tuple[dict[str, Any], bytes]:
    """Read INFO, the first that a server says; return it, and what came with it."""
    said = b""
    try:
        with trio.fail_after(CONNECT_WITHIN):
            while b"\r\n" not in said:
                chunk = await stream.receive_some(65_536)
                if not chunk or len(said) > _LONGEST_GREETING:
                    raise BrokerLostError(f"{name}: it closed the connection before it had said anything")
                said += bytes(chunk)
    except trio.TooSlowError:
        raise BrokerLostError(f"{name}: it said nothing within {CONNECT_WITHIN:g} s; is it NATS?") from None
    except trio.BrokenResourceError:
        raise BrokerLostError(f"{name}: the connection broke before it had said anything") from None
    line, end, rest = said.partition(b"\r\n")
    try:
        (event,) = Parser().feed(line + end)
    except ProtocolError:
        event = None
    if not isinstance(event, Info):
        raise BrokerRefusedError(name, "what listens there is no NATS server")
    return dict(event.about), rest
