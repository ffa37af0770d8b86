"""Jobs of job nurseries, without the nurseries: published with a name and a deadline, and signs of life to order."""

import msgspec
import trio

import trepid
from trepid.ports.records import Write
from trepid.rules import scopes
from trepid.values.envelope import tethered


async def put(connection, *jobs, scope=None, within=None):
    """Publish jobs as a job nursery does: with its name, and a deadline in so many seconds."""
    until = None if within is None else await connection.session.now() + within
    publisher = connection.publisher
    items = [publisher.publication(job) for job in jobs]
    items = [msgspec.structs.replace(item, payload=tethered(item.payload, scope, until)) for item in items]
    replies = await publisher.publish(items, wait=False)
    return [publisher.handle(*each) for each in zip(jobs, items, replies, strict=True)]


async def live(connection, scope, seconds):
    """Give a sign of life."""
    sign = scopes.sign(await connection.session.now() + seconds)
    await connection.session.records.carry_out([Write(scopes.key(scope), sign, seconds)])


class Log:
    """An actor that writes down when it runs, until when it may, and when it ends."""

    def __init__(self, **settings):
        self.seen, self.ended = [], []
        self.actor = trepid.Actor(self.job, name="log", **{"timeout": 3600, **settings})

    async def job(self, seconds: float = 600) -> str:
        self.seen.append((trio.current_time(), trio.current_effective_deadline()))
        try:
            await trio.sleep(seconds)
        finally:
            self.ended.append(trio.current_time())
        return "done"


async def ended(handle):
    view = await handle.status()
    return view.state, view.reason, view.attempts
