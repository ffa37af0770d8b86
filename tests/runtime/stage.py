"""A stage for the stories of workers: a worker in a block, and a broker that can be put into trouble."""

from collections import Counter
from contextlib import asynccontextmanager

import attrs
import trio
import trio.testing

import trepid
from trepid.brokers.memory import MemoryBroker
from trepid.ports.broker import Broker, Session


@asynccontextmanager
async def working(worker, connection, *, stop=True):
    """Run a worker round a block.  Left normally, the block stops it softly, and waits for it."""
    async with trio.open_nursery() as nursery:
        running = await nursery.start(worker.run, connection)
        yield running
        if stop:
            running.stop()


async def idle():
    """Wait until everything that can happen now has happened."""
    await trio.testing.wait_all_tasks_blocked()


async def states(connection, queue="default"):
    """Return the messages of a queue as a mapping from id to state."""
    found = {}
    for state in trepid.State:
        async for view in connection.messages(queue, state):
            found[view.id] = state
    return found


@attrs.define(eq=False)
class Trouble:
    """What is wrong with a broker, by the name of the operation.

    Attributes:
      fail: operations that raise an error instead.
      hang: operations that never return.
      late: seconds after which operations that were carried out return.
      calls: how often each operation was called.
      log: every call, with the moment and the arguments.
    """

    fail: dict = attrs.field(factory=dict)
    hang: set = attrs.field(factory=set)
    late: dict = attrs.field(factory=dict)
    calls: Counter = attrs.field(factory=Counter)
    log: list = attrs.field(factory=list)

    async def __call__(self, name, operation, args, kwargs):
        self.calls[name] += 1
        self.log.append((trio.current_time(), name, args, kwargs))
        if name in self.hang:
            await trio.sleep_forever()
        error = self.fail.get(name)
        if error is not None:
            await trio.lowlevel.checkpoint()
            raise error() if isinstance(error, type) else error
        result = await operation(*args, **kwargs)
        if name in self.late:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.late[name])
        return result

    def times(self, name):
        """Return the moments at which an operation was called."""
        return [when for when, called, _, _ in self.log if called == name]


def _troubled(name):
    async def operation(self, *args, **kwargs):
        return await self.trouble(name, getattr(self.inner, name), args, kwargs)

    operation.__name__ = name
    return operation


OPERATIONS = sorted(
    name
    for name in Session.__abstractmethods__ | {"asked", "limit", "fire", "marks", "endings", "moved"}
    if name != "capabilities"
)


class _TroubledSession:
    def __init__(self, inner, trouble):
        self.inner, self.trouble = inner, trouble

    @property
    def capabilities(self):
        return self.inner.capabilities

    @property
    def records(self):
        return self.inner.records


TroubledSession = type("TroubledSession", (_TroubledSession, Session), {name: _troubled(name) for name in OPERATIONS})


class TroubledBroker(Broker):
    """A memory broker whose operations can be made to fail, hang or answer late.

    Attributes:
      trouble: what is wrong with it.
    """

    def __init__(self):
        self.memory = MemoryBroker()
        self.trouble = Trouble()

    def __str__(self):
        return "troubled:"

    @asynccontextmanager
    async def open(self):
        async with self.memory.open() as session:
            yield TroubledSession(session, self.trouble)
