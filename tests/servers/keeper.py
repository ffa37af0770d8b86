"""Ends what the tests have started, however the tests end.

A process of its own, started by path with nothing but the standard library.  The tests write it ``+pid`` and ``-pid``,
one per line, and close the pipe when they are done; when they are killed, the kernel closes it.  Then it kills the
process groups that are left, and whatever else carries the mark of the session (PostgreSQL's and Erlang's processes
leave the group of the one that was started), and removes the folder of the session.

A signal at the death of the parent would not do: it comes with the death of the *thread* that has started the process,
and Trio lets its threads go when they are idle.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path


def marked(folder):
    """Yield the processes that run in the folder, or were started with its name in arguments or environment."""
    mark = os.fsencode(folder)
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        found = b""
        with contextlib.suppress(OSError):
            found += os.fsencode((process / "cwd").readlink()) + b"\0"
        for part in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                found += (process / part).read_bytes() + b"\0"
        if mark in found:
            yield int(process.name)


def follow(lines):
    """Return the process groups that are left when the other side is gone."""
    left = set()
    for line in lines:
        with contextlib.suppress(ValueError):  # the last line of a killed process may be half a line
            pid = int(line)
            (left.add if pid > 0 else left.discard)(abs(pid))
    return left


def main():
    folder = sys.argv[1]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for pid in follow(sys.stdin):
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (pids := list(marked(folder))) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
