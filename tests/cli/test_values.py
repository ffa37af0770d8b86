"""What options and words mean."""

from datetime import UTC, datetime

import click
import pytest

from trepid.cli.enqueueing import parsed
from trepid.cli.epitaphs import last_words, story
from trepid.cli.failures import Failure, meant
from trepid.cli.ink import is_coloured, printable
from trepid.cli.options import MOMENT, SPAN
from trepid.cli.tables import iso, setting, span
from trepid.ports.messages import MessageView
from trepid.rules import verdicts
from trepid.rules.life import State


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("0.5", 0.5), ("500ms", 0.5), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("2D", 172800), (" 1s", 1)],
)
def test_spans_of_time(text, seconds):
    assert SPAN.convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "-5", "5 m x", "1h30", "10w", "1e3"])
def test_what_is_no_span_of_time(text):
    with pytest.raises(click.BadParameter):
        SPAN.convert(text, None, None)


def test_moments_know_their_time_zone():
    assert MOMENT.convert("2027-01-31T09:00Z", None, None) == datetime(2027, 1, 31, 9, tzinfo=UTC)
    with pytest.raises(click.BadParameter, match="time zone; write 2027-01-31T09:00Z"):
        MOMENT.convert("2027-01-31T09:00", None, None)
    with pytest.raises(click.BadParameter, match="no moment"):
        MOMENT.convert("tomorrow", None, None)


def test_words_become_arguments():
    words = ("1", '"text"', "[1, 2]", "null", "name=Trio", "count:=3", "empty=", "url=http://a/?b=c", 'o:={"a": 1}')
    assert parsed(words) == (
        [1, "text", [1, 2], None],
        {"name": "Trio", "count": 3, "empty": "", "url": "http://a/?b=c", "o": {"a": 1}},
    )


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("Trio", """for a text write '"Trio"', or name it: key=Trio"""),
        ("count:=three", "for a text write count=three"),
        ("{", "key={"),
    ],
)
def test_a_word_that_is_not_json(word, hint):
    with pytest.raises(Failure, match="not JSON") as caught:
        parsed((word,))
    assert caught.value.code == 2
    assert hint in caught.value.hint


def test_an_argument_twice():
    with pytest.raises(Failure, match="name is given twice"):
        parsed(("name=a", "name:=1"))


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("emial", ["email", "default"], "did you mean email?"),
        ("EMAIL", ["email"], "did you mean email?"),
        ("x", ["email"], "there is: email"),
        ("x", ["one", "other"], "there are: one, other"),
        ("x", [], ""),
    ],
)
def test_what_was_meant(name, known, hint):
    assert meant(name, known) == hint


def test_texts_of_strangers_cannot_move_the_cursor():
    assert printable("a\x1b[2Jb\rc\nd") == r"a\x1b[2Jb\rc\nd"
    assert printable("a\x1b[2J\nb", lines=True) == "a\\x1b[2J\nb"
    assert printable("grün, 日本, ✓") == "grün, 日本, ✓"


class Stream:
    def __init__(self, tty):
        self.isatty = lambda: tty


@pytest.mark.parametrize(
    ("tty", "environment", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours(tty, environment, coloured, monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_coloured(Stream(tty)) is coloured


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0004, "0ms"),
        (0.25, "250ms"),
        (1, "1s"),
        (1.25, "1.2s"),
        (59, "59s"),
        (7200, "2h"),
        (200000, "2d"),
    ],
)
def test_spans_for_people(seconds, text):
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "250ms"), (25, "25s"), (90.5, "1m30s500ms"), (150, "2m30s"), (600, "10m"), (95400, "1d2h30m")],
)
def test_settings_are_not_rounded(seconds, text):
    assert setting(seconds) == text
    assert SPAN.convert(text, None, None) == seconds


def test_check_and_greeting_do_not_round(run, place):
    (place / "mill.py").write_text(
        "import trepid\n"
        "async def grind(): ...\n"
        "WORKER = trepid.Worker(trepid.Actor(grind, timeout=150), graceful_shutdown_time=90)\n",
        encoding="utf-8",
    )
    assert " 2m30s " in run("check", "mill").stdout
    told = run("worker", "mill", "--burst", "--broker", "memory:", "--log-format", "human").stderr
    assert "grace 1m30s" in told


def test_times_for_programs():
    assert iso(0) == "1970-01-01T00:00:00.000Z"
    assert iso(None) is None


@pytest.mark.parametrize(
    ("reason", "crashes", "words"),
    [
        ("failed", 0, "OSError: no mail"),
        ("poison", 1, "1 worker died over it"),
        ("poison", 3, "3 workers died over it"),
        ("expired", 0, "it was not started within its ttl"),
    ],
)
def test_a_dead_letter_says_what_brought_it_here(reason, crashes, words):
    error = verdicts.Failure("OSError", "no mail", at=5.0, attempt=1)
    fields = {"priority": 5, "attempts": 1, "releases": 0, "requeues": 0, "enqueued": 1.0, "due": 1.0, "ended": 9.0}
    letter = MessageView(
        "default", "m", State.DEAD, "send", crashes=crashes, reason=reason, errors=(error,), payload=b"{}", **fields
    )
    assert last_words(letter) == words
    assert any(words in line for line in story(letter))
