"""Ctrl-C may come between any two steps of a task; a request that was made is waited for all the same."""

import signal
from collections import deque

import pytest
import trio

from trepid.brokers.sqlite import SQLiteBroker


class Interrupted(deque):
    """A line of requests; Ctrl-C comes just when the next one has joined it."""

    armed = False

    def append(self, request):
        super().append(request)
        if self.armed:
            self.armed = False
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_right_after_a_request_was_made(tmp_path):
    answers = []

    async def ask(session, line):
        line.armed = True
        try:
            answers.append(await session.declare(["q"]))
        except KeyboardInterrupt:
            answers.append("interrupted in the midst of it")
        # Whatever else this task waits for must not be woken by the answer to the request.
        await trio.sleep(0.1)
        answers.append(await session.queues())

    async def main():
        async with SQLiteBroker(tmp_path / "jobs.db").open() as session:
            line = session._writer._line = Interrupted()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, session, line)
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
                    try:
                        await trio.sleep_forever()
                    except KeyboardInterrupt:
                        answers.append("the main task was told")

    trio.run(main)
    assert answers == ["the main task was told", None, ["q"]]


def test_ctrl_c_ends_the_main_task_as_ever(tmp_path):
    async def main():
        async with SQLiteBroker(tmp_path / "jobs.db").open() as session:
            session._writer._line = Interrupted()
            session._writer._line.armed = True
            await session.declare(["q"])
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
