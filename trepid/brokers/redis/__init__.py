"""The Redis broker: one script per operation, on one server or on a cluster."""

from trepid.brokers.redis.broker import RedisBroker as RedisBroker
