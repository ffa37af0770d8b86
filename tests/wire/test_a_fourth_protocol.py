"""A protocol of a few lines, on the skeleton that the others stand on: what a new one needs is one file."""

import math
from collections import deque
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import memory_stream_pair

from trepid.errors import BrokerLostError
from trepid.wire.endpoint import Endpoint
from trepid.wire.household import open_household
from trepid.wire.link import ProtocolError, open_link
from trepid.wire.reply import Reply
from trepid.wire.supervision import open_supervised, pause_before


class Lines:
    """Says a line, and gets a line back, in order."""

    def __init__(self):
        self.asked = deque()
        self.rest = b""
        self.endings = []
        self.link = None

    def received(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line == b"nonsense":
                raise ProtocolError("nonsense")
            self.asked.popleft().set(line)

    def ping(self):
        self.asked.append(Reply())
        return b"ping\n"

    def lost(self, error):
        self.endings.append(error)
        while self.asked:
            self.asked.popleft().fail(self.link.gone())

    async def ask(self, line):
        reply = Reply()
        self.link.send(line, b"\n")
        self.asked.append(reply)
        return await reply.wait()

    async def wait_lost(self):
        return await self.link.wait_lost()


@asynccontextmanager
async def open_lines(stream, **options):
    lines = Lines()
    async with open_link(Endpoint("lines://here"), lines, stream=stream, **options) as lines.link:
        yield lines


@pytest.fixture
def pair():
    return memory_stream_pair()


async def answer(stream, *, shout=lambda data: bytes(data).upper()):
    async for data in stream:
        await stream.send_all(shout(data))


async def test_replies_reach_who_asked(pair, autojump_clock, nursery):
    here, there = pair
    nursery.start_soon(answer, there)
    async with open_lines(here) as lines:
        got = {}

        async def ask(word):
            got[word] = await lines.ask(word)

        async with trio.open_nursery() as asking:
            for n in range(50):
                asking.start_soon(ask, b"word %d" % n)
        assert got == {b"word %d" % n: b"WORD %d" % n for n in range(50)}


async def test_what_is_said_at_once_is_written_at_once(pair, autojump_clock):
    here, there = pair
    async with open_lines(here) as lines:
        for word in (b"a", b"b", b"c"):
            lines.link.send(word)
        assert lines.link.unsent == 3
        await lines.link.flushed()
        assert await there.receive_some() == b"abc"
        assert lines.link.unsent == 0


async def test_a_cancelled_question_leaves_no_answer_for_somebody_else(pair, autojump_clock, nursery):
    here, there = pair
    async with open_lines(here) as lines:
        with trio.move_on_after(1) as scope:
            await lines.ask(b"first")
        assert scope.cancelled_caught
        nursery.start_soon(answer, there)
        assert await lines.ask(b"second") == b"SECOND"


async def test_who_waits_learns_of_the_loss_and_so_does_who_comes_later(pair, autojump_clock):
    here, there = pair
    async with open_lines(here) as lines, trio.open_nursery() as asking:

        async def ask(word):
            with pytest.raises(BrokerLostError, match="lines://here: the server closed the connection"):
                await lines.ask(word)

        for word in (b"a", b"b"):
            asking.start_soon(ask, word)
        await trio.testing.wait_all_tasks_blocked()
        await there.aclose()
        error = await lines.wait_lost()
        assert str(error) == "lines://here: the server closed the connection"
        await ask(b"c")
        with pytest.raises(BrokerLostError):
            await lines.link.room()
    assert len(lines.endings) == 1


async def test_nonsense_loses_the_link(pair, autojump_clock):
    here, there = pair
    async with open_lines(here) as lines:
        await there.send_all(b"nonsense\n")
        assert "makes no sense: nonsense" in str(await lines.wait_lost())


async def test_a_silent_server_is_asked_and_then_given_up(pair, autojump_clock):
    here, there = pair
    async with open_lines(here, quiet=4) as lines:
        began = trio.current_time()
        assert "silent for 8 s" in str(await lines.wait_lost())
        assert trio.current_time() - began == pytest.approx(8)
        assert await there.receive_some() == b"ping\n"


async def test_a_server_that_answers_is_kept(pair, autojump_clock, nursery):
    here, there = pair
    nursery.start_soon(answer, there)
    async with open_lines(here, quiet=4) as lines:
        with trio.move_on_after(3600) as scope:
            await lines.wait_lost()
        assert scope.cancelled_caught
        assert await lines.ask(b"still there?") == b"STILL THERE?"


async def test_a_process_that_slept_reads_before_it_judges(pair, autojump_clock, nursery):
    here, there = pair

    async def sleepy():
        assert await there.receive_some() == b"ping\n"
        await trio.sleep(1.5)
        autojump_clock.jump(3600)  # all deadlines pass at once; the answer comes with the next look at the socket
        await trio.lowlevel.checkpoint()
        await trio.sleep(0.5)
        await there.send_all(b"PING\n")
        await answer(there)

    nursery.start_soon(sleepy)
    async with open_lines(here, quiet=4) as lines:
        with trio.move_on_after(5000) as scope:
            await lines.wait_lost()
        assert scope.cancelled_caught


async def test_a_slow_way_is_no_silence(pair, autojump_clock, nursery):
    here, there = pair
    pump = here.send_stream.send_all_hook

    async def slow():
        await trio.sleep(1)
        await pump()

    async def read():
        left = 3 << 20
        while left > 0:
            left -= len(await there.receive_some())
        await there.send_all(b"at last\n")

    async with open_lines(here, quiet=4) as lines:
        here.send_stream.send_all_hook = slow
        nursery.start_soon(read)
        assert await lines.ask(bytes(3 << 20)) == b"at last"
        assert trio.current_time() > 40


async def test_a_peer_that_takes_a_little_and_then_nothing_is_given_up(pair, autojump_clock):
    here, _there = pair

    async def slow():
        await trio.sleep(1 if trio.current_time() < 10 else math.inf)

    async with open_lines(here, quiet=4) as lines:
        here.send_stream.send_all_hook = slow
        lines.link.send(bytes(3 << 20))
        assert "silent" in str(await lines.wait_lost())
        assert trio.current_time() < 16
        assert lines.link.unsent == 0


async def test_our_own_mistake_is_told_to_who_waits_and_ends_the_program(pair, autojump_clock, nursery):
    here, there = pair
    told = []

    async def ask(lines):
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            try:
                await lines.ask(b"anything")
            except BrokerLostError as exc:
                told.append(str(exc))

    with pytest.raises(BaseExceptionGroup) as info:
        async with open_lines(here) as lines, trio.open_nursery() as asking:
            lines.received = lambda data: {}["a mistake"]
            asking.start_soon(ask, lines)
            await trio.testing.wait_all_tasks_blocked()
            await there.send_all(b"x")
            await trio.sleep_forever()
    assert trio.current_time() == 0
    assert info.group_contains(KeyError)
    assert told == ["lines://here: reading failed (KeyError)"]


async def test_a_household_loses_no_error(autojump_clock):
    async def fail():
        raise KeyError("servant")

    with pytest.raises(BaseExceptionGroup) as info:
        async with open_household() as household:
            household.start_soon(fail)
            try:
                async with trio.open_nursery():
                    await trio.sleep_forever()
            finally:
                raise ValueError("block")
    assert info.group_contains(KeyError)
    assert info.group_contains(ValueError)
    with pytest.raises(BaseExceptionGroup) as info:
        async with open_household() as household, trio.open_nursery() as inner:
            inner.start_soon(trio.sleep_forever)
            household.start_soon(fail)
            await trio.sleep_forever()
    assert info.group_contains(KeyError)
    assert not info.group_contains(trio.Cancelled)


async def test_room_is_bounded_by_bytes(pair, autojump_clock):
    here, there = pair
    async with open_lines(here) as lines:
        pump, hole = here.send_stream.send_all_hook, trio.Event()

        async def stuck():
            await hole.wait()
            await pump()

        here.send_stream.send_all_hook = stuck
        lines.link.send(bytes(2 << 20))
        with trio.move_on_after(1) as scope:
            await lines.link.room()
        assert scope.cancelled_caught
        hole.set()
        with trio.fail_after(1):
            await lines.link.room()
            assert len(await there.receive_some()) >= 1 << 20


async def test_the_body_raises_bare(pair, autojump_clock):
    here, _there = pair
    with pytest.raises(KeyError, match="mine"):
        async with open_lines(here):
            raise KeyError("mine")


async def test_a_cancelled_body_can_still_say_its_last_words(pair, autojump_clock, nursery):
    here, there = pair
    nursery.start_soon(answer, there)
    heard = []
    with trio.move_on_after(1):
        async with open_lines(here) as lines:
            try:
                await trio.sleep_forever()
            finally:
                with trio.move_on_after(2, shield=True):
                    heard.append(await lines.ask(b"farewell"))
    assert heard == [b"FAREWELL"]


class Servers:
    """A server that can be away, as a supervisor's dial sees it."""

    def __init__(self):
        self.away = False
        self.theirs = None
        self.dialled = []

    @asynccontextmanager
    async def dial(self):
        self.dialled.append(trio.current_time())
        if self.away:
            raise BrokerLostError("lines://here: nobody answers there")
        here, self.theirs = memory_stream_pair()
        async with open_lines(here) as lines:
            yield lines


async def test_a_lost_connection_is_made_again(autojump_clock, nursery):
    servers = Servers()
    async with open_supervised(servers.dial) as supervisor:
        first = await supervisor.connection()
        servers.away = True
        await servers.theirs.aclose()
        await supervisor.changed()
        assert supervisor.current is None
        began = trio.current_time()
        with pytest.raises(BrokerLostError, match="nobody answers there"):
            await supervisor.connection()
        assert trio.current_time() - began == pytest.approx(1)
        await trio.sleep(600)
        servers.away = False
        with trio.fail_after(1):
            second = await supervisor.connection()
        assert second is not first
        nursery.start_soon(answer, servers.theirs)
        assert await second.ask(b"again") == b"AGAIN"
        assert supervisor.losses == 1
    gaps = [after - before for before, after in zip(servers.dialled[1:], servers.dialled[2:], strict=False)]
    assert max(gaps) <= 1
    assert min(gaps[10:]) >= 0.5


async def test_the_first_attempt_raises_bare(autojump_clock):
    servers = Servers()
    servers.away = True
    with pytest.raises(BrokerLostError, match="nobody answers there"):
        async with open_supervised(servers.dial):
            pytest.fail("it was opened")


async def test_a_supervised_body_raises_bare_and_is_cancelled_as_any(autojump_clock):
    with pytest.raises(KeyError, match="mine"):
        async with open_supervised(Servers().dial):
            raise KeyError("mine")
    with trio.move_on_after(1) as scope:
        async with open_supervised(Servers().dial):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_cancelled_body_is_served_until_its_end(autojump_clock, nursery):
    servers = Servers()
    with trio.move_on_after(1) as outer:
        async with open_supervised(servers.dial) as supervisor:
            nursery.start_soon(answer, servers.theirs)
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(deadline=trio.current_time() + 5, shield=True):
                    await trio.sleep(2)
                    assert await (await supervisor.connection()).ask(b"last words") == b"LAST WORDS"
                    supervisor.current.link.lose("a bad moment")
                    await supervisor.changed()
                    again = await supervisor.connection()
                    assert again.link.error is None
    assert outer.cancelled_caught
    assert again.link.error is not None


async def test_a_dial_that_hangs_is_given_up(autojump_clock, nursery):
    servers, hangs = Servers(), True

    @asynccontextmanager
    async def dial():
        if hangs and servers.theirs is not None:
            await trio.sleep_forever()
        async with servers.dial() as lines:
            yield lines

    async with open_supervised(dial) as supervisor:
        nursery.start_soon(answer, servers.theirs)
        await trio.sleep(3600)
        assert supervisor.losses == 0, "only dialling is bounded"
        supervisor.current.link.lose("a bad moment")
        await trio.sleep(100)
        with pytest.raises(BrokerLostError, match="no connection within 30 s"):
            await supervisor.connection()
        hangs = False
        await trio.sleep(32)
        assert supervisor.current is not None
    servers.theirs, hangs = True, True
    with pytest.raises(BrokerLostError, match="no connection within 30 s"):
        async with open_supervised(dial):
            pytest.fail("it was opened")


async def test_a_server_that_throws_us_out_at_once_is_not_hammered(autojump_clock):
    servers = Servers()

    @asynccontextmanager
    async def dial():
        async with servers.dial() as lines:
            await servers.theirs.aclose()
            yield lines

    async with open_supervised(dial):
        await trio.sleep(60)
    assert len(servers.dialled) < 140


async def test_an_opening_that_is_cancelled_as_it_succeeds_ends(autojump_clock):
    """Nobody goes on to serve a block that is never entered."""
    servers, scope = Servers(), trio.CancelScope()

    @asynccontextmanager
    async def dial():
        async with servers.dial() as lines:
            scope.cancel()
            yield lines

    with scope:
        async with open_supervised(dial):
            pytest.fail("it was opened")
    assert scope.cancelled_caught


async def test_an_opening_can_be_cancelled(autojump_clock):
    @asynccontextmanager
    async def dial():
        await trio.sleep_forever()
        yield

    with trio.move_on_after(1) as scope:
        async with open_supervised(dial):
            pytest.fail("it was opened")
    assert scope.cancelled_caught


def test_pauses_double_are_jittered_and_bounded():
    assert [pause_before(n, 1.0) for n in range(7)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert pause_before(10_000, 0.0) == 0.5
