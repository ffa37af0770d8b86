"""AMQP without sockets: frames in any slices, garbage, and a connection whose server is a script."""

import struct
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands
from pamqp import frame as pamqp_frame
from pamqp import header as pamqp_header
from trio.testing import memory_stream_pair

from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.amqp import Batch, ChannelClosedError, Login, open_amqp
from trepid.wire.amqp import frames as wire
from trepid.wire.endpoint import Endpoint
from trepid.wire.link import ProtocolError

LOGIN = Login("me", "hunter2", "/", 8.0)


def sent(method, channel=0):
    return pamqp_frame.marshal(method, channel)


def message(channel, tag, body, consumer="c", properties=None):
    raw = sent(commands.Basic.Deliver(consumer_tag=consumer, delivery_tag=tag, exchange="", routing_key="k"), channel)
    header = properties or wire.persistent(b"trepid", b"{}")
    return raw + b"".join(wire.contents(channel, header, body, wire.FRAME_MAX))


# ---------------------------------------------------------------------------------------------------------- frames


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(0, 65535), st.binary(max_size=300)), max_size=8),
    st.lists(st.integers(1, 50), min_size=1, max_size=20),
)
def test_any_slicing_gives_the_same_frames(parts, sizes):
    data = b"".join(struct.pack(">BHI", kind, number, len(body)) + body + b"\xce" for kind, number, body in parts)
    slicer, got, position, turn = wire.Slicer(), [], 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        got += slicer.feed(data[position : position + size])
        position, turn = position + size, turn + 1
    assert got == parts


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_error_or_waits_for_more(data):
    with suppress(ProtocolError):
        for kind, _, payload in wire.Slicer().feed(data):
            if kind == wire.METHOD:
                wire.method_of(payload)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_for_properties_and_deliveries_is_a_protocol_error(data):
    for read in (lambda: wire.header_of(data, b"trepid"), lambda: wire.delivered(data), lambda: wire.got(data)):
        with suppress(ProtocolError):
            read()


@given(st.text(max_size=100).map(str.encode), st.binary(max_size=100))
def test_properties_are_those_of_pamqp(text, body):
    mine = wire.persistent(b"trepid", text)
    theirs = pamqp_header.ContentHeader()
    theirs.unmarshal(b"\0\x3c\0\0" + bytes(8) + mine)
    assert theirs.properties.headers == {"trepid": text.decode()}
    assert theirs.properties.delivery_mode == 2
    assert wire.header_of(mine, b"trepid") == (text, {})


def test_what_the_server_adds_to_the_headers_is_read():
    properties = commands.Basic.Properties(headers={"x-delivery-count": 3, "trepid": "{}"}, delivery_mode=2)
    raw = properties.marshal()
    assert wire.header_of(raw, b"trepid") == (b"{}", {"x-delivery-count": 3})
    assert wire.header_of(commands.Basic.Properties(delivery_mode=2).marshal(), b"trepid") == (None, {})


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 1_000_000])
def test_a_body_is_cut_to_fit(size):
    frames = b"".join(wire.contents(7, b"\0\0", bytes(size), wire.FRAME_MAX))
    (_, _, header), *bodies = wire.Slicer().feed(frames)
    assert struct.unpack_from(">Q", header, 4) == (size,)
    assert b"".join(body for _, _, body in bodies) == bytes(size)
    assert all(len(body) + 8 <= wire.FRAME_MAX for _, _, body in bodies)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"AMQP\0\0\x09\x01", "another version of AMQP"),
        (b"HTTP/1.1 400", "no frame of AMQP begins with"),
        (b"\x01\0\0\xff\xff\xff\xff", "a frame of 4,294,967,295 bytes"),
        (b"\x08\0\0\0\0\0\0\0", "without its end mark"),
    ],
)
def test_what_is_no_frame_is_said_so(data, complaint):
    with pytest.raises(ProtocolError, match=complaint):
        list(wire.Slicer().feed(data))


# ------------------------------------------------------------------------------------------------------ connection


class Script:
    """A server that answers as it is told."""

    def __init__(self, stream):
        self.stream = stream
        self.slicer = wire.Slicer()
        self.heard = []
        self.answers = {
            commands.Connection.StartOk: commands.Connection.Tune(2047, 131072, 60),
            commands.Connection.Open: commands.Connection.OpenOk(),
            commands.Connection.Close: commands.Connection.CloseOk(),
            commands.Channel.Open: commands.Channel.OpenOk(),
            commands.Channel.Close: commands.Channel.CloseOk(),
            commands.Confirm.Select: commands.Confirm.SelectOk(),
            commands.Queue.Declare: commands.Queue.DeclareOk("q", 5, 0),
        }

    async def run(self):
        assert await self.stream.receive_some(8) == wire.PROTOCOL_HEADER
        await self.say(commands.Connection.Start(0, 9, {"version": "4.9"}, "PLAIN AMQPLAIN", "en_US"))
        async for data in self.stream:
            for kind, number, payload in self.slicer.feed(bytes(data)):
                if kind != wire.METHOD:
                    self.heard.append((kind, number, payload))
                    continue
                method = wire.method_of(payload)
                self.heard.append(method)
                if type(method) in self.answers:
                    await self.say(self.answers[type(method)], number)

    async def say(self, method, channel=0):
        await self.stream.send_all(method if isinstance(method, bytes) else sent(method, channel))

    def heard_of(self, kind):
        return [each for each in self.heard if isinstance(each, kind)]


