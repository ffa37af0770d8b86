"""A link: a stream to a server whose writes are gathered, whose reads are fed to a protocol, and whose end is noticed.

Every protocol stands on it.  What a link knows of the protocol is what :class:`Dialect` says; everything that happens
to a stream happens here, once: many small writes become one, a silent peer is asked and then given up, and when the
stream ends, in whatever way, the protocol is told exactly once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Protocol, final

import trio

from trepid.errors import BrokerLostError
from trepid.wire.endpoint import Endpoint
from trepid.wire.household import open_household

_CHUNK: Final = 65536
_FULL: Final = 1 << 20
"""Bytes that may wait to be written before :meth:`Link.room` makes callers wait."""
_QUIET: Final = 4.0
"""Seconds of silence after which the server is asked whether it is there; twice that, and it is given up."""
_LOOKS: Final = 4
"""Into so many parts is the time for an answer divided, so that one in which this process slept decides nothing."""


class ProtocolError(Exception):
    """The server sent what its protocol does not allow; the link is lost."""


class Dialect(Protocol):
    """What a link asks of a protocol.  All of it is synchronous, and called in the event loop."""

    def received(self, data: bytes) -> None:
        """Read some bytes.

        Raises:
          ProtocolError: if they make no sense.
        """
        ...

    def ping(self) -> bytes:
        """Return bytes that make a healthy server answer; what it answers is :meth:`received`."""
        ...

    def lost(self, error: BrokerLostError) -> None:
        """The link is lost: let everybody know who waits for a reply.  Called once."""
        ...


@final
class Link:
    """An open link.  Made by :func:`open_link`."""

    def __init__(self, stream: trio.abc.Stream, dialect: Dialect, name: str, quiet: float) -> None:
        self.stream = stream
        self.name = name
        self.error: BrokerLostError | None = None
        """Why it was lost, once it was."""
        self._dialect = dialect
        self._quiet = quiet
        self._out: list[bytes] = []
        self._size = 0
        # How many pieces the stream has taken: a peer that takes what it is sent is there, whatever it says.
        self._taken = 0
        self._more = trio.Event()
        self._less = trio.Event()
        self._lost = trio.Event()
        self._heard = trio.current_time()

    # ---------------------------------------------------------------------------------------------------- writing

    def send(self, *data: bytes) -> None:
        """Write soon, together with whatever else is to be written.  Never waits.

        Raises:
          BrokerLostError: if the link is lost; nothing is written then.
        """
        if self.error is not None:
            raise self.gone()
        self._out += data
        self._size += sum(map(len, data))
        self._more.set()

    async def room(self) -> None:
        """Wait until less than a mebibyte waits to be written; a checkpoint in any case.

        Raises:
          BrokerLostError: if the link is lost meanwhile.

        Cancellation: nothing was written.
        """
        while self._size > _FULL and self.error is None:
            await self._less.wait()
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.gone()

    @property
    def unsent(self) -> int:
        """Bytes that wait to be written."""
        return self._size

    async def flushed(self) -> None:
        """Wait until everything has been handed to the stream, or the link is lost; a checkpoint in any case."""
        while self._size and self.error is None:
            await self._less.wait()
        await trio.lowlevel.checkpoint()

    # ------------------------------------------------------------------------------------------------------ ending

    async def wait_lost(self) -> BrokerLostError:
        """Wait until the link is lost, and return why."""
        await self._lost.wait()
        assert self.error is not None
        return self.error

    def gone(self) -> BrokerLostError:
        """Return a new error that says why the link was lost: one is raised in many tasks."""
        return BrokerLostError(*self.error.args) if self.error else BrokerLostError(f"{self.name}: closed")

    def lose(self, reason: str) -> None:
        """Give the link up: nothing more is written or read, and everybody who waits is told.  Idempotent."""
        if self.error is None:
            self.error = BrokerLostError(f"{self.name}: {reason}")
            self._out.clear()
            self._size = 0
            self._less.set()
            self._more.set()
            self._lost.set()
            self._dialect.lost(self.gone())

    # ------------------------------------------------------------------------------------------------------- tasks

    async def _write(self) -> None:
        while True:
            if not self._out:
                self._more = trio.Event()
                await self._more.wait()
                continue
            data = memoryview(b"".join(self._out))
            self._out.clear()
            for start in range(0, len(data), _CHUNK):
                piece = data[start : start + _CHUNK]
                try:
                    await self.stream.send_all(piece)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    self.lose(f"the connection broke ({_why(exc)})")
                if self.error is not None:
                    return
                self._taken += 1
                self._size -= len(piece)
                less, self._less = self._less, trio.Event()
                less.set()

    async def _read(self) -> None:
        while True:
            try:
                data = await self.stream.receive_some(_CHUNK)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self.lose(f"the connection broke ({_why(exc)})")
                return
            if not data:
                self.lose("the server closed the connection")
                return
            self._heard = trio.current_time()
            try:
                self._dialect.received(bytes(data))
            except ProtocolError as exc:
                self.lose(f"the server sent what makes no sense: {exc}")
                return
            except BaseException as exc:
                # Our own mistake, which ends the program; but nobody shall wait for what nobody reads any more.
                self.lose(f"reading failed ({type(exc).__name__})")
                raise

    async def _listen(self) -> None:
        """Ask a server that says nothing; give up one that does not answer."""
        while self.error is None:
            await trio.sleep_until(self._heard + self._quiet)
            asked = trio.current_time()
            if asked < self._heard + self._quiet:
                continue
            if self.error is None:
                # Silence counts from the question: this process may have slept itself, with the answer in the socket.
                self.send(self._dialect.ping())
                await self._answer(asked)
            if self._heard < asked:
                self.lose(f"silent for {trio.current_time() - self._heard:.0f} s")

    async def _answer(self, asked: float) -> None:
        """Wait for an answer to a question, for as long as may be needed: the question itself may be under way."""
        looks, part = 0, self._quiet / _LOOKS
        while looks < _LOOKS and self._heard < asked:
            taken, before = self._taken, trio.current_time()
            await trio.sleep(part)
            slept = trio.current_time() - before > 2 * part
            if self._size and self._taken > taken:
                looks = 0  # what was to be written before it takes its time
            elif not slept:
                looks += 1

    async def run(self) -> None:
        """Read, write and listen until the link is lost or the caller cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, name=f"write {self.name}")
            nursery.start_soon(self._listen, name=f"listen to {self.name}")
            nursery.start_soon(self._read, name=f"read {self.name}")
            await self._lost.wait()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_link(
    endpoint: Endpoint, dialect: Dialect, *, stream: trio.abc.Stream | None = None, quiet: float = _QUIET
) -> AsyncGenerator[Link, None]:
    """Connect to a server and keep the link for the length of the block; its end closes the stream at once.

    The block is not cancelled when the link is lost: what uses it raises, and :meth:`Link.wait_lost` returns.

    Args:
      endpoint: where the server listens.
      dialect: what reads.
      stream: an open stream to use, which the link then owns; by default the endpoint is connected to.
      quiet: seconds of silence after which the server is asked whether it is there; twice that, and it is given up.

    Raises:
      BrokerLostError, BrokerRefusedError: as :meth:`Endpoint.connect` does.
    """
    if stream is None:
        stream = await endpoint.connect()
    link = Link(stream, dialect, endpoint.name, quiet)
    try:
        # A block that is cancelled still has its last words to say, within a shield of its own: until it is left, the
        # link serves it.
        serving = trio.CancelScope(shield=True)

        async def serve() -> None:
            with serving:
                await link.run()

        async with open_household() as household:
            household.start_soon(serve, name=f"link to {endpoint.name}")
            try:
                yield link
            finally:
                serving.cancel()
    finally:
        link.lose("closed")
        # Only the file descriptor: farewells are the protocol's business, and were said before.
        await trio.aclose_forcefully(stream)


def _why(exc: Exception) -> str:
    cause = exc.__cause__
    if isinstance(cause, OSError):
        return cause.strerror or str(cause)
    return str(cause or exc)
