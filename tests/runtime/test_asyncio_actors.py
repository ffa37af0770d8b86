import asyncio
import contextlib
import contextvars
import gc
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from trepid.errors import IslandLostError, UnsupportedError
from trepid.runtime import asyncio_island, asyncio_loop
from trepid.runtime.asyncio_island import open_island

if sys.version_info >= (3, 14):
    pytest.skip("trio-asyncio ends with Python 3.13", allow_module_level=True)
pytest.importorskip("trio_asyncio")

ASKED = contextvars.ContextVar("ASKED", default="nobody")


@pytest.fixture
async def island():
    async with open_island() as island:
        yield island


async def add(a, b=0):
    await asyncio.sleep(1)
    return a + b


def run(main):
    """Run what is no test of pytest-trio's, in virtual time."""
    return trio.run(main, clock=MockClock(autojump_threshold=0))


# ---------------------------------------------------------------------------------------- calls


async def test_a_call_returns_its_value_in_virtual_time(autojump_clock, island):
    started = trio.current_time()
    assert await island.call(add, [1], {"b": 2}) == 3
    assert trio.current_time() - started == 1


async def test_an_exception_comes_out_bare(autojump_clock, island):
    async def fail():
        await asyncio.sleep(0)
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone") as raised:
        await island.call(fail, [], {})
    assert raised.value.__cause__ is None


async def test_a_group_comes_out_as_it_is(autojump_clock, island):
    async def fail():
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(9))
            group.create_task(asyncio.wait_for(asyncio.sleep(9), 1))

    with pytest.raises(ExceptionGroup) as raised:
        await island.call(fail, [], {})
    assert [type(inner) for inner in raised.value.exceptions] == [TimeoutError]
    assert await island.call(add, [1], {}) == 1


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_a_base_exception_is_the_jobs_own(autojump_clock, island, error):
    async def leave():
        raise error

    async def other():
        assert await island.call(add, [1], {}) == 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        with pytest.raises(type(error)):
            await island.call(leave, [], {})


async def test_what_asyncio_offers_works_inside(autojump_clock, island):
    async def all_of_it():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(add(n)) for n in range(3)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.sleep(2)
        assert asyncio.current_task().get_name().startswith("job ")
        return [task.result() for task in tasks]

    assert await island.call(all_of_it, [], {}) == [0, 1, 2]


