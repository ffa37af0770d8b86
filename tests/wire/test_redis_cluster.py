"""A cluster whose servers are played: they die, move slots, and know less than others, in virtual time."""

from contextlib import asynccontextmanager

import pytest
import trio

from trepid.errors import BrokerLostError
from trepid.wire.redis import cluster as module
from trepid.wire.redis.address import parse
from trepid.wire.redis.cluster import open_cluster, slot_of
from trepid.wire.redis.faults import RedisError

KEY = "key"
SLOT = slot_of(KEY)


class Node:
    """A server of the cluster.

    Attributes:
      host: its name; each listens on port 7000.
      up: whether it can be connected to; one that is killed is not.
      slow: seconds that connecting takes.
      far: seconds that an answer takes.
      map: the host that has all slots, as this one tells; None if it knows of nobody.
      silent: whether its answers do not come.
      trouble: the errors that it answers to commands, one after the other; then it answers its own name.
      asked: how many commands it was sent.
    """

    def __init__(self, host, knows="a"):
        self.host, self.up, self.slow, self.far, self.map = host, True, 0.0, 0.001, knows
        self.silent = False
        self.trouble = []
        self.asked = 0
        self.gone = trio.Event()

    def kill(self):
        self.up = False
        self.gone.set()
        self.gone = trio.Event()


class Connection:
    def __init__(self, node):
        self.node, self.about, self.gone, self.name = node, {}, node.gone, node.host

    @property
    def lost(self):
        return self.gone.is_set()

    def ask(self, *_):
        pass

    async def call(self, *words, through=0.0, asking=False):
        await trio.sleep(self.node.far)
        if self.lost:
            raise BrokerLostError(f"{self.node.host}: lost")
        if self.node.silent:
            await trio.sleep_forever()
        if words == ("CLUSTER", "SLOTS"):
            known = self.node.map
            return [] if known is None else [[0, 16383, [known.encode(), 7000, b"id"]]]
        self.node.asked += 1
        if self.node.trouble:
            code, _, text = self.node.trouble.pop(0).partition(" ")
            raise RedisError(self.node.host, code, text)
        return self.node.host

    async def wait_lost(self):
        await self.gone.wait()
        return BrokerLostError(f"{self.node.host}: lost")


class News:
    def heard(self, channel, said):
        pass

    def missed(self):
        pass


@pytest.fixture
def nodes(monkeypatch):
    found = {host: Node(host) for host in "abc"}

    @asynccontextmanager
    async def dial(address, endpoint, news):
        node = found[endpoint.host]
        await trio.sleep(node.slow)
        if not node.up:
            raise BrokerLostError(f"{node.host}: nobody answers there")
        yield Connection(node)

    monkeypatch.setattr(module, "open_connection", dial)
    return found


def opened(hosts="a:7000,b:7000,c:7000"):
    return open_cluster(parse(f"redis+cluster://{hosts}"), News())


@pytest.mark.parametrize("hosts", ["a:7000,b:7000,c:7000", "a:7000"])
async def test_who_takes_over_is_found_although_the_dead_one_is_known_best(nodes, autojump_clock, hosts):
    """Whoever is known is asked, also those that only the map has told of."""
    async with opened(hosts) as cluster:
        cluster._ranges = [(0, 9999, ("b", 7000)), (10000, 16383, ("a", 7000))]
        assert await cluster.call(KEY, "GET") == "a"
        nodes["a"].kill()
        nodes["b"].map = nodes["c"].map = "b"
        with pytest.raises(BrokerLostError):
            await cluster.call(KEY, "GET")
        assert await cluster.call(KEY, "GET") == "b"
        assert cluster.connected


async def test_several_who_need_one_that_is_dead_hear_so_together(nodes, autojump_clock):
    async with opened("a:7000") as cluster:
        nodes["c"].slow, nodes["c"].up = 4.0, False
        cluster._ranges = [(0, 16383, ("c", 7000))]
        heard = []

        async def ask():
            with pytest.raises(BrokerLostError, match="c: nobody answers there"):
                await cluster.call(KEY, "GET")
            heard.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            start = trio.current_time()
            for _ in range(5):
                nursery.start_soon(ask)
        assert max(heard) - start < 6


async def test_a_silent_one_does_not_keep_the_map_to_itself(nodes, autojump_clock):
    """It is connected to, but its answers do not come; others know better."""
    async with opened("a:7000") as cluster:
        cluster._ranges = [(0, 9999, ("b", 7000)), (10000, 16383, ("a", 7000))]
        nodes["a"].silent = True
        nodes["b"].map = "b"
        with trio.fail_after(2):
            await cluster.look_around()
        assert await cluster.call(KEY, "GET") == "b"


