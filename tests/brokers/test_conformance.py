"""Every engine that ships with Trepid keeps the promises of the port: one test per engine and promise."""

import pytest

from trepid.brokers.memory import MemoryBroker
from trepid.testing.conformance import CASES, check_broker

NAMES = [case.name for case in CASES]


@pytest.mark.parametrize("name", NAMES)
async def test_memory(name, autojump_clock):
    conformance = await check_broker(MemoryBroker, cases=[name])
    assert conformance.passed == (name,), "the memory broker supports everything"
