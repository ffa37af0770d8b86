"""From exceptions to one line, a hint and an exit code."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from trepid import errors
from trepid.cli.failures import Failure, explained


@pytest.mark.parametrize(
    ("error", "code", "hint"),
    [
        (errors.BrokerURLError("x", "no scheme"), 2, "TREPID_BROKER_URL"),
        (errors.UnsupportedError("schedules", "SQLite"), 2, ""),
        (errors.BrokerFileError("jobs.db", "damaged"), 3, "TREPID_BROKER_URL"),
        (errors.BrokerRefusedError("redis://host", "wrong password"), 3, "TREPID_BROKER_URL"),
        (errors.BrokerBusyError("locked"), 3, "try again"),
        (errors.BrokerFullError("no space"), 3, "make room"),
        (errors.BrokerLostError("gone"), 3, "whether the server runs"),
        (errors.UnknownQueueError("emails"), 4, "trepid queues declare emails"),
        (errors.QueueBusyError("emails", 2), 1, "stop its workers"),
        (errors.QueueFullError("emails"), 1, "try again"),
        (errors.UniqueConflictError("k", "emails", "m1"), 1, "wait for m1"),
        (errors.JobGoneError("m1", "emails"), 4, "not to be kept"),
        (errors.JobCancelledError("m1", "cancelled", "no need"), 1, ""),
        (errors.JobFailedError("m1", "ValueError", "broken"), 1, "trepid dead show m1"),
        (errors.ResultError("m1", "unreadable"), 1, ""),
        (errors.PayloadTooLargeError(2, 1), 2, ""),
        (ZeroDivisionError("division\nby zero"), 1, "--traceback"),
        (RuntimeError(), 1, "--traceback"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exception_becomes_a_failure(error, code, hint):
    for raised in (error, ExceptionGroup("in a nursery", [ExceptionGroup("and another", [error])])):
        failure = explained(raised)
        assert failure.code == code
        assert hint in failure.hint
        assert failure.message
        assert "\n" not in failure.message


def test_a_failure_stays_as_it_is():
    failure = Failure("no")
    assert explained(ExceptionGroup("in a nursery", [failure])) is failure


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_while_waiting_leaves_the_job_alone(run, url):
    process = subprocess.Popen(
        [sys.executable, "-m", "trepid", "enqueue", "greet", "name=x", "--wait", "--id", "patient"],
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts things in the background lets them ignore Ctrl-C, and so may whoever runs the tests.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        env=os.environ,
    )
    deadline = threading.Timer(60, process.kill)
    deadline.start()
    try:
        assert process.stderr.readline() == "enqueued patient in default\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    finally:
        deadline.cancel()
    assert process.returncode == 130
    assert said.strip() == "error: interrupted"
    assert '"ready": 1' in run("queues", "--json").stdout
