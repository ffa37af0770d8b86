"""Findings: what can be said about an application without running any of it."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from trepid.runtime.worker import Worker
    from trepid.values.actor import Actor
    from trepid.values.schedule import Schedule

_EXTRAS: Final = {"process": ("trio_parallel", "process"), "asyncio": ("trio_asyncio", "asyncio")}
_MOST_RETRIES: Final = 1000


@attrs.frozen
class Finding:
    """Something worth saying.

    Attributes:
      about: what it is about.
      text: what.
      wrong: whether it has to be mended; otherwise it may be meant so.
    """

    about: str
    text: str
    wrong: bool = True


def of_worker(worker: Worker) -> list[Finding]:
    """Return what is wrong, or odd, about a worker and its actors."""
    if not worker.router and not worker.router.schedules:
        return [Finding("worker", "it has no actors")]
    found = [finding for actor in worker.router.values() for finding in _of_actor(actor)]
    found += [finding for schedule in worker.router.schedules.values() for finding in _of_schedule(worker, schedule)]
    heard = worker.queue_names()
    for name in worker.router.queues():
        if name not in heard:
            actors = ", ".join(actor.name for actor in worker.router.values() if actor.queue.name == name)
            text = f"the worker does not look into it, so jobs of {actors} stay there"
            found.append(Finding(f"queue {name}", text, wrong=False))
    return found


def signature(actor: Actor[..., Any]) -> str:
    """Return the signature of an actor as jobs see it, without its context."""
    return str(actor.parameters.signature)


def _of_actor(actor: Actor[..., Any]) -> Iterator[Finding]:
    about = f"actor {actor.name}"
    if actor.run_in in _EXTRAS:
        module, extra = _EXTRAS[actor.run_in]
        if importlib.util.find_spec(module) is None:
            yield Finding(about, f'it runs in {actor.run_in}, which needs: pip install "trepid[{extra}]"')
    if actor.run_in == "process" and _imported(actor) is not actor.fn:
        yield Finding(about, "its function cannot be found by its name, so no process can import it")
    retries = min(actor.retries or 0, _MOST_RETRIES)
    for number in range(1, retries + 1):
        try:
            actor.wait_before_retry(number)
        except Exception as exc:  # noqa: BLE001 - it is a stranger's function
            yield Finding(about, f"its retry policy fails at retry {number}: {exc}")
            break
    untyped = [
        name
        for name, parameter in actor.parameters.signature.parameters.items()
        if parameter.annotation is inspect.Parameter.empty
    ]
    if untyped:
        text = f"nothing checks or converts {', '.join(untyped)}, for want of annotations"
        yield Finding(about, text, wrong=False)


def _of_schedule(worker: Worker, schedule: Schedule) -> Iterator[Finding]:
    from trepid.errors import ArgumentsError
    from trepid.values.envelope import unseal

    about, job = f"schedule {schedule.name}", schedule.job
    actor = worker.router.find(job.name)
    if actor is None:
        yield Finding(about, f"the worker has no actor {job.name!r}; another one must run its jobs", wrong=False)
        return
    if job.queue.name not in worker.queue_names():
        yield Finding(about, f"the worker does not look into queue {job.queue}, where its jobs go", wrong=False)
    try:
        actor.parameters.read(unseal(job.payload))
    except ArgumentsError as exc:
        yield Finding(about, f"its arguments do not fit {job.name}: {exc.reason}")


def _imported(actor: Actor[..., Any]) -> Any:
    """Return what a process would find under the name of an actor's function."""
    fn = actor.fn
    found: Any = sys.modules.get(getattr(fn, "__module__", ""))
    for part in getattr(fn, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found
