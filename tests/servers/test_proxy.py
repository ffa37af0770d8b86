"""The proxy, between us and a server that says everything again."""

from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from tests.servers.proxy import open_proxy


class Echo:
    """Says again what it hears, and remembers it."""

    def __init__(self):
        self.heard = b""
        self.ends = 0
        self.sizes = []

    async def __call__(self, stream):
        try:
            async for chunk in stream:
                self.heard += chunk
                self.sizes.append(len(chunk))
                await stream.send_all(chunk)
        except trio.BrokenResourceError:
            pass
        finally:
            self.ends += 1


@pytest.fixture
def echo():
    return Echo()


@pytest.fixture
async def proxy(echo, nursery):
    (listener,) = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
    async with open_proxy("127.0.0.1", listener.socket.getsockname()[1]) as proxy:
        yield proxy


@asynccontextmanager
async def client_of(proxy):
    stream = await trio.open_tcp_stream(proxy.host, proxy.port)
    async with stream:
        yield stream


@pytest.fixture
async def client(proxy):
    async with client_of(proxy) as stream:
        yield stream


async def receive(stream):
    with trio.fail_after(10):
        return await stream.receive_some()


async def hear(stream, size):
    heard = b""
    while len(heard) < size:
        chunk = await receive(stream)
        assert chunk, f"it ended after {heard!r}"
        heard += chunk
    return heard


async def ask(stream, question):
    await stream.send_all(question)
    return await hear(stream, len(question))


async def is_silent(stream):
    """Nothing comes for a while; it is the one thing that no event can tell."""
    with trio.move_on_after(0.1):
        return not await stream.receive_some()
    return True


async def test_bytes_pass_both_ways_and_are_counted(proxy, client):
    assert await ask(client, b"hello") == b"hello"
    assert (proxy.accepted, proxy.connections, proxy.requests, proxy.replies, proxy.dropped) == (1, 1, 5, 5, 0)


async def test_a_megabyte_passes_unchanged(proxy, client):
    data = bytes(range(256)) * 4096
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, data)
        assert await hear(client, len(data)) == data


async def test_an_end_is_passed_on_and_the_other_direction_goes_on(proxy, client, echo):
    await client.send_all(b"last words")
    await client.send_eof()
    assert await hear(client, 10) == b"last words"
    assert await receive(client) == b""
    await proxy.until(lambda: proxy.connections == 0)
    assert echo.ends == 1


async def test_reset_resets_every_connection_and_the_next_one_works(proxy, client):
    async with client_of(proxy) as other:
        await ask(client, b"a")
        await ask(other, b"b")
        proxy.reset()
        for stream in (client, other):
            with pytest.raises(trio.BrokenResourceError) as caught:
                await receive(stream)
            assert isinstance(caught.value.__cause__, ConnectionResetError)
    async with client_of(proxy) as third:
        assert await ask(third, b"c") == b"c"


async def test_hang_up_is_an_orderly_end(proxy, client):
    await ask(client, b"a")
    proxy.hang_up()
    assert await receive(client) == b""


async def test_new_connections_are_refused_and_old_ones_live(proxy, client):
    await ask(client, b"a")
    proxy.refuse(True)
    with pytest.raises((trio.BrokenResourceError, OSError)):
        async with client_of(proxy) as other:
            await receive(other)
    assert await ask(client, b"b") == b"b"
    assert (proxy.accepted, proxy.connections) == (2, 1)
    proxy.refuse(False)
    async with client_of(proxy) as other:
        assert await ask(other, b"c") == b"c"


async def test_nothing_leaves_a_black_hole_until_it_is_closed(proxy, client, echo):
    await ask(client, b"a")
    proxy.black_hole(True)
    await client.send_all(b"bc")
    assert await is_silent(client)
    assert echo.heard == b"a"
    proxy.black_hole(False)
    assert await hear(client, 2) == b"bc"


async def test_a_connection_made_in_a_black_hole_opens_and_hears_nothing(proxy, echo):
    proxy.black_hole(True)
    async with client_of(proxy) as client:
        await client.send_all(b"a")
        assert await is_silent(client)
        assert (echo.heard, proxy.connections) == (b"", 1)
        proxy.black_hole(False)
        assert await hear(client, 1) == b"a"


async def test_a_black_hole_for_replies_lets_requests_through(proxy, client, echo):
    proxy.black_hole(True, "replies")
    await client.send_all(b"done?")
    await proxy.until(lambda: proxy.requests == 5)
    assert await is_silent(client)
    assert (echo.heard, proxy.replies) == (b"done?", 0)
    proxy.black_hole(False, "replies")
    assert await hear(client, 5) == b"done?"