async def test_threads_and_sockets_work_inside():
    async def talk():
        async def echo(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            said = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return said, await asyncio.to_thread(threading.get_ident)

    async with open_island() as island:
        said, thread = await island.call(talk, [], {})
    assert said == b"hello\n"
    assert thread != threading.get_ident()


async def test_a_hundred_calls_at_once(autojump_clock, island):
    results = {}

    async def one(n):
        results[n] = await island.call(add, [n], {"b": n})

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(one, n)
    assert results == {n: 2 * n for n in range(100)}
    assert trio.current_time() - started == 1


async def test_the_callers_context_is_seen_and_kept(autojump_clock, island):
    async def ask():
        asked = ASKED.get()
        ASKED.set("changed")
        await asyncio.sleep(0)
        return asked

    async def forgotten():
        return ASKED.get()

    async def job(name):
        ASKED.set(name)
        assert await island.call(ask, [], {}) == name
        assert ASKED.get() == name

    async with trio.open_nursery() as nursery:
        nursery.start_soon(job, "one")
        nursery.start_soon(job, "two")
    assert await island.call(forgotten, [], {}) == "nobody"


async def test_no_loop_is_visible_from_an_ordinary_task(autojump_clock, island):
    def loop():
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()

    async def child():
        loop()

    async with trio.open_nursery() as nursery:
        loop()
        await island.call(add, [1], {})
        loop()
        nursery.start_soon(child)


async def test_a_coroutine_may_call_back_into_trio(autojump_clock, island):
    import trio_asyncio

    async def ask():
        await trio_asyncio.trio_as_aio(trio.sleep)(5)
        return await trio_asyncio.trio_as_aio(trio_asyncio.aio_as_trio(add))(1, b=1)

    assert await island.call(ask, [], {}) == 2


# ---------------------------------------------------------------------------------------- cancellation


async def test_a_cancellation_arrives_once_and_is_waited_for(autojump_clock, island):
    log = []

    async def tidy():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            log.append("cancelled")
            await asyncio.sleep(2)
            log.append("tidied up")
            raise

    started = trio.current_time()
    with trio.move_on_after(1) as scope:
        await island.call(tidy, [], {})
    assert scope.cancelled_caught
    assert log == ["cancelled", "tidied up"]
    assert trio.current_time() - started == 3


async def test_a_swallowed_cancellation_gives_the_value(autojump_clock, island):
    async def stubborn():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return "late"

    with trio.move_on_after(1) as scope:
        assert await island.call(stubborn, [], {}) == "late"
    assert scope.cancel_called
    assert not scope.cancelled_caught


async def test_an_exception_instead_of_a_cancellation_counts(autojump_clock, island):
    async def complain():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise LookupError("half done") from None

    with trio.move_on_after(1), pytest.raises(LookupError, match="half done"):
        await island.call(complain, [], {})


async def test_a_call_cancelled_before_it_starts_never_runs(autojump_clock, island):
    ran = []

    async def run():
        ran.append(True)

    with trio.CancelScope() as scope:
        scope.cancel()
        await island.call(run, [], {})
    assert scope.cancelled_caught
    assert not ran
    assert await island.call(add, [1], {}) == 1


async def test_a_coroutine_that_cancels_itself_has_failed(autojump_clock, island):
    async def give_up():
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    with pytest.raises(RuntimeError, match="not cancelled"):
        await island.call(give_up, [], {})


async def test_cancelled_with_everything_round_it_a_coroutine_still_gets_one_cancellation(autojump_clock):
    log = []

    async def tidy():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            log.append("cancelled")
            await asyncio.sleep(2)
            log.append("tidied up")
            raise

    with trio.move_on_after(1) as scope:
        async with open_island() as island, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(island.call, tidy, [], {})
    assert scope.cancelled_caught
    assert log == ["cancelled"] * 3 + ["tidied up"] * 3


# ---------------------------------------------------------------------------------------- the loop dies


class Deadly(BaseException):
    """What an asyncio loop does not survive."""


async def dies_in_a_task():
    async def fail():
        await asyncio.sleep(0)
        raise Deadly("in the background")

    # A forgotten task is noticed when it is collected.
    task = asyncio.create_task(fail())
    await asyncio.sleep(0.1)
    assert task.done()
    del task
    gc.collect()
    await asyncio.sleep(100)


async def dies_in_a_callback():
    def fail():
        raise Deadly("in the background")

    asyncio.get_running_loop().call_later(0.1, fail)
    await asyncio.sleep(100)


async def dies_of_an_exit_in_a_task():
    async def leave():
        raise SystemExit(3)

    task = asyncio.create_task(leave())
    await asyncio.sleep(100)
    await task


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (dies_in_a_task, "in the background"),
        (dies_in_a_callback, "in the background"),
        (dies_of_an_exit_in_a_task, "3"),
    ],
)
async def test_when_the_loop_dies_its_jobs_are_lost_and_the_next_one_opens_another(
    autojump_clock, island, caplog, poison, reason
):
    lost = []

    async def job(fn, *args):
        with pytest.raises(IslandLostError, match=reason) as raised:
            await island.call(fn, args, {})
        lost.append(raised.value)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(job, asyncio.sleep, 100)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(job, poison)
    assert len(lost) == 6
    assert all(reason in str(error.__cause__) for error in lost)
    [record] = [record for record in caplog.records if record.name == "trepid.worker" and record.exc_info]
    assert reason in str(record.exc_info[1])
    caplog.clear()
    assert await island.call(add, [1], {"b": 1}) == 2
    assert not [record for record in caplog.records if record.name == "trepid.worker"]


