"""What a second engine adds is as good as if the first one had it: the whole suite, as far as both can promise."""

import itertools

import pytest

from tests.brokers.assisted.limited import LimitedBroker
from trepid.brokers.assisted import AssistedBroker
from trepid.brokers.memory import MemoryBroker
from trepid.brokers.sqlite import SQLiteBroker
from trepid.testing.conformance import CASES, check_broker
from trepid.testing.conformance.world import lacks

NAMES = [case.name for case in CASES]

# What neither of the two engines has.
LACKING = {"peek", "exact_stats", "purge", "limits", "holds"}


def hinders(case):
    return LACKING & set(case.needs)


@pytest.mark.parametrize("case", [case for case in CASES if not hinders(case)], ids=lambda case: case.name)
async def test_with_memory(case, autojump_clock):
    conformance = await check_broker(lambda: AssistedBroker(LimitedBroker(), MemoryBroker()), cases=[case.name])
    if not conformance.passed:
        # It asked, in its middle, to look at a message.
        assert any(word in conformance.unsupported[case.name] for word in ("peek", "exact_stats", "firing"))


SUPPLIED = ("results", "unique", "cancel_waiting", "cancel_running", "deduplication", "unique_ids")


@pytest.mark.parametrize(
    "name",
    [
        "the_same_publish_again_is_a_duplicate",
        "a_replaced_publish_is_recognised",
        "concurrent_repetitions_store_one_message",
        "a_new_run_replaces_the_old_result",
        "what_is_not_done_is_cancelled",
        "who_is_asked_to_stop_can_wait_for_it",
        "each_end_frees_the_key",
        "time_frees_the_key",
        "one_of_a_hundred_publishers_wins",
        "one_settlement_wins",
        "settling_races_cancelling",
    ],
)
async def test_with_sqlite(name, tmp_path):
    numbers = itertools.count()

    def make_broker():
        return AssistedBroker(LimitedBroker(), SQLiteBroker(tmp_path / f"{next(numbers)}.db"))

    conformance = await check_broker(make_broker, cases=[name], tick=0.2)
    assert conformance.passed == (name,)


async def test_the_capabilities_are_those_of_both(autojump_clock):
    async with LimitedBroker().open() as main, AssistedBroker(LimitedBroker(), MemoryBroker()).open() as both:
        assert all(lacks(main.capabilities, name) for name in SUPPLIED)
        assert not any(lacks(both.capabilities, name) for name in SUPPLIED)
        assert both.capabilities.engine == "limited with memory"
        assert both.capabilities.results == "before"
        assert both.capabilities.virtual_time
