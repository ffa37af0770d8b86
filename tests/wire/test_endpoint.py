"""Getting a stream to a server, and saying in one sentence why there is none."""

import ssl
from functools import partial

import pytest
import trio

from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.endpoint import Endpoint


async def echo(stream):
    async with stream:
        async for data in stream:
            await stream.send_all(data)


async def said_back(stream):
    async with stream:
        await stream.send_all(b"hello")
        return await stream.receive_some()


async def serve(nursery, handler=echo):
    [listener] = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
    return listener.socket.getsockname()[1]


def server_side(certificates):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    return context


async def serve_tls(nursery, certificates):
    async def handler(stream):
        try:
            await echo(trio.SSLStream(stream, server_side(certificates), server_side=True))
        except trio.BrokenResourceError:
            await stream.aclose()

    return await serve(nursery, handler)


async def test_a_plain_stream(nursery):
    port = await serve(nursery)
    assert await said_back(await Endpoint("echo://here", port=port).connect()) == b"hello"


async def test_a_unix_socket(nursery, tmp_path):
    socket = trio.socket.socket(trio.socket.AF_UNIX)
    await socket.bind(str(tmp_path / "echo.sock"))
    socket.listen()
    nursery.start_soon(trio.serve_listeners, echo, [trio.SocketListener(socket)])
    assert await said_back(await Endpoint("echo://here", path=str(tmp_path / "echo.sock")).connect()) == b"hello"


async def test_an_encrypted_stream(nursery, certificates):
    port = await serve_tls(nursery, certificates)
    assert await said_back(await Endpoint("echo://here", port=port, tls=certificates.context()).connect()) == b"hello"


async def test_nobody_is_there(ground, tmp_path):
    with pytest.raises(BrokerLostError, match=r"echo://here: nobody answers there \(.*refused"):
        await Endpoint("echo://here", port=ground.free_port()).connect()
    with pytest.raises(BrokerLostError, match=r"echo://here: nobody answers there \(No such file"):
        await Endpoint("echo://here", path=str(tmp_path / "no.sock")).connect()
    with pytest.raises(BrokerLostError, match="echo://here: nobody answers there"):
        await Endpoint("echo://here", host="no-such-host.invalid", port=1).connect()


async def test_a_certificate_for_somebody_else(nursery, certificates):
    port = await serve_tls(nursery, certificates)
    endpoint = Endpoint("echo://here", host="127.0.0.2", port=port, tls=certificates.context())
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with pytest.raises(BrokerRefusedError, match=r"echo://here: its certificate does not hold: .*127\.0\.0\.2"):
            await endpoint.encrypted(stream)


async def test_a_certificate_of_nobody_we_trust(nursery, certificates):
    port = await serve_tls(nursery, certificates)
    with pytest.raises(BrokerRefusedError, match="its certificate does not hold: unable to get local issuer"):
        await Endpoint("echo://here", port=port, tls=ssl.create_default_context()).connect()


async def test_a_server_that_speaks_no_tls(nursery, certificates):
    port = await serve(nursery)
    with pytest.raises(BrokerRefusedError, match="does it listen for TLS on this port"):
        await Endpoint("echo://here", port=port, tls=certificates.context()).connect()


async def test_a_server_that_hangs_up_in_the_handshake(nursery, certificates):
    async def hang_up(stream):
        await stream.receive_some()
        await stream.aclose()

    port = await serve(nursery, hang_up)
    with pytest.raises((BrokerLostError, BrokerRefusedError), match=r"echo://here: .*TLS"):
        await Endpoint("echo://here", port=port, tls=certificates.context()).connect()


async def test_a_server_that_accepts_and_says_nothing(monkeypatch, nursery, certificates):
    async def say_nothing(stream):
        async with stream:
            await trio.sleep_forever()

    monkeypatch.setattr("trepid.wire.endpoint.CONNECT_WITHIN", 0.05)
    port = await serve(nursery, say_nothing)
    with pytest.raises(BrokerLostError, match=r"echo://here: no connection within 0.05 s"):
        await Endpoint("echo://here", port=port, tls=certificates.context()).connect()
