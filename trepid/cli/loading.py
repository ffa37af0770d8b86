"""From ``module:attribute`` to a worker."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import attrs

from trepid.cli.failures import Exit, Failure, meant

if TYPE_CHECKING:
    from trepid.runtime.worker import Worker

_REFERENCE = re.compile(r"(?P<module>[\w.]+)(?::(?P<path>[\w.]+)(?P<call>\(\))?)?")
_OURS: Final = Path(__file__).parent.parent
_FORM: Final = "an application is named like shop.jobs:router, or shop.jobs:make_worker()"


@attrs.frozen
class Loaded:
    """An application.

    Attributes:
      name: how the operator called it.
      worker: what runs it.
    """

    name: str
    worker: Worker


def load(reference: str | None) -> Loaded:
    """Import the application that *reference* names; the current directory is searched first.

    ``module:attribute`` is a Worker, a Router, an Actor, or something callable that returns one of them; with
    ``module`` alone, its only Worker, or else its only Router.

    Raises:
      Failure: exit code 2, if there is no such thing, or importing it fails.
    """
    if not reference:
        raise Failure("no application is named", Exit.USAGE, f"name it, or set TREPID_APP; {_FORM}")
    found = _REFERENCE.fullmatch(reference)
    if found is None or reference.endswith(".py"):
        raise Failure(f"{reference!r} is no application", Exit.USAGE, _hint_for_path(reference) or _FORM)
    here = str(Path.cwd())
    if sys.path[:1] != [here]:
        # As with `python -m`: the operator stands beside the application.
        sys.path.insert(0, here)
    module = _imported(found["module"])
    if found["path"] is None:
        return _only_one(module)
    value = _attribute(module, found["path"], reference)
    return Loaded(reference, _worker(value, reference, called=found["call"] is not None))


def _hint_for_path(reference: str) -> str:
    path = reference.partition(":")[0]
    if not path.endswith(".py"):
        return ""
    module = path.removesuffix(".py").removeprefix("./").replace("/", ".").replace("\\", ".")
    return f"name the module, not its file: {module}:router"


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        # Only the module itself, or a package on the way to it: whatever else is missing is missing inside.
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise _broken_import(name, exc) from exc
        raise Failure(f"there is no module {exc.name!r}", Exit.USAGE, _hint_for_module(exc.name)) from exc
    except (Exception, SystemExit) as exc:
        raise _broken_import(name, exc) from exc


def _hint_for_module(name: str) -> str:
    here = Path.cwd()
    modules = {path.stem for path in here.glob("*.py")} | {path.parent.name for path in here.glob("*/__init__.py")}
    guess = meant(name, modules)
    return guess if guess.startswith("did you mean") else f"looked in {here} and on sys.path; start it where {name} is"


def _broken_import(name: str, error: BaseException) -> Failure:
    place = ""
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}, line {error.lineno})"
    else:
        # Where the application did it: not in here, and not in the constructor that refuses it.
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "importlib" not in frame.filename and not Path(frame.filename).is_relative_to(_OURS)
        ]
        if frames:
            place = f" ({frames[-1].filename}, line {frames[-1].lineno})"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    line = f"{type(error).__name__}: {text}".rstrip(": ").splitlines()[0]
    return Failure(f"importing {name} failed: {line}{place}", Exit.USAGE, "--traceback tells how it came there")


def _attribute(module: ModuleType, path: str, reference: str) -> Any:
    value: Any = module
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError as exc:
            known = _applications(module) or [key for key in vars(module) if not key.startswith("_")]
            raise Failure(f"{reference}: there is no {name!r}", Exit.USAGE, meant(name, known)) from exc
    return value


def _applications(module: ModuleType) -> dict[str, Any]:
    from trepid.runtime.worker import Worker
    from trepid.values.actor import Actor
    from trepid.values.router import Router

    kinds = (Worker, Router, Actor)
    return {name: value for name, value in vars(module).items() if isinstance(value, kinds) and name[0] != "_"}


def _only_one(module: ModuleType) -> Loaded:
    from trepid.runtime.worker import Worker
    from trepid.values.router import Router

    name, there = module.__name__, _applications(module)
    for kind in (Worker, Router):
        found = [key for key, value in there.items() if isinstance(value, kind)]
        if len(found) == 1:
            reference = f"{name}:{found[0]}"
            return Loaded(reference, _worker(there[found[0]], reference, called=False))
    names = ", ".join(f"{name}:{key}" for key in there)
    hint = f"name one: {names}" if names else f"it has no trepid.Router; {_FORM}"
    raise Failure(f"which application of {name} is meant?", Exit.USAGE, hint)


def _worker(value: Any, reference: str, *, called: bool) -> Worker:
    from trepid.runtime.worker import Worker
    from trepid.values.actor import Actor
    from trepid.values.router import Router

    if called or (callable(value) and not isinstance(value, (Worker, Router, Actor, type))):
        value = _called(value, reference)
    if isinstance(value, Worker):
        return value
    if isinstance(value, (Router, Actor)):
        return Worker(value)
    kind = type(value).__name__
    raise Failure(f"{reference} is a {kind}, no Worker, Router or Actor", Exit.USAGE, _FORM)


def _called(value: Any, reference: str) -> Any:
    name = reference.partition(":")[2].removesuffix("()")
    if not callable(value):
        raise Failure(f"{reference}: {name} is a {type(value).__name__} and cannot be called", Exit.USAGE, _FORM)
    wrap = f"if it is what jobs shall call, name a router with it: trepid.Router(trepid.Actor({name}))"
    if inspect.iscoroutinefunction(value):
        raise Failure(f"{reference} is a coroutine function", Exit.USAGE, wrap)
    try:
        inspect.signature(value).bind()
    except ValueError:
        pass  # something built in: calling it will tell
    except TypeError as exc:
        raise Failure(f"{reference} needs arguments: {exc}", Exit.USAGE, wrap) from exc
    try:
        return value()
    except (Exception, SystemExit) as exc:
        line = f"{type(exc).__name__}: {exc}".rstrip(": ").splitlines()[0]
        raise Failure(f"calling {reference} failed: {line}", Exit.USAGE, "--traceback tells where") from exc
