"""A cluster: queues are divided among servers, and move between them."""

import contextlib
import itertools
from collections import Counter

import pytest
import trio

from tests.brokers.redis.steps import publications, settled
from tests.brokers.test_conformance import BentClock
from tests.servers.redis import Redis, open_cluster
from tests.servers.server import wait_until
from trepid.brokers.redis import RedisBroker
from trepid.brokers.redis.keys import Keys
from trepid.errors import BrokerLostError, BrokerRefusedError
from trepid.ports.messages import Firing, Publication, Settlement
from trepid.rules.gates import Limit
from trepid.rules.life import Reply
from trepid.rules.publishing import Publishing
from trepid.rules.verdicts import Done, Returned
from trepid.testing.conformance import CASES as ALL
from trepid.testing.conformance import check_broker
from trepid.wire.redis.cluster import slot_of

PREFIXES = itertools.count()

CASES = [
    "payloads_arrive_as_they_were",
    "the_same_publish_again_is_a_duplicate",
    "an_undeclared_queue_stores_nothing",
    "a_conflict_stores_nothing",
    "replies_come_in_order",
    "messages_outlive_a_session",
    "leases_outlive_a_session",
    "cancelled_declaring",
    "cancelled_deleting",
    "cancelled_leasing",
    "cancelled_waiting_for_a_message",
    "who_gave_up_takes_no_message_along",
    "each_message_wakes_somebody",
    "a_result_is_waited_for",
    "pages_follow_each_other",
    "random_lives_follow_the_rules",
    *(case.name for case in ALL if {"limits", "holds", "firing:deduplicated", "firing:atomic"} & set(case.needs)),
]


@pytest.fixture(scope="session")
def cluster(ground):
    nodes = open_cluster(ground)
    yield nodes
    for node in nodes:
        node.stop()


def url_of(nodes):
    return f"redis+cluster://{','.join(f'{node.host}:{node.port}' for node in nodes)}?prefix=c{next(PREFIXES)}"


@pytest.mark.parametrize("name", CASES)
async def test_the_suite(name, cluster):
    clock = BentClock()
    conformance = await check_broker(
        lambda: RedisBroker(url_of(cluster), clock=clock), cases=[name], bend_time=clock.bend, tick=0.1
    )
    assert conformance.passed == (name,)


def test_slots_are_those_of_the_specification(cluster):
    for key in ("foo", "{user1000}.following", "foo{}{bar}", "foo{{bar}}zap", "foo{bar}{zap}", "", "{trepid:q}:meta"):
        assert slot_of(key) == int(cluster[0].command("CLUSTER", "KEYSLOT", key)), key


async def test_what_a_cluster_cannot_do_is_declared(cluster):
    async with RedisBroker(url_of(cluster)).open() as session:
        able = session.capabilities
        assert "Cluster" in able.engine
        assert not able.atomic_batches
        assert not able.atomic_settling


async def test_several_queues_are_one_broker(cluster):
    async with RedisBroker(url_of(cluster)).open() as session:
        queues = [f"q{number}" for number in range(8)]
        await session.declare(queues)
        assert await session.queues() == queues
        batch = [Publication(queue, "m", ("p", number), b"{}") for number, queue in enumerate(queues)]
        await session.publish(batch)
        deliveries = await session.lease(queues, 20, 30.0, owner="me")
        assert {each.queue for each in deliveries} == set(queues)
        # A worker knows its leases by their tokens, whatever queues they are from.
        assert len({each.token for each in deliveries}) == len(queues)
        assert {ref.queue for ref in await session.held("me")} == set(queues)
        assert all(each.reply == "applied" for each in await session.extend([each.ref for each in deliveries], 60.0))
        assert await settled(session, deliveries) == 8


