"""A storm in virtual time: workers come and go in all ways and lose their broker; nothing is lost or doubled."""

import random
from collections import Counter

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import TroubledBroker

JOBS = 60
OPERATIONS = ["lease", "settle", "extend", "asked"]


class Storm:
    """One random story.  Its jobs say what they do, and the broker's ledger is believed at the end."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.alive = 0
        self.returned = Counter()

    def worker(self):
        async def job(n: int, seconds: float, manner: str) -> int:
            self.alive += 1
            try:
                await getattr(self, manner)(seconds)
            finally:
                self.alive -= 1
            self.returned[n] += 1
            return n

        actor = trepid.Actor(job, retries=1000, timeout=20, retry_policy=self.policy, max_crashes=1000)
        return trepid.Worker(
            actor,
            tasks_limit=self.dice.randrange(1, 15),
            lease=self.dice.choice([1, 3, 30]),
            graceful_shutdown_time=self.dice.uniform(0, 10),
            messages_limit=self.dice.choice([None, 7, 20]),
        )

    def policy(self, n):
        return self.dice.uniform(0, 5)

    async def polite(self, seconds):
        await trio.sleep(seconds)

    async def shielding(self, seconds):
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)

    async def failing(self, seconds):
        await trio.sleep(seconds)
        if self.dice.random() < 0.5:
            error = self.dice.choice([ValueError(), trepid.Retry(), trepid.Snooze(1)])
            raise error

    async def complaining(self, seconds):
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            raise OSError from None  # noqa: ASYNC104 - a sinner, on purpose

    async def slow(self, seconds):
        await trio.sleep(seconds * self.dice.choice([1, 40]))

    async def shift(self, broker, trouble):
        """One worker, one end."""
        end = self.dice.choice(["stop", "hurry", "cancel"])
        bound = self.dice.uniform(0, 15)
        with trio.CancelScope() as scope:
            async with trepid.open_connection(broker) as connection, trio.open_nursery() as nursery:
                running = await nursery.start(self.worker().run, connection)
                await trio.sleep(bound)
                if end == "cancel":
                    scope.cancel()
                else:
                    running.stop(grace=0 if end == "hurry" else None)
        assert trio.current_time() < trouble + 3600

    async def weather(self, broker):
        while True:
            await trio.sleep(self.dice.uniform(0, 8))
            name = self.dice.choice(OPERATIONS)
            if self.dice.random() < 0.5:
                broker.trouble.fail[name] = self.dice.choice([trepid.BrokerLostError, trepid.BrokerBusyError])
            else:
                broker.trouble.hang.add(name)
            await trio.sleep(self.dice.uniform(0, 4))
            broker.trouble.fail.clear()
            broker.trouble.hang.clear()

    async def run(self):
        broker = TroubledBroker()
        manners = ["polite", "shielding", "failing", "complaining", "slow"]
        async with trepid.open_connection(broker) as connection:
            await connection.declare("default")
            handles = [
                await connection.enqueue(
                    trepid.Job("job", args=(n, self.dice.uniform(0, 3), self.dice.choice(manners)), result_ttl=10**6)
                )
                for n in range(JOBS)
            ]
            cancelled = self.dice.sample(handles, 5)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.weather, broker)
                async with trio.open_nursery() as shifts:
                    for _ in range(12):
                        shifts.start_soon(self.shift, broker, trio.current_time())
                        await trio.sleep(self.dice.uniform(0, 5))
                        if cancelled:
                            await cancelled.pop().cancel("no more")
                nursery.cancel_scope.cancel()
            broker.trouble.fail.clear()
            broker.trouble.hang.clear()
            assert self.alive == 0, "no job outlives its worker"
            last = self.worker().options(messages_limit=None, tasks_limit=100, lease=30)
            async with trio.open_nursery() as nursery:
                running = await nursery.start(last.run, connection)
                with trio.fail_after(100_000):
                    for handle in handles:
                        await handle.wait()
                running.stop()
            for n, handle in enumerate(handles):
                view = await handle.status()
                assert view.state in {trepid.State.DONE, trepid.State.CANCELLED}
                if view.state is trepid.State.DONE:
                    assert self.returned[n] >= 1
                    # A return whose verdict did not arrive in time is a crash at the broker, and is run again.
                    assert self.returned[n] <= 1 + view.crashes
            stats = await connection.stats()
            assert stats.done + stats.cancelled == JOBS


@pytest.mark.parametrize("seed", range(30))
def test_a_storm(seed):
    trio.run(Storm(seed).run, clock=trio.testing.MockClock(autojump_threshold=0))
