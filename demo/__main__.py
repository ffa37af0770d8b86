"""The command line: ``python -m demo [DIRECTORY]``."""

from __future__ import annotations

import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

import msgspec
import rich_click as click
import trio

import trepid
from demo.actors import LARGEST, Library
from demo.conducting import conduct
from demo.files import Store
from demo.index import Index
from demo.screen import Screen, show

JOBS = Path("build", "demo", "jobs.db")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--broker", metavar="URL", help=f"Where the jobs are; by default sqlite:{JOBS}, begun afresh.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Index no more than N files.")
@click.option("--fail-fraction", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Of the jobs.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
@click.option("--keep", is_flag=True, help="Begin nothing afresh: go on where the last run ended.")
def main(
    *, directory: Path, broker: str | None, limit: int | None, fail_fraction: float, as_json: bool, keep: bool
) -> None:
    """Index the text files of DIRECTORY, by default of the current one.

    Some jobs fail on purpose and are retried, and two files that cannot be indexed end as dead letters. Ctrl-C stops
    it softly, and another run with the same --broker, or with --keep, goes on from there.
    """
    if broker is None and not keep:
        shutil.rmtree(JOBS.parent, ignore_errors=True)
    broker = broker or f"sqlite:{JOBS}"
    jobs = Path(broker.removeprefix("sqlite:")) if broker.startswith("sqlite:") else JOBS
    folders = [directory.resolve(), make_specimens(jobs.with_name(f"{jobs.stem}-specimens"))]
    index = jobs.with_name(f"{jobs.stem}-index.db")
    library = Library(Index(index.resolve()), Store(fail_fraction))
    screen = Screen()
    try:
        with screen.watching():
            second = f"sqlite:{jobs.with_name(f'{jobs.stem}-results.db')}"
            run = trio.run(partial(conduct, second=second, screen=screen), broker, library, folders, limit)
    except trepid.TrepidError as exc:
        raise click.ClickException(str(exc)) from exc
    except BaseExceptionGroup as group:
        # Ctrl-C before the worker listened for it.
        if group.split(KeyboardInterrupt)[0] is None:
            raise
        raise click.Abort from group
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(run)))
    else:
        engines = ["--broker", broker] if run.second is None else ["--broker", broker, "--results", run.second]
        requeue = command(Path(sys.executable).with_name("trepid"), "dead", "requeue", *engines)
        limited = [] if limit is None else ["--limit", limit]
        again = command(sys.executable, "-m", "demo", directory, "--broker", broker, *limited)
        commands = None if broker == "memory:" else (requeue, again)
        show(run, directory=folders[0], index=str(index), commands=commands)
    sys.exit(0 if run.summary else 130)


def make_specimens(folder: Path) -> Path:
    """Make two files that cannot be indexed."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.joinpath("latin-1.txt").write_text("a naïve café\n", encoding="latin-1")
        folder.joinpath("large.txt").write_text("All work and no play.\n" * (LARGEST // 20), encoding="utf-8")
    return folder.resolve()


def command(*words: object) -> str:
    """Write a command so that it can be typed in this directory."""
    return shlex.join(str(word) for word in words).replace(f"{Path.cwd()}/", "")


if __name__ == "__main__":
    main(prog_name="python -m demo")
