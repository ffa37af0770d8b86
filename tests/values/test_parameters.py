import inspect

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trepid.errors import ArgumentsError
from trepid.values.context import Context
from trepid.values.envelope import seal, unseal
from trepid.values.parameters import compiled

PREFIXES = {
    inspect.Parameter.POSITIONAL_ONLY: "p",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "n",
    inspect.Parameter.KEYWORD_ONLY: "k",
}


def written(signature):
    """A function with this signature."""
    space = {}
    exec(f"def made{signature}: pass", space)
    return space["made"]


@st.composite
def signatures(draw):
    parameters = []
    defaults = False
    for kind, prefix in PREFIXES.items():
        if prefix == "k" and draw(st.booleans()):
            parameters.append(inspect.Parameter("more", inspect.Parameter.VAR_POSITIONAL, annotation=int))
        for number in range(draw(st.integers(0, 3))):
            default = draw(st.booleans()) if prefix == "k" else defaults or draw(st.booleans())
            defaults = defaults if prefix == "k" else default
            parameters.append(
                inspect.Parameter(
                    f"{prefix}{number}", kind, annotation=int, default=0 if default else inspect.Parameter.empty
                )
            )
    if draw(st.booleans()):
        parameters.append(inspect.Parameter("rest", inspect.Parameter.VAR_KEYWORD, annotation=int))
    return inspect.Signature(parameters)


NAMES = st.sampled_from([f"{prefix}{number}" for prefix in "pnk" for number in range(3)] + ["more", "rest", "other"])


def envelope(args=(), kwargs=None):
    return unseal(seal("made", tuple(args), kwargs or {}, retries=None, timeout=None, headers={}))


@given(signatures(), st.lists(st.integers(0, 9), max_size=7), st.dictionaries(NAMES, st.integers(0, 9), max_size=5))
def test_binding_is_pythons_own(signature, args, kwargs):
    parameters = compiled(written(signature), "made")
    try:
        written(signature)(*args, **kwargs)
    except TypeError:
        with pytest.raises(ArgumentsError):
            parameters.read(envelope(args, kwargs))
    else:
        assert parameters.read(envelope(args, kwargs)) == (args, kwargs)


@pytest.mark.parametrize(
    ("head", "args", "kwargs"),
    [
        ("(a: int, /, **rest: int)", [], {"a": 1}),
        ("(a: int, /, **rest: int)", [1], {"a": 2}),
        ("(a: int, /, b: int = 0, **rest: int)", [1, 2], {"a": 2}),
        ("(a: int, /, b: int = 0, **rest: int)", [1, 2], {"b": 2}),
        ("(a: int = 0, /, **rest: int)", [], {"a": 1}),
        ("(a: int = 0, /)", [], {"a": 1}),
        ("(*more: int, a: int)", [1, 2], {"a": 3}),
        ("(*more: int, a: int)", [1, 2], {"more": 3, "a": 3}),
        ("(**rest: int)", [], {"rest": 1}),
    ],
)
def test_binding_is_pythons_own_at_the_corners(head, args, kwargs):
    made = written(head)
    try:
        made(*args, **kwargs)
    except TypeError:
        with pytest.raises(ArgumentsError):
            compiled(made, "made").read(envelope(args, kwargs))
    else:
        assert compiled(made, "made").read(envelope(args, kwargs)) == (args, kwargs)


@given(signatures())
def test_a_context_is_no_parameter(signature):
    first = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_ONLY)
    with_context = inspect.Signature([first, *signature.parameters.values()]) if _fits(first, signature) else None
    if with_context is None:
        return
    function = written(with_context)
    function.__annotations__["ctx"] = Context
    parameters = compiled(function, "made")
    assert parameters.takes_context
    assert parameters.signature.parameters == {
        name: parameter.replace(annotation=int) for name, parameter in signature.parameters.items()
    }


def _fits(first, signature):
    try:
        inspect.Signature([first, *signature.parameters.values()])
    except ValueError:
        return False
    return True


class Point(msgspec.Struct):
    x: int


def draw(point: Point, size: int = 1, *more: Point, colour: str = "red", **rest: float) -> Point:
    return point


def test_arguments_are_converted_by_their_annotations():
    read = compiled(draw, "draw").read
    args, kwargs = read(envelope([{"x": 1}, 2, {"x": 3}], {"colour": "blue", "weight": 1}))
    assert args == [Point(1), 2, Point(3)]
    assert kwargs == {"colour": "blue", "weight": 1.0}
    assert read(envelope([], {"point": {"x": 1}})) == ([], {"point": Point(1)})


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ([], {}, "missing point"),
        ([], {"size": 2}, "missing point"),
        ([{"x": "1"}], {}, r"point: Expected `int`, got `str` - at `\$.x`"),
        ([{"x": 1}, "2"], {}, "size: Expected `int`"),
        ([{"x": 1}, 2, 3], {}, r"\*\[0\]: Expected `object`"),
        ([{"x": 1}], {"point": {"x": 1}}, "point is given twice"),
        ([{"x": 1}], {"weight": "heavy"}, "weight: Expected `float`"),
    ],
)
def test_what_does_not_fit_is_named(args, kwargs, reason):
    with pytest.raises(ArgumentsError, match=rf"arguments do not fit actor 'draw': {reason}"):
        compiled(draw, "draw").read(envelope(args, kwargs))


def plain(a: int) -> None: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ([1, 2], {}, "2 positional arguments, 1 expected"),
        ([1], {"b": 1}, "unexpected argument 'b'"),
        ([], {"b": 1}, "missing a"),
    ],
)
def test_what_is_too_much_is_named(args, kwargs, reason):
    with pytest.raises(ArgumentsError, match=reason):
        compiled(plain, "plain").read(envelope(args, kwargs))


@pytest.mark.parametrize("text", ['"args":{}', '"args":5', '"kwargs":[]', '"kwargs":null', '"args":[}'])
def test_arguments_of_the_wrong_shape_do_not_fit(text):
    payload = f'{{"v":1,"actor":"plain",{text}}}'.encode()
    try:
        found = unseal(payload)
    except ValueError:
        return
    with pytest.raises(ArgumentsError):
        compiled(plain, "plain").read(found)


def nothing() -> None: ...


def test_no_arguments_fit_a_function_without_parameters():
    assert compiled(nothing, "nothing").read(envelope()) == ([], {})
    assert compiled(nothing, "nothing").read(unseal(b'{"v":1,"actor":"a","args":[],"kwargs":{}}')) == ([], {})
    with pytest.raises(ArgumentsError, match="1 positional arguments, 0 expected"):
        compiled(nothing, "nothing").read(envelope([1]))


def test_a_result_is_read_by_its_annotation():
    assert compiled(draw, "draw").read_result(b'{"x":1}') == Point(1)
    assert compiled(lambda: 0, "free").read_result(b'{"x":1}') == {"x": 1}


def test_a_converter_that_raises_is_the_jobs_fault():
    class Even(msgspec.Struct):
        n: int

        def __post_init__(self):
            if self.n % 2:
                raise ValueError("odd")

    def halve(even): ...

    halve.__annotations__ = {"even": Even}
    with pytest.raises(ArgumentsError, match="even: odd"):
        compiled(halve, "halve").read(envelope([{"n": 3}]))
