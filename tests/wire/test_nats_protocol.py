"""The protocol of NATS without sockets: any slicing gives the same events, and garbage is refused with a reason."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trepid.wire.link import ProtocolError
from trepid.wire.nats import protocol
from trepid.wire.nats.address import Address, AddressError, announced
from trepid.wire.nats.protocol import Complaint, Info, Message, Okay, Parser, Ping, Pong

HEAD = b"NATS/1.0\r\nA: 1\r\n\r\n"
STREAM = (
    b'INFO {"version":"2.9.10"}\r\n'
    b"PING\r\n"
    b"MSG a.b 1 3\r\nabc\r\n"
    b"MSG a.b 1 reply.to 0\r\n\r\n"
    b"+OK\r\n"
    b"HMSG c 22 r %d %d\r\n%bxy\r\n" % (len(HEAD), len(HEAD) + 2, HEAD) + b"PONG\r\n"
    b"-ERR 'Stale Connection'\r\n"
    b"HMSG c 2 30 30\r\nNATS/1.0 503 No Responders\r\n\r\n\r\n"
)
EVENTS = [
    Info({"version": "2.9.10"}),
    Ping(),
    Message("a.b", 1, "", b"", b"abc"),
    Message("a.b", 1, "reply.to", b"", b""),
    Okay(),
    Message("c", 22, "r", HEAD, b"xy"),
    Pong(),
    Complaint("Stale Connection"),
    Message("c", 2, "", b"NATS/1.0 503 No Responders\r\n\r\n", b""),
]

EVENT_TYPES = tuple({type(event) for event in EVENTS})


def test_a_stream_is_read():
    parser = Parser()
    assert parser.feed(STREAM) == EVENTS
    assert parser.rest == b""


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_any_slicing_gives_the_same_events(cuts):
    parser, events, last = Parser(), [], 0
    for cut in [*sorted(cuts), len(STREAM)]:
        events += parser.feed(STREAM[last:cut])
        last = cut
    assert events == EVENTS


def test_one_byte_at_a_time():
    parser = Parser()
    assert [event for byte in STREAM for event in parser.feed(bytes([byte]))] == EVENTS


@given(st.binary(max_size=200))
def test_garbage_is_events_or_a_clear_error(data):
    with suppress(ProtocolError):
        assert all(isinstance(event, EVENT_TYPES) for event in Parser().feed(data))


@given(st.integers(0, len(STREAM) - 1), st.integers(0, 255))
def test_a_damaged_stream_is_events_or_a_clear_error(at, byte):
    damaged = bytearray(STREAM)
    damaged[at] = byte
    with suppress(ProtocolError):
        assert all(isinstance(event, EVENT_TYPES) for event in Parser().feed(bytes(damaged)))


@pytest.mark.parametrize(
    "line",
    [
        b"HELLO\r\n",
        b"MSG a 1\r\n",
        b"MSG a b c d e 1\r\n",
        b"MSG a x 1\r\n",
        b"MSG a 1 -5\r\n",
        b"MSG a 1 99999999999\r\n",
        b"MSG a 1 2\r\nabcde\r\n",
        b"HMSG a 1 9 3\r\nabc\r\n",
        b"HMSG a 1 4 4\r\nHTTP\r\n",
        b"INFO nothing\r\n",
        b"x" * 200_000,
    ],
)
def test_what_makes_no_sense_is_refused(line):
    with pytest.raises(ProtocolError):
        Parser().feed(line)


HEADERS = st.dictionaries(
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1),
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs", "Zs", "Cc"])),
    max_size=5,
)


@given(HEADERS, st.binary(max_size=50))
def test_headers_come_back(headers, payload):
    raw = protocol.headed(headers)
    sent = protocol.published("subject", payload, reply="to", raw=raw)
    (message,) = Parser().feed(sent.replace(b"HPUB subject to ", b"HMSG subject 7 to ", 1))
    assert message.headers == headers
    assert (message.payload, message.reply, message.status) == (payload, "to", 0)
    for name, value in headers.items():
        assert message.header(name.encode()) == value.encode()
    assert message.header(b"Not-There") is None


def test_a_status_is_a_number():
    message = Message("s", 1, "", b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 4\r\n\r\n", b"")
    assert (message.status, message.header(b"Nats-Pending-Messages")) == (408, b"4")


@pytest.mark.parametrize("headers", [{"a b": "1"}, {"a:": "1"}, {"": "1"}, {"a": "1\r\nb: 2"}, {"a": "1\n"}])
def test_headers_smuggle_nothing(headers):
    with pytest.raises(ValueError, match="no header"):
        protocol.headed(headers)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("nats://host", (("host", 4222),)),
        ("nats://a:1,b:2", (("a", 1), ("b", 2))),
        ("nats://u:p@a:1,b", (("a", 1), ("b", 4222))),
        ("nats://u:p@a,nats://b:7/", (("a", 4222), ("b", 7))),
        ("nats://[::1]:5", (("::1", 5),)),
    ],
)
def test_an_address_names_its_servers(url, hosts):
    assert Address.parse(url).hosts == hosts


def test_an_address_says_who_logs_in():
    login = Address.parse("nats://us%40er:p%2Cw@a,b").login
    assert (login.user, login.password) == ("us@er", "p,w")
    assert Address.parse("nats://s3cret@a").login.token == "s3cret"
    assert Address.parse("nats://a?creds=/x.creds&prefix=p").login.credentials_file == "/x.creds"
    assert Address.parse("nats://a?nkey=/x.nk").login.seed_file == "/x.nk"
    address = Address.parse("tls://user:hunter2@a:1,b?tls_first=yes&cafile=/ca.pem&prefix=p")
    assert (address.secure, address.tls_first, address.cafile, address.parameters) == (
        True,
        True,
        "/ca.pem",
        {"prefix": "p"},
    )
    assert str(address) == "tls://a:1,b:4222"
    assert "hunter2" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "nats:host",
        "nats://",
        "nats://a:0",
        "nats://a:99999",
        "nats://a:x",
        "nats://a/path",
        "nats://a?unknown=1",
        "nats://a?tls_first=perhaps",
        "nats://token@a?creds=x",
        "nats://u:p/w@a",
    ],
)
def test_what_is_no_address(url):
    with pytest.raises(AddressError):
        Address.parse(url)


def test_announced_servers_are_read_with_care():
    assert announced(["a:1", "[::1]:2", "no port:x", ""]) == [("a", 1), ("::1", 2)]
    assert announced(None) == []
