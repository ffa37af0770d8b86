"""Consent: what is done to many messages at once is asked for first."""

from __future__ import annotations

import sys

import rich_click as click

from trepid.cli.failures import Exit, Failure


def ask(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless *yes* was said already.

    Raises:
      Failure: if the answer is no (exit code 1), or there is no terminal to ask on (2); nothing was changed.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(
            f"{question} There is no terminal to ask on, and nothing was changed",
            Exit.USAGE,
            "say -y, if it shall be done",
        )
    if not click.confirm(question, default=False, err=True):
        raise Failure("nothing was changed", Exit.FAILED)
