"""What these tests share: short ways to say publish, lease and settle, and other processes."""

import contextlib
import itertools
import subprocess
import sys
import threading
from pathlib import Path

from trepid.ports.messages import Publication, Settlement
from trepid.rules.verdicts import Done

ROOT = Path(__file__).resolve().parents[3]
NUMBERS = itertools.count(1)


def message(id="m", queue="q", **fields):
    fields.setdefault("token", ("test", next(NUMBERS)))
    fields.setdefault("payload", b"{}")
    return Publication(queue=queue, id=id, **fields)


async def put(session, *ids, **fields):
    return await session.publish([message(id, **fields) for id in ids])


async def take(session, limit=100, *, lease_for=60.0, owner="w", wait=0.0):
    return await session.lease(["q"], limit, lease_for, owner=owner, wait=wait)


async def end(session, deliveries, verdict=None):
    return await session.settle([Settlement(each.ref, verdict or Done(b"1", 60.0)) for each in deliveries])


def our_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("trepid ")]


class Hold:
    """Keeps an owner thread busy with one request until told to go on."""

    def __init__(self):
        self.began = threading.Event()
        self.go = threading.Event()

    def __call__(self, _transaction):
        self.began.set()
        assert self.go.wait(10)


@contextlib.contextmanager
def python(code, *args):
    """Run a program in another process, with a line-wise pipe to it."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


PRELUDE = """
import os, sys, time, sqlite3, itertools
import trio
from trepid.brokers.sqlite import SQLiteBroker
from tests.brokers.sqlite.kit import end, message, put, take
path = sys.argv[1]
"""