@asynccontextmanager
async def scripted(nursery, **answers):
    here, there = memory_stream_pair()
    script = Script(there)
    script.answers |= {getattr(commands.Connection, name): answer for name, answer in answers.items()}
    nursery.start_soon(script.run)
    async with open_amqp(Endpoint("amqp://here"), LOGIN, stream=here) as amqp:
        yield amqp, script


async def test_a_handshake_and_a_farewell(nursery, autojump_clock):
    async with scripted(nursery) as (amqp, script):
        assert amqp.server["version"] == "4.9"
        assert amqp.heartbeat == 8
        (ok,) = script.heard_of(commands.Connection.StartOk)
        assert ok.response == "\0me\0hunter2"
        (tuned,) = script.heard_of(commands.Connection.TuneOk)
        assert (tuned.frame_max, tuned.heartbeat) == (131072, 8)
    assert len(script.heard_of(commands.Connection.Close)) == 1


async def test_the_farewell_is_said_also_when_cancelled(nursery, autojump_clock):
    with trio.move_on_after(1):
        async with scripted(nursery) as (_, script):
            await trio.sleep_forever()
    assert len(script.heard_of(commands.Connection.Close)) == 1


async def test_a_farewell_without_an_answer_takes_two_seconds(nursery, autojump_clock):
    async with scripted(nursery, Close=b"") as _:
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(2)


@pytest.mark.parametrize(
    ("code", "error"), [(403, BrokerRefusedError), (530, BrokerRefusedError), (320, BrokerLostError)]
)
async def test_refusals_are_typed_and_say_no_name(nursery, autojump_clock, code, error):
    no = commands.Connection.Close(code, "NO - access for user 'me' refused", 0, 0)
    with pytest.raises(error, match=str(code)) as caught:
        async with scripted(nursery, Open=no):
            pytest.fail("it was opened")
    assert "'me'" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_heartbeats_go_both_ways(nursery, autojump_clock):
    async with scripted(nursery) as (amqp, script):

        async def beat():
            while True:
                await trio.sleep(4)
                await script.say(wire.HEARTBEAT)

        with trio.CancelScope() as beating:
            async with trio.open_nursery() as hearts:
                hearts.start_soon(beat)
                await trio.sleep(100)
                assert amqp.link.error is None
                assert len([each for each in script.heard if isinstance(each, tuple)]) >= 24
                beating.cancel()
        assert "silent" in str(await amqp.wait_lost())


async def test_answers_of_cancelled_callers_reach_nobody_else(nursery, autojump_clock):
    async with scripted(nursery) as (amqp, script):
        channel = await amqp.channel()
        del script.answers[commands.Queue.Declare]
        with trio.move_on_after(1) as scope:
            await channel.call(commands.Queue.Declare(queue="first"))
        assert scope.cancelled_caught
        second = channel.ask(commands.Queue.Declare(queue="second"))
        await script.say(commands.Queue.DeclareOk("first", 1, 0), channel.number)
        await script.say(commands.Queue.DeclareOk("second", 2, 0), channel.number)
        assert (await second.wait()).queue == "second"


async def test_confirmations_single_multiple_refused_and_returned(nursery, autojump_clock):
    async with scripted(nursery) as (amqp, script):
        channel = await amqp.channel(confirming=True)
        outcomes = []
        batch = Batch(lambda batch, error: outcomes.append((batch.returned, batch.refused, error)))
        papers = [wire.persistent(b"trepid", b"%d" % number) for number in range(5)]
        for number in range(5):
            channel.publish(("", "q"), papers[number], b"body", batch, number)
        batch.seal()
        number = channel.number
        await script.say(commands.Basic.Ack(2, True), number)
        await script.say(commands.Basic.Nack(4, False), number)
        back = sent(commands.Basic.Return(312, "NO_ROUTE", "", "q"), number)
        await script.say(back + b"".join(wire.contents(number, papers[4], b"body", wire.FRAME_MAX)))
        await script.say(commands.Basic.Ack(5, False), number)
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == []
        await script.say(commands.Basic.Ack(3, False), number)
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes == [({4}, {3}, None)]


async def test_a_lost_connection_fails_batches_and_calls_once(nursery, autojump_clock):
    async with scripted(nursery) as (amqp, script):
        channel = await amqp.channel(confirming=True)
        errors = []
        batch = Batch(lambda batch, error: errors.append(error))
        for number in range(3):
            channel.publish(("", "q"), wire.persistent(b"trepid", b"%d" % number), b"", batch, number)
        batch.seal()
        script.answers.clear()
        asked = channel.ask(commands.Queue.Declare(queue="q"))
        await script.say(commands.Connection.Close(320, "CONNECTION_FORCED - bye", 0, 0))
        with pytest.raises(BrokerLostError, match="320 CONNECTION_FORCED"):
            await asked.wait()
        assert len(errors) == 1
        with pytest.raises(BrokerLostError):
            channel.ask(commands.Queue.Declare(queue="q"))


