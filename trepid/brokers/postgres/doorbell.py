"""The bell between sessions: one connection that listens, and rings, in a thread of its own.

NOTIFY is not a part of our transactions: at its commit it takes a lock that the whole server has only once, and would
hold it while the commit waits for the disk.  So it is sent after the commit, by itself, in a transaction that writes
nothing and waits for no disk; what gathers while one is under way goes with the next.  A bell that is lost costs the
time until the next look, and nothing else.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Final, final

import psycopg
import trio
from psycopg import pq

from trepid.brokers.postgres import link, statements
from trepid.brokers.postgres.address import Address
from trepid.brokers.postgres.link import Link
from trepid.brokers.sql.news import ALL_NEWS

_SETTINGS: Final = ("synchronous_commit = off", "statement_timeout = '10s'")
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_CLOSING: Final = 2.0


def channel(schema: str) -> str:
    """Return the name that sessions on one schema listen to."""
    return f"trepid/{schema}"


@final
class Doorbell:
    """A thread that hears what other sessions have done, and tells them what we have done.

    Args:
      address: where.
      tell: called in the event loop with news of others.
    """

    def __init__(self, address: Address, tell: Callable[[int], object]) -> None:
        self._address = address
        self._tell = tell
        self._channel = channel(address.schema)
        self._token = trio.lowlevel.current_trio_token()
        self._guard = threading.Lock()
        self._to_ring = 0
        self._closing = threading.Event()
        self._tried = trio.Event()
        self._ended = trio.Event()
        self._link: Link | None = None
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._thread = threading.Thread(target=self._own, name="trepid listens", daemon=True)
        self.up = False
        self.up_since = float("inf")
        self.rung = 0

    # ------------------------------------------------------------------------------------------ in the event loop

    async def start(self) -> None:
        """Start the thread and wait until it listens, or has found that it cannot."""
        self._thread.start()
        await self._tried.wait()

    async def close(self) -> None:
        """End the thread; waits for a second or two at most."""
        self._closing.set()
        self._stir()
        if self._thread.ident is not None:
            with trio.CancelScope(deadline=trio.current_time() + _CLOSING, shield=True) as scope:
                await self._ended.wait()
            if scope.cancelled_caught:
                if self._link is not None:
                    link.hang_up(self._link)
                return  # the thread closes its own ends
            self._thread.join()
        self._wake.close()
        self._woken.close()

    # ------------------------------------------------------------------------------------------------- in any thread

    def ring(self, news: int) -> None:
        """Tell other sessions; never waits."""
        with self._guard:
            first, self._to_ring = not self._to_ring, self._to_ring | news
        if first:
            self._stir()

    def _stir(self) -> None:
        # Full is loud enough; closed is too late.
        with contextlib.suppress(OSError):
            self._wake.send(b"!")

    # -------------------------------------------------------------------------------------------------- in the thread

    def _own(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            try:
                with contextlib.closing(self._listening()) as listening:
                    self.up_since = time.monotonic()
                    self._link, self.up = listening, True
                    pause = _FIRST_PAUSE
                    self._say(ALL_NEWS)  # whatever was rung while nobody listened
                    self._listen(listening)
            except Exception:  # noqa: BLE001 - whatever is wrong with a bell, the next look finds what it would have told
                self.up = False
            self._link, self.up = None, False
            self._call(self._tried.set)
            self._closing.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - not for secrets
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._call(self._ended.set)

    def _listening(self) -> Link:
        connection = link.connect(self._address, settings=_SETTINGS)
        try:
            connection.add_notify_handler(self._heard)
            connection.execute(f'LISTEN "{self._channel}"'.encode())
        except BaseException:
            connection.close()
            raise
        return connection

    def _listen(self, connection: Link) -> None:
        """Hear and ring until the connection breaks, or the session is closed."""
        self._call(self._tried.set)
        with selectors.DefaultSelector() as selector:
            selector.register(connection.pgconn.socket, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._closing.is_set():
                ready = {key.fileobj for key, _ in selector.select()}
                if self._woken in ready:
                    self._woken.recv(4096)
                    self._send(connection)
                connection.pgconn.consume_input()
                while (notice := connection.pgconn.notifies()) is not None:
                    self._hear(connection, notice)
                if connection.pgconn.status != pq.ConnStatus.OK:
                    return

    def _send(self, connection: Link) -> None:
        with self._guard:
            news, self._to_ring = self._to_ring, 0
        if news:
            connection.execute(statements.NOTIFY, (self._channel, str(news)))
            self.rung += 1

    def _hear(self, connection: Link, notice: pq.PGnotify) -> None:
        if notice.be_pid != connection.info.backend_pid:
            self._understand(notice.extra.decode())

    def _heard(self, notice: psycopg.Notify) -> None:
        """One that came while we were ringing."""
        if self._link is not None and notice.pid != self._link.info.backend_pid:
            self._understand(notice.payload)

    def _understand(self, payload: str) -> None:
        self._say(int(payload) & ALL_NEWS if payload.isdecimal() else ALL_NEWS)

    def _say(self, news: int) -> None:
        self._call(self._tell, news)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function, *args)


@final
class Silence:
    """News come by the doorbell's thread; there is nothing for the event loop to watch."""

    descriptor: int | None = None

    def heard(self) -> int:
        """Nothing."""
        return 0
