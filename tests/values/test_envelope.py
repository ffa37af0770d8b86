import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trepid.errors import EnvelopeError
from trepid.values import codec, envelope
from trepid.values.envelope import Envelope, actor_of, arguments_of, seal, unseal

from .test_codec import PLAIN, TEXTS

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}", fullmatch=True)
ENVELOPES = st.builds(
    seal,
    NAMES,
    st.lists(PLAIN, max_size=4).map(tuple),
    st.dictionaries(TEXTS, PLAIN, max_size=4),
    retries=st.none() | st.integers(0, 2**63),
    timeout=st.none() | st.floats(0.001, 1e9),
    headers=st.dictionaries(TEXTS, TEXTS, max_size=3),
)


def good(**members):
    return json.dumps({"v": 1, "actor": "greet", **members}).encode()


def read(payload):
    """Read a payload as everybody does who does not know the actor; only EnvelopeError may come out."""
    try:
        found = unseal(payload)
    except EnvelopeError:
        assert actor_of(payload) is None
        return
    assert isinstance(found, Envelope)
    assert found.v == envelope.VERSION
    assert isinstance(found.actor, str)
    assert found.retries is None or found.retries >= 0
    assert found.timeout is None or found.timeout > 0
    try:
        args, kwargs = arguments_of(payload)
    except EnvelopeError:
        return
    assert isinstance(args, list)
    assert isinstance(kwargs, dict)


@given(
    NAMES,
    st.lists(PLAIN, max_size=4).map(tuple),
    st.dictionaries(TEXTS, PLAIN, max_size=4),
    st.fixed_dictionaries(
        {
            "retries": st.none() | st.integers(0, 2**63),
            "timeout": st.none() | st.floats(0.001, 1e9),
            "headers": st.dictionaries(TEXTS, TEXTS, max_size=3),
        }
    ),
)
def test_what_is_sealed_comes_back(actor, args, kwargs, said):
    payload = seal(actor, args, kwargs, **said)
    found = unseal(payload)
    assert (found.v, found.actor) == (1, actor)
    assert {"retries": found.retries, "timeout": found.timeout, "headers": found.headers} == said
    assert arguments_of(payload) == (list(args), kwargs)
    assert actor_of(payload) == actor
    assert found.bare == (not args and not kwargs) or found.args == b"[]"


def test_the_format_is_this():
    payload = seal("greet", ("Trio",), {"mark": "!"}, retries=3, timeout=30.0, headers={"trace": "4bf9"})
    assert json.loads(payload) == {
        "v": 1,
        "actor": "greet",
        "args": ["Trio"],
        "kwargs": {"mark": "!"},
        "retries": 3,
        "timeout": 30.0,
        "headers": {"trace": "4bf9"},
    }


def test_what_is_not_said_is_left_out():
    assert json.loads(seal("greet", (), {}, retries=None, timeout=None, headers={})) == {"v": 1, "actor": "greet"}


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x80\x04\x95.")
@example(b"null")
@example(b"[]")
def test_any_bytes_are_an_envelope_or_an_envelope_error(payload):
    read(payload)


@given(ENVELOPES, st.randoms(use_true_random=False))
def test_mutated_envelopes_are_envelopes_or_envelope_errors(payload, dice):
    mutated = bytearray(payload)
    for _ in range(dice.randint(1, 4)):
        match dice.randrange(4):
            case 0:
                mutated[dice.randrange(len(mutated))] = dice.randrange(256)
            case 1:
                del mutated[dice.randrange(len(mutated)) :]
                mutated += b"}"
            case 2:
                mutated.insert(dice.randrange(len(mutated)), dice.choice(b'"{}[],:\\0e-'))
            case 3:
                start = dice.randrange(len(mutated))
                mutated[start:start] = mutated[start : start + 9]
        mutated = mutated or bytearray(b"{")
    read(bytes(mutated))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "v": PLAIN | st.just(1),
            "actor": PLAIN | st.just("greet"),
            "args": PLAIN,
            "kwargs": PLAIN,
            "retries": PLAIN,
            "timeout": PLAIN,
            "headers": PLAIN,
            "later": PLAIN,
        },
    )
)
def test_wrong_types_are_envelopes_or_envelope_errors(members):
    read(codec.encode(members))


