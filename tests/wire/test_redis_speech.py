"""RESP3 without a socket: any slicing of the bytes gives the same replies, and nonsense is an error."""

import itertools

import hiredis
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trepid.errors import BrokerLostError
from trepid.wire.link import ProtocolError
from trepid.wire.redis.speech import Speech, packed


def bulk(data):
    return b"$%d\r\n%s\r\n" % (len(data), data)


SIMPLE = st.one_of(
    st.integers(-(2**62), 2**62).map(lambda n: (b":%d\r\n" % n, n)),
    st.binary(max_size=60).map(lambda data: (bulk(data), data)),
    st.just((b"_\r\n", None)),
    st.booleans().map(lambda yes: (b"#t\r\n" if yes else b"#f\r\n", yes)),
)
ARRAYS = st.lists(SIMPLE, max_size=5).map(
    lambda items: (b"*%d\r\n" % len(items) + b"".join(raw for raw, _ in items), [value for _, value in items])
)
NEWS = st.binary(max_size=30).map(
    lambda said: (b">3\r\n" + bulk(b"message") + bulk(b"channel") + bulk(said), ("news", said))
)


async def all_of(replies):
    return [await reply.wait() for reply in replies]


@given(script=st.lists(st.one_of(SIMPLE, ARRAYS, NEWS), max_size=12), cuts=st.lists(st.integers(0, 400), max_size=20))
def test_any_slicing_gives_the_same(script, cuts):
    heard = []
    speech = Speech(lambda channel, said: heard.append((channel, said)))
    answers = [value for _, value in script if not (isinstance(value, tuple) and value[0] == "news")]
    replies = [speech.expect() for _ in answers]
    data = b"".join(raw for raw, _ in script)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in itertools.pairwise(edges):
        speech.received(data[start:end])
    assert trio.run(all_of, replies) == answers
    assert heard == [(b"channel", value[1]) for _, value in script if isinstance(value, tuple)]
    assert speech.outstanding == 0


@given(data=st.binary(min_size=1, max_size=200), questions=st.integers(0, 5))
def test_garbage_is_an_error_or_is_waited_for(data, questions):
    speech = Speech(lambda *_: None)
    replies = [speech.expect() for _ in range(questions)]
    try:
        speech.received(data)
    except ProtocolError:
        pass
    else:
        assert speech.outstanding == questions - sum(reply.arrived for reply in replies)
    # Whatever was understood of it, a loss leaves nobody waiting.
    speech.lost(BrokerLostError("lost"))
    assert all(reply.arrived for reply in replies)


def test_an_answer_that_nobody_asked_for_is_nonsense():
    with pytest.raises(ProtocolError, match="nobody asked for"):
        Speech(lambda *_: None).received(b"+OK\r\n")


async def test_errors_are_values():
    speech = Speech(lambda *_: None)
    one, two = speech.expect(), speech.expect()
    speech.received(b"-WRONGTYPE no\r\n*2\r\n-ERR inside\r\n:1\r\n")
    assert isinstance(await one.wait(), hiredis.ReplyError)
    assert str((await two.wait())[0]) == "ERR inside"


async def test_a_subscription_is_answered_by_a_push_or_refused_by_an_error():
    heard = []
    speech = Speech(lambda channel, said: heard.append((channel, said)))
    speech.expect_push()
    first = speech.expect()
    speech.expect_push()
    second = speech.expect()
    speech.received(b">3\r\n" + bulk(b"subscribe") + bulk(b"a") + b":1\r\n+one\r\n-NOPERM no\r\n+two\r\n")
    speech.received(b">3\r\n" + bulk(b"message") + bulk(b"a") + bulk(b"said"))
    assert (await first.wait(), await second.wait()) == (b"one", b"two")
    assert heard == [(b"a", b"said")]


def test_a_confirmation_without_a_subscription_is_nonsense():
    speech = Speech(lambda *_: None)
    speech.expect()
    with pytest.raises(ProtocolError, match="a subscription that nobody asked for"):
        speech.received(b">3\r\n" + bulk(b"subscribe") + bulk(b"a") + b":1\r\n")


async def test_who_comes_after_the_loss_hears_of_it():
    speech = Speech(lambda *_: None)
    speech.lost(BrokerLostError("gone"))
    with pytest.raises(BrokerLostError, match="gone"):
        await speech.expect().wait()


@given(words=st.lists(st.one_of(st.binary(max_size=50), st.text(max_size=20), st.integers()), min_size=1, max_size=8))
def test_commands_are_written_as_arrays(words):
    reader = hiredis.Reader()
    reader.feed(packed(*words))
    expected = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    assert reader.gets() == expected
