import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import trio

from tests.runtime import duties
from trepid.errors import ProcessCallError, ProcessDiedError, UnsupportedError
from trepid.runtime.places import Place
from trepid.runtime.processes import open_processes
from trepid.values.verbs import Retry

pytest.importorskip("trio_parallel")
FILES = Path("/proc/self/fd")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pids as POSIX has them")


@pytest.fixture
async def processes():
    async with open_processes(2) as processes:
        yield processes


async def call(processes, fn, *args, **kwargs):
    """As the worker does it: take a place, call, give back what was not handed on."""
    place = Place(processes.limiter)
    await place.take()
    try:
        return await processes.call(partial(fn, *args, **kwargs), place)
    finally:
        place.give_back()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def gone(pid):
    with trio.fail_after(10):
        while alive(pid):
            # Reaps those that have ended by themselves.
            multiprocessing.active_children()
            await trio.sleep(0.01)


async def pid_in(path):
    path = trio.Path(path)
    with trio.fail_after(20):
        while not await path.exists():
            await trio.sleep(0.01)
    return int(await path.read_text())


# ---------------------------------------------------------------------------------------- outcomes


async def test_a_call_returns_its_value_from_another_process(processes):
    assert await call(processes, duties.add, 1, b=2) == 3
    first = await call(processes, duties.pid)
    assert first != os.getpid()
    assert await call(processes, duties.pid) == first
    assert await call(processes, duties.starts_a_program) == "hello\n"


async def test_an_exception_comes_out_bare_with_the_childs_traceback(processes):
    with pytest.raises(LookupError, match="no such picture") as raised:
        await call(processes, duties.fail, "no such picture")
    assert "in fail" in str(raised.value.__cause__)
    assert "_attempt" not in str(raised.value.__cause__)


async def test_exceptions_keep_what_they_carry(processes):
    with pytest.raises(Retry) as verb:
        await call(processes, duties.retry)
    assert (verb.value.delay, verb.value.reason) == (7, "later")
    with pytest.raises(duties.PickyError, match="3: no") as picky:
        await call(processes, duties.fail_picky)
    assert picky.value.number == 3
    with pytest.raises(ExceptionGroup) as group:
        await call(processes, duties.fail_in_a_group)
    assert [type(error) for error in group.value.exceptions] == [LookupError, ValueError]
    with pytest.raises(duties.SlottedError) as slotted:
        await call(processes, duties.fail_slotted)
    assert slotted.value.code == 7


async def test_what_was_caught_on_the_way_need_not_travel(processes):
    with pytest.raises(LookupError, match="in the end") as raised:
        await call(processes, duties.fail_after_another)
    assert "no way out" in str(raised.value.__cause__)


@pytest.mark.parametrize(
    ("fn", "text"),
    [(duties.fail_stuck, "StuckError: no way out"), (duties.fail_one_way, "OneWayError: no return")],
)
async def test_an_exception_that_cannot_travel_is_told_in_words(processes, fn, text):
    process = await call(processes, duties.pid)
    with pytest.raises(ProcessCallError, match=rf"tests\.runtime\.duties\.{text} .*cannot be sent back") as raised:
        await call(processes, fn)
    assert f"in {fn.__name__}" in str(raised.value.__cause__)
    assert await call(processes, duties.pid) == process


@pytest.mark.parametrize(("fn", "text"), [(partial(duties.leave, 3), "SystemExit: 3"), (duties.interrupt, "Interrupt")])
async def test_an_exit_ends_only_the_call(processes, fn, text):
    with pytest.raises(ProcessCallError, match=text):
        await call(processes, fn)


def local():
    def inner():
        pass

    return inner


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (lambda: 1, "pickle"),
        (local(), "local"),
        (partial(duties.add, threading.Lock()), "lock"),
        (duties.return_a_lock, "lock"),
        (duties.return_what_cannot_be_made_again, "cannot be made again"),
    ],
    ids=["lambda", "local", "argument", "result", "result on arrival"],
)
async def test_what_cannot_travel_is_a_readable_failure(processes, fn, text):
    with pytest.raises(ProcessCallError, match="importable") as raised:
        await call(processes, fn)
    assert text in str(raised.value)
    assert await call(processes, duties.add, 1) == 1


async def test_a_function_that_the_child_cannot_import_is_a_readable_failure(processes, monkeypatch):
    def fn():
        pass

    fn.__module__, fn.__qualname__ = "only_here", "fn"
    module = ModuleType("only_here")
    module.fn = fn
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(ProcessCallError, match=r"only_here\.fn cannot be called .*No module named 'only_here'"):
        await call(processes, fn)


# ---------------------------------------------------------------------------------------- death


