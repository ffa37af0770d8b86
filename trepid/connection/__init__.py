"""How a program talks to a broker: connections and handles."""

from trepid.connection.connection import Connection as Connection
from trepid.connection.handle import CancelResult as CancelResult
from trepid.connection.handle import JobHandle as JobHandle
from trepid.connection.opening import open_connection as open_connection
from trepid.connection.pages import Messages as Messages
from trepid.connection.schedules import ScheduleView as ScheduleView
