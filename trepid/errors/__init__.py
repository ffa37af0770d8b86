"""Every exception that Trepid raises, sorted by who must act.

*The program is wrong*: fix the code.  *The world is wrong*: a broker or its file is not as it should be; wait, or
repair it.  *The job is wrong*: one job ended badly; look at its arguments.
"""

from trepid.errors.job import ArgumentsError as ArgumentsError
from trepid.errors.job import EnvelopeError as EnvelopeError
from trepid.errors.job import JobCancelledError as JobCancelledError
from trepid.errors.job import JobFailedError as JobFailedError
from trepid.errors.job import JobGoneError as JobGoneError
from trepid.errors.job import JobNurseryTimeoutError as JobNurseryTimeoutError
from trepid.errors.job import ProcessCallError as ProcessCallError
from trepid.errors.job import ProcessDiedError as ProcessDiedError
from trepid.errors.job import ResultError as ResultError
from trepid.errors.program import BrokerURLError as BrokerURLError
from trepid.errors.program import DuplicateActorError as DuplicateActorError
from trepid.errors.program import DuplicateScheduleError as DuplicateScheduleError
from trepid.errors.program import PayloadTooLargeError as PayloadTooLargeError
from trepid.errors.program import QueueBusyError as QueueBusyError
from trepid.errors.program import QueueFullError as QueueFullError
from trepid.errors.program import UniqueConflictError as UniqueConflictError
from trepid.errors.program import UnknownActorError as UnknownActorError
from trepid.errors.program import UnknownQueueError as UnknownQueueError
from trepid.errors.program import UnknownScheduleError as UnknownScheduleError
from trepid.errors.program import UnsupportedError as UnsupportedError
from trepid.errors.root import TrepidError as TrepidError
from trepid.errors.world import BrokerBusyError as BrokerBusyError
from trepid.errors.world import BrokerFileError as BrokerFileError
from trepid.errors.world import BrokerFullError as BrokerFullError
from trepid.errors.world import BrokerLostError as BrokerLostError
from trepid.errors.world import BrokerRefusedError as BrokerRefusedError
from trepid.errors.world import IslandLostError as IslandLostError
from trepid.errors.world import LeaseLostError as LeaseLostError