async def test_weights_are_learned_from_the_queues(cluster):
    """Queues are on different servers, so a session goes by what each has said of its weight when it was last asked."""
    async with RedisBroker(url_of(cluster)).open() as session:
        await session.declare(["light", "heavy", "empty"])
        for queue in ("light", "heavy"):
            await session.publish(publications(queue, 100))
        got = Counter(each.queue for each in await session.lease(["light", "heavy"], 16, 30.0, owner="me"))
        assert got == {"heavy": 8, "light": 8}
        await session.limit([Limit("heavy", weight=3)])
        await session.lease(["light", "heavy"], 2, 30.0, owner="me")
        got = Counter(each.queue for each in await session.lease(["light", "heavy"], 16, 30.0, owner="me"))
        assert got == {"heavy": 12, "light": 4}
        got = Counter([(await session.lease(["light", "heavy"], 1, 30.0, owner="me"))[0].queue for _ in range(16)])
        assert got == {"heavy": 12, "light": 4}
        firings = [Firing(queue, "mark", 1.0, publications(queue, 1)[0]) for queue in ("light", "empty", "nowhere")]
        outcomes = [each.outcome for each in await session.fire([*firings, firings[1]])]
        assert outcomes == [Publishing.ACCEPTED, Publishing.ACCEPTED, Publishing.NO_QUEUE, Publishing.DUPLICATE]


@pytest.mark.parametrize("trouble", ["lost", "cancelled"])
async def test_what_one_queue_has_granted_is_handed_over_when_the_next_one_fails(cluster, monkeypatch, trouble):
    """Its server is away, or the call is cancelled: leases that nobody knows of would count as crashes."""
    scope = trio.CancelScope()
    async with RedisBroker(url_of(cluster)).open() as session:
        queues = ["away", "there"]
        await session.declare(queues)
        await session.publish(publications("there", 4))
        ask = session._engine.servers.call

        async def call(key, *words, through=0.0):
            if ":away}" not in key:
                return await ask(key, *words, through=through)
            if trouble == "cancelled" and words[0] == "EVALSHA":
                scope.cancel()
            await trio.lowlevel.checkpoint()
            raise BrokerLostError("away")

        got, failures = [], 0
        with monkeypatch.context() as patch, scope:
            patch.setattr(session._engine.servers, "call", call)
            for _ in range(4):
                try:
                    got += await session.lease(queues, 2, 30.0, owner="me")
                except BrokerLostError:
                    failures += 1
        assert {each.ref for each in got} == set(await session.held("me"))
        if trouble == "lost":
            assert (len(got), failures) == (2, 2), "each queue is asked first in its turn, also when that fails"
        assert await settled(session, got) == len(got)


async def test_what_was_handed_over_in_spite_of_trouble_is_followed_by_it(cluster, monkeypatch):
    """A server whose answer was lost may have granted what nobody knows of; a worker looks for that once it is told."""
    async with RedisBroker(url_of(cluster)).open() as session:
        queues = ["lost", "there"]
        await session.declare(queues)
        for queue in queues:
            await session.publish(publications(queue, 4))
        ask = session._engine.servers.call

        async def call(key, *words, through=0.0):
            answer = await ask(key, *words, through=through)
            if ":lost}" in key and words[0] in ("EVALSHA", "EVAL"):
                raise BrokerLostError("its answer was lost")
            return answer

        got = []
        with monkeypatch.context() as patch:
            patch.setattr(session._engine.servers, "call", call)
            while not got:
                with contextlib.suppress(BrokerLostError):
                    got = await session.lease(queues, 2, 30.0, owner="me")
        assert len(await session.lease(queues, 1, 30.0, owner="another")) == 1, "it is none of their business"
        with pytest.raises(BrokerLostError, match="its answer was lost"):
            await session.lease(queues, 2, 30.0, owner="me")
        assert {ref.queue for ref in set(await session.held("me")) - {each.ref for each in got}} == {"lost"}
        assert await session.lease(queues, 2, 30.0, owner="me")


