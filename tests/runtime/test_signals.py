"""Signals, in processes of their own: the first stops softly, the second at once, and embedded nothing is touched."""

import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import trio

import trepid

DEADLINE = 20.0


async def work() -> None: ...


PROLOGUE = """
    import os, signal, sys, trio, trepid
    from trepid.ports.events import WorkerStopping

    async def job(seconds: float) -> None:
        say("running")
        kill()
        try:
            await trio.sleep(seconds)
            say("finished")
        except trio.Cancelled:
            say("cancelled")
            raise

    def say(text):
        print(text, flush=True)

    # The first of these is sent when the job runs, the second when the worker has understood the first.
    SIGNALS = iter([{signals}])

    # As if from outside: Ctrl-C is not raised in here.
    @trio.lowlevel.enable_ki_protection
    def kill():
        for number in SIGNALS:
            os.kill(os.getpid(), number)
            break

    def again(event):
        if isinstance(event, WorkerStopping):
            kill()

    JOB = trepid.Actor(job)
"""


def run(body, signals, *, expect=0):
    program = textwrap.dedent(PROLOGUE).format(signals=signals) + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == expect, done.stderr
    return done.stdout.split("\n")[:-1]


RUN = """
    broker = trepid.MemoryBroker()
    worker = trepid.Worker(JOB, observers=[again], {settings})

    async def main():
        async with trepid.open_connection(broker) as connection:
            await connection.declare("default")
            handle = await connection.enqueue(JOB.job({seconds}))
            report = await worker.run(connection)
            say(f"{{report.succeeded}} {{report.released}} {{(await handle.status()).state}}")

    trio.run(main)
"""
SIGTERM = "handle_signals=[signal.SIGTERM]"


def test_the_first_signal_stops_softly():
    body = RUN.format(settings=SIGTERM, seconds=0.4)
    assert run(body, "signal.SIGTERM") == ["running", "finished", "1 0 done"]


def test_the_second_signal_stops_at_once():
    body = RUN.format(settings=SIGTERM, seconds=60)
    assert run(body, "signal.SIGTERM, signal.SIGTERM") == ["running", "cancelled", "0 1 ready"]


def test_the_grace_ends_without_a_second_signal():
    settings = f"{SIGTERM}, graceful_shutdown_time=0.2"
    body = RUN.format(settings=settings, seconds=60)
    assert run(body, "signal.SIGTERM") == ["running", "cancelled", "0 1 ready"]


def test_any_signal_may_be_named():
    body = RUN.format(settings="handle_signals=[signal.SIGUSR1]", seconds=0.3)
    assert run(body, "signal.SIGUSR1") == ["running", "finished", "1 0 done"]


def test_without_handle_signals_sigterm_kills():
    body = RUN.format(settings="", seconds=60)
    assert run(body, "signal.SIGTERM", expect=-signal.SIGTERM) == ["running"]


def test_an_empty_list_touches_no_signals():
    body = RUN.format(settings="handle_signals=[]", seconds=60)
    assert run(body, "signal.SIGTERM", expect=-signal.SIGTERM) == ["running"]


def test_embedded_ctrl_c_is_trios():
    body = """
        async def main():
            broker = trepid.MemoryBroker()
            async with trepid.open_connection(broker) as connection:
                await connection.declare("default")
                handle = await connection.enqueue(JOB.job(60))
                try:
                    await trepid.Worker(JOB).run(connection)
                except* KeyboardInterrupt:
                    view = await handle.status()
                    say(f"interrupted, {view.state}, {view.attempts}")
                    raise

        try:
            trio.run(main)
        except* KeyboardInterrupt:
            say("out")
    """
    assert run(body, "signal.SIGINT") == ["running", "cancelled", "interrupted, ready, 0", "out"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_blocking_call_stops_softly(name):
    body = f"""
        from contextlib import asynccontextmanager

        async def seed(connection):
            await connection.declare("default")
            await connection.enqueue(JOB.job(0.4))

        class Seeded(trepid.Broker):
            def __init__(self):
                self.inner = trepid.MemoryBroker()
            def __str__(self):
                return "seeded:"
            @asynccontextmanager
            async def open(self):
                async with trepid.open_connection(self.inner) as connection:
                    await seed(connection)
                    yield connection.session

        before = signal.getsignal(signal.{name})
        report = trepid.run(trepid.Worker(JOB), Seeded())
        say(f"{{report.succeeded}} {{signal.getsignal(signal.{name}) is before}}")
    """
    assert run(body, f"signal.{name}") == ["running", "finished", "1 True"]


def test_the_blocking_call_can_be_told_to_leave_signals_alone():
    body = """
        def started(event):
            say(type(event).__name__)
            kill()

        trepid.run(trepid.Worker(JOB, handle_signals=[], observers=[started]), "memory:")
    """
    assert run(body, "signal.SIGTERM", expect=-signal.SIGTERM) == ["WorkerStarted"]


def test_the_blocking_call_takes_a_worker():
    for wrong in (trepid.Actor(work), trepid.Router(), "memory:"):
        with pytest.raises(TypeError, match=r"run\(\) takes a worker, not .*; write trepid\.Worker\(\.\.\.\)"):
            trepid.run(wrong, "memory:")


def test_signals_cannot_be_handled_in_another_thread_and_the_error_is_bare():
    found = []

    def run_in_thread():
        try:
            trepid.run(trepid.Worker(), "memory:")
        except BaseException as exc:  # noqa: ASYNC103, BLE001 - looked at below; no Trio here
            found.append(exc)

    thread = threading.Thread(target=run_in_thread)
    thread.start()
    thread.join(DEADLINE)
    [error] = found
    assert isinstance(error, RuntimeError)


async def test_embedded_no_handler_is_touched(autojump_clock):
    numbers = [signal.SIGINT, signal.SIGTERM]
    before = [signal.getsignal(number) for number in numbers]
    async with trepid.open_connection("memory:") as connection, trio.open_nursery() as nursery:
        running = await nursery.start(trepid.Worker().run, connection)
        assert [signal.getsignal(number) for number in numbers] == before
        running.stop()
