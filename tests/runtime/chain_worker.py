"""A worker that is killed between two steps of a chain: ``python -m tests.runtime.chain_worker URL RESULTS LOG POINT``.

It kills itself with SIGKILL, while it settles the first step, at one of these points: ``unsettled``, before the broker
is told; ``published``, on engines that take several steps, when the follow-up is there and the step has not ended;
``unpublished`` and ``uncommitted``, inside of the transaction of an SQL engine, before and after the follow-up
is stored; ``unheard``, when the broker has done it and nobody has heard. With ``never`` it works until it is stopped.
"""

import importlib
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import trio

import trepid

LEASE = 1.0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def dying_inside(url, point):
    """Let the engine die in the transaction that settles and publishes."""
    engine = {"sqlite": "sqlite", "postgresql": "postgres"}[url.partition(":")[0]]
    settling = importlib.import_module(f"trepid.brokers.{engine}.settling")
    publish = settling.publish

    def publish_and_die(*args, **options):
        if point == "uncommitted":
            publish(*args, **options)
        die()

    settling.publish = publish_and_die


def dying_between(session):
    """Let the session die when it has published what follows, and has not said that the step is done."""
    publisher = type(session._publisher if hasattr(session, "_publisher") else session)
    publish = publisher.publish

    async def publish_and_die(*args):
        await publish(*args)
        die()

    publisher.publish = publish_and_die


def dying_outside(session, point):
    """Let the session die before or after the settlement of a step that is followed."""
    settle = session.settle

    async def settle_and_die(batch, *, then=()):
        if then and point == "unsettled":
            die()
        replies = await settle(batch, then=then)
        if then:
            die()
        return replies

    # Frozen or slotted, a session has no place for it; its class has.
    type(session).settle = staticmethod(settle_and_die)


def worker_of(log, *, doomed=False):
    """Return a worker whose steps note each run of theirs.

    A *doomed* one does not know the second step: some engines hand it out before they have answered that it is stored,
    so it could begin before the worker dies.
    """

    def note(step):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{step}\n")

    async def first() -> int:
        await trio.lowlevel.checkpoint()
        note("first")
        return 1

    async def second(n: int) -> int:
        await trio.lowlevel.checkpoint()
        note("second")
        return n + 1

    async def third(n: int) -> int:
        await trio.lowlevel.checkpoint()
        note("third")
        return n + 1

    actors = [trepid.Actor(first), trepid.Actor(second, queue="other"), trepid.Actor(third)]
    return trepid.Worker(*actors[: 1 if doomed else None], lease=LEASE)


async def main(url, results, log, point):
    """Work, and die."""
    async with trepid.open_connection(url, results=results or None) as connection:
        if point in ("unpublished", "uncommitted"):
            dying_inside(url, point)
        elif point == "published":
            dying_between(connection.session)
        elif point != "never":
            dying_outside(connection.session, point)
        with suppress(KeyboardInterrupt):
            await worker_of(log, doomed=point != "never").run(connection)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
