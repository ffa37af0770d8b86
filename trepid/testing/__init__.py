"""What applications, and the authors of brokers, test with.  Nothing in here needs pytest, the plugin excepted."""

from trepid.testing.conformance import Case, Conformance, ConformanceError, check_broker
from trepid.testing.contexts import make_context
from trepid.testing.desk import Desk, Ran, open_test_connection
from trepid.testing.faults import Fault, FaultPlan, Faults, FaultyBroker, refused, reply_lost, request_lost, slow
from trepid.testing.inlining import inline
from trepid.testing.mishaps import InjectedError
from trepid.testing.recorder import Attempt, History, Recorder
from trepid.testing.simulation import Simulation, simulate

__all__ = [
    "Attempt",
    "Case",
    "Conformance",
    "ConformanceError",
    "Desk",
    "Fault",
    "FaultPlan",
    "Faults",
    "FaultyBroker",
    "History",
    "InjectedError",
    "Ran",
    "Recorder",
    "Simulation",
    "check_broker",
    "inline",
    "make_context",
    "open_test_connection",
    "refused",
    "reply_lost",
    "request_lost",
    "simulate",
    "slow",
]
