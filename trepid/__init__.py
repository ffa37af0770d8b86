"""Background jobs for Trio.

A *job* names an *actor* (a plain function) and carries its arguments; a *broker* keeps it safe until a *worker* has run
it.  The worker is a Trio nursery in the caller's own tree, with one cancel scope per message.
"""

from trepid.brokers.memory import MemoryBroker as MemoryBroker
from trepid.connection import CancelResult as CancelResult
from trepid.connection import Connection as Connection
from trepid.connection import JobHandle as JobHandle
from trepid.connection import open_connection as open_connection
from trepid.errors import ArgumentsError as ArgumentsError
from trepid.errors import BrokerBusyError as BrokerBusyError
from trepid.errors import BrokerFileError as BrokerFileError
from trepid.errors import BrokerFullError as BrokerFullError
from trepid.errors import BrokerLostError as BrokerLostError
from trepid.errors import BrokerURLError as BrokerURLError
from trepid.errors import DuplicateActorError as DuplicateActorError
from trepid.errors import EnvelopeError as EnvelopeError
from trepid.errors import JobCancelledError as JobCancelledError
from trepid.errors import JobFailedError as JobFailedError
from trepid.errors import JobGoneError as JobGoneError
from trepid.errors import PayloadTooLargeError as PayloadTooLargeError
from trepid.errors import QueueBusyError as QueueBusyError
from trepid.errors import ResultError as ResultError
from trepid.errors import TrepidError as TrepidError
from trepid.errors import UniqueConflictError as UniqueConflictError
from trepid.errors import UnknownActorError as UnknownActorError
from trepid.errors import UnknownQueueError as UnknownQueueError
from trepid.errors import UnsupportedError as UnsupportedError
from trepid.ports.broker import Broker as Broker
from trepid.ports.capabilities import Capabilities as Capabilities
from trepid.ports.messages import MessageView as MessageView
from trepid.ports.messages import QueueStats as QueueStats
from trepid.rules.life import State as State
from trepid.runtime.blocking import run as run
from trepid.runtime.report import Report as Report
from trepid.runtime.report import WorkerStatistics as WorkerStatistics
from trepid.runtime.running import RunningWorker as RunningWorker
from trepid.runtime.worker import Worker as Worker
from trepid.values.actor import Actor as Actor
from trepid.values.context import Context as Context
from trepid.values.job import Job as Job
from trepid.values.queue import Priority as Priority
from trepid.values.queue import Queue as Queue
from trepid.values.retry import ExponentialBackoff as ExponentialBackoff
from trepid.values.router import Router as Router
from trepid.values.unique import Unique as Unique
from trepid.values.verbs import Bury as Bury
from trepid.values.verbs import Retry as Retry
from trepid.values.verbs import Snooze as Snooze

__version__ = "0.1.0"
