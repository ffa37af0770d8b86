"""A connection to NATS: logging in, TLS, several servers, lost and late replies, and a server that leaves."""

from functools import partial

import nkeys
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.servers.proxy import open_proxy
from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.wire.nats.address import Address
from trepid.wire.nats.connection import NoRespondersError, Question
from trepid.wire.nats.dialling import Dialler


def dial(url):
    return Dialler(Address.parse(url)).dial()


async def echo(connection, subject="echo"):
    """Answer what is asked."""
    connection.subscribe(subject, lambda message: connection.say(message.reply, message.payload))
    await connection.round_trip()


async def test_questions_are_answered(nats_server):
    async with dial(nats_server.url) as connection:
        await echo(connection)
        answers = await connection.ask_all([Question("echo", b"%d" % n) for n in range(2000)])
        assert [answer.payload for answer in answers] == [b"%d" % n for n in range(2000)]


async def test_nobody_listens(nats_server):
    async with dial(nats_server.url) as connection:
        with pytest.raises(NoRespondersError):
            await connection.ask(Question("nobody.there"))


async def test_no_answer_at_all_is_a_loss(nats_server):
    async with dial(nats_server.url) as connection:
        connection.subscribe("silent", lambda message: None)
        await connection.round_trip()
        with pytest.raises(BrokerLostError, match=r"no answer within 0\.2 s"):
            await connection.ask(Question("silent"), within=0.2)
        assert connection.link.error is None


async def test_a_late_answer_reaches_nobody(nats_server):
    async with dial(nats_server.url) as connection:
        asked = []
        connection.subscribe("slow", asked.append)
        await connection.round_trip()
        with trio.move_on_after(0.05) as scope:
            await connection.ask(Question("slow", b"first"))
        assert scope.cancelled_caught
        await echo(connection)
        connection.say(asked[0].reply, b"late")
        for n in range(100):
            assert (await connection.ask(Question("echo", b"%d" % n))).payload == b"%d" % n


async def test_cancelled_at_every_moment_nobody_gets_a_wrong_answer(nats_server):
    async with dial(nats_server.url) as connection:
        await echo(connection)
        for moment in range(200):
            with trio.CancelScope() as scope, trio.CancelScope() as inner:
                async with trio.open_nursery() as nursery:

                    async def cancel(scope=inner, moment=moment):
                        for _ in range(moment % 20):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

                    nursery.start_soon(cancel)
                    await connection.ask_all([Question("echo", b"x%d" % n) for n in range(5)])
            assert not scope.cancelled_caught
            assert (await connection.ask(Question("echo", b"%d" % moment))).payload == b"%d" % moment
        assert len(connection._questions) == 0


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"user": "worker", "password": "hunter2"}, "worker:wrong2@"),
        ({"user": "worker", "password": "hunter2"}, ""),
        ({"token": "hunter2"}, "wrong2@"),
    ],
)
async def test_who_may_not_come_in_is_refused(own_nats, options, wrong):
    server = own_nats(**options)
    async with dial(server.url) as connection:
        await connection.round_trip()
    with pytest.raises(BrokerRefusedError, match="Authorization Violation") as caught:
        async with dial(f"nats://{wrong}{server.host}:{server.port}"):
            pytest.fail("it let us in")
    assert "wrong2" not in f"{caught.value!r} {caught.value}"


