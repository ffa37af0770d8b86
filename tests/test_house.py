"""The rules of the house: what no reviewer should have to look for.

Every rule is a function that yields complaints: about the library, and about small sinners that it must catch.
"""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import trepid

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "trepid"
MODULES = sorted(PACKAGE.rglob("*.py"))


def in_room(path, room):
    return path.is_relative_to(PACKAGE / room) or path == PACKAGE / f"{room}.py"


# ---------------------------------------------------------------------------------------- size and names


def too_long(path, source):
    if (lines := len(source.splitlines())) > 300:
        yield f"{lines} lines; split it along a noun (at most 300)"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > 60:
                yield f"{node.name} has {lines} lines (at most 60)"


NAMES_OF_NOTHING = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc", "shared"}


def named_for_nothing(path, source):
    for part in path.relative_to(PACKAGE).with_suffix("").parts:
        if part.strip("_") in NAMES_OF_NOTHING:
            yield f"{part!r} does not say what is in it"


# ---------------------------------------------------------------------------------------- bytes are not code

EXECUTING_MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}
EXECUTING_CALLS = {"eval", "exec", "__import__"}


def imported_names(node):
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {(node.module or "").partition(".")[0]}
    return set()


def turns_bytes_into_code(path, source):
    for node in ast.walk(ast.parse(source)):
        for name in imported_names(node) & EXECUTING_MODULES:
            yield f"line {node.lineno}: imports {name}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in EXECUTING_CALLS or called.endswith((".eval", ".exec")):
            yield f"line {node.lineno}: calls {called}"
        # The command line imports the application that its operator named; nobody else imports by a computed name.
        imports = called.rpartition(".")[2] == "import_module" and not in_room(path, "cli")
        if imports and not (node.args and isinstance(node.args[0], ast.Constant)):
            yield f"line {node.lineno}: imports by a computed name"


# ---------------------------------------------------------------------------------------- the rules at work

RULES = [too_long, named_for_nothing, turns_bytes_into_code]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_library_keeps_the_rule(rule):
    complaints = [
        f"{path.relative_to(ROOT)}: {complaint}"
        for path in MODULES
        for complaint in rule(path, path.read_text(encoding="utf-8"))
    ]
    assert not complaints, "\n".join(complaints)


LONG_FUNCTION = "def story():\n" + "    pass\n" * 60


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (too_long, "values/job.py", "pass\n" * 301),
        (too_long, "values/job.py", LONG_FUNCTION),
        (too_long, "values/job.py", "class Job:\n" + textwrap.indent(LONG_FUNCTION, "    ")),
        (named_for_nothing, "runtime/utils.py", ""),
        (named_for_nothing, "runtime/_helpers.py", ""),
        (named_for_nothing, "common/__init__.py", ""),
        (turns_bytes_into_code, "values/codec.py", "import pickle"),
        (turns_bytes_into_code, "values/codec.py", "def load():\n    from pickle import loads"),
        (turns_bytes_into_code, "values/codec.py", "import marshal as m"),
        (turns_bytes_into_code, "values/codec.py", "eval('1')"),
        (turns_bytes_into_code, "values/codec.py", "import builtins\nbuiltins.exec('pass')"),
        (turns_bytes_into_code, "values/codec.py", "importlib.import_module(name)"),
        (turns_bytes_into_code, "values/codec.py", "import_module(stored.name)"),
    ],
)
def test_the_rule_catches_a_sinner(rule, name, source):
    assert list(rule(PACKAGE / name, source))


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (too_long, "values/job.py", "pass\n" * 300),
        (named_for_nothing, "runtime/intake.py", ""),
        (turns_bytes_into_code, "connection/urls.py", "importlib.import_module('trepid.brokers.sqlite')"),
        (turns_bytes_into_code, "cli/load.py", "importlib.import_module(name)"),
    ],
)
def test_the_rule_spares_the_innocent(rule, name, source):
    assert not list(rule(PACKAGE / name, source))


# ---------------------------------------------------------------------------------------- the public door