@pytest.mark.parametrize(
    ("fn", "code", "text"),
    [
        (partial(duties.die, 3), 3, "ended with exit code 3"),
        (partial(duties.die, 0), 0, "ended with exit code 0"),
        (partial(duties.die_by, signal.SIGKILL), -signal.SIGKILL, "was killed by SIGKILL"),
        (partial(duties.die_by, signal.SIGTERM), -signal.SIGTERM, "was killed by SIGTERM"),
        (duties.abort, -signal.SIGABRT, "was killed by SIGABRT"),
    ],
    ids=["exit 3", "exit 0", "SIGKILL", "SIGTERM", "abort"],
)
async def test_a_process_that_dies_fails_its_call(processes, fn, code, text):
    with pytest.raises(ProcessDiedError, match=text) as raised:
        await call(processes, fn)
    assert raised.value.exit_code == code
    assert processes.limiter.borrowed_tokens == 0
    assert await call(processes, duties.add, 1) == 1


def test_an_unknown_death_has_words():
    assert str(ProcessDiedError()) == "the job's process died"
    assert str(ProcessDiedError(-77)) == "the job's process was killed by signal 77"


async def test_a_process_killed_while_idle_is_replaced(processes):
    pid = await call(processes, duties.pid)
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    assert await call(processes, duties.pid) != pid


async def test_a_timeout_kills_the_process(processes, tmp_path):
    with trio.move_on_after(30) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, processes, duties.hang, tmp_path / "pid")
            pid = await pid_in(tmp_path / "pid")
            scope.cancel()
    assert scope.cancelled_caught
    # At once: the call has waited for the end of its process.
    assert not alive(pid)
    assert await call(processes, duties.pid) != pid


# ---------------------------------------------------------------------------------------- places


class CountedPlace(Place):
    given_back = 0

    def release_on_behalf_of(self, borrower):
        self.given_back += 1
        super().release_on_behalf_of(borrower)


@pytest.mark.parametrize(
    "fn",
    [
        partial(duties.add, 1),
        partial(duties.fail, "no"),
        duties.fail_stuck,
        partial(duties.die, 3),
        partial(duties.die_by, signal.SIGINT),
        lambda: 1,
        duties.return_what_cannot_be_made_again,
    ],
    ids=["value", "exception", "words", "death", "twice", "lambda", "arrival"],
)
async def test_a_place_is_given_back_once_whatever_happens(processes, fn):
    place = CountedPlace(processes.limiter)
    await place.take()
    with contextlib.suppress(Exception):
        await processes.call(fn, place)
    assert place.given_back == 1
    place.give_back()
    assert processes.limiter.borrowed_tokens == 0


@pytest.mark.parametrize("when", ["before", "starting", "running"])
async def test_a_place_is_given_back_once_when_cancelled(processes, tmp_path, when):
    place = CountedPlace(processes.limiter)
    await place.take()

    async def run():
        await processes.call(partial(duties.hang, tmp_path / "pid"), place)

    async with trio.open_nursery() as nursery:
        if when == "before":
            nursery.cancel_scope.cancel()
        nursery.start_soon(run)
        if when == "starting":
            while not multiprocessing.active_children():
                await trio.lowlevel.checkpoint()
        elif when == "running":
            await pid_in(tmp_path / "pid")
        assert processes.limiter.borrowed_tokens == 1
        nursery.cancel_scope.cancel()
    # Cancelled before the call took it over, the place still was the caller's to give back.
    assert place.given_back == (when != "before")
    place.give_back()
    assert processes.limiter.borrowed_tokens == 0
    assert not multiprocessing.active_children()


async def test_a_place_is_kept_as_long_as_its_process_runs(tmp_path):
    async with open_processes(1) as processes, trio.open_nursery() as nursery:
        nursery.start_soon(call, processes, duties.wait_for, tmp_path / "pid", tmp_path / "go")
        await pid_in(tmp_path / "pid")
        with trio.move_on_after(0.05) as scope:
            await call(processes, duties.pid)
        assert scope.cancelled_caught
        await trio.Path(tmp_path / "go").touch()
        assert await call(processes, duties.add, 1) == 1


# ---------------------------------------------------------------------------------------- the end


async def test_leaving_ends_idle_processes():
    async with open_processes(2) as processes:
        pid = await call(processes, duties.pid)
        assert alive(pid)
    assert not alive(pid)


async def test_cancelled_it_leaves_no_process_behind(tmp_path):
    with trio.fail_after(60), trio.CancelScope() as scope:
        async with open_processes(3) as processes, trio.open_nursery() as nursery:
            idle = await call(processes, duties.pid)
            nursery.start_soon(call, processes, duties.hang, tmp_path / "one")
            nursery.start_soon(call, processes, duties.hang, tmp_path / "two")
            busy = [await pid_in(tmp_path / "one"), await pid_in(tmp_path / "two")]
            started = trio.current_time()
            scope.cancel()
    assert trio.current_time() - started < 6
    assert not [pid for pid in (idle, *busy) if alive(pid)]
    assert not multiprocessing.active_children()


