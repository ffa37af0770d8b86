"""``trepid worker``: run an application's actors until told to stop."""

from __future__ import annotations

import logging
import platform
import sys
from typing import TYPE_CHECKING, Any

import rich_click as click

from trepid.cli import lines
from trepid.cli.failures import Exit, Failure, explained, leaf_of, leave, usage
from trepid.cli.ink import ink_for
from trepid.cli.loading import Loaded, load
from trepid.cli.options import (
    SPAN,
    broker_option,
    json_option,
    option,
    queues_option,
    results_option,
    traceback_option,
)
from trepid.cli.tables import plural, print_json, setting
from trepid.cli.visits import named_broker, second_engine, shown

if TYPE_CHECKING:
    from trepid.runtime.worker import Worker

_COUNT = click.IntRange(1)
_FORMS = "human, plain or json; auto (the default) is human on a terminal, and plain elsewhere"
_LEVELS = "The least that is logged: debug, info (the default), warning or error"


@click.command()
@click.argument("app", required=False, envvar="TREPID_APP")
@broker_option
@results_option
@option("-c", "--tasks-limit", type=_COUNT, metavar="N", help="How many jobs at once")
@option("--threads-limit", type=_COUNT, metavar="N", help="How many of them in threads")
@option("--processes-limit", type=_COUNT, metavar="N", help="How many of them in processes")
@queues_option
@option("--messages-limit", "--max-jobs", type=_COUNT, metavar="N", help="End after so many jobs")
@option("-b", "--burst", is_flag=True, help="End when nothing ready is left, and nothing runs")
@option("--grace", type=SPAN, help="How long running jobs may go on after a first signal, such as 30s")
@option("--lease", type=SPAN, help="How long a silent worker keeps its jobs, such as 30s")
@option("--no-declare", is_flag=True, help="Do not make its queues exist")
@option("--log-format", type=click.Choice(lines.FORMATS), default="auto", metavar="FORM", help=_FORMS)
@option("--log-level", type=click.Choice(lines.LEVELS), default="info", metavar="LEVEL", help=_LEVELS)
@option("-v", "--verbose", is_flag=True, help="Also log when jobs start")
@json_option
@traceback_option
def worker(
    *,
    app: str | None,
    broker: str | None,
    burst: bool,
    no_declare: bool,
    log_format: lines.Format,
    log_level: str,
    verbose: bool,
    as_json: bool,
    **limits: Any,
) -> None:
    """Run the actors of APP until told to stop.

    APP is module:attribute or module:factory(): a Worker, a Router or an Actor; the current directory is searched
    first.  What is not said here is said by the Worker.

    The first SIGINT or SIGTERM lets running jobs finish within the grace, the second cancels them and hands them
    back uncounted, the third ends the process at once.

    Exit codes: 0 drained, 1 crashed, 2 APP or options are wrong, 3 broker unreachable, 75 jobs were cancelled and
    handed back.
    """
    form = lines.set_up(log_format, log_level, verbose=verbose)
    loaded = load(app)
    url = named_broker(broker)
    terms = _terms(loaded.worker, no_declare=no_declare, **limits)
    _greet(loaded, terms, shown(url), form)
    if url.lower().startswith("memory:"):
        logging.getLogger("trepid.cli").warning("memory: lives inside of this process; nobody else can enqueue to it")
    code = _serve(terms, url, burst=burst, as_json=as_json)
    leave(code)


def _terms(worker: Worker, *, queues: tuple[str, ...], grace: float | None, no_declare: bool, **limits: Any) -> Worker:
    """Return the worker with what was said on the command line."""
    changes = {name: value for name, value in limits.items() if value is not None}
    if queues:
        changes["queues"] = queues
    if grace is not None:
        changes["graceful_shutdown_time"] = grace
    if no_declare:
        changes["auto_declare"] = False
    try:
        return worker.options(**changes)
    except (TypeError, ValueError) as exc:
        raise usage(exc) from exc


def _greet(loaded: Loaded, worker: Worker, broker: str, form: str) -> None:
    """Say what is about to run: for people on stderr, otherwise as a record."""
    import trio

    from trepid import __version__

    told = {
        "version": __version__,
        "app": loaded.name,
        "broker": broker,
        "python": platform.python_version(),
        "trio": trio.__version__,
        "queues": worker.queue_names(),
        "actors": tuple(worker.router),
        "tasks_limit": worker.tasks_limit,
        "grace": worker.graceful_shutdown_time,
    }
    queues = " ".join(worker.queue_names()) or "none"
    if form == "human":
        ink = ink_for(sys.stderr)
        versions = ink(f"python {told['python']}  trio {told['trio']}", "dim")
        print(f"{ink(f'trepid {__version__}', 'bold')}  {loaded.name}  {broker}  {versions}", file=sys.stderr)
        limits = f"at most {plural(worker.tasks_limit, 'job')} at once  grace {setting(worker.graceful_shutdown_time)}"
        actors = plural(len(worker.router), "actor")
        print(f"queues {queues}  {actors}  {limits}  Ctrl-C stops it\n", file=sys.stderr, flush=True)
    else:
        line = f"trepid {__version__} {loaded.name} on {broker}, queues {queues}, actors {' '.join(worker.router)}"
        logging.getLogger("trepid.cli").info("%s", line, extra={"trepid": {"event": "Greeting", **told}})


def _serve(worker: Worker, url: str, *, burst: bool, as_json: bool) -> Exit:
    import attrs
    import trio

    from trepid.cli.serving import Served

    served = Served(worker, url, burst, second_engine())
    try:
        report, code = trio.run(served.run, restrict_keyboard_interrupt_to_checkpoints=True)
    except (Exception, BaseExceptionGroup) as exc:
        if isinstance(exc, BaseExceptionGroup) and exc.split(KeyboardInterrupt)[0] is not None:
            raise KeyboardInterrupt from exc
        failure = explained(exc)
        if served.started or failure.code is Exit.FAILED:
            # It ran, so this is a crash, whatever a broker has to do with it.
            line = f"the worker crashed: {failure.message}"
            leaf = leaf_of(exc)
            raise Failure(line, Exit.FAILED, "--traceback tells where") from (leaf if served.started else exc)
        raise
    if as_json:
        counts = {field.name: getattr(report, field.name) for field in attrs.fields(type(report))}
        print_json({"processed": report.processed, **counts, "handed_back": served.handed_back, "exit_code": int(code)})
    return code
