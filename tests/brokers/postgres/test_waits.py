"""Every wait for a server ends, also where something accepts connections and then says nothing, or not enough."""

import threading
import time
from functools import partial

import pytest
import trio

from tests.brokers.postgres.kit import new_broker, our_threads, put, take
from tests.servers.proxy import open_proxy
from trepid.brokers.postgres import PostgreSQLBroker, link
from trepid.errors import BrokerLostError

# What a server says on the way to a session, each time less than all.
SAYS = {
    "nothing": [],
    "no TLS": [b"N"],
    "welcome": [b"N", b"R\x00\x00\x00\x08\x00\x00\x00\x00"],
    "half a word": [b"N", b"R\x00\x00"],
    "ready": [b"N", b"R\x00\x00\x00\x08\x00\x00\x00\x00Z\x00\x00\x00\x05I"],
}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(link, "PATIENCE", 0.5)


@pytest.mark.parametrize("what", SAYS)
async def test_a_server_that_is_half_up_is_lost(what, quick):
    async def serve(stream):
        for word in SAYS[what]:
            await stream.receive_some(4096)
            await stream.send_all(word)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        start = time.monotonic()
        with trio.fail_after(20), pytest.raises(BrokerLostError):
            async with PostgreSQLBroker(f"postgresql://u@127.0.0.1:{port}/x?connect_timeout=2").open():
                raise AssertionError("never")
        assert time.monotonic() - start < 15
        nursery.cancel_scope.cancel()
    assert not our_threads()


async def test_a_session_behind_a_black_hole_answers_and_ends(postgres_server, quick):
    """Each operation, alone and among others, and leaving the session: all end while the wire swallows everything."""
    before = threading.active_count()
    async with open_proxy(postgres_server.host, postgres_server.port) as proxy:
        url = proxy.instead(postgres_server.url)
        broker = new_broker(postgres_server, url=url, more="&connect_timeout=2")
        async with broker.open() as session:
            await session.declare(["q"])
            await put(session, "m")
            proxy.black_hole(True)
            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    for ask in (lambda: put(session, "n"), lambda: take(session), lambda: session.stats("q")):

                        @nursery.start_soon
                        async def one(ask=ask):
                            with pytest.raises(BrokerLostError):
                                await ask()

                    await trio.lowlevel.checkpoint()

            proxy.black_hole(False)
            proxy.reset()
            with trio.fail_after(20):
                while True:
                    try:
                        await put(session, "o")
                        break
                    except BrokerLostError:
                        await trio.sleep(0.05)
            proxy.black_hole(True)
            start = time.monotonic()
        assert time.monotonic() - start < 12
    assert threading.active_count() <= before
