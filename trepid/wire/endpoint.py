"""Where a server listens, and how to get a stream to it."""

from __future__ import annotations

import ssl
from typing import Final, final

import attrs
import trio

from trepid.errors import BrokerLostError, BrokerRefusedError

CONNECT_WITHIN: Final = 5.0
"""Seconds in which a server must accept, and finish the handshake of TLS."""


@final
@attrs.frozen
class Endpoint:
    """Where a server listens.

    Attributes:
      name: how errors call it; never with credentials.
      host, port: where, unless *path* is given.
      path: of a Unix socket.
      tls: with which context the stream is encrypted, or None for plain text.
    """

    name: str
    host: str = "127.0.0.1"
    port: int = 0
    path: str | None = None
    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)

    async def connect(self) -> trio.abc.Stream:
        """Connect, within some seconds.

        Raises:
          BrokerLostError: if nobody answers there.
          BrokerRefusedError: if the certificate does not hold, or the server does not speak TLS.

        Cancellation: nothing stays open.
        """
        try:
            with trio.fail_after(CONNECT_WITHIN):
                stream = await self._plain()
                return stream if self.tls is None else await self.encrypted(stream)
        except trio.TooSlowError:
            raise BrokerLostError(f"{self.name}: no connection within {CONNECT_WITHIN:g} s") from None

    async def encrypted(self, stream: trio.abc.Stream) -> trio.SSLStream[trio.abc.Stream]:
        """Return *stream* wrapped in TLS, once both sides have shaken hands; it is closed if they do not.

        Raises:
          BrokerLostError, BrokerRefusedError: as :meth:`connect`.
        """
        assert self.tls is not None
        try:
            # Servers, and kernels that were killed, end a connection without the farewell of TLS.
            wrapped = trio.SSLStream(stream, self.tls, server_hostname=self.host, https_compatible=True)
            await wrapped.do_handshake()
        except trio.BrokenResourceError as exc:
            await trio.aclose_forcefully(stream)
            raise self._unencrypted(exc) from None
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return wrapped

    async def _plain(self) -> trio.abc.Stream:
        try:
            if self.path is not None:
                return await trio.open_unix_socket(self.path)
            stream = await trio.open_tcp_stream(self.host, self.port)
        except OSError as exc:
            raise BrokerLostError(f"{self.name}: nobody answers there ({_reason(exc)})") from None
        except UnicodeError as exc:
            raise BrokerLostError(f"{self.name}: that is no name of a host ({exc})") from None
        return stream

    def _unencrypted(self, exc: Exception) -> Exception:
        cause = exc.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return BrokerRefusedError(self.name, f"its certificate does not hold: {cause.verify_message}")
        if isinstance(cause, ssl.SSLError) and cause.reason is not None:
            return BrokerRefusedError(self.name, f"TLS failed ({cause.reason}); does it listen for TLS on this port?")
        return BrokerLostError(f"{self.name}: the connection was lost during the handshake of TLS")


def _reason(exc: OSError) -> str:
    # Trio says that all attempts failed, and keeps why in its cause.
    if exc.errno is None and isinstance(exc.__cause__, OSError):
        exc = exc.__cause__
    if exc.errno is None and isinstance(exc.__cause__, BaseExceptionGroup):
        return "; ".join(sorted({str(each) for each in exc.__cause__.exceptions}))
    return exc.strerror or str(exc)
