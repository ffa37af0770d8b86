import contextlib
import math
import string
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trepid.values.durations import LONGEST, seconds
from trepid.values.names import checked_id, checked_name
from trepid.values.queue import Priority, Queue, as_queue
from trepid.values.unique import Unique

SPANS = st.floats(0, LONGEST) | st.integers(0, int(LONGEST))


@given(SPANS)
def test_seconds_are_seconds(span):
    assert seconds(span, "delay") == span
    assert type(seconds(span, "delay")) is float


@given(st.timedeltas(timedelta(0), timedelta(days=400)))
def test_a_timedelta_is_its_seconds(span):
    assert seconds(span, "delay") == span.total_seconds()


@given(st.floats() | st.integers() | st.timedeltas() | st.just(10**400) | st.just(-(10**400)))
def test_any_number_is_a_span_or_an_error(value):
    with contextlib.suppress(ValueError):
        assert 0 <= seconds(value, "delay") <= LONGEST


@pytest.mark.parametrize("value", [True, False, "1", None, 1j, [1], b"1"])
def test_what_is_no_span_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"timeout must be seconds or a timedelta, not"):
        seconds(value, "timeout")


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (-1, "zero or more"),
        (-math.inf, "finite"),
        (math.inf, "finite"),
        (math.nan, "finite"),
        (timedelta(seconds=-1), "zero or more"),
        (LONGEST + 1, "at most 400 days"),
        (10**400, "at most 400 days"),
        (timedelta.max, "at most 400 days"),
    ],
)
def test_a_bad_span_is_told_its_rule(value, rule):
    with pytest.raises(ValueError, match=f"ttl must be {rule}, not"):
        seconds(value, "ttl")


def test_zero_may_be_refused():
    assert seconds(0, "delay") == 0
    with pytest.raises(ValueError, match="timeout must be more than zero, not 0"):
        seconds(0, "timeout", positive=True)


START = string.ascii_letters + "_"
REST = START + string.digits + "_.-"


@given(st.text(START, min_size=1, max_size=1), st.text(REST, max_size=99))
def test_names_that_match_are_names(first, rest):
    assert checked_name(first + rest, "name") == first + rest
    assert Queue(first + rest).name == str(Queue(first + rest)) == first + rest


@given(st.text(max_size=120))
def test_other_texts_are_no_names(text):
    good = 1 <= len(text) <= 100 and text[0] in START and all(char in REST for char in text)
    if good:
        assert checked_name(text, "name") == text
    else:
        with pytest.raises(ValueError, match=r"queue name .* must match"):
            checked_name(text, "queue name")


@pytest.mark.parametrize("name", ["", "a b", "1a", "-a", ".a", "a\n", "a" * 101, "\u00e9", "a\0", "\u0430", "a/b"])
def test_bad_names_are_shown(name):
    with pytest.raises(ValueError, match="at most 100 characters") as caught:
        Queue(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", [None, 5, b"a", ["a"], Queue("a")])
def test_a_name_is_a_string(name):
    with pytest.raises(TypeError, match="queue name must be a string, not"):
        Queue(name)


@given(st.text(REST + ":", min_size=1, max_size=128))
def test_ids_that_match_are_ids(text):
    assert checked_id(text) == text


@pytest.mark.parametrize("id", ["", "a b", "a\n", "a" * 129, "\u00e9", "a/b", "{a}", "a'"])
def test_bad_ids_are_told_the_rule(id):
    with pytest.raises(ValueError, match=r"must match .* at most 128 characters"):
        checked_id(id)


@pytest.mark.parametrize("id", [None, 5, b"a"])
def test_an_id_is_a_string(id):
    with pytest.raises(TypeError, match="id must be a string, not"):
        checked_id(id)


def test_a_queue_is_a_value():
    assert Queue() == Queue("default") == as_queue("default")
    assert len({Queue("a"), Queue("a"), Queue("b")}) == 2
    queue = Queue("a")
    assert as_queue(queue) is queue
    with pytest.raises(AttributeError):
        queue.name = "b"


def test_priorities_are_ordered():
    assert sorted(Priority) == [Priority.LOW, Priority.MEDIUM, Priority.HIGH]
    assert [int(priority) for priority in sorted(Priority)] == [0, 5, 9]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=256))
def test_any_text_is_a_key(key):
    assert Unique(key) == Unique(key, "existing")


@pytest.mark.parametrize(
    ("arguments", "error", "rule"),
    [
        (("",), ValueError, "1 to 256 characters, not 0"),
        (("k" * 257,), ValueError, "1 to 256 characters, not 257"),
        ((5,), TypeError, "unique key must be a string, not 5"),
        ((None,), TypeError, "unique key must be a string"),
        (("\ud800",), ValueError, r"unique key '\\ud800' cannot be written as UTF-8"),
        (("k", "ignore"), ValueError, "on_conflict must be one of existing, raise, replace, not 'ignore'"),
        (("k", None), ValueError, "on_conflict must be one of"),
    ],
)
def test_a_bad_key_is_told_its_rule(arguments, error, rule):
    with pytest.raises(error, match=rule):
        Unique(*arguments)