async def test_an_idle_process_ends_by_itself():
    async with open_processes(1, idle=0.05) as processes:
        pid = await call(processes, duties.pid)
        await gone(pid)
        assert await call(processes, duties.pid) != pid


async def test_an_idle_process_that_died_is_no_reason_to_fail(caplog):
    with pytest.raises(LookupError, match="mine"):
        async with open_processes(1) as processes:
            pid = await call(processes, duties.pid)
            os.kill(pid, signal.SIGKILL)
            raise LookupError("mine")
    assert "not all idle processes ended well" in caplog.text


@pytest.mark.skipif(not FILES.exists(), reason="counts open files in /proc")
async def test_no_file_stays_open():
    async def use():
        async with open_processes(1) as processes:
            await call(processes, duties.pid)
            with pytest.raises(ProcessDiedError):
                await call(processes, duties.die, 3)
            await call(processes, duties.pid)

    await use()
    gc.collect()
    files = len(list(FILES.iterdir()))
    await use()
    gc.collect()
    assert len(list(FILES.iterdir())) == files


# ---------------------------------------------------------------------------------------- signals


async def test_ctrl_c_does_not_reach_a_running_process(tmp_path):
    """A terminal sends SIGINT to the whole group, while the worker lets its jobs finish."""
    program = textwrap.dedent("""
        import signal, sys
        from functools import partial
        import trio
        from tests.runtime import duties
        from trepid.runtime.places import Place
        from trepid.runtime.processes import open_processes

        async def main(pid, go):
            async with open_processes(1) as processes:
                place = Place(processes.limiter)
                await place.take()
                print(await processes.call(partial(duties.wait_for, pid, go), place))

        if __name__ == "__main__":
            signal.signal(signal.SIGINT, lambda *args: None)
            trio.run(main, *sys.argv[1:])
    """)
    main = tmp_path / "main.py"
    await trio.Path(main).write_text(program)
    async with trio.open_nursery() as nursery:

        async def press():
            await pid_in(tmp_path / "pid")
            os.killpg(process.pid, signal.SIGINT)
            await trio.sleep(0.1)
            await trio.Path(tmp_path / "go").touch()

        nursery.start_soon(press)
        process = await trio.lowlevel.open_process(
            [sys.executable, str(main), str(tmp_path / "pid"), str(tmp_path / "go")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        with trio.fail_after(60):
            said = b"".join([part async for part in process.stdout])
            complaints = b"".join([part async for part in process.stderr])
            await process.wait()
    assert (process.returncode, said, complaints) == (0, b"finished\n", b"")


async def test_ctrl_c_does_not_reach_a_starting_process(tmp_path, capfd):
    async with open_processes(1) as processes, trio.open_nursery() as nursery:
        place = Place(processes.limiter)
        await place.take()

        async def run():
            assert (
                await processes.call(partial(duties.wait_for, tmp_path / "pid", tmp_path / "go"), place) == "finished"
            )

        nursery.start_soon(run)
        with trio.fail_after(10):
            while not (children := multiprocessing.active_children()):
                await trio.lowlevel.checkpoint()
        os.kill(children[0].pid, signal.SIGINT)
        assert await pid_in(tmp_path / "pid") == children[0].pid
        await trio.Path(tmp_path / "go").touch()
    assert "KeyboardInterrupt" not in capfd.readouterr().err


async def test_a_function_finds_no_signal_blocked(processes):
    assert not await call(processes, duties.blocked_signals)


async def test_a_process_that_died_of_ctrl_c_is_replaced_once(processes, tmp_path):
    assert await call(processes, duties.die_by_interrupt_once, tmp_path / "been here") == "done"
    with pytest.raises(ProcessDiedError, match="SIGINT"):
        await call(processes, duties.die_by, signal.SIGINT)


# ---------------------------------------------------------------------------------------- not here


async def test_without_trio_parallel_opening_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trio_parallel", None)
    with pytest.raises(UnsupportedError, match=r'pip install "trepid\[process\]"'):
        async with open_processes(1):
            pass


async def test_one_place_serves_two_calls_at_once_and_is_given_back(processes):
    place = Place(processes.limiter)
    await place.take()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(processes.call, partial(duties.add, 1), place)
            nursery.start_soon(processes.call, partial(duties.add, 2), place)
    place.give_back()
    assert processes.limiter.borrowed_tokens == 0