async def test_a_closed_channel_tells_its_callers_and_leaves_the_others(nursery, autojump_clock):
    async with scripted(nursery) as (amqp, script):
        one, other = await amqp.channel(), await amqp.channel()
        lost = []
        one.lost = lost.append
        del script.answers[commands.Queue.Declare]
        asked = one.ask(commands.Queue.Declare(queue="nope", passive=True))
        await script.say(commands.Channel.Close(404, "NOT_FOUND - no queue", 50, 10), one.number)
        with pytest.raises(ChannelClosedError, match="404 NOT_FOUND"):
            await asked.wait()
        assert [error.code for error in lost] == [404]
        script.answers[commands.Queue.Declare] = commands.Queue.DeclareOk("q", 5, 0)
        assert (await other.call(commands.Queue.Declare(queue="q"))).message_count == 5
        assert (await amqp.channel()).number == one.number, "its number is free again"


async def test_blocked_publishers_wait_and_can_be_cancelled(nursery, autojump_clock):
    async with scripted(nursery) as (amqp, script):
        await script.say(commands.Connection.Blocked("low on memory"))
        await trio.testing.wait_all_tasks_blocked()
        assert amqp.blocked == "low on memory"
        with trio.move_on_after(1) as scope:
            await amqp.room()
        assert scope.cancelled_caught
        await script.say(commands.Connection.Unblocked())
        with trio.fail_after(1):
            await amqp.room()


async def test_messages_arrive_whole_in_any_slices(nursery, autojump_clock):
    async with scripted(nursery) as (amqp, script):
        channel = await amqp.channel()
        got = []
        opened = channel.consume("q", "c", got.append, prefetch=10)
        await script.say(commands.Basic.QosOk(), channel.number)
        await script.say(commands.Basic.ConsumeOk("c"), channel.number)
        await opened.wait()
        data = b"".join(message(channel.number, tag, b"x" * tag * 1000) for tag in range(4))
        for start in range(0, len(data), 7):
            await script.say(data[start : start + 7])
        await trio.testing.wait_all_tasks_blocked()
        assert [(each.tag, len(each.body)) for each in got] == [(tag, tag * 1000) for tag in range(4)]


async def test_a_confirmation_of_nothing_loses_the_link(nursery, autojump_clock):
    async with scripted(nursery) as (amqp, script):
        channel = await amqp.channel(confirming=True)
        await script.say(commands.Basic.Ack(7, False), channel.number)
        assert "confirmation of message 7" in str(await amqp.wait_lost())


async def test_a_channel_that_was_cancelled_while_it_opened_frees_its_number(nursery, autojump_clock):
    async with scripted(nursery) as (amqp, script):
        opened = script.answers.pop(commands.Channel.Open)
        with trio.move_on_after(1) as scope:
            await amqp.channel()
        assert scope.cancelled_caught
        await script.say(opened, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(script.heard_of(commands.Channel.Close)) == 1
        script.answers[commands.Channel.Open] = opened
        assert (await amqp.channel()).number == 1


async def test_a_channel_that_both_sides_close_at_once_frees_its_number_when_both_have_agreed(nursery, autojump_clock):
    """The server answers our close after its own; whoever had the number by then would take that for its end."""
    async with scripted(nursery) as (amqp, script):
        channel = await amqp.channel()
        del script.answers[commands.Channel.Close]
        channel.abandon()
        await script.say(commands.Channel.Close(404, "NOT_FOUND - no queue", 50, 10), channel.number)
        await trio.testing.wait_all_tasks_blocked()
        other = await amqp.channel()
        await script.say(commands.Channel.CloseOk(), channel.number)
        await trio.testing.wait_all_tasks_blocked()
        assert (await other.call(commands.Queue.Declare(queue="q"))).message_count == 5
        assert (await amqp.channel()).number == channel.number


async def test_a_server_that_says_twice_that_it_is_full_forgets_nobody_who_waits(nursery, autojump_clock):
    async with scripted(nursery) as (amqp, script):
        await script.say(commands.Connection.Blocked("low on memory"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(amqp.room, name="publisher")
        await trio.testing.wait_all_tasks_blocked()
        await script.say(commands.Connection.Blocked("low on memory and disk"))
        await script.say(commands.Connection.Unblocked())
        await trio.testing.wait_all_tasks_blocked()
        assert not [task for task in nursery.child_tasks if task.name == "publisher"]


async def test_what_comes_for_nobody_while_a_channel_is_closing_is_left_to_its_end(nursery, autojump_clock):
    async with scripted(nursery) as (amqp, script):
        channel = await amqp.channel()
        del script.answers[commands.Channel.Close]
        channel.abandon()
        await script.say(message(channel.number, 1, b"x"))
        await trio.testing.wait_all_tasks_blocked()
        assert amqp.link.error is None
        assert not script.heard_of(commands.Basic.Nack)
