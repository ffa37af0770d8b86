"""Bells between sessions: named pipes in a directory beside the file, one for each session.

They are hints.  A bell that is lost costs the time until the next look at the file, and nothing else; so whatever goes
wrong here is passed over in silence.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import time
from pathlib import Path
from typing import Final, final

import trio

HAVE_BELLS: Final = hasattr(os, "mkfifo")

_STAMPS_SETTLE = 100_000_000
"""Nanoseconds after which two changes of a directory surely have different times of change."""


def directory_of(path: str) -> Path:
    """Return where the bells of a broker's file are."""
    return Path(f"{path}-bells")


@final
class Bell:
    """The bell of one session.

    Attributes:
      name: of its pipe, or None where there are no pipes.
    """

    def __init__(self, path: str) -> None:
        self._directory = directory_of(path)
        self._descriptor: int | None = None
        self.name: str | None = None

    @property
    def descriptor(self) -> int | None:
        """What becomes readable when somebody rings."""
        return self._descriptor

    def hang(self) -> None:
        """Make the pipe.  It is there for others only once it has a reader, so that none takes it for a stale one."""
        if not HAVE_BELLS:
            return
        name = secrets.token_hex(8)
        fresh, finished = self._directory / f".{name}", self._directory / name
        with contextlib.suppress(OSError):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            os.mkfifo(fresh, 0o600)
            try:
                # Open for writing, too: without a writer, the pipe would be readable (at its end) for ever.
                descriptor = os.open(fresh, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                fresh.unlink()
                return
            try:
                fresh.rename(finished)
            except OSError:
                os.close(descriptor)
                fresh.unlink()
                return
            self._descriptor, self.name = descriptor, name

    def heard(self) -> int:
        """Return what was rung since the last time."""
        news = 0
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                for byte in set(os.read(self._descriptor, 4096)):
                    news |= byte
        return news

    def take_down(self) -> None:
        """Remove the pipe, and the directory if it was the last one; called in the event loop."""
        if self._descriptor is None or self.name is None:
            return
        with contextlib.suppress(OSError):
            (self._directory / self.name).unlink()
        trio.lowlevel.notify_closing(self._descriptor)  # should somebody still be waiting, he learns of it
        os.close(self._descriptor)
        self._descriptor = None
        with contextlib.suppress(OSError):
            self._directory.rmdir()


@final
class Ringer:
    """Rings the bells of all other sessions.  Belongs to the thread that commits.

    Descriptors are kept, and the directory is only read again when it has changed.
    """

    def __init__(self, path: str, bell: Bell) -> None:
        self._directory = directory_of(path)
        self._bell = bell
        self._others: dict[str, int] = {}
        self._changed = -1
        self.rung = 0

    @staticmethod
    def quiet_this_thread() -> None:
        """Keep a pipe whose reader has just gone from killing a program that wants to die of broken pipes."""
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})

    def ring(self, news: int) -> None:
        """Tell the others that there is news."""
        if not HAVE_BELLS:
            return
        try:
            changed = self._directory.stat().st_mtime_ns
        except OSError:
            return
        if changed != self._changed:
            self._look_around(changed)
        sound = bytes((news,))
        for name, descriptor in list(self._others.items()):
            try:
                os.write(descriptor, sound)
                self.rung += 1
            except BlockingIOError:
                pass  # it has been rung often enough
            except OSError:
                self._drop(name)

    def _look_around(self, changed: int) -> None:
        try:
            found = {entry.name for entry in self._directory.iterdir() if not entry.name.startswith(".")}
        except OSError:
            return
        names = found - {self._bell.name}
        for name in self._others.keys() - names:
            os.close(self._others.pop(name))
        for name in names - self._others.keys():
            self._find(name)
        # A change within one tick of the file system's clock would not show; then the listing is not relied on.
        self._changed = changed if time.time_ns() - changed > _STAMPS_SETTLE else -1

    def _find(self, name: str) -> None:
        path = self._directory / name
        try:
            self._others[name] = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nobody reads it: its session was killed
                with contextlib.suppress(OSError):
                    path.unlink()

    def _drop(self, name: str) -> None:
        os.close(self._others.pop(name))
        with contextlib.suppress(OSError):
            (self._directory / name).unlink()

    def close(self) -> None:
        """Let go of all bells."""
        while self._others:
            os.close(self._others.popitem()[1])
