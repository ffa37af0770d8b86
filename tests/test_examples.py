"""Runs the examples of the README and of the documentation.

The Python blocks of a page are one program: they share a namespace and run from top to bottom as ``__main__``, in a
process and a temporary directory of their own. The program keeps the line numbers of its page, so a traceback points
into the page. If it defines tests (``test_...``), pytest runs these as well.

A comment right above a block can say:

``<!-- not executed: reason -->``
    The block is only read. The reason is for whoever reads the page's source.
``<!-- file: shop.py -->``
    The block also becomes this file beside the program: for ``import shop`` in another block, or for a command.
"""

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^\s*(?:(?:[-*+]|\d+[.)])\s+)*(?P<marks>`{3,}|~{3,})\s*(?P<info>[^`]*?)\s*$")
QUOTED_FENCE = re.compile(r"^\s*>[\s>]*(`{3,}|~{3,})")
NOTE = re.compile(r"^\s*<!--\s*(?P<kind>not executed|file)\b:?\s*(?P<text>.*?)\s*-->\s*$")
PYTHON = {"python", "py", "{code-block} python"}
DISGUISED = re.compile(r"py3|pycon|python\S|\{code-cell\}|\{code\} *py|\{code-block\} *py")


class Block(NamedTuple):
    line: int  # of its first line of code, from 1
    source: str
    skipped: bool = False
    file: str | None = None


class UnclearPageError(Exception):
    """The page says something that would leave a block not run, and nobody would notice."""


def blocks_of(text):
    """Return the Python blocks of a Markdown page, in their order."""
    lines = enumerate(text.splitlines(), start=1)
    blocks, directives, note = [], [], None
    for number, line in lines:
        fence = FENCE.match(line)
        if fence is None:
            if note and line.strip():
                raise UnclearPageError(f"line {number}: the comment above belongs right above a Python block")
            if QUOTED_FENCE.match(line):
                raise UnclearPageError(f"line {number}: a block within a quotation is not run; take it out")
            note = note_on(line, number) or note
            continue
        marks, info = fence["marks"], fence["info"].lower()
        if directives and not info and marks.startswith(directives[-1]):
            directives.pop()
        elif info.startswith("{") and not info.startswith("{code"):
            directives.append(marks)  # a note, a tab, ...: there is Markdown inside
        else:
            body = list(until_closed(lines, marks, number))
            if info in PYTHON:
                blocks.append(block_from(body, number + 1, note))
            elif DISGUISED.match(info):
                raise UnclearPageError(f"line {number}: a block called {info!r} is not run; call it python")
            elif note:
                raise UnclearPageError(f"line {number}: the comment above is about a Python block, and this is none")
            note = None
    if note:
        raise UnclearPageError("the last comment is about a block that is not there")
    return blocks


def note_on(line, number):
    note = NOTE.match(line)
    if note and not note["text"]:
        raise UnclearPageError(f"line {number}: the comment lacks its reason, or the name of the file")
    return note


def until_closed(lines, marks, opened):
    for _, line in lines:
        fence = FENCE.match(line)
        if fence and not fence["info"] and fence["marks"].startswith(marks):
            return
        yield line
    raise UnclearPageError(f"line {opened}: the block is never closed")


def block_from(body, line, note):
    while body and re.match(r"\s*:\w+:", body[0]):  # the options of a {code-block}
        body, line = body[1:], line + 1
    source = textwrap.dedent("\n".join(body)) + "\n"
    kind = note["kind"] if note else None
    return Block(line, source, skipped=kind == "not executed", file=note["text"] if kind == "file" else None)


def program_of(blocks):
    """Join the blocks to one program in which each keeps its place in the page."""
    lines = []
    for block in blocks:
        if not block.skipped:
            lines += [""] * (block.line - 1 - len(lines))
            lines += block.source.splitlines()
    return "\n".join(lines) + "\n"


def run(*command, cwd):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout


def run_page(text, name, folder):
    blocks = blocks_of(text)
    files = [block.file for block in blocks if block.file]
    assert len(files) == len(set(files)), "two blocks become the same file"
    for block in blocks:
        if block.file:
            (folder / block.file).write_text(block.source, encoding="utf-8")
    program = program_of(blocks)
    # With a prefix, a page about Trio does not become a module `trio`.
    script = f"page_{re.sub(r'[^a-z0-9]', '_', name.lower())}.py"
    (folder / script).write_text(program, encoding="utf-8")
    output = run(script, cwd=folder)
    functions = [n.name for n in ast.parse(program).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    if any(function.startswith("test_") for function in functions):
        output += run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "trio_mode=true", script, cwd=folder)
    return output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_the_page_run(page, tmp_path):
    run_page(page.read_text(encoding="utf-8"), page.stem, tmp_path)


# ---------------------------------------------------------------------------------------- the runner itself

PAGE = """\
# A page

<!-- file: shop.py -->

```python
PRICE = 3
```

Text, and then:

```console
$ python shop.py
```

```{note}
A list inside of a directive:

- ~~~py
  assert PRICE == 3
  ~~~
- Item:

  ```python
  import trio, shop
  async def main():
      print("total", PRICE + shop.PRICE)
  ```
```

<!-- not executed: it needs a server -->
```python
raise SystemExit("this is only read")
```

```{code-block} python
:caption: The end
if __name__ == "__main__":
    trio.run(main)
```
"""


def test_the_blocks_of_a_page_are_one_program(tmp_path):
    assert run_page(PAGE, "trio", tmp_path) == "total 6\n"
    assert list(tmp_path.glob("*.py"))


def test_blocks_keep_their_lines():
    program = program_of(blocks_of(PAGE)).splitlines()
    page = PAGE.splitlines()
    assert [number for number, line in enumerate(program) if line and line.strip() != page[number].strip()] == []
    assert "raise" not in "".join(program)


def test_a_failing_example_fails_its_page(tmp_path):
    with pytest.raises(AssertionError, match=r"line 4, in <module>"):
        run_page("text\n\n```python\nassert 1 == 2\n```\n", "page", tmp_path)


def test_the_tests_of_a_page_run(tmp_path):
    good = "```python\nimport trio\nasync def test_time(autojump_clock):\n    await trio.sleep(1000)\n```\n"
    assert "1 passed" in run_page(good, "page", tmp_path)
    with pytest.raises(AssertionError, match="1 failed"):
        run_page(good + "\n```python\ndef test_sums():\n    assert 1 + 1 == 3\n```\n", "page", tmp_path)


@pytest.mark.parametrize(
    "page",
    [
        "<!-- not executed: -->\n```python\npass\n```\n",
        "<!-- not executed -->\n```python\npass\n```\n",
        "<!-- not executed: no block follows -->\n",
        "<!-- not executed: too far away -->\ntext\n```python\npass\n```\n",
        "<!-- not executed: nobody would have -->\n```console\n$ ls\n```\n",
        "```python\npass\n",
        "```pycon\n>>> 1\n```\n",
        "```python3\npass\n```\n",
        "```{code-cell}\npass\n```\n",
        "> ```python\n> pass\n> ```\n",
    ],
)
def test_a_page_that_hides_a_block_is_refused(page):
    with pytest.raises(UnclearPageError):
        blocks_of(page)
