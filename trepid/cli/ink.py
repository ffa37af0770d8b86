"""Ink: what may be written to a terminal, and in which colour."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, TextIO

Ink = Callable[[str, str], str]
"""From a text and the name of a style to what is written."""

_CODES: Final = {
    "good": "32",
    "warn": "33",
    "bad": "31",
    "error": "1;31",
    "hint": "36",
    "bold": "1",
    "dim": "2",
}


def is_coloured(stream: TextIO) -> bool:
    """Whether *stream* gets colours: a terminal does, unless ``NO_COLOR`` is set; others only with ``FORCE_COLOR``."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def ink_for(stream: TextIO) -> Ink:
    """Return what colours a text for *stream*, or leaves it as it is."""
    if not is_coloured(stream):
        return lambda text, _style: text
    return lambda text, style: f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def can_write(stream: TextIO, text: str) -> bool:
    """Whether the encoding of *stream* has the characters of *text*."""
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def printable(text: str, *, lines: bool = False) -> str:
    """Return *text* without characters that could move the cursor or hide something: jobs' texts are anybody's.

    Args:
      text: whatever came from a message.
      lines: keep line feeds.
    """
    kept = "\n" if lines else ""
    return "".join(ch if ch.isprintable() or ch in kept else repr(ch)[1:-1] for ch in text.expandtabs())