async def test_follow_ups_in_another_slot_are_there_before_the_lease_ends(cluster, monkeypatch):
    async with RedisBroker(url_of(cluster)).open() as session:
        await session.declare(["q", "other"])
        await session.publish(publications("q", 1))
        [delivery] = await session.lease(["q"], 1, 30.0, owner="me")
        batch = [Settlement(delivery.ref, Done(b"1", 60.0))]
        then = [Publication("other", "next", ("p", 1000), b"{}")]

        async def die(*_):
            await trio.lowlevel.checkpoint()
            raise BrokerLostError("killed")

        with monkeypatch.context() as patch:
            patch.setattr("trepid.brokers.redis.settling._settle", die)
            with pytest.raises(BrokerLostError):
                await session.settle(batch, then=then)
        assert (await session.stats("other")).ready == 1, "killed in between, it is there"
        assert (await session.stats("q")).leased == 1
        assert await session.settle(batch, then=then) == [Reply.APPLIED]
        assert await session.settle(batch, then=then) == [Reply.REPEATED]
        assert (await session.stats("other")).ready == 1
        late = [Publication("other", "late", ("p", 1001), b"{}")]
        assert await session.settle([Settlement(delivery.ref, Returned())], then=late) == [Reply.ENDED]
        assert (await session.stats("other")).ready == 1, "what is refused is followed by nothing"


def pass_time(nodes, url, seconds):
    """Remove what the servers would have removed by then."""
    for node in nodes:
        for key in node.command("KEYS", f"*{url.partition('prefix=')[2]}:*").split():
            if 0 <= int(node.command("TTL", key)) <= seconds:
                node.command("DEL", key)


@pytest.mark.parametrize("kept", [60.0, 0.0], ids=["kept", "nothing kept"])
async def test_a_follow_up_in_another_slot_is_known_for_a_day(kept, cluster, monkeypatch):
    """Killed in between, and taken on by another worker when the follow-up is forgotten long since."""
    url, now = url_of(cluster), [1000.0]
    async with RedisBroker(url, clock=lambda: now[0]).open() as session:
        await session.declare(["q", "other"])
        [ordinary] = publications("other", 1)
        await session.publish([*publications("q", 1), ordinary])
        then = [Publication("other", "next", ("p", 1000), b"{}", remembered=True)]

        async def die(*_):
            await trio.lowlevel.checkpoint()
            raise BrokerLostError("killed")

        [delivery] = await session.lease(["q"], 1, 30.0, owner="me")
        with monkeypatch.context() as patch:
            patch.setattr("trepid.brokers.redis.settling._settle", die)
            with pytest.raises(BrokerLostError):
                await session.settle([Settlement(delivery.ref, Done(b"1", 60.0))], then=then)
        assert await settled(session, await session.lease(["other"], 2, 30.0, owner="me"), keep=kept) == 2
        now[0] += 61
        await session.reap()
        assert await session.get("other", "next") is None
        await trio.to_thread.run_sync(pass_time, cluster, url, 86_000)
        # What follows from nothing is new by now; what another worker publishes again after a step is not.
        assert [each.outcome for each in await session.publish([ordinary])] == [Publishing.ACCEPTED]
        [delivery] = await session.lease(["q"], 1, 30.0, owner="another")
        assert await session.settle([Settlement(delivery.ref, Done(b"1", 60.0))], then=then) == [Reply.APPLIED]
        assert (await session.stats("other")).live == 1
        # Nor is it kept for ever.
        await trio.to_thread.run_sync(pass_time, cluster, url, 86_500)
        for node in cluster:
            assert not node.command("KEYS", f"*{url.partition('prefix=')[2]}:other*:gone:*")


async def test_a_slot_that_moves_is_followed(cluster):
    with trio.fail_after(30):
        await the_story_of_a_slot(cluster)


