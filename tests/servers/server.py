"""What all private servers have in common."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.servers.ground import HOST


class ServerError(Exception):
    """A server did not do as it was told; the message has the end of its log."""


def wait_until(question, what, within=20.0):
    """Ask again and again until the answer is true: servers that talk to each other send us no event."""
    deadline = time.monotonic() + within
    while not question():
        if time.monotonic() > deadline:
            raise ServerError(f"within {within} s, {what}")
        time.sleep(0.01)


def lives(pid):
    """Whether a process of ours or of somebody else is there, and not only waiting to be buried."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def stands_still(pid):
    """Whether none of a process's threads runs (on systems that do not tell: yes)."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if thread.read_text().rpartition(")")[2].split()[0] not in {"T", "t", "Z", "X"}:
                return False
    return True


class Server:
    """A server process of our own, on loopback, with its data in a private folder.

    All methods block, none of them for longer than about a minute; from a Trio test call those that start or stop in a
    thread: ``await trio.to_thread.run_sync(server.restart)``.  A server belongs to one task at a time.

    Attributes:
      host: always ``127.0.0.1``.
      port: the same for the life of the object, also after a restart.
      folder: its files.
      certificates: what a client needs to trust it (:class:`tests.servers.ground.Certificates`).
    """

    name = "server"
    start_within = 30.0
    stop_within = 20.0
    stop_signal = signal.SIGTERM
    user = None

    def __init__(self, ground, *, tls=False):
        self.ground = ground
        self.tls = tls
        self.host = HOST
        self.port = ground.free_port()
        self.folder = ground.new_folder(self.name)
        self._process = None
        self._promised = False  # somebody may know the port

    # ------------------------------------------------------------------------------------ what each server defines

    @property
    def url(self):
        """The URL for Trepid, with user and password if the server asks for them."""
        raise NotImplementedError

    def prepare(self):
        """Write the files that the server reads when it starts, with the port of this moment."""

    def arguments(self):
        """Return the command line that runs the server in the foreground."""
        raise NotImplementedError

    def environment(self):
        """Return what the environment has in addition."""
        return {}

    def is_ready(self):
        """Ask the server, in its own protocol, whether it serves."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------ what everybody does

    def __repr__(self):
        return f"<{type(self).__name__} on {self.host}:{self.port}, {'running' if self.running else 'not running'}>"

    @property
    def certificates(self):
        return self.ground.certificates

    @property
    def running(self):
        """Whether the process is there (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self):
        """The number of the server's own process."""
        if self._process is None:
            raise ServerError(f"{self.name} is not running")
        return self._process.pid

    @property
    def log_file(self):
        return self.folder / "output.log"

    def log(self, lines=60):
        """Return the end of what the server has written, for the message of a failed test."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def start(self):
        """Start the server on the data that it has, and return when it answers in its own protocol."""
        if self.running:
            raise ServerError(f"{self.name} runs already")
        if self._process is not None:  # it ended, and not through us
            self._gone()
        deadline = time.monotonic() + self.start_within
        while not self._started(deadline):
            # Somebody else was quicker.  Where clients may know the port already, it must be this one.
            if not self._promised:
                self.port = self.ground.free_port()
            elif time.monotonic() > deadline:
                raise ServerError(f"{self.name} does not get its port {self.port} back:\n{self.log()}")
            time.sleep(0.05)
        self._promised = True
        return self

    def kill(self):
        """Kill the server's process with SIGKILL; the data stay as they are."""
        self._end(signal.SIGKILL)

    def stop(self):
        """Ask the server to stop, and wait until it has."""
        self._end(self.stop_signal)

    def restart(self):
        """Stop the server if it runs, and start it again on the same data and port."""
        if self.running:
            self.stop()
        return self.start()

    def pause(self):
        """Freeze the server (SIGSTOP): its connections stay open, and nothing is answered."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):  # a child may have ended by itself
                os.kill(pid, signal.SIGSTOP)
        # On a busy machine a thread may run on for a moment.
        wait_until(lambda: all(map(stands_still, self.processes())), f"{self.name} is not frozen")

    def resume(self):
        """Let a frozen server go on."""
        for pid in reversed(self.processes()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def signal(self, number):
        """Send the server's process a signal."""
        os.kill(self.pid, number)

    def close(self):
        """Kill the server and remove its data."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc_info):
        self.close()

    # ------------------------------------------------------------------------------------ how

    def processes(self):
        """Return the number of the server's process, followed by those of its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [self.pid, *map(int, children.read_text().split())] if children.exists() else [self.pid]

    def _started(self, deadline):
        """Start the process; return whether it serves, or False if its port was taken."""
        self.prepare()
        began = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._process = self.ground.spawn(
            self.arguments(), folder=self.folder, log=self.log_file, env=self.environment(), user=self.user
        )
        while self._process.poll() is None:
            if self.is_ready():
                return True
            if time.monotonic() > deadline:
                self.kill()
                raise ServerError(f"{self.name} did not answer within {self.start_within} s:\n{self.log()}")
            time.sleep(0.01)
        status = self._gone()
        with self.log_file.open("rb") as log:
            log.seek(began)
            said = log.read().lower()
        if b"in use" in said or b"eaddrinuse" in said:
            return False
        raise ServerError(f"{self.name} ended with status {status} when it was started:\n{self.log()}")

    def _end(self, number):
        if self._process is None:
            return
        everybody = self.processes() if self.running else []
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.pid, number)
            elif self.running:
                self.resume()
                os.kill(self.pid, number)
        try:
            self._process.wait(timeout=self.stop_within)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(timeout=self.stop_within)
            raise ServerError(f"{self.name} did not stop within {self.stop_within} s:\n{self.log()}") from None
        finally:
            if self._process.returncode is not None:
                self._gone()
                self.sweep(everybody[1:])

    def _gone(self):
        process, self._process = self._process, None
        self.ground.forget(process)
        return process.returncode

    def sweep(self, children):
        """Kill the children that a dead server has left, and wait until they are gone.

        They would notice by themselves, a little later; a machine that loses its power loses them at once.
        """
        deadline = time.monotonic() + self.stop_within
        for pid in children:
            while lives(pid) and time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.002)

    def connect(self, timeout=5.0):
        """Return a connected socket (over TLS, if the server speaks it from the first byte)."""
        connection = socket.create_connection((self.host, self.port), timeout=timeout)
        if not self.tls:
            return connection
        try:
            return self.certificates.context().wrap_socket(connection, server_hostname=self.host)
        except BaseException:
            connection.close()
            raise