async def test_a_job_that_answers_the_death_with_a_value_has_its_value(autojump_clock, island, caplog):
    async def stubborn():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            return "done"

    async def complaining():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise ValueError("interrupted") from None

    async def job(fn, expected):
        with expected:
            assert await island.call(fn, [], {}) == "done"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(job, dies_in_a_callback, pytest.raises(IslandLostError))
        nursery.start_soon(job, stubborn, trio.CancelScope())
        nursery.start_soon(job, complaining, pytest.raises(IslandLostError))


async def test_while_one_loop_dies_slowly_the_next_one_works(autojump_clock, island, caplog):
    async def slow():
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(4)

    async def lost(fn):
        with pytest.raises(IslandLostError):
            await island.call(fn, [], {})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lost, slow)
        await lost(dies_in_a_callback)
        now = trio.current_time()
        assert await island.call(add, [1], {"b": 1}) == 2
        assert trio.current_time() - now == 1


async def test_an_error_that_nobody_handles_is_logged_and_kills_nothing(autojump_clock, island, caplog):
    async def careless():
        def fail():
            raise LookupError("of a callback")

        async def forgotten():
            raise LookupError("of a task")

        asyncio.get_running_loop().call_soon(fail)
        task = asyncio.create_task(forgotten())
        await asyncio.sleep(0.1)
        del task
        gc.collect()
        return await add(1, b=1)

    assert await island.call(careless, [], {}) == 2
    logged = [str(record.exc_info[1]) for record in caplog.records if record.name == "asyncio" and record.exc_info]
    # The collection may find tasks of earlier tests, too.
    assert [text for text in logged if text.startswith("of a ")] == ["of a callback", "of a task"]
    assert not [record for record in caplog.records if record.name == "trepid.worker"]


async def test_a_complaint_without_an_exception_kills_nothing(autojump_clock, island, caplog):
    async def complain():
        asyncio.get_running_loop().call_exception_handler({"message": "Unclosed client session"})
        return await add(1)

    assert await island.call(complain, [], {}) == 1
    assert "Unclosed client session" in caplog.text


def test_ctrl_c_in_code_of_no_job_ends_the_block(caplog):
    async def interrupt():
        async def press():
            raise KeyboardInterrupt

        task = asyncio.create_task(press())
        await asyncio.sleep(100)
        await task

    async def main():
        async with open_island() as island:
            with pytest.raises(IslandLostError):
                await island.call(interrupt, [], {})
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        run(main)
    gc.collect()  # asyncio complains of what was going on; here, and not in another test.


# ---------------------------------------------------------------------------------------- the end


async def test_the_end_cancels_what_is_left_and_finishes_async_generators(autojump_clock):
    log = []
    kept = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(1)
            log.append("generator finished")

    async def linger():
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)
            log.append("task finished")

    async def leave_things():
        generator = numbers()
        kept.extend([generator, asyncio.create_task(linger())])
        await asyncio.sleep(0)
        return await anext(generator)

    nurseries = trio.lowlevel.current_task().child_nurseries
    before = trio.current_time()
    async with open_island() as island:
        assert await island.call(leave_things, [], {}) == 1
    assert log == ["task finished", "generator finished"]
    assert trio.current_time() - before == 2
    assert trio.lowlevel.current_task().child_nurseries == nurseries


async def test_the_end_does_not_wait_for_ever(autojump_clock, caplog):
    kept = []

    async def never():
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(100)

    async def start():
        kept.append(asyncio.create_task(never(), name="the stubborn one"))
        await asyncio.sleep(0)

    before = trio.current_time()
    async with open_island() as island:
        await island.call(start, [], {})
    assert trio.current_time() - before == asyncio_loop.END_WITHIN + 1
    assert "the stubborn one" in caplog.text
    # asyncio complains about it when it is collected; its loop is closed by then.
    kept[0]._log_destroy_pending = False


