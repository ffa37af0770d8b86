"""The SQLite broker: one file, no server, any number of processes on one machine."""

from trepid.brokers.sql.tally import Statistics as Statistics
from trepid.brokers.sqlite.broker import SQLiteBroker as SQLiteBroker
