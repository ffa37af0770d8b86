"""A chain goes on, and goes on once, wherever its worker is killed."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import trio

import trepid
from tests.brokers.nats import kit
from tests.brokers.places import fresh_url, place_of
from tests.runtime.chain_worker import worker_of
from tests.runtime.stage import idle, working
from trepid.testing.mortality import Life
from trepid.testing.relay import Relay

PREVIOUS = trepid.PREVIOUS


def chain(**options):
    first = trepid.Job("first").options(**options)
    second = trepid.Job("second", args=(PREVIOUS,), queue="other").options(**options)
    return first.then(second).then(trepid.Job("third", args=(PREVIOUS,)))


# ------------------------------------------------------------------------------------------- memory, at every call


class Falling(Relay):
    """A session whose worker dies at its *number*-th call of the broker: before it arrives, or after."""

    def __init__(self, inner, life, number, *, after):
        super().__init__(inner)
        self.life, self.left, self.after = life, number, after
        self.died_at = None

    async def carry(self, operation, call):
        self.left -= 1
        if self.left:
            return await call()
        self.died_at = operation
        if not self.after:
            self.life.kill()
        try:
            return await call()
        finally:
            self.life.kill()


@pytest.mark.parametrize("kept", [60, 0], ids=["kept", "nothing kept"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_worker_dies_at_each_call_of_the_broker(after, kept, autojump_clock, tmp_path):
    fell = Counter()
    for number in range(1, 100):
        log = tmp_path / f"log{number}"
        broker = trepid.MemoryBroker()
        async with trepid.open_connection(broker) as connection:
            await connection.declare("default", "other")
            handle = await connection.enqueue(chain(result_ttl=kept))
            life = Life(broker, connection.session)
            life.session.inner = falling = Falling(connection.session, life, number, after=after)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(life.run, worker_of(log))
                await idle()
                life.kill()
            fell[falling.died_at] += 1
            async with working(worker_of(log), connection):
                assert await handle.result() == 3
                await trio.sleep(60)
            stats = [await connection.stats(queue) for queue in ("default", "other")]
            assert sum(each.live + each.dead for each in stats) == 0, "nothing is left, also after their leases"
        runs = Counter(log.read_text().split())
        assert set(runs) == {"first", "second", "third"}
        # The one that was in the dead worker's hands may have run twice; nothing else has.
        assert sum(runs.values()) <= 4, runs
        if falling.died_at is None:
            assert set(runs.values()) == {1}
            break
    assert fell["settle"] >= 3
    assert fell[None] == 1


# ------------------------------------------------------------------------------------------------ SIGKILL, for real


OUTSIDE = [(engine, point) for engine in ("sqlite", "redis", "postgres") for point in ("unsettled", "unheard")]
INSIDE = [(engine, point) for engine in ("sqlite", "postgres") for point in ("unpublished", "uncommitted")]
ELSEWHERE = [(engine, point) for engine in ("nats", "rabbitmq") for point in ("unsettled", "published", "unheard")]


async def forget_publishes(url):
    """Let NATS know a publish again for a moment only."""
    async with kit.open_wire(url) as wire:
        await kit.shorten(wire, url.partition("prefix=")[2])


async def live(connection):
    return sum([(await connection.stats(queue)).live for queue in ("default", "other")])


@pytest.mark.parametrize(("engine", "point"), [*OUTSIDE, *INSIDE, *ELSEWHERE])
async def test_a_worker_is_killed_between_two_steps(engine, point, request, tmp_path):
    url, results = place_of(engine, request, tmp_path)
    log = tmp_path / "log"
    with trio.fail_after(60):
        async with trepid.open_connection(url, results=results or None) as connection:
            await connection.declare("default", "other")
            if engine == "nats":
                await forget_publishes(url)
            handle = await connection.enqueue(chain())
            done = await trio.run_process(
                [sys.executable, "-m", "tests.runtime.chain_worker", url, results, str(log), point],
                cwd=Path(__file__).resolve().parents[2],
                check=False,
                capture_stderr=True,
            )
            assert done.returncode == -9, done.stderr.decode()
            assert log.read_text().split() == ["first"]
            async with working(worker_of(log), connection) as running:
                assert await handle.result() == 3
                assert await connection.handle(handle.id.removesuffix(".2")).result() == 1
                # Nothing else is on its way.
                while running.statistics().unsettled or await live(connection):
                    await trio.sleep(0.01)
    runs = Counter(log.read_text().split())
    assert runs == {"first": 1 if point == "unheard" else 2, "second": 1, "third": 1}


async def test_rabbitmq_alone_takes_no_chain_and_carries_out_one_that_is_there(request, tmp_path):
    _, url = fresh_url("rabbitmq", request)
    log = tmp_path / "log"
    with trio.fail_after(60):
        async with trepid.open_connection(url) as connection, trepid.open_connection("memory:") as elsewhere:
            await connection.declare("default", "other")
            with pytest.raises(trepid.UnsupportedError, match=r"^RabbitMQ .* chains; .*results=\"redis://"):
                await connection.enqueue(chain())
            # As an earlier version has left it there.
            await connection.session.publish([elsewhere.publisher.publication(chain())])
            async with working(worker_of(log), connection):
                while not log.exists() or "third" not in log.read_text():
                    await trio.sleep(0.01)
    assert log.read_text().split() == ["first", "second", "third"]


def test_the_worker_that_dies_can_also_live(tmp_path):
    """What the processes above run is a worker that works, were it not killed."""
    url, log = f"sqlite:{tmp_path / 'jobs.db'}", tmp_path / "log"

    async def main():
        async with trepid.open_connection(url) as connection:
            await connection.declare("default", "other")
            handle = await connection.enqueue(chain())
            args = [sys.executable, "-m", "tests.runtime.chain_worker", url, "", str(log), "never"]
            process = subprocess.Popen(args, cwd=Path(__file__).resolve().parents[2])
            try:
                with trio.fail_after(30):
                    return await handle.result()
            finally:
                process.kill()
                process.wait(10)

    assert trio.run(main) == 3
