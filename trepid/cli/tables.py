"""What is printed on stdout: tables for people, JSON for programs, and times for both."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from trepid.cli.ink import printable

_WIDE = 1000
"""Columns where there is no terminal: nothing is cut off for a program that reads."""


@attrs.frozen
class Column:
    """A column.

    Attributes:
      title: its heading.
      number: whether it holds numbers, which stand on the right.
      whole: whether it is never cut off: what one copies.
      style: a style of rich for its cells.
    """

    title: str
    number: bool = False
    whole: bool = True
    style: str = ""


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; on a terminal it is cut to its width, elsewhere nothing is cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.number else "left",
            no_wrap=True,
            overflow="fold" if column.whole else "ellipsis",
            min_width=None,
            style=column.style,
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    if console.is_terminal:
        console.print(table, soft_wrap=False)
        return
    # rich pads each line to the width of the table; programs and files need no blanks at the end.
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def print_json(value: Any) -> None:
    """Print *value* as JSON, indented."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def iso(seconds: float | None) -> str | None:
    """Return seconds since the epoch as ISO 8601 in UTC."""
    if seconds is None:
        return None
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return str(seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(seconds: float | None) -> str:
    """Return a span of time in its largest unit, as people read it."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86_400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.0f}s" if seconds >= 10 or seconds == round(seconds) else f"{seconds:.1f}s"


def setting(seconds: float) -> str:
    """Return a span of time in full, as an option takes it: 1h30m."""
    left, parts = round(seconds * 1000), ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        number, left = divmod(left, size)
        parts += f"{number}{unit}" if number else ""
    return parts or "0s"


def count(number: int) -> str:
    """Return a number with its thousands apart."""
    return f"{number:,}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
