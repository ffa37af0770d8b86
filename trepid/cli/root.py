"""The command ``trepid``, and what is under it."""

from __future__ import annotations

import platform

import rich_click as click

from trepid.cli.checking import check
from trepid.cli.dead import dead
from trepid.cli.enqueueing import enqueue
from trepid.cli.groups import Program
from trepid.cli.jobs import jobs
from trepid.cli.migrate import migrate
from trepid.cli.options import option, traceback_option
from trepid.cli.queues import queues
from trepid.cli.schedules import schedule
from trepid.cli.worker import worker


def _print_version(ctx: click.Context, _param: click.Parameter, value: object) -> None:
    if not value or ctx.resilient_parsing:
        return
    import trio

    from trepid import __version__

    click.echo(f"trepid {__version__}, Python {platform.python_version()}, Trio {trio.__version__}")
    ctx.exit()


@click.group(
    cls=Program,
    context_settings={
        "auto_envvar_prefix": "TREPID",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 120,
    },
)
@option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the versions of Trepid, Python and Trio",
)
@traceback_option
def trepid() -> None:
    """Background jobs for Trio: run workers, enqueue jobs, look at queues and dead letters.

    Every option can be set in the environment: TREPID_WORKER_TASKS_LIMIT is `trepid worker --tasks-limit`.
    The broker is TREPID_BROKER_URL, the application TREPID_APP.
    """


for command in (worker, enqueue, jobs, queues, schedule, dead, check, migrate):
    trepid.add_command(command)
