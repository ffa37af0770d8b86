"""The PostgreSQL broker: one database, any number of processes on any number of machines."""

from trepid.brokers.postgres.broker import PostgreSQLBroker as PostgreSQLBroker