async def test_servers_that_are_far_away_are_waited_for(nodes, autojump_clock):
    """Where every answer takes longer than the first round has patience, and nobody else is known."""
    async with opened("a:7000") as cluster:
        nodes["a"].far, nodes["a"].map = 0.4, "b"
        await cluster.look_around()
        assert await cluster.call(KEY, "GET") == "b"


async def test_one_that_has_left_the_cluster_is_not_believed(nodes, autojump_clock):
    """It has forgotten the others, and answers that nobody has any slot."""
    async with opened() as cluster:
        assert await cluster.call(KEY, "GET") == "a"
        nodes["a"].map = None
        nodes["a"].trouble = ["CLUSTERDOWN Hash slot not served"]
        nodes["b"].map = nodes["c"].map = "b"
        assert await cluster.call(KEY, "GET") == "b"


async def test_a_slot_that_nobody_has_is_asked_for_again(nodes, autojump_clock):
    nodes["a"].map = nodes["b"].map = nodes["c"].map = None
    with pytest.raises(BrokerLostError):
        async with opened() as cluster:
            pytest.fail("it was opened")
    nodes["a"].map = "a"
    async with opened() as cluster:
        cluster._ranges = []
        assert await cluster.call(KEY, "GET") == "a"


async def test_a_cluster_in_change_is_not_asked_without_a_pause(nodes, autojump_clock):
    """Also where a slot has moved before."""
    async with opened() as cluster:
        nodes["a"].trouble = [f"MOVED {SLOT} b:7000"]
        assert await cluster.call(KEY, "GET") == "b"
        nodes["a"].map = nodes["b"].map = "b"
        nodes["b"].asked, nodes["b"].trouble = 0, ["TRYAGAIN in change"] * 1000
        with pytest.raises(BrokerLostError, match="TRYAGAIN"):
            await cluster.call(KEY, "GET")
        assert nodes["b"].asked < 30


async def test_two_that_point_at_each_other_are_not_asked_without_a_pause(nodes, autojump_clock):
    async with opened() as cluster:
        nodes["a"].trouble = [f"MOVED {SLOT} b:7000"] * 1000
        nodes["b"].trouble = [f"MOVED {SLOT} a:7000"] * 1000
        with pytest.raises(BrokerLostError, match="MOVED"):
            await cluster.call(KEY, "GET")
        assert nodes["a"].asked + nodes["b"].asked < 60


async def test_who_waited_for_another_to_connect_leaves_nothing_behind(nodes, autojump_clock):
    """The one who connects is cancelled; the next one in the row connects, and that connection is known to all."""
    nodes["a"].map = "b"
    with trio.fail_after(60):
        async with opened("a:7000") as cluster, trio.open_nursery() as nursery:
            nodes["b"].slow = 1.0
            answers = []

            async def ask():
                answers.append(await cluster.call(KEY, "GET"))

            async def give_up():
                with trio.move_on_after(0.5):
                    await cluster.call(KEY, "GET")

            nursery.start_soon(give_up)
            await trio.sleep(0.1)
            nursery.start_soon(ask)
            await trio.sleep(0.1)
            nursery.start_soon(ask)
            await trio.sleep(0.9)
            await cluster.call(KEY, "GET")
        assert answers == ["b", "b"]


async def test_who_connects_to_one_that_is_let_go_meanwhile_hears_of_a_loss(nodes, autojump_clock):
    """Others have looked around, and found that it is no part of the cluster (any more)."""
    async with opened() as cluster, trio.open_nursery() as nursery:
        nodes["c"].slow = 1.0
        nodes["a"].trouble = [f"MOVED {SLOT} c:7000"]
        outcome = []

        async def ask():
            try:
                outcome.append(await cluster.call(KEY, "GET"))
            except BrokerLostError as exc:
                outcome.append(exc)

        nursery.start_soon(ask)
        await trio.sleep(0.5)
        await cluster.look_around()
        await trio.sleep(5.0)
        assert len(outcome) == 1


async def test_who_is_cancelled_while_looking_around_is_told_so_plainly(nodes, autojump_clock):
    """Not by a group: who has leases of other queues in hand would not know it for a cancellation, and drop them."""
    async with opened() as cluster:
        assert await cluster.call(KEY, "GET") == "a"
        nodes["a"].kill()
        nodes["b"].slow = nodes["c"].slow = 10.0
        caught = []
        with trio.move_on_after(0.5):
            try:
                await cluster.look_around()
            except BaseException as exc:
                caught.append(exc)
                raise
        assert [type(each) for each in caught] == [trio.Cancelled]