async def the_story_of_a_slot(cluster):
    url = url_of(cluster)
    async with RedisBroker(url).open() as session, RedisBroker(url).open() as other:
        await session.declare(["moving"])
        await other.publish(publications("moving", 50))
        slot = slot_of(Keys(url.partition("prefix=")[2], clustered=True).meta("moving"))
        ids = [node.command("CLUSTER", "MYID") for node in cluster]
        source = next(n for n, node in enumerate(cluster) if owns(node, slot))
        target = (source + 1) % len(cluster)

        def begin():
            cluster[target].command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
            cluster[source].command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])

        def move():
            while keys := cluster[source].command("CLUSTER", "GETKEYSINSLOT", slot, 100).split():
                cluster[source].command(
                    "MIGRATE", cluster[target].host, cluster[target].port, "", 0, 5000, "KEYS", *keys
                )
            for node in (cluster[target], cluster[source], cluster[3 - source - target]):
                node.command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

        first = await session.lease(["moving"], 20, 60.0, owner="me")
        await trio.to_thread.run_sync(begin)
        # While it is on its way nothing is changed by halves: the queue is away.
        with pytest.raises(BrokerLostError, match="TRYAGAIN"):
            await session.lease(["moving"], 20, 60.0, owner="me")
        await trio.to_thread.run_sync(move)
        second = await session.lease(["moving"], 100, 60.0, owner="me")
        assert len(first) + len(second) == 50
        assert await settled(other, [*first, *second]) == 50


async def test_a_failover_is_followed(ground):
    """Also by who was told of no other server than the one that dies."""
    nodes, replica = open_cluster(ground), Redis(ground, cluster=True).start()

    def follows():
        # Refused until it has heard of the others.
        replica.command("CLUSTER", "REPLICATE", nodes[0].command("CLUSTER", "MYID"), check=False)
        return "master_link_status:up" in replica.command("INFO", "replication")

    def known():
        # By everybody, and to the replica: one that knows its primary only has nobody to be elected by.
        everybody = (replica, *nodes)
        return all(f":{one.port}@" in each.command("CLUSTER", "NODES") for one in everybody for each in everybody)

    try:
        replica.command("CLUSTER", "MEET", nodes[0].host, nodes[0].port, nodes[0].bus_port)
        wait_until(known, "they do not know each other")
        wait_until(follows, "it does not follow")
        queue = next(f"q{n}" for n in itertools.count() if owns(nodes[0], slot_of(f"{{trepid:q{n}}}:meta")))
        async with RedisBroker(f"redis+cluster://{nodes[0].host}:{nodes[0].port}").open() as session:
            await session.declare([queue])
            await session.publish(publications(queue, 5))
            # Redis acknowledges before it replicates.
            assert await session._engine.servers.call(f"{{trepid:{queue}}}:meta", "WAIT", 1, 5000) == 1
            nodes[0].kill()
            got = []
            with trio.fail_after(30):
                while not got:
                    try:
                        got = await session.lease([queue], 10, 30.0, owner="me")
                    except BrokerLostError:
                        await trio.sleep(0.1)
            assert await settled(session, got) == 5
            assert session.connected
    finally:
        for server in (replica, *nodes):
            server.stop()


def owns(node, slot):
    """Whether a node serves a slot, by its own word."""
    for line in node.command("CLUSTER", "NODES").splitlines():
        if "myself" in line:
            for part in line.split()[8:]:
                first, _, last = part.partition("-")
                if not part.startswith("[") and int(first) <= slot <= int(last or first):
                    return True
    return False


async def test_a_part_of_a_cluster_is_no_server(cluster):
    with pytest.raises(BrokerRefusedError, match="part of a cluster; write redis\\+cluster://"):
        async with RedisBroker(f"redis://{cluster[0].host}:{cluster[0].port}").open():
            pytest.fail("it was opened")


async def test_a_server_is_no_cluster(redis_server):
    with pytest.raises(BrokerRefusedError, match="it is no cluster"):
        async with RedisBroker(f"redis+cluster://{redis_server.host}:{redis_server.port}").open():
            pytest.fail("it was opened")
