"""The NATS broker: JetStream streams, a subject for each message, and copies that replace one another."""

from trepid.brokers.nats.broker import NatsBroker as NatsBroker
