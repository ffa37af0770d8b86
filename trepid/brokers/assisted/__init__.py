"""A broker that lacks results, unique keys and cancellation, and a second engine that remembers them for it."""

from trepid.brokers.assisted.broker import AssistedBroker as AssistedBroker
