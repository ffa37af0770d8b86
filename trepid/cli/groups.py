"""Groups of commands that know what was meant, and how a failure is said."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import rich_click as click
from click import exceptions

from trepid.cli.failures import Exit, Failure, explained, meant, say_error
from trepid.cli.options import TRACEBACK


class Commands(click.RichGroup):
    """A group that proposes the command which was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that *args* begin with."""
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing and not args[0].startswith("-"):
            hint = meant(args[0], self.list_commands(ctx))
            raise Failure(f"{ctx.command_path} has no command {args[0]!r}", Exit.USAGE, hint)
        return super().resolve_command(ctx, args)


class Listing(Commands):
    """A group that lists what it is about unless it is told otherwise."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read ``trepid queues --json`` as ``trepid queues list --json``."""
        if not args or (args[0].startswith("-") and args[0] not in self.get_help_option_names(ctx)):
            args = ["list", *args]
        return super().parse_args(ctx, args)


class Program(Commands):
    """The outermost group: whatever is wrong ends as one line, a hint, and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an exception becomes a :class:`Failure`."""
        try:
            return super().invoke(ctx)
        except (exceptions.Exit, click.Abort, click.UsageError):
            raise
        except Exception as exc:
            if ctx.meta.get(TRACEBACK) and not (isinstance(exc, Failure) and exc.__cause__ is None):
                traceback.print_exception(exc.__cause__ if isinstance(exc, Failure) else exc)
            if isinstance(exc, BrokenPipeError):
                raise exceptions.Exit(_unread()) from exc
            raise explained(exc) from exc
        except BaseExceptionGroup as group:
            if group.split(KeyboardInterrupt)[0] is not None:
                raise KeyboardInterrupt from group
            raise

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - the signature is click's
        **extra: Any,
    ) -> Any:
        """Run the program, and leave the process with its exit code."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except Failure as failure:
            say_error(failure.format_message(), failure.hint)
            code = failure.code
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx is not None else "trepid"
            say_error(error.format_message(), f"{path} --help")
            code = error.exit_code
        except click.ClickException as error:
            say_error(error.format_message())
            code = error.exit_code
        except click.Abort:
            say_error("interrupted")
            code = Exit.INTERRUPTED
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            code = _unread()
        sys.exit(code if isinstance(code, int) else 0)


def _unread() -> int:
    """Whoever read our output has seen enough, as `head` has: there is nothing to complain of, and no more to say.

    Returns the exit code of a program that such a pipe has ended.
    """
    # What is still buffered would complain when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13
