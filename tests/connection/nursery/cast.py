"""Who plays in the stories of job nurseries."""

from collections import Counter

import trio

import trepid


async def work(n: int, seconds: float = 1.0) -> int:
    await trio.sleep(seconds)
    if n < 0:
        raise ValueError(f"{n} is negative")
    return n * 2


WORK = trepid.Actor(work, timeout=86_400)


class Log:
    """An actor that writes down when it runs, until when it may, and how it ends; negative numbers fail."""

    def __init__(self, **settings):
        self.began, self.deadlines, self.ended = {}, {}, {}
        self.actor = trepid.Actor(self.job, name="log", **{"timeout": 86_400, **settings})

    async def job(self, n: int, seconds: float = 3600.0) -> int:
        self.began[n] = trio.current_time()
        self.deadlines[n] = trio.current_effective_deadline()
        try:
            await trio.sleep(seconds)
            if n < 0:
                raise ValueError(f"{n} is negative")
        finally:
            self.ended[n] = trio.current_time()
        return n


async def counts(connection, queue="default"):
    """Return how many messages are in which state, without the empty ones."""
    stats = await connection.stats(queue)
    found = {state: getattr(stats, state.value) for state in trepid.State}
    return +Counter({state.value: count for state, count in found.items()})


def failures(group):
    """Return the ids in a group of failed jobs, which must be flat."""
    assert all(not isinstance(error, BaseExceptionGroup) for error in group.exceptions)
    return [error.id for error in group.exceptions]
