"""A TCP proxy with faults that a test switches while connections are open."""

import math
import socket
import struct
from contextlib import asynccontextmanager, suppress

import trio

from tests.servers.ground import HOST

RESET = struct.pack("ii", 1, 0)
DIRECTIONS = ("requests", "replies")


@asynccontextmanager
async def open_proxy(host, port):
    """Run a proxy to a server round a block; what the block raises is raised as it is, and all is closed after it."""
    listener = trio.socket.socket()
    with listener:
        await listener.bind((HOST, 0))
        listener.listen(128)
        proxy = Proxy(host, port, listener.getsockname()[1])
        failure = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy._accept, listener, nursery)
            try:
                yield proxy
            except trio.Cancelled:
                raise
            except BaseException as error:  # noqa: BLE001 - raised below, where no nursery wraps it
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


class Proxy:
    """Stands between clients and one server; made by :func:`open_proxy`.

    A method acts at once on every connection there is, and on those to come.

    Attributes:
      host, port: where the clients connect to.
      accepted: how many connections there have been.
      connections: how many are open.
      requests, replies: how many bytes have passed, of all connections.
      dropped: how many bytes of replies were swallowed.
    """

    def __init__(self, server_host, server_port, port):
        self.host, self.port = HOST, port
        self._server = (server_host, server_port)
        self.accepted = self.requests = self.replies = self.dropped = 0
        self._links = set()
        self._changed = trio.lowlevel.ParkingLot()
        self._refusing = False
        self._holes = set()
        self._latency = 0.0
        self._size = self._rate = math.inf
        self._left = {"requests": math.inf, "replies": math.inf}
        self._then_reset = False

    @property
    def connections(self):
        return len(self._links)

    def instead(self, url):
        """Return the server's URL with the proxy in the server's place."""
        server = f"{self._server[0]}:{self._server[1]}"
        if url.count(server) != 1:
            raise ValueError(f"{server} is not in this URL")
        return url.replace(server, f"{self.host}:{self.port}")

    async def until(self, condition, within=10.0):
        """Wait until ``condition()`` is true; it is asked whenever a count has changed.

        Raises:
          trio.TooSlowError: if it is not within so many seconds.
        """
        await trio.lowlevel.checkpoint()
        with trio.fail_after(within):
            while not condition():
                await self._changed.park()

    # ------------------------------------------------------------------------------------ faults

    def reset(self):
        """Reset all connections (RST, to both sides): what is under way is lost."""
        for link in list(self._links):
            link.reset()

    def hang_up(self):
        """Close all connections in order (FIN, to both sides); what the proxy has not passed on yet is lost."""
        for link in list(self._links):
            link.close()

    def refuse(self, on):
        """Reset every new connection at once, or no longer; those that are open are left alone."""
        self._refusing = on

    def black_hole(self, on, direction=None):
        """Pass nothing more, or everything again: bytes, ends and resets wait meanwhile, and are passed in order.

        New connections are accepted, and reach the server when the hole is closed.

        Args:
          on: whether there is a hole.
          direction: ``"requests"`` or ``"replies"`` for one direction, None for both.
        """
        directions = {direction} if direction else set(DIRECTIONS)
        if not directions <= set(DIRECTIONS):
            raise ValueError(f"no direction: {direction!r}")
        self._holes = self._holes | directions if on else self._holes - directions
        self._notify()

    def slice(self, size):
        """Pass pieces of at most this many bytes, each on its own, in both directions; None for as they come."""
        self._size = size or math.inf

    def delay(self, seconds):
        """Let every byte take this long, in each direction; order is kept, and later bytes do not wait for earlier."""
        self._latency = seconds

    def bandwidth(self, rate):
        """Pass at most this many bytes per second, in each direction of each connection; None for no limit."""
        self._rate = rate or math.inf

    def drop_replies_after(self, count, *, then_reset=False):
        """Let requests through, and swallow all replies after the next *count* bytes of them; None for no longer.

        Args:
          count: bytes, of all connections together.
          then_reset: once something was swallowed, reset its connection and swallow no more.  The server has carried
            out what was asked, the client does not know, and the next connection works.
        """
        self._left["replies"] = math.inf if count is None else count
        self._then_reset = then_reset
        self._notify()

    def cut_requests_after(self, count):
        """Pass the next *count* bytes of requests (of all connections together), then reset the connection, once."""
        self._left["requests"] = math.inf if count is None else count

    # ------------------------------------------------------------------------------------ how

    def _notify(self):
        self._changed.unpark_all()

    async def _accept(self, listener, nursery):
        while True:
            client, _ = await listener.accept()
            self.accepted += 1
            if self._refusing:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.close()
            else:
                link = Link(self, client)
                self._links.add(link)
                nursery.start_soon(self._carry, link)
            self._notify()

    async def _carry(self, link):
        try:
            await link.run(self._server)
        finally:
            link.close()
            self._links.discard(link)
            self._notify()

    async def passable(self, direction):
        """Wait until there is no hole in this direction."""
        while direction in self._holes:
            await self._changed.park()

    def arrival(self):
        """Return when what comes in now goes out."""
        return trio.current_time() + self._latency

    async def take(self, direction, size):
        """Wait for the turn of so many bytes; return how many may be sent at once, 0 if none may any more.

        They are counted here, before anybody can receive them.
        """
        size = self._allowed(direction, size)
        if self._rate < math.inf:
            await trio.sleep(size / self._rate)
        elif self._size < math.inf:
            for _ in range(2):  # the receiver's turn: else the pieces are one again
                await trio.lowlevel.checkpoint()
        await self.passable(direction)
        size = self._allowed(direction, size)  # once more: others may have used it up
        setattr(self, direction, getattr(self, direction) + size)
        self._left[direction] -= size
        self._notify()
        return size

    def _allowed(self, direction, size):
        pace = max(1, self._rate // 50) if self._rate < math.inf else math.inf
        return int(min(size, self._size, pace, self._left[direction]))

    def refused(self, direction, size):
        """Deal with bytes that may not pass; return whether the connection is to be reset."""
        if direction == "replies":
            self.dropped += size
            if self._then_reset:
                self.drop_replies_after(None)
                return True
        else:
            self.cut_requests_after(None)
        self._notify()
        return direction == "requests"


class Link:
    """One client's connection, and the one to the server."""

    def __init__(self, proxy, client):
        self._proxy, self._client = proxy, client
        self._server = trio.socket.socket()
        self._scope = trio.CancelScope()

    def reset(self):
        """Reset both connections."""
        for end in (self._client, self._server):
            with suppress(OSError):  # closed already
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close()

    def close(self):
        """Close both connections."""
        self._scope.cancel()  # first: tasks that wait at a socket are cancelled, and not told that it was closed
        self._client.close()
        self._server.close()

    async def run(self, server):
        """Carry bytes both ways until both ends have ended."""
        with self._scope:
            await self._proxy.passable("requests")
            try:
                await self._server.connect(server)
            except OSError:
                self.reset()
                return
            for end in (self._client, self._server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with trio.open_nursery() as nursery:
                for direction, source, target in (
                    ("requests", self._client, self._server),
                    ("replies", self._server, self._client),
                ):
                    into, out_of = trio.open_memory_channel(256)
                    nursery.start_soon(self._read, source, into)
                    nursery.start_soon(self._write, direction, out_of, target)

    async def _read(self, source, into):
        chunk = None
        while chunk != b"":
            try:
                chunk = await source.recv(65_536)
            except OSError:
                await into.send((self._proxy.arrival(), None))  # a reset; it is passed on in its turn
                return
            await into.send((self._proxy.arrival(), chunk))

    async def _write(self, direction, out_of, target):
        async for due, chunk in out_of:
            await trio.sleep_until(due)
            await self._proxy.passable(direction)
            if chunk is None:
                self.reset()
                return
            try:
                if not chunk:
                    target.shutdown(socket.SHUT_WR)
                    return
                await self._pass(direction, memoryview(chunk), target)
            except OSError:
                # Nobody reads any more.  The other direction says so, after what it has still to pass.
                async for _due, chunk in out_of:  # noqa: PLW2901 - the rest of the same
                    if not chunk:
                        return

    async def _pass(self, direction, rest, target):
        while rest:
            if size := await self._proxy.take(direction, len(rest)):
                piece, rest = rest[:size], rest[size:]
                while piece:
                    piece = piece[await target.send(piece) :]
            else:
                if self._proxy.refused(direction, len(rest)):
                    self.reset()
                return
