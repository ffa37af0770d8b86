"""How a program talks to a broker: connections and handles."""

from trepid.connection.connection import Connection as Connection
from trepid.connection.handle import CancelResult as CancelResult
from trepid.connection.handle import JobHandle as JobHandle
from trepid.connection.nursery import JobNursery as JobNursery
from trepid.connection.nursery import JobNurseryStatistics as JobNurseryStatistics
from trepid.connection.nursery import open_job_nursery as open_job_nursery
from trepid.connection.opening import open_connection as open_connection
from trepid.connection.pages import Messages as Messages
