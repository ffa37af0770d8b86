"""The documentation says what the code says: its drawings, its list of names, and its tables of numbers."""

import inspect
import re
import runpy
from pathlib import Path

import pytest

import trepid
import trepid.testing
from trepid import errors
from trepid.ports import events
from trepid.ports.capabilities import Capabilities
from trepid.rules.life import DONE, LEASED, READY
from trepid.rules.lifecycle import TRANSITIONS, Event

DOCS = Path(__file__).resolve().parent.parent / "docs"
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md")))
ADVICE = "python docs/draw_lifecycle.py"


@pytest.fixture(scope="module")
def drawing():
    return runpy.run_path(str(DOCS / "draw_lifecycle.py"))


def test_the_life_of_a_message_is_drawn_from_its_table(drawing):
    behind = [path.name for path, text in drawing["drawn"]().items() if path.read_text(encoding="utf-8") != text]
    assert not behind, f"behind the table of the lifecycle: {', '.join(behind)}; run: {ADVICE}"


@pytest.mark.parametrize("move", TRANSITIONS, ids="-".join)
def test_a_move_that_goes_changes_the_drawing(drawing, move):
    fewer = {other: after for other, after in TRANSITIONS.items() if other != move}
    assert drawing["diagram"](fewer) != drawing["diagram"]()
    assert drawing["events_table"](fewer) != drawing["events_table"]()


def test_a_move_that_comes_must_be_given_its_place_and_its_sentence(drawing):
    with pytest.raises(KeyError):
        drawing["diagram"]({**TRANSITIONS, (DONE, Event.REQUEUE): (READY,)})
    with pytest.raises(KeyError):
        drawing["events_table"]({**TRANSITIONS, (LEASED, Event.BURIED): (READY, DONE)})


def test_no_sentence_is_left_behind(drawing):
    forks = {(*move, target) for move, after in TRANSITIONS.items() if len(after) > 1 for target in after}
    assert set(drawing["FORKS"]) == forks
    assert set(drawing["EVENTS"]) == {event for _, event in TRANSITIONS}
    assert set(drawing["ROUTES"]) == {(move[0], target) for move, after in TRANSITIONS.items() for target in after}


def public_names():
    names = [name for name, thing in vars(trepid).items() if not name.startswith("_") and not inspect.ismodule(thing)]
    return [f"trepid.{name}" for name in names] + [f"trepid.testing.{name}" for name in trepid.testing.__all__]


@pytest.mark.parametrize("name", public_names())
def test_the_reference_describes_every_public_name(name):
    described = re.search(rf"auto(class|exception|function|data):: {re.escape(name)}$", REFERENCE, re.MULTILINE)
    assert described, f"docs/reference does not describe {name}"


def classes_of(module, root):
    return [name for name, thing in vars(module).items() if inspect.isclass(thing) and issubclass(thing, root)]


@pytest.mark.parametrize("name", classes_of(events, events.Event))
def test_the_reference_describes_every_event(name):
    assert f"trepid.ports.events.{name}" in REFERENCE


@pytest.mark.parametrize("name", classes_of(errors, errors.TrepidError))
def test_the_page_of_errors_lists_every_error(name):
    assert name in (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [field.name for field in Capabilities.__attrs_attrs__])
def test_the_page_of_capabilities_lists_every_one(name):
    assert f"`{name}`" in (DOCS / "reference" / "capabilities.md").read_text(encoding="utf-8")