DEEP = 200_000
ODD = {
    "deep array": b'{"v":1,"actor":"a","args":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep object": b'{"v":1,"actor":"a","kwargs":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "deep unknown member": b'{"v":1,"actor":"a","x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "unclosed": b'{"v":1,"actor":"a","args":' + b"[" * DEEP,
    "huge version": b'{"v":' + b"1" * 5000 + b',"actor":"a"}',
    "huge retries": b'{"v":1,"actor":"a","retries":' + b"1" * 5000 + b"}",
    "huge argument": b'{"v":1,"actor":"a","args":[' + b"1" * 5000 + b"]}",
    "huge timeout": b'{"v":1,"actor":"a","timeout":1e999}',
    "NaN": b'{"v":1,"actor":"a","timeout":NaN}',
    "NaN argument": b'{"v":1,"actor":"a","args":[NaN,Infinity]}',
    "lone surrogate": b'{"v":1,"actor":"a\\ud800"}',
    "lone surrogate argument": b'{"v":1,"actor":"a","args":["\\udfff"]}',
    "surrogate bytes": b'{"v":1,"actor":"a","args":["\xed\xa0\x80"]}',
    "byte order mark": b'\xef\xbb\xbf{"v":1,"actor":"a"}',
    "UTF-16": '{"v":1,"actor":"a"}'.encode("utf-16"),
    "NUL": b'{"v":1,"actor":"a\x00"}',
    "trailing": b'{"v":1,"actor":"a"} {}',
    "two": b'{"v":1,"actor":"a"}{"v":1,"actor":"a"}',
    "duplicate members": b'{"v":1,"actor":"a","actor":"b","args":[1],"args":[2]}',
    "duplicate version": b'{"v":2,"v":1,"actor":"a"}',
    "float version": b'{"v":1.5,"actor":"a"}',
    "true version": b'{"v":true,"actor":"a"}',
    "pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_payloads_are_envelopes_or_envelope_errors(name):
    read(ODD[name])


@pytest.mark.parametrize(
    "name",
    [
        *("unclosed", "huge timeout", "NaN", "lone surrogate", "byte order mark", "UTF-16", "NUL", "trailing", "two"),
        *("float version", "true version", "pickle", "deep unknown member"),
    ],
)
def test_these_are_no_envelopes(name):
    with pytest.raises(EnvelopeError):
        unseal(ODD[name])


LINK = {"queue": "q", "job": {"v": 1, "actor": "a"}}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (good(v=3), r"the envelope has version 3; this worker reads versions 1 and 2"),
        (b'{"v":3,"actor":5,"new":[]}', r"the envelope has version 3"),
        (b'{"v":0}', r"the envelope has version 0"),
        (good(v=2, previous=[0]), "waits for the result of a job before it"),
        (good(v=2, then=[{"queue": "q", "job": {"v": 3, "actor": "a"}}]), "the envelope has version 3"),
        (good(v=2, then=[{"queue": "q", "job": {"v": 1, "actor": "a", "timeout": 0}}]), "retries and timeout"),
        (good(v=2, then=[{"queue": "q", "job": {"v": 2, "actor": "a", "then": [LINK]}}]), "no follow-ups of its own"),
        (good(v=2, then=[{"job": {"v": 1, "actor": "a"}}]), "not an envelope: .*queue"),
        (good(retries=-1), "retries and timeout must not be negative"),
        (good(timeout=-1), "retries and timeout must not be negative"),
        (good(timeout=0), "retries and timeout"),
        (good(actor=None), "not an envelope: .*actor"),
        (b'{"v":1}', "not an envelope: .*actor"),
        (b'{"actor":"greet"}', "not an envelope: .*`v`"),
        (b"", "not an envelope"),
        (b" " * (codec.LARGEST + 1), "the envelope has 1,048,577 bytes, more than 1,048,576"),
    ],
)
def test_the_reason_is_readable(payload, reason):
    with pytest.raises(EnvelopeError, match=reason):
        unseal(payload)


def test_later_members_are_ignored():
    assert unseal(good(colour="red", deep={"a": [1]})).actor == "greet"


@pytest.mark.parametrize("members", [{"args": {}}, {"kwargs": []}, {"args": "ab"}, {"kwargs": None}])
def test_arguments_of_the_wrong_shape(members):
    with pytest.raises(EnvelopeError, match="args must be an array, kwargs an object"):
        arguments_of(good(**members))


@pytest.mark.parametrize("name", ["", "1a", "a b", "a\n", "x" * 101])
def test_an_actor_that_is_no_name_is_not_shown(name):
    assert actor_of(good(actor=name)) is None


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((1, object()), {}, TypeError, r"argument 2 \(object\)"),
        ((), {"a": 1, "b": object()}, TypeError, r"argument b \(object\)"),
        ((float("nan"),), {}, ValueError, r"argument 1 \(float\): a number is not finite"),
        ((), {"text": "\ud800"}, ValueError, r"argument text \(str\)"),
        ((1,), {"\ud800": 1}, ValueError, "surrogates"),
    ],
)
def test_an_argument_that_cannot_travel_is_named(args, kwargs, error, message):
    with pytest.raises(error, match=message):
        seal("greet", args, kwargs, retries=None, timeout=None, headers={})
