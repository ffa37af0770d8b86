"""What is noticed of two connections, in virtual time: confirmations that do not come, and lines of the registry."""

from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
import trio

from trepid.brokers.rabbitmq.lines import Lines
from trepid.brokers.rabbitmq.registry import Entry, Registry
from trepid.brokers.rabbitmq.topology import Names
from trepid.wire.amqp import ChannelClosedError, Delivered
from trepid.wire.reply import Reply


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


class Stream:
    """The registry's stream, the channel that writes to it, and the connection that reads from it."""

    def __init__(self):
        self.lines, self.channels, self.removed = [], [], False

    def publish(self, to, properties, body, batch, index):
        batch.expect()
        if self.removed:
            batch.returned.add(index)
        else:
            self.append(properties)
        batch.confirm()

    def append(self, properties):
        line = Delivered(len(self.lines) + 1, "registry", False, "")
        line.properties = properties
        self.lines.append(line)
        for channel in self.channels:
            channel.take(line)

    async def channel(self):
        await trio.lowlevel.checkpoint()
        channel = SimpleNamespace(closed=False, ack=lambda tag: None, abandon=lambda: self.channels.remove(channel))

        def consume(name, tag, take, *, prefetch, arguments):
            channel.take = take
            for line in self.lines:
                take(line)
            self.channels.append(channel)
            begun = Reply()
            begun.set(None)
            return begun

        channel.consume = consume
        return channel

    def sums(self):
        return [line for line in self.lines if b"declared" in line.properties]


@asynccontextmanager
async def followed(stream):
    """Follow a stream as a session does."""
    registry = Registry(Names("p"), stream, lambda: None)

    async def follow():
        while True:
            with suppress(ChannelClosedError):
                await registry.follow(stream)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        yield registry
        nursery.cancel_scope.cancel()


async def test_a_line_that_cannot_be_read_is_passed_by(autojump_clock):
    """Such as one with a date that no calendar has."""
    stream = Stream()
    stream.append(b"\x00\x40" + (2**62).to_bytes(8, "big"))
    async with followed(stream) as registry:
        await registry.write(Entry(declared=("q",)))
        assert registry.queues == {"q"}


async def test_a_session_that_makes_the_registry_long_writes_down_the_sum(autojump_clock):
    """The server drops what is old; names that were declared long ago would be gone for who comes later."""
    stream = Stream()
    async with followed(stream) as registry:
        await registry.write(Entry(declared=("q",)))
        for _ in range(5000):
            await registry.up_to_now()
    assert 2 <= len(stream.sums()) <= 5


async def test_a_registry_that_somebody_removes_is_followed_again_and_gets_its_names_back(autojump_clock):
    stream = Stream()
    async with followed(stream) as registry:
        await registry.write(Entry(declared=("q",)))
        (channel,) = stream.channels
        stream.lines.clear()
        channel.cancelled("registry")
        await trio.sleep(3)
        assert len(stream.channels) == 1
        assert stream.channels != [channel]
        assert len(stream.sums()) == 1
        await registry.up_to_now()
        assert registry.queues == {"q"}


async def test_who_asks_a_registry_that_was_removed_is_told_at_once(autojump_clock):
    """It gets a new stream a second later, and in that the question is not."""
    stream = Stream()
    async with followed(stream) as registry:
        stream.removed = True
        stream.channels[0].cancelled("registry")
        with trio.fail_after(0.5), pytest.raises(ChannelClosedError, match="404"):
            await registry.up_to_now()
