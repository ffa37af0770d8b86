"""What is noticed of two connections, in virtual time: confirmations that do not come, and lines of the registry."""

from types import SimpleNamespace

import pytest
import trio

from trepid.brokers.rabbitmq.lines import Lines
from trepid.brokers.rabbitmq.topology import Names


class Link:
    def __init__(self):
        self.error = None

    def lose(self, reason):
        self.error = self.error or reason


def watched(nursery):
    """Return lines whose confirmations are watched, and on which the test says what is under way."""
    publisher = SimpleNamespace(link=Link(), blocked=None, name="amqp://here")
    out = SimpleNamespace(oldest=None)
    lines = Lines(publisher, SimpleNamespace(link=Link(), name="amqp://here"), out, None, Names("p"))
    nursery.start_soon(lines.watch_confirmations)
    return lines


async def test_lines_on_which_nothing_is_confirmed_any_more_are_given_up(nursery, autojump_clock):
    lines = watched(nursery)
    await trio.sleep(60)
    lines.out.oldest = 1
    await trio.sleep(4)
    assert lines.publisher.link.error is None
    await trio.sleep(3)
    assert "no confirmation" in lines.publisher.link.error


@pytest.mark.parametrize("offset", [0.01, 1.3, 2.6, 4.99])
async def test_a_server_that_has_room_again_gets_time_to_confirm(nursery, autojump_clock, offset):
    """The alarm ends at any moment between two looks."""
    lines = watched(nursery)
    await trio.sleep(offset)
    lines.publisher.blocked, lines.out.oldest = "low on memory", 1
    await trio.sleep(60)
    lines.publisher.blocked = None
    await trio.sleep(2.5)
    lines.out.oldest = None
    await trio.sleep(10)
    assert lines.publisher.link.error is None
    nursery.cancel_scope.cancel()


async def test_a_process_that_slept_reads_before_it_judges(nursery, mock_clock):
    lines = watched(nursery)
    lines.out.oldest = 1
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(7)
    await trio.testing.wait_all_tasks_blocked()
    assert lines.publisher.link.error is None
    nursery.cancel_scope.cancel()
