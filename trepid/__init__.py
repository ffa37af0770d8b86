"""Background jobs for Trio.

A *job* names an *actor* (a plain function) and carries its arguments; a *broker* keeps it safe until a *worker* has run
it.  The worker is a Trio nursery in the caller's own tree, with one cancel scope per message.
"""

from trepid.brokers.memory import MemoryBroker
from trepid.connection import (
    CancelResult,
    Connection,
    Emitted,
    Ended,
    JobHandle,
    JobNursery,
    JobNurseryStatistics,
    Progressed,
    ScheduleView,
    StateChanged,
    open_connection,
    open_job_nursery,
)
from trepid.errors import (
    ArgumentsError,
    BrokerBusyError,
    BrokerFileError,
    BrokerFullError,
    BrokerLostError,
    BrokerRefusedError,
    BrokerURLError,
    DuplicateActorError,
    DuplicateScheduleError,
    EnvelopeError,
    JobCancelledError,
    JobFailedError,
    JobGoneError,
    JobNurseryTimeoutError,
    LeaseLostError,
    PayloadTooLargeError,
    QueueBusyError,
    QueueFullError,
    ResultError,
    TrepidError,
    UniqueConflictError,
    UnknownActorError,
    UnknownQueueError,
    UnknownScheduleError,
    UnsupportedError,
)
from trepid.ports.broker import Broker
from trepid.ports.capabilities import Capabilities
from trepid.ports.messages import MessageView, QueueStats
from trepid.rules.life import State
from trepid.runtime.blocking import run
from trepid.runtime.report import Report, WorkerStatistics
from trepid.runtime.running import RunningWorker
from trepid.runtime.worker import Worker
from trepid.values.actor import Actor
from trepid.values.calendar import At, Cron, Every
from trepid.values.context import Context
from trepid.values.job import Job
from trepid.values.limits import Rate
from trepid.values.previous import PREVIOUS
from trepid.values.queue import Priority, Queue
from trepid.values.retry import ExponentialBackoff
from trepid.values.router import Router
from trepid.values.schedule import Schedule
from trepid.values.unique import Unique
from trepid.values.verbs import Bury, Retry, Snooze

__version__ = "0.1.0"

__all__ = [
    "PREVIOUS",
    "Actor",
    "ArgumentsError",
    "At",
    "Broker",
    "BrokerBusyError",
    "BrokerFileError",
    "BrokerFullError",
    "BrokerLostError",
    "BrokerRefusedError",
    "BrokerURLError",
    "Bury",
    "CancelResult",
    "Capabilities",
    "Connection",
    "Context",
    "Cron",
    "DuplicateActorError",
    "DuplicateScheduleError",
    "Emitted",
    "Ended",
    "EnvelopeError",
    "Every",
    "ExponentialBackoff",
    "Job",
    "JobCancelledError",
    "JobFailedError",
    "JobGoneError",
    "JobHandle",
    "JobNursery",
    "JobNurseryStatistics",
    "JobNurseryTimeoutError",
    "LeaseLostError",
    "MemoryBroker",
    "MessageView",
    "PayloadTooLargeError",
    "Priority",
    "Progressed",
    "Queue",
    "QueueBusyError",
    "QueueFullError",
    "QueueStats",
    "Rate",
    "Report",
    "ResultError",
    "Retry",
    "Router",
    "RunningWorker",
    "Schedule",
    "ScheduleView",
    "Snooze",
    "State",
    "StateChanged",
    "TrepidError",
    "Unique",
    "UniqueConflictError",
    "UnknownActorError",
    "UnknownQueueError",
    "UnknownScheduleError",
    "UnsupportedError",
    "Worker",
    "WorkerStatistics",
    "__version__",
    "open_connection",
    "open_job_nursery",
    "run",
]
