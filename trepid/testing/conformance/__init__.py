"""The promises of the broker port, as cases that any engine can be put to.

A case is an async function of one :class:`World`: a fresh broker with a queue, and the means to look at it and to let
its time pass.  Nothing in here knows pytest, nor any engine.
"""

from trepid.testing.conformance.report import Conformance, ConformanceError
from trepid.testing.conformance.suite import CASES, check_broker
from trepid.testing.conformance.world import Case, World, case

__all__ = ["CASES", "Case", "Conformance", "ConformanceError", "World", "case", "check_broker"]
