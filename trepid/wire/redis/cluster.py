"""A cluster: many servers, each with some of the 16384 slots that keys fall into."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, final

import trio

from trepid.errors import BrokerBusyError, BrokerLostError, BrokerRefusedError
from trepid.wire.household import open_household
from trepid.wire.redis.address import RedisAddress
from trepid.wire.redis.connection import RedisConnection, kept, open_connection
from trepid.wire.redis.faults import RedisError
from trepid.wire.redis.servers import News, told
from trepid.wire.redis.speech import Word
from trepid.wire.supervision import Supervisor

Place: TypeAlias = tuple[str, int]

SLOTS: Final = 16384
_PATIENCE: Final = 1.0
"""Seconds for which a cluster that is just changing is asked again."""
_PAUSE: Final = 0.05
_HEARD_WITHIN: Final = 0.25
"""Seconds for which one that is connected to is asked for the map, before the next is."""
_HOPS: Final = 4
"""So often a question follows where it is sent without a pause; servers that are at odds may send it in a circle."""


def slot_of(key: str) -> int:
    """Return the slot of a key: that of its hash tag, the part between the first braces, if it has one."""
    start = key.find("{")
    if start >= 0:
        end = key.find("}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key.encode(), 0) % SLOTS


@final
class _Node:
    """One server of a cluster, and its supervised connection."""

    def __init__(self, supervisor: Supervisor[RedisConnection]) -> None:
        self.supervisor = supervisor
        self.running = False
        self.dialling = trio.Lock()
        self.trouble: BrokerLostError | BrokerRefusedError | None = None
        """Why it was never connected to; who waited for that tries no second time."""

    @property
    def live(self) -> bool:
        """Whether there is a connection at present."""
        current = self.supervisor.current
        return current is not None and not current.lost

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await self.supervisor.run(task_status=task_status)
        finally:
            self.running = False


@final
class Cluster:
    """The servers of a cluster, each connected to when it is first needed."""

    def __init__(self, address: RedisAddress, news: News, household: trio.Nursery) -> None:
        self._address = address
        self._news = news
        self._household = household
        self._nodes: dict[Place, _Node] = {}
        self._ranges: list[tuple[int, int, Place]] = []
        self._moved: dict[int, Place] = {}
        self._about: dict[str, str] = {}

    @property
    def clustered(self) -> bool:
        """Yes."""
        return True

    @property
    def connected(self) -> bool:
        """Whether all servers that were needed so far are connected to."""
        return all(node.live for node in self._nodes.values())

    @property
    def about(self) -> dict[str, str]:
        """What one of the servers says of itself."""
        for node in self._nodes.values():
            if node.supervisor.current is not None:
                self._about = node.supervisor.current.about
        return self._about

    # --------------------------------------------------------------------------------------------------- the map

    async def look_around(self) -> None:
        """Ask who has which slots: whoever answers first of those that are known.

        Raises:
          BrokerLostError: if nobody answers.
          BrokerRefusedError: if who answers is no cluster, or will not have us.
        """
        live = [place for place, node in self._nodes.items() if node.live]
        for place in live:
            with trio.move_on_after(_HEARD_WITHIN):
                if await self._look_from(place) is None:
                    return
        # One that is dead takes its time to be found out, and there may be several: all are asked at once, also those
        # from before, which may only be far away.
        known = dict.fromkeys((*(place for _, _, place in self._ranges), *self._address.hosts, *self._nodes))
        complaints: list[Exception] = [BrokerLostError(f"{self._address}: no server of the cluster answers")]
        answered = False
        try:
            async with trio.open_nursery() as nursery:

                async def look(place: Place) -> None:
                    nonlocal answered
                    complaint = await self._look_from(place)
                    if complaint is None:
                        answered = True
                        nursery.cancel_scope.cancel()
                    else:
                        complaints.append(complaint)

                for place in known:
                    nursery.start_soon(look, place, name=f"ask redis {place[0]}:{place[1]} for the map")
        except BaseExceptionGroup as group:
            if group.split(trio.Cancelled)[1] is None:
                # Whoever has leases in hand (see `leasing.py`) must know it for what it is.
                await trio.lowlevel.checkpoint_if_cancelled()
            raise
        if not answered:
            # Who refuses us says what is wrong; who is away says only that.
            raise next((each for each in complaints if isinstance(each, BrokerRefusedError)), complaints[-1])

    async def _look_from(self, place: Place) -> Exception | None:
        """Ask one server who has which slots, and believe it; return what it complains of, if it does not say."""
        try:
            connection = await self._connection(place)
            complaint = self._believe(place, await connection.call("CLUSTER", "SLOTS"))
        except RedisError as exc:
            complaint = BrokerRefusedError(str(self._address), f"it is no cluster ({exc.text}); write redis://")
        except (BrokerLostError, BrokerRefusedError) as exc:
            complaint = exc
        except BrokerBusyError as exc:
            complaint = BrokerLostError(str(exc))
        return complaint  # noqa: ASYNC910 - to look for a connection is a checkpoint

    def _believe(self, place: Place, found: list[Any]) -> Exception | None:
        """Draw the map as a server tells it; return what is wrong with that, if anything."""
        if not found:
            # So says one that has left the cluster.
            return BrokerLostError(f"{self._address.endpoint(*place).name}: it knows of nobody who has any slot")
        # A server that does not know its own name says nothing, and means the one that was used.
        self._ranges = [
            (first, last, ((host or b"").decode() or place[0], port)) for first, last, (host, port, *_), *_ in found
        ]
        self._moved.clear()
        self._prune()
        return None

    def _prune(self) -> None:
        known = {place for _, _, place in self._ranges}
        for place in self._nodes.keys() - known:
            self._nodes.pop(place).supervisor.dismiss()

    def dismiss(self) -> None:
        """Let go of all connections."""
        for node in self._nodes.values():
            node.supervisor.dismiss()

    def _place(self, slot: int) -> Place:
        found = self._moved.get(slot)
        if found is not None:
            return found
        for first, last, place in self._ranges:
            if first <= slot <= last:
                return place
        raise RedisError(str(self._address), "CLUSTERDOWN", f"nobody has slot {slot}")

    # ----------------------------------------------------------------------------------------------- connections

    async def _connection(self, place: Place) -> RedisConnection:
        while True:
            node = self._nodes.get(place)
            if node is None:
                node = self._nodes[place] = _Node(Supervisor(lambda: self._dial(place)))
            async with node.dialling:
                if node.trouble is not None:
                    raise BrokerLostError(str(node.trouble))
                if self._nodes.get(place) is not node:
                    continue  # whoever connected was cancelled, or it was let go meanwhile
                if not node.running:
                    await self._start(place, node)
            return await kept(node.supervisor)

    async def _start(self, place: Place, node: _Node) -> None:
        node.running = True
        try:
            await self._household.start(node.run, name=f"keep redis {place[0]}:{place[1]}")
        except BaseException as exc:
            if isinstance(exc, (BrokerLostError, BrokerRefusedError)):
                node.trouble = exc
            node.running = False
            if self._nodes.get(place) is node:
                del self._nodes[place]
            raise

    @asynccontextmanager
    async def _dial(self, place: Place) -> AsyncGenerator[RedisConnection, None]:
        endpoint = self._address.endpoint(*place)
        try:
            async with open_connection(self._address, endpoint, told(self._news)) as connection:
                yield connection
        finally:
            self._news.missed()

    # ----------------------------------------------------------------------------------------------------- asking

    async def call(self, key: str, *words: Word, through: float = 0.0) -> Any:
        """Send a command to the server that has a key, wherever that has moved; see :meth:`RedisConnection.call`."""
        slot = slot_of(key)
        give_up = trio.current_time() + _PATIENCE
        place, asked, hops = self._address.hosts[0], None, 0
        while True:
            try:
                place = asked or self._place(slot)
                connection = await self._connection(place)
                asking, asked = asked is not None, None
                return await connection.call(*words, through=through, asking=asking)
            except RedisError as exc:
                hops += 1
                if exc.code == "MOVED":
                    self._moved[slot] = _there(exc.text, place)
                elif exc.code == "ASK":
                    asked = _there(exc.text, place)
                elif exc.code in ("TRYAGAIN", "CLUSTERDOWN"):
                    hops = _HOPS
                else:
                    raise
                trouble: Exception = BrokerLostError(str(exc))
            except (BrokerLostError, BrokerRefusedError) as exc:
                # Somebody else may have its slots by now.
                await self._look_again(exc)
                raise BrokerLostError(str(exc)) from None
            if trio.current_time() > give_up:
                raise trouble
            if hops >= _HOPS:
                await trio.sleep(_PAUSE)
                if asked is None:
                    await self._look_again(trouble)

    async def _look_again(self, trouble: Exception) -> None:
        try:
            with trio.move_on_after(_PATIENCE):
                await self.look_around()
        except (BrokerLostError, BrokerRefusedError):
            raise BrokerLostError(str(trouble)) from None

    async def listen(self, channel: str) -> None:  # noqa: ASYNC910 - on the way to a question that is a checkpoint
        """Be told what is said in a channel: every server of a cluster says it, the one with that slot is asked."""
        try:
            place = self._place(slot_of(channel))
        except RedisError as exc:
            raise BrokerLostError(str(exc)) from None
        (await self._connection(place)).listen(channel)


def _there(text: str, here: Place) -> Place:
    # "slot host:port"; without a host it is the one that answered.
    host, _, port = text.split(" ")[1].rpartition(":")
    return host or here[0], int(port)


@asynccontextmanager
async def open_cluster(address: RedisAddress, news: News) -> AsyncGenerator[Cluster, None]:
    """Find out who is in a cluster.

    Raises:
      BrokerLostError, BrokerRefusedError: if nobody answers, or it is none.
    """
    async with open_household() as household:
        cluster = Cluster(address, news, household)
        try:
            await cluster.look_around()
            yield cluster
        finally:
            cluster.dismiss()
