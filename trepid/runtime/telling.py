"""Telling observers, and the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from trepid.ports.events import (
    Event,
    JobEnded,
    JobStarted,
    Observer,
    WorkerStarted,
    WorkerStopped,
    WorkerStopping,
    WorkerTroubled,
)

logger = logging.getLogger("trepid.worker")


class Teller:
    """Hands events to observers.  What an observer raises is logged, and stops nobody."""

    __slots__ = ("_observers", "jobs_heard")

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = (*observers, log_event)
        # Events about jobs are made only where somebody listens: they are the hot path.
        self.jobs_heard = bool(observers) or logger.isEnabledFor(logging.INFO)

    def tell(self, event: Event) -> None:
        """Tell everybody."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                logger.exception("observer %r failed", observer)


def log_event(event: Event) -> None:
    """Write an event to the log ``trepid.worker``; its fields are the record's ``trepid`` attribute."""
    level = _level(event)
    if logger.isEnabledFor(level):
        fields = {name: getattr(event, name) for name in event.__struct_fields__}
        # Names and errors come from strangers; they shall not forge lines, or talk to a terminal.
        line = "".join(ch if ch.isprintable() else repr(ch)[1:-1] for ch in _line(event))
        logger.log(level, line, extra={"trepid": {"event": type(event).__name__, **fields}})


def _level(event: Event) -> int:
    match event:
        case JobStarted():
            return logging.DEBUG
        case JobEnded(outcome="dead" | "lost"):
            return logging.ERROR
        case JobEnded(outcome="retried") | JobEnded(outcome="released", reason="unknown actor") | WorkerTroubled():
            return logging.WARNING
        case _:
            return logging.INFO


def _line(event: Event) -> str:
    match event:
        case JobStarted():
            return f"started {event.actor} {event.id} attempt {event.attempt}, {event.waited:.3f} s after it was due"
        case JobEnded():
            more = "".join(
                f", {text}"
                for text in (
                    event.error,
                    event.reason,
                    None if event.delay is None else f"again in {event.delay:g} s",
                )
                if text
            )
            return f"{event.outcome} {event.actor} {event.id} attempt {event.attempt} in {event.seconds:.3f} s{more}"
        case WorkerStarted():
            return f"worker {event.worker} receives from {', '.join(event.queues) or 'nowhere'}"
        case WorkerStopping():
            return f"worker {event.worker} stopping ({event.reason}), {event.running} running"
        case WorkerStopped():
            return f"worker {event.worker} stopped, {event.processed} processed"
        case WorkerTroubled():
            return f"worker {event.worker} cannot {event.operation}: {event.error}"
        case _:
            return type(event).__name__
