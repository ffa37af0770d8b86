"""The memory broker: the pure core (:class:`Ledger`) behind a Trio front."""

from trepid.brokers.memory.broker import MemoryBroker as MemoryBroker
from trepid.brokers.memory.ledger import Ledger as Ledger
