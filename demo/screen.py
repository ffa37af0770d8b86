"""What one sees: how it goes, on stderr, and what came of it, on stdout."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import trepid
from demo.actors import Survey
from demo.index import Summary


@attrs.define
class Screen:
    """Watches a run: with a bar on a terminal, elsewhere with a line every two seconds."""

    _console: Console = attrs.field(factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))
    _bar: Progress | None = None
    _jobs: int = 0
    _next_line: float = 0.0

    @contextmanager
    def watching(self) -> Generator[None]:
        """Show the bar inside of the block, if this is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("files{task.description}"))
        # Drawn when there is news, so it needs no thread that draws.
        with Progress(*columns, console=self._console, auto_refresh=False, transient=True) as self._bar:
            self._bar.add_task("", total=None)
            yield

    def surveyed(self, survey: Survey) -> None:
        """Say what will happen."""
        self._jobs = survey.enqueued
        self._console.print(f"{survey.files} files, of which {survey.enqueued} are new or have changed")
        self._console.print(f"{survey.failing} jobs fail on purpose the first time, and will be retried")

    def progressed(self, stats: trepid.QueueStats) -> None:
        """Show how far it is: a file that is not done has a job that waits or runs, and for a moment two."""
        self._jobs = self._jobs or stats.live  # Before the survey, there is what an earlier run has left.
        done = max(0, self._jobs - stats.live)
        waiting = f", {stats.scheduled} jobs wait to be retried" if stats.scheduled else ""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], total=self._jobs, completed=done, description=waiting)
            self._bar.refresh()
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + 2
            self._console.print(f"{done} of {self._jobs} files{waiting}")


@attrs.frozen
class Run:
    """What came of a run.  If it was stopped early, there is no summary, and *left* jobs wait for the next run.

    *second* is the URL of the second engine, if the broker needed one.
    """

    survey: Survey | None
    summary: Summary | None
    report: trepid.Report
    dead: list[tuple[str, str]]
    left: int
    seconds: float
    second: str | None = None


def show(run: Run, *, directory: Path, index: str, commands: tuple[str, str] | None) -> None:
    """Print what came of a run, with the commands that requeue a dead letter and go on, if the broker remembers."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table(show_header=False)
    report, summary = run.report, run.summary
    if summary is not None:
        broken = [f"{link} in {os.path.relpath(path, directory)}" for path, link in summary.broken_links]
        table.add_row("files", f"{summary.files:,} with {summary.bytes:,} bytes")
        table.add_row("largest", "\n".join(f"{os.path.relpath(path, directory)} {n:,}" for path, n in summary.largest))
        table.add_row("words", f"{summary.words:,}")
        table.add_row("frequent", ", ".join(f"{word} {n:,}" for word, n in summary.frequent))
        table.add_row("links", "\n".join([f"{summary.links:,}, of which {len(broken)} lead nowhere", *broken[:5]]))
    table.add_row("jobs", f"{report.succeeded:,} done, {report.retried:,} retried, {report.dead:,} dead")
    table.add_row("rate", f"{report.processed / run.seconds:,.0f} jobs a second, in {run.seconds:.1f} s")
    table.add_row("index", index)
    console.print(table)
    for id, error in run.dead[:5]:
        console.print(f"Dead letter: {error}", markup=False)
        if commands:
            console.print(f"  {commands[0]} {id}", markup=False)
    if len(run.dead) > 5:
        console.print(f"and {len(run.dead) - 5} more dead letters")
    if run.left:
        console.print(f"Stopped, with {run.left} jobs left")
    if commands:
        console.print(f"To go on:\n  {commands[1]}", markup=False)
