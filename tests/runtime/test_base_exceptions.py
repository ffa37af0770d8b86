"""What is no Exception ends the worker: the job's own message by its kind, the others are released."""

import sys

import pytest
import trio
import trio.testing

import trepid
from tests.runtime.stage import TroubledBroker, idle, states


class Doom(BaseException):
    pass


def actors(error, ran, **settings):
    async def doomed():
        await trio.sleep(1)
        raise error

    async def bystander():
        ran.append("began")
        await trio.sleep(5)
        ran.append("ended")

    return trepid.Router(trepid.Actor(doomed, **settings), trepid.Actor(bystander))


@pytest.mark.parametrize("error", [Doom("dark"), SystemExit(3), GeneratorExit()])
@pytest.mark.parametrize("retries", [0, 2])
async def test_a_strange_exception_counts_as_the_jobs_failure(connection, autojump_clock, error, retries):
    ran = []
    router = actors(error, ran, retries=retries)
    doomed, bystander = await connection.enqueue_many([trepid.Job("doomed"), trepid.Job("bystander")])
    with pytest.RaisesGroup(type(error), flatten_subgroups=True):
        await trepid.Worker(router).run(connection)
    assert ran == ["began"]
    view = await doomed.status()
    assert view.state is (trepid.State.SCHEDULED if retries else trepid.State.DEAD)
    assert (view.attempts, view.error.type.rpartition(".")[2]) == (1, type(error).__name__)
    view = await bystander.status()
    assert (view.state, view.attempts, view.releases) == (trepid.State.READY, 0, 1)


async def test_a_keyboard_interrupt_is_not_the_jobs_doing(connection, autojump_clock):
    ran = []
    doomed, bystander = await connection.enqueue_many([trepid.Job("doomed"), trepid.Job("bystander")])
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        await trepid.Worker(actors(KeyboardInterrupt(), ran)).run(connection)
    assert await states(connection) == {doomed.id: trepid.State.READY, bystander.id: trepid.State.READY}
    assert (await doomed.status()).attempts == 0


async def test_a_group_with_a_strange_exception_counts(connection, autojump_clock):
    group = BaseExceptionGroup("both", [ValueError("plain"), BaseExceptionGroup("in", [Doom()])])
    [doomed] = await connection.enqueue_many([trepid.Job("doomed")])
    with pytest.RaisesGroup(ValueError, Doom, flatten_subgroups=True):
        await trepid.Worker(actors(group, [])).run(connection)
    assert (await doomed.status()).attempts == 1


async def test_a_group_with_a_keyboard_interrupt_does_not(connection, autojump_clock):
    group = BaseExceptionGroup("both", [ValueError("plain"), KeyboardInterrupt()])
    [doomed] = await connection.enqueue_many([trepid.Job("doomed")])
    with pytest.RaisesGroup(ValueError, KeyboardInterrupt, flatten_subgroups=True):
        await trepid.Worker(actors(group, [])).run(connection)
    assert (await doomed.status()).state is trepid.State.READY


async def test_a_strange_exception_while_the_worker_hurries(connection, autojump_clock):
    async def doomed():
        try:
            await trio.sleep_forever()
        finally:
            raise Doom

    actor = trepid.Actor(doomed)
    handle = await connection.enqueue(actor.job())
    with pytest.RaisesGroup(Doom, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            running = await nursery.start(trepid.Worker(actor).run, connection)
            await idle()
            running.stop(grace=0)
    assert (await handle.status()).state is trepid.State.DEAD


async def test_a_strange_exception_of_a_job_that_has_lost_its_lease_settles_nothing(autojump_clock):
    async def doomed():
        try:
            await trio.sleep_forever()
        finally:
            raise Doom

    broker, actor = TroubledBroker(), trepid.Actor(doomed)
    async with trepid.open_connection(broker) as connection:
        await connection.declare("default")
        handle = await connection.enqueue(actor.job())
        broker.trouble.fail["extend"] = trepid.BrokerLostError
        with pytest.RaisesGroup(Doom, flatten_subgroups=True):
            await trepid.Worker(actor, lease=30).run(connection)
        assert trio.current_time() == 27
        view = await handle.status()
        assert (view.state, view.attempts, broker.trouble.calls["settle"]) == (trepid.State.LEASED, 0, 0)


async def test_wait_stopped_returns_although_the_worker_has_failed(connection, autojump_clock):
    reports = []

    async def watch(running):
        reports.append(await running.wait_stopped())

    await connection.enqueue_many([trepid.Job("doomed"), trepid.Job("bystander")])
    async with trio.open_nursery() as outer:
        with pytest.RaisesGroup(Doom, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                running = await nursery.start(trepid.Worker(actors(Doom(), [])).run, connection)
                outer.start_soon(watch, running)
    assert reports == [trepid.Report(dead=1, released=1)]


async def test_before_it_has_started_errors_are_bare(connection, autojump_clock):
    class Resources:
        async def __aenter__(self):
            raise Doom

        async def __aexit__(self, *exc):
            raise AssertionError

    with pytest.raises(Doom):
        await trepid.Worker(resources=Resources).run(connection)
    async with trio.open_nursery() as nursery:
        with pytest.raises(Doom):
            await nursery.start(trepid.Worker(resources=Resources).run, connection)


async def test_sys_exit_in_a_thread(connection):
    def leave() -> None:
        sys.exit(3)

    actor = trepid.Actor(leave)
    handle = await connection.enqueue(actor.job())
    with pytest.RaisesGroup(SystemExit, flatten_subgroups=True):
        await trepid.Worker(actor).run(connection)
    assert (await handle.status()).error.type == "SystemExit"
