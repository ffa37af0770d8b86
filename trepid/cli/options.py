"""What several commands take: their options, and the types of their values."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import rich_click as click

# Before 8.5, click's types take no parameters at run time.
if TYPE_CHECKING:
    _Spans: TypeAlias = click.ParamType[float]
    _Moments: TypeAlias = click.ParamType[datetime]
else:
    _Spans = _Moments = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

TRACEBACK: Final = "trepid.traceback"
"""Where the context keeps whether tracebacks are wanted."""

RESULTS: Final = "trepid.results"
"""Where the context keeps the URL of the second engine, if one was named."""

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class EnvironmentOption(click.Option):
    """An option whose variable in the environment is called like its flag: ``--json`` is ``..._JSON``."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return what the environment says."""
        value = super().resolve_envvar_value(ctx)
        if value is not None or ctx.auto_envvar_prefix is None:
            return value
        flag = next((flag for flag in self.opts if flag.startswith("--")), self.opts[0])
        return os.environ.get(f"{ctx.auto_envvar_prefix}_{flag.strip('-').replace('-', '_').upper()}") or None


option: Final = partial(click.option, cls=EnvironmentOption)
"""Declares an option, as ``click.option`` does."""


class SpanType(_Spans):
    """A span of time: ``30`` (seconds), ``500ms``, ``5m``, ``1h30m``, ``2d``."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it in seconds."""
        text = str(value).strip().lower()
        parts = _PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            self.fail(f"{value!r} is no span of time; write 30s, 5m, 1h30m or 2d", param, ctx)
        if len(parts) > 1 and not all(unit for _, unit in parts):
            self.fail(f"{value!r} lacks a unit; write 1h30m", param, ctx)
        return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)


class MomentType(_Moments):
    """A moment: ISO 8601 with its time zone."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return it as an aware datetime."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no moment; write 2027-01-31T09:00Z", param, ctx)
        if moment.utcoffset() is None:
            self.fail(f"{value!r} lacks its time zone; write {value}Z, or {value}+01:00", param, ctx)
        return moment


SPAN: Final = SpanType()
MOMENT: Final = MomentType()


def queue_names(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of queues that were repeated, or separated by commas; each once."""
    from trepid.values.queue import Queue

    names = [name.strip() for item in value for name in item.split(",") if name.strip()]
    try:
        return tuple(dict.fromkeys(Queue(name).name for name in names))
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc


broker_option = option(
    "--broker",
    envvar="TREPID_BROKER_URL",
    show_envvar=True,
    metavar="URL",
    help="Where the messages are, such as sqlite:jobs.db",
)


def _keep_results(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value:
        ctx.meta[RESULTS] = value


results_option = option(
    "--results",
    envvar="TREPID_RESULTS_URL",
    show_envvar=True,
    metavar="URL",
    expose_value=False,
    callback=_keep_results,
    help="A second engine, if the broker keeps no results",
)
json_option = option("--json", "as_json", is_flag=True, help="Print JSON, whose keys are stable")
queues_option = option(
    "-q",
    "--queue",
    "queues",
    multiple=True,
    callback=queue_names,
    metavar="NAME",
    help="Only these queues; repeatable, or separated by commas",
)
yes_option = option("-y", "--yes", is_flag=True, help="Do not ask")


def _keep_traceback(ctx: click.Context, _param: click.Parameter, value: object) -> None:
    if value:
        ctx.meta[TRACEBACK] = True


traceback_option = option(
    "--traceback",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_keep_traceback,
    help="Show where an error comes from",
)


def operates(command: F) -> F:
    """Give a command the options of those that look into a broker."""
    return broker_option(results_option(json_option(traceback_option(command))))
