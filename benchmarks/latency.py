"""Idle latency: from the call of ``enqueue`` to the start of the job, when nothing else is going on.

On SQLite a start waits for one durable commit in the same process, and for two between processes; so the bare commit of
one row, on the same disk and as idle, is printed beside it.
"""

from __future__ import annotations

import argparse
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import trio

import trepid
from benchmarks.harness import database, quantile


async def _measured(connection: trepid.Connection, times: int, started: Callable[[], trio.Event]) -> list[float]:
    """Enqueue *times* jobs, one after the other has ended, and return the seconds to each start."""
    seconds = []
    for _ in range(times):
        event = started()
        await connection.enqueue(trepid.Job("note", args=(time.perf_counter(),), result_ttl=0))
        await event.wait()
        seconds.append(_noted.pop())
        await trio.sleep(0.002)  # the worker is idle again, waiting to be woken
    return seconds


_noted: list[float] = []


async def in_process(url: str, times: int) -> list[float]:
    """Measure with the worker in the same loop."""
    event = trio.Event()

    async def note(enqueued: float) -> None:
        _noted.append(time.perf_counter() - enqueued)
        event.set()

    def fresh() -> trio.Event:
        nonlocal event
        event = trio.Event()
        return event

    async with trepid.open_connection(url) as connection, trio.open_nursery() as nursery:
        await nursery.start(trepid.Worker(trepid.Actor(note)).run, connection)
        await _measured(connection, times, fresh)  # warm
        seconds = await _measured(connection, times, fresh)
        nursery.cancel_scope.cancel()
    return seconds


async def note_to_stdout(enqueued: float) -> None:
    """Tell the parent how long it took; the clock is the machine's monotonic one, the same in all processes."""
    sys.stdout.write(f"{time.perf_counter() - enqueued!r}\n")
    sys.stdout.flush()


def serve(path: str) -> None:
    """Be the other process."""
    trepid.run(trepid.Worker(trepid.Actor(note_to_stdout, name="note")), f"sqlite:{path}")


async def between_processes(path: Path, times: int) -> list[float]:
    """Measure with the worker in another process, on one SQLite file."""
    event = trio.Event()

    async def listen(pipe: trio.abc.ReceiveStream) -> None:
        buffer = b""
        async for chunk in pipe:
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                _noted.append(float(line))
                event.set()

    def fresh() -> trio.Event:
        nonlocal event
        event = trio.Event()
        return event

    async with trepid.open_connection(f"sqlite:{path}") as connection, trio.open_nursery() as nursery:
        await connection.declare("default")
        command = [sys.executable, "-m", "benchmarks.latency", "--serve", str(path)]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        nursery.start_soon(listen, process.stdout)
        await _measured(connection, times, fresh)  # warm
        seconds = await _measured(connection, times, fresh)
        process.terminate()
        await process.wait()
        nursery.cancel_scope.cancel()
    return seconds


def bare_commit(path: Path, times: int) -> list[float]:
    """Measure one row, inserted and committed by bare SQLite with the same durability, after the same pauses."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE t (payload BLOB)"):
        connection.execute(statement)
    seconds = []
    for _ in range(times):
        time.sleep(0.002)
        began = time.perf_counter()
        connection.execute("INSERT INTO t VALUES (?)", (b"x" * 100,))
        seconds.append(time.perf_counter() - began)
    connection.close()
    return seconds


def _print(name: str, seconds: list[float]) -> None:
    p50, p99, worst = quantile(seconds, 0.5) * 1e3, quantile(seconds, 0.99) * 1e3, max(seconds) * 1e3
    print(f"  {name:<28} p50 {p50:6.2f}   p99 {p99:6.2f}   max {worst:6.2f}")


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--times", type=int, default=1000)
    options.add_argument("--serve", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.serve:
        serve(chosen.serve)
        return
    print("\nidle latency, enqueue to start [ms]")
    _print("memory", trio.run(in_process, "memory:", chosen.times))
    with database() as path:
        _print("a bare SQLite commit", bare_commit(path, chosen.times))
    with database() as path:
        _print("SQLite, one process", trio.run(in_process, f"sqlite:{path}", chosen.times))
    with database() as path:
        _print("SQLite, two processes", trio.run(between_processes, path, chosen.times))


if __name__ == "__main__":
    main()
