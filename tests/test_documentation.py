"""The documentation says what the code says: its drawings, its list of names, its tables, and its commands."""

import inspect
import re
import runpy
import shlex
from contextlib import suppress
from pathlib import Path

import click
import pytest

import trepid
import trepid.testing
from trepid import errors
from trepid.cli.root import trepid as program
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


# ------------------------------------------------------------------------------------------------ the command line

PAGES = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
TYPED = re.compile(r"^(?:\$ |ExecStart=\S*/)(trepid .*?)(?:  +#.*)?$", re.MULTILINE)
NAMED = re.compile(r"`(trepid [a-z][^`\[]*)`")


def shown_by(pattern):
    found = [(page.name, command) for page in PAGES for command in pattern.findall(page.read_text(encoding="utf-8"))]
    return [pytest.param(shlex.split(command)[1:], id=f"{name}: {command}") for name, command in dict.fromkeys(found)]


def parse(command, words, parent=None):
    """Read *words* as the command line does, without running anything."""
    context = command.make_context(command.name, list(words), parent=parent)
    if isinstance(command, click.Group):
        _, below, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        parse(below, rest, context)


@pytest.mark.parametrize("words", shown_by(TYPED))
def test_a_command_that_is_shown_can_be_typed(words):
    parse(program, words)


@pytest.mark.parametrize("words", shown_by(NAMED))
def test_a_command_that_is_named_exists(words):
    # In a sentence, an argument or a value may be missing.
    with suppress(click.MissingParameter, click.BadOptionUsage):
        parse(program, words)


def test_a_command_that_does_not_exist_is_noticed():
    for words in (["queue"], ["dead", "requeu"], ["worker", "--task-limit", "1"], ["worker", "--grace", "soon"]):
        with pytest.raises(click.ClickException):
            parse(program, words)


def variables(command, prefix="TREPID"):
    for option in (param for param in command.params if isinstance(param, click.Option)):
        flag = next((flag for flag in option.opts if flag.startswith("--")), option.opts[0])
        yield option.envvar or f"{prefix}_{flag.strip('-').replace('-', '_').upper()}"
    for name, below in getattr(command, "commands", {}).items():
        yield from variables(below, f"{prefix}_{name.upper()}")


def test_variables_of_the_environment_that_are_shown_exist():
    shown = {name for page in PAGES for name in re.findall(r"\bTREPID_[A-Z_]+", page.read_text(encoding="utf-8"))}
    assert shown >= {"TREPID_APP", "TREPID_BROKER_URL", "TREPID_WORKER_TASKS_LIMIT"}
    assert shown <= {*variables(program)}


def test_the_page_of_the_command_line_lists_every_option():
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    flags = set()

    def gather(command):
        flags.update(flag for param in command.params for flag in param.opts if flag.startswith("--"))
        for below in getattr(command, "commands", {}).values():
            gather(below)

    gather(program)
    assert "--tasks-limit" in flags
    assert not {flag for flag in flags if not re.search(rf"{flag}\b", page)}
