"""The memory broker: the pure core (:class:`Ledger`) behind a Trio front."""

from trepid.brokers.memory.ledger import Ledger as Ledger
from trepid.brokers.memory.session import MemoryBroker as MemoryBroker
