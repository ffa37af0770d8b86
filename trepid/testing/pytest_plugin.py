"""Fixtures for pytest, with pytest-trio.  Installed with Trepid, and inert until a test asks for one of them.

``trepid_desk`` is a fresh :class:`~trepid.testing.Desk` on the actors of the fixture ``trepid_worker``, or of the
marker ``trepid``; ``trepid_broker`` and ``trepid_recorder`` are its broker and its recorder, for tests that build their
own worker.  A test that asks for any of them runs under a clock that jumps over every wait.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import trio

    from trepid import MemoryBroker, Worker
    from trepid.testing import Desk, Recorder

# Every pytest run imports this module, so what belongs to the fixtures is imported inside of them.


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "trepid(*routers_or_actors, **worker_options): what the fixture trepid_desk can run"
    )


@pytest.fixture
def trepid_worker(request: pytest.FixtureRequest) -> Worker:
    """The worker behind ``trepid_desk``: that of the marker ``trepid``.  Made to be overridden."""
    import trepid

    marker = request.node.get_closest_marker("trepid")
    return trepid.Worker() if marker is None else trepid.Worker(*marker.args, **marker.kwargs)


@pytest.fixture
def trepid_broker(request: pytest.FixtureRequest) -> MemoryBroker:
    """A fresh memory broker, for one test."""
    import trepid

    _use_virtual_time(request.node)
    return trepid.MemoryBroker()


@pytest.fixture
def trepid_recorder(request: pytest.FixtureRequest) -> Recorder:
    """A recorder, for ``Worker(observers=[trepid_recorder])``; ``trepid_desk`` has it already."""
    from trepid.testing import Recorder

    _use_virtual_time(request.node)
    return Recorder()


@pytest.fixture
async def trepid_desk(
    trepid_worker: Worker, trepid_broker: MemoryBroker, trepid_recorder: Recorder
) -> AsyncGenerator[Desk, None]:
    """A connection that runs what is enqueued on it, when it is told to."""
    from trepid.testing import open_test_connection

    async with open_test_connection(trepid_worker, broker=trepid_broker, recorder=trepid_recorder) as desk:
        yield desk


def _use_virtual_time(item: Any) -> None:
    """Let pytest-trio run a test under an autojump clock, unless the test brings a clock of its own.

    pytest-trio looks for a clock among the arguments of the test itself, not among those of its fixtures; the runner
    it uses is what a marker may say.
    """
    markers = list(item.iter_markers("trio"))
    if not markers or any(isinstance(marker.kwargs.get("run"), _VirtualTime) for marker in markers):
        return
    import trio

    run = next((marker.kwargs["run"] for marker in markers if marker.kwargs.get("run")), trio.run)
    item.add_marker(pytest.mark.trio(run=_VirtualTime(run)), append=False)


class _VirtualTime(partial[Any]):
    """A runner such as ``trio.run``, with time that jumps to the next moment at which something happens."""

    def __call__(self, *args: Any, clock: trio.abc.Clock | None = None, **options: Any) -> Any:
        import trio.testing

        return super().__call__(*args, clock=clock or trio.testing.MockClock(autojump_threshold=0), **options)
