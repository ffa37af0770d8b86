"""What the tests of the command line stand on: an application beside the current directory, and a file."""

import logging
import os
import sys

import pytest
import trio
from click.testing import CliRunner

import trepid
from trepid.cli.root import trepid as program

SHOP = """
import time
from pathlib import Path

import trio
import trepid


async def greet(name: str, *, mark: str = "!", count: int = 1) -> str:
    return f"Hello, {name}{mark}" * count


async def flop(text: str) -> None:
    raise ValueError(text)


async def hold(path: str) -> str:
    while not Path(path).exists():
        await trio.sleep(0.01)
    return "held"


def hold_thread(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


async def hold_loop(path: str) -> None:
    hold_thread(path)


async def chain(ctx: trepid.Context, length: int) -> None:
    if length:
        await ctx.connection.enqueue(CHAIN.job(length - 1))


async def leave() -> None:
    raise SystemExit("a job left")


CHAIN = trepid.Actor(chain)
GREET = trepid.Actor(greet)
ROUTER = trepid.Router(
    GREET, CHAIN, *map(trepid.Actor, [flop, hold, hold_thread, hold_loop, leave]),
)
"""


@pytest.fixture(autouse=True)
def _untouched(monkeypatch, tmp_path):
    """Leave the process as it was: the log, the import path, and the environment belong to everybody."""
    for name in [name for name in os.environ if name.startswith("TREPID")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    root, ours = logging.getLogger(), logging.getLogger("trepid")
    handlers, levels, modules = list(root.handlers), (root.level, ours.level), set(sys.modules)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(False)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with the application ``shop``; the current one."""
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def url(place, monkeypatch):
    """A broker with the queue ``default``; it is in the environment."""
    monkeypatch.setenv("TREPID_BROKER_URL", "sqlite:jobs.db")
    on_broker("sqlite:jobs.db", lambda connection: connection.declare("default"))
    return "sqlite:jobs.db"


@pytest.fixture
def run():
    """Run the program in this process."""

    def invoke(*args, **extra):
        result = CliRunner().invoke(program, [str(arg) for arg in args], prog_name="trepid", **extra)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def on_broker(url, work):
    """Open the broker, do something, and return what came of it."""

    async def main():
        async with trepid.open_connection(url) as connection:
            return await work(connection)

    return trio.run(main)


def work_off(url, *actors, jobs=()):
    """Enqueue jobs, and run a worker with these actors until nothing of them is live; return their ids."""

    async def work(connection):
        await connection.declare(*{job.queue.name for job in jobs})
        handles = [await connection.enqueue(job) for job in jobs]
        async with trio.open_nursery() as nursery:
            running = await nursery.start(trepid.Worker(*actors).run, connection)
            for handle in handles:
                await handle.wait()
            running.stop()
        return [handle.id for handle in handles]

    return on_broker(url, work)
