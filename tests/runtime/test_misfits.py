"""Messages that a worker cannot run: unknown actors, unreadable bytes, arguments that do not fit.  It goes on."""

import dataclasses
import itertools

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import idle, working
from trepid.ports.messages import Publication
from trepid.values.codec import LARGEST


async def greet(name: str) -> str:
    await trio.lowlevel.checkpoint()
    return f"Hello, {name}"


GREET = trepid.Actor(greet)
OTHER = trepid.Actor(greet, name="other")
HOUR = 3600.0


async def publish(connection, payload, id="raw"):
    await connection.session.publish([Publication("default", id, ("somebody", 1), payload)])
    return connection.handle(id)


async def test_an_unknown_actor_is_returned_for_ever_longer(connection, autojump_clock):
    handle = await connection.enqueue(OTHER.job("Trio"))
    dues = set()
    async with working(trepid.Worker(GREET), connection) as running:
        while trio.current_time() < 200:
            dues.add((await handle.status()).due)
            await trio.sleep(1)
        view = await handle.status()
        assert (view.attempts, view.crashes, view.state) == (0, 0, trepid.State.SCHEDULED)
        assert running.statistics().report.processed == 0
    moments = sorted(dues)
    pauses = [round(after - before) for before, after in itertools.pairwise(moments)]
    assert pauses[:6] == [5, 10, 20, 40, 60, 60]


async def test_an_unknown_actor_is_dead_one_hour_after_the_first_time(connection, autojump_clock):
    await trio.sleep(100)
    handle = await connection.enqueue(OTHER.job("Trio"))
    async with working(trepid.Worker(GREET, messages_limit=1), connection, stop=False) as running:
        with trio.fail_after(2 * HOUR):
            report = await running.wait_stopped()
    assert HOUR <= trio.current_time() - 100 <= HOUR + 60
    assert report.dead == 1
    view = await handle.status()
    assert (view.state, view.reason, view.error.type) == (trepid.State.DEAD, "unknown actor", "UnknownActorError")
    assert "'other'" in view.error.message


async def test_a_worker_that_has_the_actor_takes_it_when_it_is_due(connection, autojump_clock):
    handle = await connection.enqueue(OTHER.job("Trio"))
    async with working(trepid.Worker(GREET), connection):
        await trio.sleep(20)  # seen at 0, 5 and 15; due at 35
    async with working(trepid.Worker(OTHER), connection):
        assert await handle.result() == "Hello, Trio"
        assert trio.current_time() == 35
    assert (await handle.status()).attempts == 1


async def test_during_a_rolling_deploy_nothing_is_lost(connection, autojump_clock):
    old, new = trepid.Worker(GREET), trepid.Worker(GREET, OTHER)
    handles = [await connection.enqueue(OTHER.job(str(n))) for n in range(30)]
    async with working(old, connection):
        await trio.sleep(30)
        async with working(new, connection):
            with trio.fail_after(HOUR):
                for n, handle in enumerate(handles):
                    assert await handle.result() == f"Hello, {n}"


async def test_an_unknown_actor_does_not_use_up_the_ttl_but_waits_no_longer_than_it(connection, autojump_clock):
    handle = await connection.enqueue(OTHER.job("Trio").options(ttl=12))
    async with working(trepid.Worker(GREET), connection):
        with pytest.raises(trepid.JobFailedError, match="expired"):
            await handle.result()
    assert (await handle.status()).reason == "expired"


async def test_releases_for_want_of_the_actor_do_not_use_up_the_limit(connection, autojump_clock):
    await connection.enqueue(OTHER.job("Trio"))
    async with working(trepid.Worker(GREET, messages_limit=1), connection, stop=False) as running:
        await trio.sleep(100)
        assert running.statistics().report.released >= 4
        await connection.enqueue(GREET.job("Trio"))
        assert (await running.wait_stopped()).succeeded == 1


