"""The suite's own promises: what it reports, and how."""

from collections.abc import Awaitable

import attrs
import pytest
import trio

from trepid.brokers.memory import MemoryBroker
from trepid.brokers.memory import session as memory
from trepid.errors import UnsupportedError
from trepid.testing import Conformance, ConformanceError, check_broker
from trepid.testing.conformance import CASES

NAMES = {case.name for case in CASES}


def test_each_case_has_a_name_of_its_own_and_says_what_it_promises():
    assert len(NAMES) == len(CASES) > 150
    for case in CASES:
        assert case.promise.endswith((".", "?")), case.name
        assert len(case.promise) > 20


async def test_every_case_is_accounted_for(autojump_clock):
    conformance = await check_broker(MemoryBroker)
    assert isinstance(conformance, Conformance)
    assert conformance.engine == "memory"
    assert set(conformance.passed) == NAMES
    assert not conformance.unsupported
    assert str(conformance) == f"memory: {len(NAMES)} cases passed, 0 unsupported"


async def test_hours_are_not_waited_for():
    hours = [case.name for case in CASES if case.hours]
    conformance = await check_broker(MemoryBroker, cases=hours)
    assert conformance.passed == ()
    assert set(conformance.unsupported) == set(hours)
    assert set(conformance.unsupported.values()) == {"hours would have to pass; give bend_time"}


async def test_a_case_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="no such cases: nonsense"):
        await check_broker(MemoryBroker, cases=["nonsense", "a_publish_wakes_who_waits"])


LACKING = {
    "unique": (False, ()),
    "peek": (False, ("get", "peek")),
    "requeue": (False, ("requeue",)),
    "pause": (False, ("pause", "resume")),
    "results": ("none", ("result",)),
    "delay": ("none", ()),
    "priorities": ("none", ()),
    "exact_stats": (False, ()),
}


def poor(monkeypatch, *lacking, honest=True):
    """Let the memory broker declare to lack something, and behave so if it is honest."""
    values = {capability: LACKING[capability][0] for capability in lacking}
    monkeypatch.setattr(memory, "_CAPABILITIES", attrs.evolve(memory._CAPABILITIES, **values))
    if not honest:
        return

    def refuse(name) -> Awaitable[object]:
        raise UnsupportedError(name, "memory")

    for capability in lacking:
        for method in LACKING[capability][1]:
            monkeypatch.setattr(memory.MemorySession, method, lambda *args, _of=method, **more: refuse(_of))
    publish = memory.MemorySession.publish

    async def poor_publish(self, batch):
        for item in batch:
            if "delay" in lacking and (item.delay or item.due):
                await refuse("delays")
            if "unique" in lacking and item.unique:
                await refuse("unique keys")
        return await publish(self, batch)

    monkeypatch.setattr(memory.MemorySession, "publish", poor_publish)


@pytest.mark.parametrize("capability", LACKING)
async def test_what_is_lacking_is_reported_and_not_complained_of(capability, monkeypatch, autojump_clock):
    poor(monkeypatch, capability)
    conformance = await check_broker(MemoryBroker)
    assert set(conformance.passed) | set(conformance.unsupported) == NAMES
    assert not set(conformance.passed) & set(conformance.unsupported)
    assert conformance.unsupported
    assert all(capability in reason for reason in conformance.unsupported.values())
    assert len(conformance.passed) > 50


@pytest.mark.parametrize("capability", ["unique", "peek", "requeue", "pause", "results", "delay"])
async def test_who_understates_is_caught(capability, monkeypatch, autojump_clock):
    poor(monkeypatch, capability, honest=False)
    with pytest.raises(ExceptionGroup) as caught:
        await check_broker(MemoryBroker, cases=["what_is_lacking_is_refused"])
    (error,) = caught.value.exceptions
    assert f"UnsupportedError, as {capability} is declared to be lacking" in str(error)


async def test_all_failures_are_collected_with_case_expectation_and_what_happened(monkeypatch, autojump_clock):
    async def held(self, owner):
        await trio.lowlevel.checkpoint()
        return []

    async def queues(self):
        raise OSError("no list today")

    monkeypatch.setattr(memory.MemorySession, "held", held)
    monkeypatch.setattr(memory.MemorySession, "queues", queues)
    with pytest.raises(ExceptionGroup, match="memory: does not conform") as caught:
        await check_broker(MemoryBroker)
    assert all(isinstance(error, ConformanceError) for error in caught.value.exceptions)
    found = {error.case: error for error in caught.value.exceptions}
    error = found["held_leases_are_listed"]
    assert error.expectation.startswith("held: {Ref(")
    assert error.happened == "got set()"
    assert str(error).startswith("held_leases_are_listed: expected held: {Ref(")
    error = found["declaring_again_changes_nothing"]
    assert "the case to come to its end; but it raised OSError('no list today')" in str(error)
    assert isinstance(error.__cause__, OSError)


async def test_a_case_that_hangs_is_a_failure(monkeypatch, autojump_clock):
    async def queues(self):
        await trio.sleep_forever()

    monkeypatch.setattr(memory.MemorySession, "queues", queues)
    with pytest.raises(ExceptionGroup) as caught:
        await check_broker(MemoryBroker, cases=["declaring_again_changes_nothing"])
    (error,) = caught.value.exceptions
    assert "it hung for 60 s" in str(error)
