"""How a program talks to a broker: connections and handles."""

from trepid.connection.connection import Connection as Connection
from trepid.connection.handle import CancelResult as CancelResult
from trepid.connection.handle import JobHandle as JobHandle
from trepid.connection.nursery import JobNursery as JobNursery
from trepid.connection.nursery import JobNurseryStatistics as JobNurseryStatistics
from trepid.connection.nursery import open_job_nursery as open_job_nursery
from trepid.connection.opening import open_connection as open_connection
from trepid.connection.pages import Messages as Messages
from trepid.connection.schedules import ScheduleView as ScheduleView
from trepid.connection.updates import Emitted as Emitted
from trepid.connection.updates import Ended as Ended
from trepid.connection.updates import Progressed as Progressed
from trepid.connection.updates import StateChanged as StateChanged
from trepid.connection.updates import Update as Update
from trepid.connection.watching import Watch as Watch
