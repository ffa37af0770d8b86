"""What applications, and the authors of brokers, test with.  Nothing in here needs pytest, the plugin excepted."""

from trepid.testing.conformance import Case, Conformance, ConformanceError, check_broker

__all__ = ["Case", "Conformance", "ConformanceError", "check_broker"]
