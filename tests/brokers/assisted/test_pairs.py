"""Two real servers as one broker: what the second one adds keeps its promises there, too.

These are the cases that neither server could be put to alone; ``make engines`` puts pairs to all of them.
"""

import itertools

import pytest
import trio

from tests.brokers.assisted.test_conformance import SUPPLIED, hinders
from tests.brokers.nats.kit import sweep
from tests.brokers.rabbitmq.tools import demolish, new_url
from trepid.brokers.assisted import AssistedBroker
from trepid.brokers.nats import NatsBroker
from trepid.brokers.rabbitmq import RabbitMQBroker
from trepid.brokers.redis import RedisBroker
from trepid.testing.conformance import CASES, check_broker

PREFIXES = itertools.count()


def added(*lacking):
    """Return the cases that a second engine makes possible, but for those that need what the first one lacks."""
    return [
        case.name
        for case in CASES
        if {*SUPPLIED} & {*case.needs} and not {*lacking} & {*case.needs} and not hinders(case) and not case.hours
    ]


def judge(conformance, name):
    if not conformance.passed:
        # It asked, in its middle, for what no pair has.
        assert conformance.unsupported[name].endswith(("peek to be lacking", "exact_stats to be lacking"))


@pytest.mark.parametrize("name", added("expiry", "fencing"))
async def test_rabbitmq_with_redis(name, rabbitmq_server, redis_server):
    urls = []

    def make_broker():
        urls.append(new_url(rabbitmq_server.url))
        second = RedisBroker(f"{redis_server.url}?prefix=beside{next(PREFIXES)}")
        return AssistedBroker(RabbitMQBroker(urls[-1]), second)

    try:
        judge(await check_broker(make_broker, cases=[name], tick=0.3), name)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
            await demolish(*dict.fromkeys(urls))


@pytest.mark.parametrize("name", added("expiry"))
async def test_nats_with_redis(name, nats_server, redis_server):
    prefixes = []

    def make_broker():
        prefixes.append(f"pair{next(PREFIXES)}")
        second = RedisBroker(f"{redis_server.url}?prefix={prefixes[-1]}")
        return AssistedBroker(NatsBroker(f"{nats_server.url}?prefix={prefixes[-1]}"), second)

    judge(await check_broker(make_broker, cases=[name], tick=0.1), name)
    for prefix in prefixes:
        await sweep(nats_server.url, prefix)