def test_the_public_names_are_there_once_and_sorted_out():
    assert len(trepid.__all__) == len(set(trepid.__all__))
    assert all(hasattr(trepid, name) for name in trepid.__all__)


@pytest.mark.parametrize("name", sorted(trepid.__all__))
def test_a_public_name_is_documented(name):
    if name.startswith("__"):
        return
    thing = getattr(trepid, name)
    if isinstance(thing, type) or callable(thing):
        assert (thing.__doc__ or "").strip(), f"trepid.{name} has no docstring"


# ---------------------------------------------------------------------------------------- what an import costs

EXTRAS = {"click", "rich", "rich_click", "pytest", "_pytest", "pytest_trio", "trio_asyncio", "trio_parallel", "asyncio"}


def modules_after(*imports):
    lines = "".join(f"import {module}\n" for module in imports)
    code = f"{lines}import sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def unasked():
    """What the interpreter itself brings along (under coverage, or with a site customisation) is nobody's fault."""
    return EXTRAS - modules_after("trio", "attrs", "msgspec", "typing_extensions")


def test_importing_trepid_imports_no_extra(unasked):
    assert not modules_after("trepid") & unasked


def test_an_extra_that_is_imported_is_noticed(unasked):
    assert modules_after("trepid", "click") & unasked == {"click"}


def test_what_users_test_with_needs_no_pytest(unasked):
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if in_room(path, "testing") and path.stem != "pytest_plugin"
    ]
    assert modules
    assert not modules_after(*modules) & unasked & {"pytest", "_pytest", "pytest_trio"}


def test_every_module_can_be_imported():
    for path in MODULES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module.endswith("__main__"):
            continue
        importlib.import_module(module)


# ---------------------------------------------------------------------------------------- the repository

MACHINES = re.compile(r"(?<![\w./-])/(?:work|tmp|root|home/\w+|Users/\w+)/")


def names_a_machine(text):
    return [line.strip() for line in text.splitlines() if MACHINES.search(line)]


@pytest.mark.parametrize("path", ["'/tmp/jobs.db'", "sqlite:/tmp/jobs.db", "cd /home/jane/trepid", "=/" + "root/x"])
def test_a_machine_path_is_noticed(path):
    assert names_a_machine(path)


@pytest.mark.parametrize("path", ["https://a.invalid/" + "work/", "build/tmp/", "a/home/b/c", "/var/lib/shop/jobs.db"])
def test_other_paths_are_fine(path):
    assert not names_a_machine(path)


def text_files():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:  # an unpacked source archive
        return [path for path in ROOT.rglob("*") if path.is_file() and not {".venv", "build"} & set(path.parts)]
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_no_file_names_a_machine():
    found = []
    for path in text_files():
        if path == Path(__file__) or not path.is_file() or b"\0" in (content := path.read_bytes()):
            continue
        found += [f"{path.relative_to(ROOT)}: {line}" for line in names_a_machine(content.decode(errors="replace"))]
    assert not found, "\n".join(found)


def contracts_at(folder):
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_rooms_import_downwards_only():
    status, text = contracts_at(ROOT)
    assert status == 0, text


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("values/sinner.py", "import trepid.runtime"),
        ("values/sinner.py", "def late():\n    from trepid.connection import Connection"),
        ("rules/sinner.py", "import trepid"),
        ("rules/sinner.py", "import trio"),
        ("testing/sinner.py", "import pytest"),
        ("runtime/sinner.py", "from rich import print"),
        ("lobby/__init__.py", "ROOM = 'without a place'"),
    ],
)
def test_the_contracts_catch_a_sinner(module, source, tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "trepid", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    sinner = tmp_path / "trepid" / module
    sinner.parent.mkdir(exist_ok=True)
    sinner.write_text(source + "\n", encoding="utf-8")
    status, text = contracts_at(tmp_path)
    assert status != 0
    assert f"trepid.{sinner.parent.name}" in text.partition("Broken contracts")[2] or sinner.parent.name == "lobby"