async def test_a_second_cancellation_helps_those_who_swallow_the_first(autojump_clock, caplog):
    async def nearly_never():
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(100)

    async def start():
        kept.append(asyncio.create_task(nearly_never()))
        await asyncio.sleep(0)

    kept = []
    async with open_island() as island:
        await island.call(start, [], {})
    assert kept[0].cancelled()
    assert "abandoned" not in caplog.text


def test_a_job_that_refuses_to_end_with_its_loop_is_let_go(caplog):
    async def never():
        while True:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                asyncio.current_task()._log_destroy_pending = False

    async def main():
        async with open_island() as island, trio.open_nursery() as nursery:
            nursery.start_soon(lost, island, never)
            nursery.start_soon(lost, island, dies_in_a_callback)
        assert trio.current_time() < 10

    async def lost(island, fn):
        started = trio.current_time()
        with pytest.raises(IslandLostError):
            await island.call(fn, [], {})
        assert trio.current_time() - started < 10

    run(main)
    assert "abandoned" in caplog.text


async def test_what_the_block_raises_is_not_wrapped(autojump_clock):
    error = LookupError("mine")
    with pytest.raises(LookupError) as raised:
        async with open_island() as island:
            await island.call(add, [1], {})
            raise error
    assert raised.value is error


async def test_a_closed_island_takes_no_calls(autojump_clock):
    async with open_island() as island:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await island.call(add, [1], {})


def test_nothing_is_left_behind():
    def open_files():
        files = Path("/proc/self/fd")
        return len(list(files.iterdir())) if files.exists() else 0

    async def use():
        async with open_island() as island:
            await island.call(add, [1], {})
            with pytest.raises(IslandLostError):
                await island.call(dies_in_a_callback, [], {})
            await island.call(add, [1], {})

    run(use)
    gc.collect()
    files, threads, hooks = open_files(), threading.active_count(), sys.get_asyncgen_hooks()
    for _ in range(5):
        run(use)
    gc.collect()
    assert open_files() == files
    assert threading.active_count() == threads
    assert sys.get_asyncgen_hooks() == hooks


# ---------------------------------------------------------------------------------------- not here


async def test_without_trio_asyncio_opening_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trio_asyncio", None)
    with pytest.raises(UnsupportedError, match=r'pip install "trepid\[asyncio\]"'):
        async with open_island():
            pass


async def test_python_3_14_is_too_new(monkeypatch):
    version = namedtuple("version", "major minor micro")(3, 14, 0)  # noqa: PYI024
    monkeypatch.setattr(asyncio_island.sys, "version_info", version)
    with pytest.raises(UnsupportedError, match=r"Python 3\.14 .*trepid\[asyncio\]"):
        async with open_island():
            pass


def test_warnings_as_errors_do_not_forbid_asyncio_actors():
    code = """
import sys, trio
from trepid.runtime.asyncio_island import open_island
assert "trio_asyncio" not in sys.modules and "asyncio" not in sys.modules
async def value():
    import asyncio
    await asyncio.sleep(0.01)
    return await asyncio.to_thread(lambda: 7)
async def main():
    async with open_island() as island:
        assert await island.call(value, [], {}) == 7
trio.run(main)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


class Interrupted(dict):
    """The calls in a loop; Ctrl-C comes just when one has joined them."""

    def __setitem__(self, task, ended):
        super().__setitem__(task, ended)
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_right_after_a_call_has_begun_wakes_nobody_later():
    story = []

    async def ask(island):
        island._current._waiting = Interrupted()
        story.append(await island.call(add, [1], {"b": 2}))
        await trio.sleep(5)
        story.append("slept undisturbed")

    async def main():
        async with open_island() as island:
            await island.call(add, [0], {})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, island)
                with trio.CancelScope(shield=True):
                    try:
                        await trio.sleep_forever()
                    except KeyboardInterrupt:
                        story.append("the main task was told")

    run(main)
    assert story == ["the main task was told", 3, "slept undisturbed"]