def new_key():
    import os

    pair = nkeys.from_seed(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    return pair.public_key.decode(), bytes(pair.seed).decode()


async def test_a_key_signs_us_in(own_nats, tmp_path):
    public, seed = new_key()
    _, other = new_key()
    server = own_nats(nkey=public)
    for name, text in {
        "right": seed,
        "wrong": other,
        "damaged": f"{seed[:20]}{'B' if seed[20] == 'A' else 'A'}{seed[21:]}",
        "empty": "nothing",
    }.items():
        (tmp_path / name).write_text(f"{text}\n")
    where = f"nats://{server.host}:{server.port}?nkey={tmp_path}"
    async with dial(f"{where}/right") as connection:
        await connection.round_trip()
    for name, reason in {
        "wrong": "Authorization Violation",
        "damaged": "damaged|Authorization Violation",
        "empty": "no seed",
        "missing": "cannot be read",
    }.items():
        with pytest.raises(BrokerRefusedError, match=reason) as caught:
            async with dial(f"{where}/{name}"):
                pytest.fail("it let us in")
        assert seed not in str(caught.value)
        assert seed[:-4] not in str(caught.value)


async def test_tls_is_verified(own_nats, certificates):
    server = own_nats(tls=True)
    async with dial(f"{server.url}?cafile={certificates.ca}") as connection:
        await connection.round_trip()
    async with dial(f"nats://127.0.0.1:{server.port}?cafile={certificates.ca}") as connection:
        await connection.round_trip()  # the server insists
    with pytest.raises(BrokerRefusedError, match="certificate does not hold"):
        async with dial(server.url):
            pytest.fail("an unknown authority was believed")


async def test_tls_with_another_name_is_refused(own_nats, certificates, monkeypatch):
    monkeypatch.setattr("tests.servers.proxy.HOST", "127.0.0.2")
    server = own_nats(tls=True)
    async with open_proxy(server.host, server.port) as proxy:
        with pytest.raises(BrokerRefusedError, match="certificate does not hold"):
            async with dial(f"{proxy.instead(server.url)}?cafile={certificates.ca}"):
                pytest.fail("another host was believed")


async def test_tls_is_not_given_up(nats_server):
    with pytest.raises(BrokerRefusedError, match="does not speak TLS"):
        async with dial(nats_server.url.replace("nats://", "tls://")):
            pytest.fail("it went on in plain text")


async def test_nobody_there(nats_server):
    with pytest.raises(BrokerLostError, match="nobody answers there"):
        async with dial("nats://127.0.0.1:1"):
            pytest.fail("somebody is there")


async def test_what_is_no_nats_is_said_so(redis_server):
    with pytest.raises((BrokerRefusedError, BrokerLostError), match=r"NATS|nothing"):
        async with dial(f"nats://{redis_server.host}:{redis_server.port}"):
            pytest.fail("that is Redis")


async def test_a_dead_server_is_passed_over(nats_server):
    dialler = Dialler(Address.parse(f"nats://127.0.0.1:1,{nats_server.host}:{nats_server.port}"))
    for _ in range(3):
        async with dialler.dial() as connection:
            await connection.round_trip()


async def test_in_one_byte_slices(nats_server):
    async with open_proxy(nats_server.host, nats_server.port) as proxy:
        proxy.slice(1)
        async with dial(proxy.instead(nats_server.url)) as connection:
            await echo(connection)
            payload = bytes(range(256))
            assert (await connection.ask(Question("echo", payload))).payload == payload


async def test_who_waits_learns_of_a_reset(nats_server):
    async with (
        open_proxy(nats_server.host, nats_server.port) as proxy,
        dial(proxy.instead(nats_server.url)) as connection,
    ):
        connection.subscribe("silent", lambda message: None)
        ended = []
        connection.open_box(lambda message: None, lambda: ended.append(True))
        await connection.round_trip()
        async with trio.open_nursery() as nursery:

            async def ask():
                with pytest.raises(BrokerLostError):
                    await connection.ask(Question("silent"))

            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await wait_all_tasks_blocked(0.05)
            proxy.reset()
            with trio.fail_after(5):
                await connection.wait_lost()
        assert ended == [True]
        with pytest.raises(BrokerLostError):
            await connection.ask(Question("silent"))


async def test_too_large_a_message_ends_the_connection_and_says_why(own_nats):
    server = own_nats(options={"max_payload": "1KB"})
    async with dial(server.url) as connection:
        assert connection.largest == 1024
        connection.say("x", bytes(5000))
        with trio.fail_after(5):
            assert "Maximum Payload Violation" in str(await connection.wait_lost())


async def test_a_forbidden_subject_is_refused_and_the_rest_goes_on(own_nats):
    # The fixture's own authorization block is for one user without limits.
    permissions = '{ users: [ { user: a, password: b, permissions: { publish: ["echo", "_INBOX.>"] } } ] }'
    server = own_nats(options={"authorization": permissions})
    async with dial(f"nats://a:b@{server.host}:{server.port}") as connection:
        await echo(connection)
        with pytest.raises(BrokerRefusedError, match="Permissions Violation"):
            await connection.ask(Question("forbidden"))
        assert (await connection.ask(Question("echo", b"1"))).payload == b"1"


async def test_a_server_that_leaves_is_left(own_nats):
    server, other = own_nats(), own_nats()
    dialler = Dialler(Address.parse(f"{server.url},{other.host}:{other.port}"))
    async with dialler.dial() as connection:
        await echo(connection)
        server.lame_duck()
        with trio.fail_after(8):
            await connection.leaving.wait()
            assert "shutting down" in str(await connection.wait_lost())
    async with dialler.dial() as connection:
        await connection.round_trip()
        assert str(other.port) in connection.name


async def test_nonsense_behind_the_greeting_is_a_loss(nursery):
    async def speak(stream):
        async with stream:
            await stream.send_all(
                b'INFO {"server_id":"x","version":"2.9.10","headers":true,"jetstream":true}\r\nNONSENSE\r\n'
            )
            async for _ in stream:
                pass

    [listener] = await nursery.start(partial(trio.serve_tcp, speak, 0, host="127.0.0.1"))
    with pytest.raises(BrokerLostError, match="makes no sense"), trio.fail_after(10):
        async with dial(f"nats://127.0.0.1:{listener.socket.getsockname()[1]}"):
            pytest.fail("it is open")


def test_servers_that_are_named_no_more_are_forgotten():
    dialler = Dialler(Address.parse("nats://one:1,two:2"))
    for said in (["three:3", "two:2"], ["two:2", "four:4", "no host"]):
        dialler._learn({"connect_urls": said})
    assert dialler.hosts == [("one", 1), ("two", 2), ("four", 4)]