DEEP = b'{"v":1,"actor":"greet","args":[' + b"[" * 5000 + b"]" * 5000 + b"]}"


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "undecodable"),
        (b"\xff\xfe", "undecodable"),
        (b"null", "undecodable"),
        (b'{"v":3,"actor":"greet"}', "undecodable"),
        (b'{"v":1}', "undecodable"),
        (b'{"v":1,"actor":"greet","timeout":-1}', "undecodable"),
        (b'{"v":1,"actor":"greet","retries":-1}', "undecodable"),
        (b'{"v":1,"actor":"greet","args":["' + b"x" * LARGEST + b'"]}', "undecodable"),
        (b'{"v":1,"actor":"greet"}', "arguments"),
        (b'{"v":1,"actor":"greet","args":[1]}', "arguments"),
        (b'{"v":1,"actor":"greet","args":["a","b"]}', "arguments"),
        (b'{"v":1,"actor":"greet","args":["a"],"kwargs":{"name":"b"}}', "arguments"),
        (b'{"v":1,"actor":"greet","kwargs":{"nome":"a"}}', "arguments"),
        (b'{"v":1,"actor":"greet","args":{"name":"a"}}', "arguments"),
        (DEEP, None),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_cannot_be_run_is_dead_with_its_bytes_and_the_worker_goes_on(
    connection, autojump_clock, payload, reason
):
    broken = await publish(connection, payload)
    fine = await connection.enqueue(GREET.job("Trio").options(retries=5))
    report = await trepid.Worker(GREET, messages_limit=2).run(connection)
    assert (report.dead, report.succeeded) == (1, 1)
    assert await fine.result() == "Hello, Trio"
    view = await broken.status()
    assert (view.state, view.attempts, view.payload) == (trepid.State.DEAD, 1, payload)
    assert view.reason == reason or (reason is None and view.reason in {"undecodable", "arguments"})
    assert len(view.error.message) < 3000
    with pytest.raises(trepid.JobFailedError):
        await broken.result()


async def test_a_dead_misfit_can_be_requeued_once_the_actor_fits(connection, autojump_clock):
    async def new(name: str, title: str) -> str:
        await trio.lowlevel.checkpoint()
        return f"Hello, {title} {name}"

    handle = await connection.enqueue(trepid.Job("greet", args=("Trio", "Dr")))
    await trepid.Worker(GREET, messages_limit=1).run(connection)
    assert (await handle.status()).reason == "arguments"
    assert await connection.requeue("default") == 1
    await trepid.Worker(trepid.Actor(new, name="greet"), messages_limit=1).run(connection)
    assert await handle.result() == "Hello, Dr Trio"


async def test_poison_by_the_actors_budget(connection, autojump_clock):
    # The producer did not say how many crashes are too many; the worker's actor does.
    actor = trepid.Actor(greet, max_crashes=2)
    handle = await connection.enqueue(trepid.Job("greet", args=("Trio",)))
    session = connection.session
    for _ in range(2):
        await session.lease(["default"], 1, 1.0, owner="crasher", wait=HOUR)
        await session.expire_owner("crasher")
    async with working(trepid.Worker(actor), connection):
        with pytest.raises(trepid.JobFailedError, match="died over it 2 times"):
            await handle.result()
    view = await handle.status()
    assert (view.reason, view.crashes) == ("poison", 2)


async def test_a_worker_without_actors_waits_and_warns(connection, autojump_clock, caplog):
    handle = await connection.enqueue(GREET.job("Trio"))
    async with working(trepid.Worker(queues=["default"]), connection):
        await trio.sleep(2 * HOUR)
    assert "no actors" in caplog.text
    view = await handle.status()
    assert (view.state, view.releases) == (trepid.State.READY, 0), "it did not touch what it cannot run"


async def test_an_unknown_queue_can_be_declared_later(connection, autojump_clock):
    worker = trepid.Worker(GREET, queues=["later"], auto_declare=False)
    async with working(worker, connection):
        await trio.sleep(10)
        assert await connection.queues() == ["default"]
        await connection.declare("later")
        handle = await connection.enqueue(GREET.job("Trio").options(queue="later"))
        await idle()
        assert await handle.result() == "Hello, Trio"


@dataclasses.dataclass
class Tenant:
    """What can be read, and not be written."""

    name: str

    def __post_init__(self):
        self.name = object()


NOBODY = object()


@pytest.mark.parametrize("kwargs", [{"tenant": {"name": "a"}}, {}])
async def test_an_argument_that_limits_cannot_count_by_kills_no_worker(connection, autojump_clock, kwargs):
    async def serve(tenant: Tenant = NOBODY) -> str:
        await trio.lowlevel.checkpoint()
        return "served"

    actor = trepid.Actor(serve, concurrency=1, key="tenant")
    handle = await connection.enqueue(trepid.Job("serve", kwargs=kwargs))
    fine = await connection.enqueue(GREET.job("Trio"))
    async with working(trepid.Worker(actor, GREET), connection):
        await handle.wait()
        assert await fine.result() == "Hello, Trio"
    view = await handle.status()
    assert (view.state, view.reason, view.error.type) == (trepid.State.DEAD, "arguments", "ArgumentsError")
    assert "limits of 'serve' count by 'tenant'" in view.error.message
