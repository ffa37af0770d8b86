"""Burst: a worker that ends when everything which was ready has been done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from trepid.connection import Connection
from trepid.errors import BrokerBusyError, BrokerFullError, BrokerLostError, UnknownQueueError
from trepid.runtime.running import RunningWorker
from trepid.runtime.worker import Worker

_LOOK: Final = 0.1


async def stop_when_idle(
    running: RunningWorker, connection: Connection, worker: Worker, ended: Callable[[], int]
) -> None:
    """Stop a worker once its queues have nothing ready, and it holds nothing.

    What is scheduled for later, paused, or leased by other workers is not waited for.

    Args:
      running: the worker.
      connection: its broker.
      worker: its terms.
      ended: how many runs it has seen end so far.
    """
    queues = worker.queue_names()
    await trio.lowlevel.checkpoint()
    while not running.statistics().stopping:
        before = ended()
        if _is_idle(running, worker):
            try:
                # In this order: a message on its way from ready to a job shows up in one of the two.
                ready = sum([await _ready(connection, queue) for queue in queues])
                held = await connection.session.held(running.statistics().owner)
            except (BrokerBusyError, BrokerLostError, BrokerFullError):
                ready = 1  # nobody can tell; the worker reports the trouble
                held = []
            # A job that came and went meanwhile may have enqueued another one.
            if not ready and not held and _is_idle(running, worker) and ended() == before:
                running.stop()
                return
        await trio.sleep(_LOOK)


def _is_idle(running: RunningWorker, worker: Worker) -> bool:
    statistics = running.statistics()
    return statistics.free == worker.tasks_limit and not statistics.unsettled


async def _ready(connection: Connection, queue: str) -> int:
    try:
        stats = await connection.stats(queue)
    except UnknownQueueError:
        await trio.lowlevel.checkpoint()
        return 0
    return 0 if stats.paused else stats.ready
