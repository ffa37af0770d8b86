import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import uuid
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import attrs
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trepid.values import codec


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Struct(msgspec.Struct):
    a: int
    b: list["Struct"] = []


@dataclasses.dataclass
class Data:
    when: dt.datetime
    tags: set[str]


@attrs.define
class Attrs:
    price: decimal.Decimal


class Typed(TypedDict, total=False):
    id: uuid.UUID


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back(value):
    data = codec.encode(value)
    assert codec.decode(data) == value
    assert json.loads(data) == value


TYPED = [
    (int, st.integers(-(2**63), 2**63 - 1)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, TEXTS),
    (bytes, st.binary()),
    (bool, st.booleans()),
    (dt.datetime, st.datetimes() | st.datetimes(timezones=st.just(dt.UTC))),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas(dt.timedelta(-(10**6)), dt.timedelta(10**6))),
    (uuid.UUID, st.uuids()),
    (decimal.Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (Colour, st.just(Colour.RED)),
    (Point, st.builds(Point, st.integers(0, 9), st.integers(0, 9))),
    (Struct, st.builds(Struct, st.integers(0, 9), st.lists(st.builds(Struct, st.just(1)), max_size=2))),
    (Data, st.builds(Data, st.datetimes(), st.sets(TEXTS))),
    (Attrs, st.builds(Attrs, st.decimals(allow_nan=False, allow_infinity=False))),
    (Typed, st.fixed_dictionaries({"id": st.uuids()})),
    (Path, st.just(Path("a/b"))),
    (PurePosixPath, st.just(PurePosixPath("/x"))),
    (int | None, st.none() | st.integers(0, 9)),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (tuple[int, str], st.tuples(st.integers(0, 9), TEXTS)),
    (dict[str, list[int]], st.dictionaries(TEXTS, st.lists(st.integers(0, 9)))),
    (dict[int, Path], st.dictionaries(st.integers(0, 9), st.just(Path("p")))),
    (frozenset[int], st.frozensets(st.integers(0, 99))),
    (Annotated[int, msgspec.Meta(ge=0)], st.integers(0, 9)),
    (Any, PLAIN),
    (object, PLAIN),
]


@pytest.mark.parametrize(("annotation", "values"), TYPED, ids=lambda part: getattr(part, "__name__", None))
def test_typed_values_come_back(annotation, values):
    read = codec.decoder(annotation)

    @given(values)
    def comes_back(value):
        assert read(codec.encode(value)) == value

    comes_back()


@pytest.mark.parametrize("annotation", [annotation for annotation, _ in TYPED], ids=str)
def test_no_json_makes_a_decoder_raise_anything_odd(annotation):
    read = codec.decoder(annotation)

    @given(PLAIN)
    def raises_nothing_odd(value):
        with contextlib.suppress(ValueError):  # msgspec.ValidationError is one
            read(codec.encode(value))

    raises_nothing_odd()


ODD = [
    '"P999999999999D"',
    '"0000-00-00"',
    "1e308",
    "-1e308",
    '"1e999999999"',
    '"\\u0000"',
    str(10**30),
    '"' + "9" * 5000 + '"',
]


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[:20])
@pytest.mark.parametrize("annotation", [annotation for annotation, _ in TYPED], ids=str)
def test_extreme_json_is_a_value_or_a_value_error(annotation, text):
    with contextlib.suppress(ValueError):
        codec.decoder(annotation)(text.encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_value_error(data):
    with contextlib.suppress(ValueError):
        codec.decode(data)


def test_deep_nesting_is_an_error_and_no_crash():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply"):
        codec.encode(deep)
    with pytest.raises(ValueError, match="nested too deeply"):
        codec.decode(b"[" * 100_000 + b"]" * 100_000)
    while deep:  # else its destruction is as deep as itself
        deep = deep.pop()


def test_what_contains_itself_is_an_error():
    endless: list = []
    endless.append(endless)
    with pytest.raises(ValueError, match="contains itself"):
        codec.encode(endless)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "around",
    [
        lambda x: x,
        lambda x: [1, x],
        lambda x: {"a": [x]},
        lambda x: (None, x),
        lambda x: {"a": {x}},
        Attrs,
        lambda x: [None, {"null": [x]}],
    ],
)
def test_numbers_that_json_lacks_are_refused(number, around):
    with pytest.raises((ValueError, TypeError)):
        codec.encode(around(number))


def test_null_and_the_word_are_fine():
    for value in (None, "null", [None, 1.5], {"null": None}):
        assert codec.decode(codec.encode(value)) == value


@given(st.integers())
@example(10**25)
@example(-(10**5000))
def test_a_huge_number_comes_back_or_is_a_value_error(number):
    try:
        data = codec.encode(number)
    except ValueError:
        return
    assert codec.decode(data) == codec.decoder(int)(data) == number


@pytest.mark.parametrize("value", ["\ud800", ["\udfff"], {"\ud800": 1}])
def test_values_that_json_cannot_carry_are_value_errors(value):
    with pytest.raises(ValueError, match=r"."):
        codec.encode(value)


@pytest.mark.parametrize("value", [object(), 1j, lambda: 0, [object()], {"a": print}, {object(): 1}, type])
def test_types_that_json_cannot_carry_are_type_errors(value):
    with pytest.raises(TypeError):
        codec.encode(value)


class Unknown:
    pass


@pytest.mark.parametrize(
    "annotation",
    [Unknown, list[Unknown], dict[str, Unknown], Unknown | None, tuple[int, Unknown], complex, type, range],
)
def test_annotations_that_cannot_be_built_are_refused(annotation):
    with pytest.raises(TypeError, match=r"."):
        codec.decoder(annotation)


def test_a_refused_annotation_is_named():
    with pytest.raises(TypeError, match="the codec cannot build Unknown from JSON"):
        codec.decoder(list[Unknown])


def test_an_annotation_may_refer_to_itself():
    assert codec.decoder(Struct)(b'{"a":1,"b":[{"a":2}]}') == Struct(1, [Struct(2)])