async def test_the_end_of_a_client_does_not_leave_a_black_hole(proxy, client, echo):
    await ask(client, b"a")
    proxy.black_hole(True)
    await client.aclose()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert (echo.ends, proxy.connections) == (0, 1)
    proxy.black_hole(False)
    await proxy.until(lambda: proxy.connections == 0)


def test_a_black_hole_has_no_third_direction():
    async def main():
        async with open_proxy("127.0.0.1", 1) as proxy:
            with pytest.raises(ValueError, match="sideways"):
                proxy.black_hole(True, "sideways")

    trio.run(main)


async def test_a_slice_is_received_on_its_own_both_ways(proxy, client, echo):
    proxy.slice(1)
    await client.send_all(b"one by one")
    sizes = [len(await receive(client)) for _ in range(10)]
    assert sizes == echo.sizes == [1] * 10
    proxy.slice(None)
    await ask(client, b"together")
    assert echo.sizes[10:] == [8]


async def test_latency_is_added_each_way_and_does_not_hold_up_what_follows(proxy, client):
    proxy.delay(0.2)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send():
            for number in range(5):
                await client.send_all(b"%d" % number)
                await trio.sleep(0.02)

        assert await hear(client, 5) == b"01234"
    took = trio.current_time() - began
    assert 0.4 <= took < 5 * 0.4


async def test_bandwidth_is_limited(proxy, client):
    proxy.bandwidth(10_000)
    began = trio.current_time()
    await ask(client, b"x" * 3000)
    assert trio.current_time() - began >= 0.3
    proxy.bandwidth(None)
    began = trio.current_time()
    await ask(client, b"x" * 60_000)
    assert trio.current_time() - began < 3.0


async def test_replies_are_lost_from_a_moment_while_requests_arrive(proxy, client, echo):
    proxy.drop_replies_after(3)
    await client.send_all(b"abcde")
    await proxy.until(lambda: proxy.dropped == 2)
    assert await receive(client) == b"abc"
    await client.send_all(b"fg")
    await proxy.until(lambda: proxy.dropped == 4)
    assert await is_silent(client)
    assert echo.heard == b"abcdefg"
    proxy.drop_replies_after(None)
    assert await ask(client, b"h") == b"h"


async def test_a_reply_is_lost_with_its_connection_and_the_next_one_works(proxy, client, echo):
    await ask(client, b"a")
    proxy.drop_replies_after(0, then_reset=True)
    await client.send_all(b"commit")
    with pytest.raises(trio.BrokenResourceError):
        await receive(client)
    assert echo.heard == b"acommit"
    async with client_of(proxy) as other:
        assert await ask(other, b"b") == b"b"


async def test_a_request_is_cut_in_two_once(proxy, client, echo):
    proxy.cut_requests_after(4)
    await client.send_all(b"half of it")
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await receive(client)
    assert b"half".startswith(echo.heard)  # a reset may overtake what has not been read
    async with client_of(proxy) as other:
        assert await ask(other, b"whole") == b"whole"


async def test_a_server_that_is_down_resets_the_client():
    async with open_proxy("127.0.0.1", 1) as proxy, client_of(proxy) as client:
        with pytest.raises(trio.BrokenResourceError):
            await receive(client)
        await proxy.until(lambda: proxy.connections == 0)


async def test_the_proxy_takes_the_servers_place_in_a_url(proxy):
    host, port = proxy._server
    url = f"redis://:secret@{host}:{port}/3?name=x"
    assert proxy.instead(url) == f"redis://:secret@127.0.0.1:{proxy.port}/3?name=x"
    with pytest.raises(ValueError, match="is not in this URL"):
        proxy.instead("redis://elsewhere:1/3")


class OwnError(Exception):
    pass


async def test_what_the_block_raises_is_raised_as_it_is_and_everything_is_closed(echo, nursery):
    (listener,) = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
    with pytest.raises(OwnError):
        async with open_proxy("127.0.0.1", listener.socket.getsockname()[1]) as proxy:
            client = await trio.open_tcp_stream(proxy.host, proxy.port)
            await ask(client, b"a")
            raise OwnError
    async with client:
        with pytest.raises(trio.BrokenResourceError):
            while await receive(client):
                pass
            raise trio.BrokenResourceError  # an orderly end is as good
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream(proxy.host, proxy.port)
    with trio.fail_after(10):
        while not echo.ends:
            await trio.testing.wait_all_tasks_blocked()


async def test_leaving_cancelled_closes_everything(echo, nursery):
    (listener,) = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
    with trio.CancelScope() as scope:
        async with open_proxy("127.0.0.1", listener.socket.getsockname()[1]) as proxy, client_of(proxy) as client:
            await ask(client, b"a")
            proxy.black_hole(True)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert proxy.connections == 0
