"""The parts of the demonstration that have a decision in them."""

import io

import pytest
from rich.console import Console

import trepid
from demo.actors import Survey
from demo.files import File, Store, is_broken, links_of, text_files
from demo.screen import Screen


@pytest.mark.parametrize(
    ("link", "broken"),
    [
        ("there.md", False),
        ("there.md#part", False),
        ("th%65re.md", False),
        ("../docs/there.md", False),
        ("gone.md", True),
        ("folder/gone.md#part", True),
        ("#part", False),
        ("/absolute/gone.md", False),
        ("https://example.invalid/gone.md", False),
        ("mailto:jane@example.invalid", False),
    ],
)
def test_a_relative_link_needs_its_file(tmp_path, link, broken):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "there.md"
    page.touch()
    assert is_broken(page, link) is broken


def test_links_are_found_in_markdown_only_and_not_in_code(tmp_path):
    text = "[a](one) `[b](two)` ![c](three 'title')\n```\n[d](four)\n```\n"
    assert links_of(tmp_path / "page.md", text) == ["one", "three"]
    assert links_of(tmp_path / "page.py", text) == []


def test_another_size_or_date_makes_another_version(tmp_path):
    page = tmp_path / "page.txt"
    page.write_text("one")
    [first] = text_files(tmp_path)
    assert [first] == list(text_files(tmp_path))
    page.write_text("three")
    [second] = text_files(tmp_path)
    assert (second.path, second.version != first.version) == (page, True)


def test_the_store_fails_for_the_same_files_each_time_and_only_at_first(tmp_path):
    files = [File(tmp_path / str(number), "v") for number in range(1000)]
    store = Store(0.1)
    failing = [file for file in files if store.fails_for(file)]
    assert 50 < len(failing) < 150
    assert failing == [file for file in files if Store(0.1).fails_for(file)]
    failing[0].path.write_bytes(b"at last")
    with pytest.raises(OSError, match="on purpose"):
        store.read(failing[0], 1)
    assert store.read(failing[0], 2) == b"at last"
    assert not any(Store(0).fails_for(file) for file in files)
    assert all(Store(1).fails_for(file) for file in files)


def played(*, terminal):
    output = io.StringIO()
    screen = Screen(Console(file=output, force_terminal=terminal, width=100, highlight=False))
    with screen.watching():
        screen.surveyed(Survey(files=12, enqueued=10, failing=3))
        for ready in (10, 4, 0):
            screen.progressed(trepid.QueueStats("demo", ready=ready, scheduled=min(1, ready)))
    return output.getvalue()


def test_a_terminal_shows_a_bar():
    seen = played(terminal=True)
    assert "━" in seen
    assert "10/10" in seen
    assert "3 jobs fail on purpose" in seen


def test_elsewhere_there_are_plain_lines_now_and_then():
    seen = played(terminal=False)
    assert "\x1b" not in seen
    assert "12 files, of which 10 are new or have changed" in seen
    assert seen.count("1 jobs wait to be retried") == 1
